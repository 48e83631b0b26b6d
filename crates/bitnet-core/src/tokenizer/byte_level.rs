//! The byte-level alphabet of GPT-2: every byte has a printable character of its own.
//!
//! Bytes that print as themselves in Latin-1 keep their character; the other 68, in order, take
//! U+0100 and up. Source: Radford et al. 2019, `bytes_to_unicode` of the GPT-2 release.

/// Whether the byte stands for itself.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Returns the character that spells a byte.
pub(super) fn char_of(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&lower| !is_printable(lower)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Returns the byte that a character spells, if it belongs to the alphabet.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    if let Ok(byte) = u8::try_from(code) {
        return is_printable(byte).then_some(byte);
    }
    let rank = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|&byte| !is_printable(byte)).nth(rank)
}

/// Appends the bytes that a token stands for; a token outside the alphabet stands for its own UTF-8.
pub(super) fn append_bytes(token: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let chars: Vec<char> = (0..=u8::MAX).map(char_of).collect();
        assert_eq!(chars.iter().collect::<std::collections::HashSet<_>>().len(), 256);
        for (byte, &character) in chars.iter().enumerate() {
            assert_eq!(byte_of(character), Some(byte as u8));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xad)), ('Ġ', 'Ċ', '\u{143}'));
        assert_eq!((byte_of('\u{144}'), byte_of(' '), byte_of('中')), (None, None, None));
    }
}
