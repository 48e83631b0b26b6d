//! Keeps control tokens that a user typed apart from those that a template writes.
//!
//! Before rendering, the first character of every special token spelled inside a content is replaced
//! by a private-use character that occurs nowhere else; so is the first character of a content's end
//! that could become a special token together with what the template writes after it, and likewise at
//! its beginning. The rendered text is then cut at its special tokens, which are the template's alone,
//! and the characters are put back in the text between them, which is encoded without parsing.
//!
//! A replacement, unlike a mark, changes no length and no edge, so a template that trims, counts or
//! cuts contents does what it does without it.

use std::collections::{HashMap, HashSet};

use super::{ChatError, Message};

/// The private-use characters of Unicode.
const PRIVATE_USE: [std::ops::RangeInclusive<char>; 3] =
    ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}', '\u{100000}'..='\u{10fffd}'];

/// A reversible disguise for characters, for one conversation.
pub(super) struct Guard<'t> {
    /// Special tokens by their first character.
    special: HashMap<char, Vec<&'t str>>,
    all: &'t [String],
    disguise: HashMap<char, char>,
    original: HashMap<char, char>,
}

impl<'t> Guard<'t> {
    /// Chooses a disguise that occurs neither in the messages nor in `own`, the template's strings.
    pub(super) fn new<'s>(
        special: &'t [String],
        messages: &'s [Message],
        own: impl Iterator<Item = &'s str>,
    ) -> Result<Self, ChatError> {
        let mut by_first: HashMap<char, Vec<&str>> = HashMap::new();
        for token in special {
            if let Some(first) = token.chars().next() {
                by_first.entry(first).or_default().push(token);
            }
        }
        let texts = messages.iter().flat_map(|m| [m.role.as_str(), m.content.as_str()]);
        let letters_of_tokens = special.iter().flat_map(|token| token.chars());
        let used = texts.chain(own).flat_map(str::chars).chain(letters_of_tokens);
        let used: HashSet<char> = used.filter(|&c| is_private(c)).collect();
        // Any character of a special token may be the first of a content's own part of it.
        let letters: HashSet<char> = special.iter().flat_map(|token| token.chars()).collect();
        let mut letters: Vec<char> = letters.into_iter().collect();
        letters.sort_unstable();
        let free: Vec<char> = PRIVATE_USE
            .into_iter()
            .flatten()
            .filter(|character| !used.contains(character))
            .take(letters.len())
            .collect();
        if free.len() < letters.len() {
            return Err(ChatError::NoFreeCharacter);
        }
        let disguise = letters.iter().copied().zip(free.iter().copied()).collect();
        let original = free.into_iter().zip(letters).collect();
        Ok(Guard { special: by_first, all: special, disguise, original })
    }

    /// Disguises the special tokens that are spelled in a text.
    pub(super) fn whole(&self, text: &str) -> String {
        self.disguised(text, &self.occurrences(text))
    }

    /// Disguises those, and what could become one at the text's edges.
    ///
    /// Edges count with and without the surrounding whitespace, since most templates trim.
    pub(super) fn whole_and_edges(&self, text: &str) -> String {
        let mut at = self.occurrences(text);
        let start = text.len() - text.trim_start().len();
        for (offset, part) in
            [(0, text), (start, text.trim_start()), (0, text.trim_end()), (start, text.trim())]
        {
            at.extend(self.open_edges(part).into_iter().map(|edge| offset + edge));
        }
        self.disguised(text, &at)
    }

    /// Puts the original characters back.
    pub(super) fn restore(&self, text: &str) -> String {
        text.chars().map(|c| self.original.get(&c).copied().unwrap_or(c)).collect()
    }

    fn occurrences(&self, text: &str) -> HashSet<usize> {
        let starts_here = |&(at, first): &(usize, char)| {
            let candidates = self.special.get(&first).into_iter().flatten();
            candidates.into_iter().any(|token| text[at..].starts_with(token))
        };
        text.char_indices().filter(starts_here).map(|(at, _)| at).collect()
    }

    /// Where a text holds a part of a special token that its surroundings could complete.
    fn open_edges(&self, text: &str) -> Vec<usize> {
        let mut at = Vec::new();
        if text.is_empty() {
            return at;
        }
        for token in self.all {
            let cuts = token.char_indices().map(|(cut, _)| cut).skip(1);
            for cut in cuts {
                let (head, tail) = token.split_at(cut);
                if text.ends_with(head) {
                    at.push(text.len() - head.len());
                }
                if text.starts_with(tail) {
                    at.push(0);
                }
            }
            if token.contains(text) {
                at.push(0);
            }
        }
        at
    }

    fn disguised(&self, text: &str, at: &HashSet<usize>) -> String {
        let disguise = |(index, c): (usize, char)| match self.disguise.get(&c) {
            Some(&hidden) if at.contains(&index) => hidden,
            _ => c,
        };
        text.char_indices().map(disguise).collect()
    }
}

fn is_private(character: char) -> bool {
    PRIVATE_USE.iter().any(|range| range.contains(&character))
}
