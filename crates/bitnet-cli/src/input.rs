//! What commands read: texts and token ids.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::args::IdType;

/// Most bytes that are read of a text or of token ids: above any corpus that is measured in one go, below what a
/// device without an end would fill memory with.
const MOST_BYTES: u64 = 1 << 30;

/// Returns a text given as an argument, as a file, or on standard input.
///
/// Without any of them it is empty.
pub fn text(argument: Option<&str>, file: Option<&Path>) -> Result<Text> {
    match (argument, file) {
        (_, Some(file)) => Ok(Text::Read(read_text(file)?)),
        (Some("-"), None) => Ok(Text::Read(read_stdin()?)),
        (Some(text), None) => Ok(Text::Argument(text.to_owned())),
        (None, None) if io::stdin().is_terminal() => Ok(Text::Argument(String::new())),
        (None, None) => Ok(Text::Read(read_stdin()?)),
    }
}

/// A text and how it came.
#[derive(Debug, PartialEq, Eq)]
pub enum Text {
    /// On the command line.
    Argument(String),
    /// From a file or standard input.
    Read(String),
}

impl Text {
    /// Returns the text as it is.
    pub fn verbatim(self) -> String {
        match self {
            Text::Argument(text) | Text::Read(text) => text,
        }
    }

    /// Returns the text to continue: one line break at the end of what was read is the editor's or the
    /// shell's, not the writer's.
    pub fn prompt(self) -> String {
        let Text::Read(mut text) = self else { return self.verbatim() };
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        text
    }
}

/// Reads a UTF-8 file.
pub fn read_text(file: &Path) -> Result<String> {
    utf8(read_bytes(file)?, &file.display().to_string())
}

/// Reads little-endian token ids.
pub fn read_token_file(file: &Path, kind: IdType) -> Result<Vec<u32>> {
    let bytes = read_bytes(file)?;
    let (name, size) = match kind {
        IdType::U16 => ("u16", 2),
        IdType::U32 => ("u32", 4),
    };
    if !bytes.len().is_multiple_of(size) {
        let place = file.display();
        return Err(anyhow!(
            "{place}: expected a multiple of {size} bytes ({name} ids), found {} bytes",
            bytes.len()
        ));
    }
    Ok(match kind {
        IdType::U16 => bytes.as_chunks().0.iter().map(|id| u32::from(u16::from_le_bytes(*id))).collect(),
        IdType::U32 => bytes.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect(),
    })
}

/// Reads decimal token ids, separated by commas or white space; one pair of brackets may enclose them.
pub fn read_id_list(file: &Path) -> Result<Vec<u32>> {
    let text = read_text(file)?;
    let list = text.trim();
    let list = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(list);
    let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let ids = words.map(|word| {
        let found: String = word.chars().take(40).collect();
        word.parse().map_err(|_| anyhow!("{}: expected token ids, found {found:?}", file.display()))
    });
    let ids: Vec<u32> = ids.collect::<Result<_>>()?;
    if ids.is_empty() {
        return Err(anyhow!("{}: expected at least one token id, found none", file.display()));
    }
    Ok(ids)
}

/// Checks that every id is one of the vocabulary; `place` names where they came from.
pub fn check_ids(ids: &[u32], vocab: usize, place: &str) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(at) => Err(anyhow!("{place}: expected ids below {vocab}, found {} at position {at}", ids[at])),
    }
}

fn read_bytes(file: &Path) -> Result<Vec<u8>> {
    let place = file.display().to_string();
    let file = File::open(file).with_context(|| format!("{place}: cannot read"))?;
    read_limited(file, &place)
}

fn read_stdin() -> Result<String> {
    utf8(read_limited(io::stdin().lock(), "standard input")?, "standard input")
}

/// Reads to the end, or to where it is clear that there is none.
fn read_limited(source: impl Read, place: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = source.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("{place}: cannot read"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(anyhow!("{place}: expected at most {MOST_BYTES} bytes, found more"));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>, place: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("{place}: expected UTF-8 text, found byte {:#04x} at offset {at}", error.as_bytes()[at])
    })
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    #[test]
    fn only_what_was_read_loses_one_line_break() {
        for (text, prompt) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            assert_eq!(Text::Read(text.into()).prompt(), prompt);
            assert_eq!(Text::Read(text.into()).verbatim(), text);
            assert_eq!(Text::Argument(text.into()).prompt(), text);
        }
    }

    #[test]
    fn ids_are_read_in_every_form_and_refused_by_place() {
        let folder = TempDir::new("ids");
        let file = folder.path().join("ids");
        for text in ["1,2,300", "[1, 2,\n300]", " 1\t2 300\n"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_id_list(&file).unwrap(), [1, 2, 300]);
        }
        for text in ["", "[]", "1,x", "-1", "4294967296"] {
            std::fs::write(&file, text).unwrap();
            assert!(read_id_list(&file).unwrap_err().to_string().contains("token id"), "{text}");
        }
        std::fs::write(&file, [1, 0, 0xff, 0xff]).unwrap();
        assert_eq!(read_token_file(&file, IdType::U16).unwrap(), [1, 0xffff]);
        assert_eq!(read_token_file(&file, IdType::U32).unwrap(), [0xffff_0001]);
        std::fs::write(&file, [1, 0, 2]).unwrap();
        assert!(read_token_file(&file, IdType::U16).unwrap_err().to_string().contains("found 3 bytes"));
        assert!(check_ids(&[1, 7], 7, "list").unwrap_err().to_string().contains("found 7 at position 1"));
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_the_offset() {
        let message = utf8(b"ab\xff".to_vec(), "a.txt").unwrap_err().to_string();
        assert_eq!(message, "a.txt: expected UTF-8 text, found byte 0xff at offset 2");
    }
}
