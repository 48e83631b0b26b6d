//! Finds the longest of many tokens at each place of a text.
//!
//! The tokens stand in byte order, so that those with a common beginning are neighbours: a look-up narrows the
//! range byte by byte. Its cost grows with the length of the match and the logarithm of the number of tokens.

use std::sync::Arc;

use super::Piece;

/// A set of tokens to look for.
#[derive(Clone)]
pub(super) struct Matcher {
    entries: Vec<(Arc<str>, u32)>,
    first: [bool; 256],
}

impl Default for Matcher {
    fn default() -> Self {
        Matcher { entries: Vec::new(), first: [false; 256] }
    }
}

impl Matcher {
    /// Takes the tokens with their ids; empty ones match nowhere.
    pub(super) fn new(tokens: impl Iterator<Item = (Arc<str>, u32)>) -> Self {
        let mut entries: Vec<_> = tokens.filter(|(token, _)| !token.is_empty()).collect();
        entries.sort_unstable();
        let mut first = [false; 256];
        for (token, _) in &entries {
            first[usize::from(token.as_bytes()[0])] = true;
        }
        Matcher { entries, first }
    }

    /// Cuts a text at the tokens in it: leftmost first, of those the longest.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            // Tokens are UTF-8, so a match begins and ends between characters.
            match self.longest(&text.as_bytes()[at..]) {
                None => at += 1,
                Some((length, id)) => {
                    if from < at {
                        pieces.push(Piece::Text(&text[from..at]));
                    }
                    pieces.push(Piece::Special(id));
                    at += length;
                    from = at;
                }
            }
        }
        if from < text.len() {
            pieces.push(Piece::Text(&text[from..]));
        }
        pieces
    }

    /// Returns the length and the id of the longest token that `text` begins with.
    pub(super) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut found = None;
        self.prefixes(text, |length, id| found = Some((length, id)));
        found
    }

    /// Hands over the length and the id of each token that `text` begins with, the shortest first.
    pub(super) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        if !text.first().is_some_and(|&byte| self.first[usize::from(byte)]) {
            return;
        }
        let mut range = self.entries.as_slice();
        for (depth, &byte) in text.iter().enumerate() {
            // All of the range agree on `depth` bytes, and the one that has no more stands first.
            let byte_at = |entry: &(Arc<str>, u32)| entry.0.as_bytes().get(depth).copied();
            let low = range.partition_point(|entry| byte_at(entry) < Some(byte));
            range = &range[low..];
            let high = range.partition_point(|entry| byte_at(entry) == Some(byte));
            range = &range[..high];
            match range.first() {
                None => break,
                Some((token, id)) if token.len() == depth + 1 => found(depth + 1, *id),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_the_leftmost_matches_is_taken() {
        let tokens = ["<s>", "<s", "</s>", "s>x", "é", "ab", "abcd", ""];
        let matcher = Matcher::new(tokens.iter().zip(0..).map(|(token, id)| ((*token).into(), id)));
        let pieces = matcher.split("<s>xab</s>é abcabcde");
        use Piece::{Special, Text};
        assert_eq!(
            pieces,
            [
                Special(0),
                Text("x"),
                Special(5),
                Special(2),
                Special(4),
                Text(" "),
                Special(5),
                Text("c"),
                Special(6),
                Text("e"),
            ]
        );
        assert_eq!(matcher.split(""), []);
        assert_eq!(Matcher::default().split("ab"), [Text("ab")]);
    }
}
