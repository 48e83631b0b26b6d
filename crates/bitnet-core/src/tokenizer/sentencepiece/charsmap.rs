//! The table by which sentencepiece rewrites characters before it looks for pieces (`precompiled_charsmap`).
//!
//! ```text
//! u32 n | n bytes: a double array of u32 units | texts, each with a zero byte at its end
//! ```
//!
//! All numbers are little-endian. The array is a trie of what is replaced: from unit `at`, with its offset applied, the
//! unit at `at ^ byte` continues a text if its label is `byte`; bit 8 says that the text ends there, and then the unit at
//! its offset holds the place of the replacement among the texts. The longest text that is found counts.

/// Bits of a unit that hold its label; a value has the highest one set, so that it is no label.
const LABEL: u32 = 0x8000_00ff;

/// Most bytes of a replacement: what a character may become has a bound, as in a `tokenizer.json`.
pub(super) const REPLACEMENT_LIMIT: usize = 1024;

/// A table whose every look-up stays within it.
#[derive(Clone)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

impl CharsMap {
    /// Reads a table.
    ///
    /// Errors: what was found where it is none.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, String> {
        let (units, texts) = parts(bytes).ok_or_else(|| format!("{} bytes that are none", bytes.len()))?;
        let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0);
        if longest > REPLACEMENT_LIMIT {
            return Err(format!("a text of {longest} bytes"));
        }
        Ok(CharsMap {
            units: units.iter().map(|&unit| u32::from_le_bytes(unit)).collect(),
            texts: texts.to_vec(),
        })
    }

    /// Returns how many bytes at the front of `text` are replaced, and by what; `None` where they stay.
    pub(super) fn replace(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut found = None;
        let mut at = offset(*self.units.first()?);
        for (index, &byte) in text.iter().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else { break };
            if unit & LABEL != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(value) = self.units.get(at)
            {
                found = Some((index + 1, (value & 0x7fff_ffff) as usize));
            }
        }
        let (length, start) = found?;
        let text = self.texts.get(start..)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        // A place in the middle of a character, which no table has that was made for reading.
        Some((length, std::str::from_utf8(&text[..end]).ok()?))
    }
}

/// Cuts a table into its array and its texts; `None` where it is no such.
fn parts(bytes: &[u8]) -> Option<(&[[u8; 4]], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (units, texts) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (units, odd) = units.as_chunks::<4>();
    if units.is_empty() || !odd.is_empty() || texts.last().is_some_and(|&last| last != 0) {
        return None;
    }
    std::str::from_utf8(texts).ok()?;
    Some((units, texts))
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_none_are_refused_and_lies_end_the_search() {
        for bytes in
            [&b""[..], &[0; 3], &[0; 4], &[4, 0, 0, 0, 1], &[3, 0, 0, 0, 1, 1, 1, 0], &[9, 0, 0, 0, 0]]
        {
            assert!(CharsMap::new(bytes).is_err(), "{bytes:?}");
        }
        let table = |units: &[u32], texts: &[u8]| {
            let units: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let length = (units.len() as u32).to_le_bytes();
            CharsMap::new(&[&length[..], &units, texts].concat())
        };
        assert!(table(&[0], b"text without an end").is_err() && table(&[0], b"\xff\0").is_err());
        let long = |length: usize| [vec![b'x'; length], vec![0]].concat();
        assert!(table(&[0], &long(REPLACEMENT_LIMIT)).is_ok());
        assert_eq!(table(&[0], &long(REPLACEMENT_LIMIT + 1)).err().unwrap(), "a text of 1025 bytes");
        // One text, "a": the unit at 1 ^ 'a' ends it, and the value lies at its offset.
        let mut units = vec![0; 128];
        units[0] = 1 << 10;
        units[1 ^ usize::from(b'a')] = 2 << 10 | 1 << 8 | u32::from(b'a');
        let value = (1 ^ usize::from(b'a')) ^ 2;
        units[value] = 1 << 31 | 2;
        let map = table(&units, b"x\0yz\0").unwrap();
        assert_eq!(map.replace(b"ab"), Some((1, "yz")));
        assert_eq!((map.replace(b"b"), map.replace(b"")), (None, None));
        for lie in [1 << 31 | 999, 1 << 31 | 5] {
            units[value] = lie;
            assert_eq!(table(&units, b"x\0yz\0").unwrap().replace(b"ab"), None);
        }
        units[0] = u32::MAX;
        assert_eq!(table(&units, b"x\0").unwrap().replace(b"ab"), None);
    }
}
