//! Text as the pieces spell it.
//!
//! Spaces become U+2581, and one goes before the text where the vocabulary asks for it. With `fewer_spaces` those at
//! either end are dropped and of several in between one stays; with a table, characters are rewritten by it first, but not
//! those of user-defined tokens. Source: the order of steps in sentencepiece's normaliser.

use super::{SPACE, SentencePiece};

impl SentencePiece {
    /// Writes text as the vocabulary spells it. What stands before `text` is a special token or nothing.
    pub(super) fn normalize(&self, text: &str) -> String {
        let mut normal = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.space_prefix {
            normal.push(SPACE);
        }
        if self.charsmap.is_none() && !self.fewer_spaces {
            push_spelled(&mut normal, text);
            return normal;
        }
        let prefix = normal.len();
        let (mut rest, mut after_space) = (text, self.fewer_spaces);
        while !rest.is_empty() {
            let (length, mut part) = self.part(rest);
            rest = &rest[length..];
            if after_space {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                after_space = self.fewer_spaces && part.ends_with(' ');
                push_spelled(&mut normal, part);
            }
        }
        if self.fewer_spaces {
            let kept = normal[prefix..].trim_end_matches(SPACE).len();
            // Of a text of spaces nothing stays, not even the space before it.
            normal.truncate(if kept == 0 { 0 } else { prefix + kept });
        }
        normal
    }

    /// Returns how much of the front of `text` is one part, and what becomes of it.
    fn part<'t>(&'t self, text: &'t str) -> (usize, &'t str) {
        let width = text.chars().next().map_or(0, char::len_utf8);
        if let Some((length, _)) = self.user_defined.longest(text.as_bytes()) {
            return (length, &text[..length]);
        }
        match self.charsmap.as_ref().and_then(|map| map.replace(text.as_bytes())) {
            // A table that ends in the middle of a character is a lie.
            Some((length, part)) if text.is_char_boundary(length) => (length, part),
            _ => (width, &text[..width]),
        }
    }
}

fn push_spelled(out: &mut String, text: &str) {
    for (index, part) in text.split(' ').enumerate() {
        if index > 0 {
            out.push(SPACE);
        }
        out.push_str(part);
    }
}
