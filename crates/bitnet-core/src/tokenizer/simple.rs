//! Word-level tokenizer: whitespace separates, the vocabulary is a map.

use std::collections::{BTreeMap, HashMap};

use super::TokenizerError;

/// The word that stands for every word without an entry.
pub(super) const UNKNOWN: &str = "<unk>";

/// A vocabulary of whole words.
#[derive(Debug, Clone)]
pub(super) struct SimpleTokenizer {
    ids: HashMap<String, u32>,
    words: BTreeMap<u32, String>,
    special: BTreeMap<u32, String>,
}

impl SimpleTokenizer {
    /// Takes the vocabulary. Of several words with one id, the least one is what the id decodes to.
    pub(super) fn new(vocab: HashMap<String, u32>) -> Self {
        let mut words = BTreeMap::new();
        for (word, &id) in &vocab {
            let entry = words.entry(id).or_insert_with(|| word.clone());
            if word < entry {
                entry.clone_from(word);
            }
        }
        let mut special = BTreeMap::new();
        if let Some(&id) = vocab.get(UNKNOWN) {
            special.insert(id, UNKNOWN.to_string());
        }
        SimpleTokenizer { ids: vocab, words, special }
    }

    pub(super) fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        text.split_whitespace().map(|word| self.word_id(word, parse_special)).collect()
    }

    fn word_id(&self, word: &str, parse_special: bool) -> Result<u32, TokenizerError> {
        let known = self.ids.get(word).copied().filter(|&id| parse_special || !self.is_special(id));
        known
            .or_else(|| self.ids.get(UNKNOWN).copied())
            .ok_or_else(|| TokenizerError::UnknownWord { word: word.to_string(), unknown: UNKNOWN })
    }

    pub(super) fn add_special(&mut self, token: &str, id: u32) -> Result<(), TokenizerError> {
        let conflict =
            |reason| Err(TokenizerError::SpecialTokenConflict { token: token.to_string(), id, reason });
        if token.is_empty() || token.contains(char::is_whitespace) {
            return conflict("a word-level token is one word without whitespace".to_string());
        }
        if let Some(other) = self.words.get(&id).filter(|word| *word != token) {
            return conflict(format!("it belongs to {other:?}"));
        }
        if let Some(other) = self.ids.get(token).filter(|&&other| other != id) {
            return conflict(format!("the token has id {other}"));
        }
        self.ids.insert(token.to_string(), id);
        self.words.insert(id, token.to_string());
        self.special.insert(id, token.to_string());
        Ok(())
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub(super) fn id_to_token(&self, id: u32) -> Option<&str> {
        self.words.get(&id).map(String::as_str)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.words.keys().next_back().map_or(0, |&id| id as usize + 1)
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    pub(super) fn special_tokens(&self) -> Vec<(u32, String)> {
        self.special.iter().map(|(&id, token)| (id, token.clone())).collect()
    }
}
