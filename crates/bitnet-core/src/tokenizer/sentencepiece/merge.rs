//! The merges of one text: the adjacent pair whose joint token has the highest score goes first, the leftmost
//! of equals, until no pair makes a token.
//!
//! Pairs wait in a heap; one that its sides have outgrown is dropped when it comes up, so n characters take
//! O(n log n). Where no token goes on over the beginning of a word (see `splits_words`), words cannot
//! influence each other and are merged one by one, the common ones once for all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{SPACE, SentencePiece, TokenType, Unknowns};
use crate::tokenizer::TokenizerError;

/// Words remembered, and the longest one worth it: natural text repeats a few thousand short words.
const REMEMBERED: usize = 1 << 15;
const LONGEST_REMEMBERED: usize = 48;

/// A run of characters between two others. An absorbed one has no length.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    length: usize,
    previous: usize,
    next: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// A pair of neighbours that would make a token, ordered by what merges first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: Reverse<usize>,
    length: usize,
}

/// Merges words and keeps what it learnt from them.
pub(super) struct Merger<'v, 't> {
    vocabulary: &'v SentencePiece,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    known: HashMap<&'t str, Vec<u32>>,
    /// Where each unused token was last put together: the length of its left side.
    unused: HashMap<u32, usize>,
    unknowns: Unknowns,
}

impl<'v, 't> Merger<'v, 't> {
    pub(super) fn new(vocabulary: &'v SentencePiece) -> Self {
        Merger {
            vocabulary,
            symbols: Vec::new(),
            pairs: BinaryHeap::new(),
            known: HashMap::new(),
            unused: HashMap::new(),
            unknowns: Unknowns::default(),
        }
    }

    /// Appends the ids of a text whose spaces are U+2581.
    pub(super) fn encode(&mut self, text: &'t str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if !self.vocabulary.splits_words {
            return self.merge(text, ids);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(word_length(rest));
            self.word(word, ids)?;
            rest = after;
        }
        Ok(())
    }

    fn word(&mut self, word: &'t str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if word.len() > LONGEST_REMEMBERED {
            return self.merge(word, ids);
        }
        if let Some(known) = self.known.get(word) {
            self.unknowns = Unknowns::default();
            ids.extend(known);
            return Ok(());
        }
        let (from, continues_unknown) = (ids.len(), self.unknowns.is_open());
        self.merge(word, ids)?;
        // A run of unknown characters goes on from word to word, and what it gives depends on the word before.
        let has_unknown = self.vocabulary.unknown.is_some_and(|unknown| ids[from..].contains(&unknown));
        if !continues_unknown && !has_unknown && self.known.len() < REMEMBERED {
            self.known.insert(word, ids[from..].to_vec());
        }
        Ok(())
    }

    fn merge(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        self.symbols.clear();
        self.pairs.clear();
        self.unused.clear();
        for (start, character) in text.char_indices() {
            let index = self.symbols.len();
            let previous = index.checked_sub(1).unwrap_or(NONE);
            self.symbols.push(Symbol { start, length: character.len_utf8(), previous, next: index + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        for left in 0..self.symbols.len() {
            self.offer(text, left);
        }
        while let Some(pair) = self.pairs.pop() {
            self.join(text, &pair);
        }
        let mut at = 0;
        while let Some(&symbol) = self.symbols.get(at) {
            self.emit(&text[symbol.start..symbol.start + symbol.length], ids)?;
            at = symbol.next;
        }
        Ok(())
    }

    /// Puts a symbol and its right neighbour into the heap if they make a token.
    fn offer(&mut self, text: &str, left: usize) {
        let Some(&first) = self.symbols.get(left) else { return };
        let Some(second) = self.symbols.get(first.next) else { return };
        let length = first.length + second.length;
        let Some((id, rank)) = self.vocabulary.mergeable(&text[first.start..first.start + length]) else {
            return;
        };
        self.pairs.push(Pair { rank, left: Reverse(left), length });
        if self.vocabulary.has_unused && self.vocabulary.types[id as usize] == TokenType::Unused {
            self.unused.insert(id, first.length);
        }
    }

    fn join(&mut self, text: &str, pair: &Pair) {
        let left = pair.left.0;
        let first = self.symbols[left];
        let Some(&second) = self.symbols.get(first.next) else { return };
        // One side has grown, or was absorbed, since the pair was seen.
        if first.length == 0 || first.length + second.length != pair.length {
            return;
        }
        self.symbols[first.next].length = 0;
        self.symbols[left].length = pair.length;
        self.symbols[left].next = second.next;
        if let Some(third) = self.symbols.get_mut(second.next) {
            third.previous = left;
        }
        self.offer(text, first.previous);
        self.offer(text, left);
    }

    /// Appends the token of a symbol, or what stands for it where it is none.
    fn emit(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if !self.vocabulary.has_unused {
            return self.emit_whole(text, ids);
        }
        let mut waiting = vec![text];
        while let Some(text) = waiting.pop() {
            let id = self.vocabulary.mergeable(text).map(|(id, _)| id);
            let unused = id.filter(|&id| self.vocabulary.types[id as usize] == TokenType::Unused);
            match unused.and_then(|id| self.unused.get(&id)) {
                Some(&length) => waiting.extend([&text[length..], &text[..length]]),
                None => self.emit_whole(text, ids)?,
            }
        }
        Ok(())
    }

    fn emit_whole(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        match self.vocabulary.mergeable(text) {
            Some((id, _)) => {
                self.unknowns.known(id, ids);
                Ok(())
            }
            None => self.unknowns.spell(self.vocabulary, text, ids),
        }
    }
}

/// Returns the bytes up to the next beginning of a word: a space after something else.
fn word_length(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[spaces..].find(SPACE).map_or(text.len(), |end| spaces + end)
}
