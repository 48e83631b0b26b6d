//! The specification's functions over [`Tokenizer`].
//!
//! They take text literally in both directions: nothing is added when encoding, special tokens that are
//! spelled in the text are parsed, and decoding shows them, so that the two are inverses. For text that
//! a user typed, or for a BOS, use [`Tokenizer::encode`] with its options.

use std::collections::HashMap;
use std::path::Path;

use super::{EncodeOptions, Tokenizer, TokenizerError};

/// Makes a word-level tokenizer: whitespace separates the words, `<unk>` stands for unknown ones.
pub fn create_simple_tokenizer(vocab: HashMap<String, u32>) -> Tokenizer {
    Tokenizer::from_words(vocab)
}

/// Loads a tokenizer from a `tokenizer.json`, from a sentencepiece model (a file that ends in `.model`), or from
/// a folder that holds a `tokenizer.json`, a `tokenizer.model`, or a `vocab.json` with a `merges.txt`.
///
/// Errors: as [`Tokenizer::from_file`] and [`Tokenizer::from_sentencepiece`]; [`TokenizerError::Malformed`] for a
/// folder with none of them.
pub fn load_tokenizer(path: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
    let path = path.as_ref();
    let is_sentencepiece =
        |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("model"));
    if !path.is_dir() {
        return if is_sentencepiece(path) { from_model_file(path) } else { Tokenizer::from_file(path) };
    }
    let (whole, pieces) = (path.join("tokenizer.json"), path.join("tokenizer.model"));
    if whole.is_file() {
        return Tokenizer::from_file(whole);
    }
    if pieces.is_file() {
        return from_model_file(&pieces);
    }
    let (vocab, merges) = (path.join("vocab.json"), path.join("merges.txt"));
    if vocab.is_file() && merges.is_file() {
        return Tokenizer::from_bpe_files(vocab, merges);
    }
    Err(TokenizerError::Malformed {
        origin: path.display().to_string(),
        field: "(folder)".to_string(),
        expected: "tokenizer.json, tokenizer.model, or vocab.json with merges.txt".to_string(),
        found: "none of them".to_string(),
    })
}

fn from_model_file(path: &Path) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_sentencepiece(&super::read(path)?, &path.display().to_string())
}

/// Loads a Hugging Face `tokenizer.json`.
///
/// Errors: as [`Tokenizer::from_file`].
pub fn load_hf_tokenizer(path: impl AsRef<Path>) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_file(path)
}

/// Loads a byte-level BPE tokenizer from its vocabulary and its merges.
///
/// Errors: as [`Tokenizer::from_bpe_files`].
pub fn create_bpe_tokenizer(
    vocab: impl AsRef<Path>,
    merges: impl AsRef<Path>,
) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_bpe_files(vocab, merges)
}

/// Returns the ids of a text, with nothing added and special tokens in it parsed.
///
/// Errors: as [`Tokenizer::encode`].
pub fn encode_text(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TokenizerError> {
    tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true })
}

/// Returns the text of ids, special tokens included.
///
/// Errors: as [`Tokenizer::decode`].
pub fn decode_tokens(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, TokenizerError> {
    tokenizer.decode(ids, false)
}

/// Returns the ids of each text, as [`encode_text`] does.
///
/// Errors: those of the first text that fails.
pub fn encode_batch(
    tokenizer: &Tokenizer,
    texts: &[impl AsRef<str>],
) -> Result<Vec<Vec<u32>>, TokenizerError> {
    texts.iter().map(|text| encode_text(tokenizer, text.as_ref())).collect()
}

/// Adds special tokens under the given ids and returns how many of them the tokenizer has now.
///
/// A token in conflict is left out; [`Tokenizer::add_special_tokens`] says why.
pub fn add_special_tokens(tokenizer: &mut Tokenizer, tokens: &[(&str, u32)]) -> usize {
    tokens.iter().filter(|&&token| tokenizer.add_special_tokens(&[token]).is_ok()).count()
}

/// Returns the id of a special token.
pub fn get_special_token_id(tokenizer: &Tokenizer, token: &str) -> Option<u32> {
    tokenizer.token_to_id(token).filter(|&id| tokenizer.is_special(id))
}
