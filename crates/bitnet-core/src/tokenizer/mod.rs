//! Text to token ids and back.
//!
//! One type, [`Tokenizer`], stands for every kind: a Hugging Face `tokenizer.json`, a byte-level BPE
//! from `vocab.json` and `merges.txt` or from GGUF metadata (these with the feature `tokenizers`), a
//! sentencepiece BPE from GGUF metadata or a `tokenizer.model`, and a word-level map. It is a handle: cloning is
//! cheap, and threads may share it.
//!
//! Two switches decide what special tokens mean ([`EncodeOptions`]): whether the tokenizer adds its own
//! around the text, and whether their spelling inside the text is parsed. With parsing off, text from
//! a user cannot contain control tokens.
//!
//! To add a kind: give it a module and an arm in `Kind`, and say in `DecodeKind` how its ids turn
//! into text one at a time.
//!
//! The split patterns of a `tokenizer.json` run on a backtracking engine with a step limit, so that no
//! pattern hangs; the library behind it leaves the rest of the text unsplit where the limit is met,
//! which changes the ids but never the text that they decode to. Replacements that could make a text more
//! than 1024 times as long are refused when the file is read.
//!
//! Panics of the library on files that lie are caught and returned as errors; a program that does not want
//! the report of its panic hook beside them asks [`in_library_call`] there.

#[cfg(feature = "tokenizers")]
mod bpe;
#[cfg_attr(not(feature = "tokenizers"), allow(dead_code))]
mod byte_level;
mod contained;
mod error;
#[cfg(feature = "tokenizers")]
mod file;
mod functions;
#[cfg(feature = "tokenizers")]
mod growth;
#[cfg(feature = "tokenizers")]
mod hf;
#[cfg(feature = "tokenizers")]
mod json_stream;
#[cfg(feature = "tokenizers")]
mod newlines;
mod sentencepiece;
mod simple;
mod split_rules;
mod stream;
#[cfg_attr(not(feature = "tokenizers"), allow(dead_code))]
mod vocabulary;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub use contained::in_library_call;
pub use error::TokenizerError;
pub use functions::{
    add_special_tokens, create_bpe_tokenizer, create_simple_tokenizer, decode_tokens, encode_batch,
    encode_text, get_special_token_id, load_hf_tokenizer, load_tokenizer,
};
pub use split_rules::SplitRule;
pub use stream::TokenStream;
pub use vocabulary::{TokenType, Vocabulary, merge_halves};

use sentencepiece::SentencePiece;

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Adds the special tokens that the tokenizer puts around a text, such as BOS.
    pub add_special: bool,
    /// Reads the spelling of a special token inside the text as that token. Off, it is ordinary
    /// characters: the setting for text that a user typed.
    pub parse_special: bool,
}

/// A part of a text cut at its special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'t> {
    /// Text between special tokens, never empty.
    Text(&'t str),
    /// The id of a special token.
    Special(u32),
}

/// How ids of a tokenizer turn into text one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "tokenizers"), allow(dead_code))]
enum DecodeKind {
    /// Each token is bytes; a space at the very beginning may belong to no text.
    Bytes { drop_space: bool },
    /// Each token is a word; spaces stand between them.
    Words,
    /// Tokens depend on their neighbours.
    Window,
}

/// Translates between text and token ids.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Simple(Arc<simple::SimpleTokenizer>),
    SentencePiece(Arc<SentencePiece>),
    #[cfg(feature = "tokenizers")]
    Hf(Arc<hf::HfTokenizer>),
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    ///
    /// Errors: see [`Tokenizer::from_bytes`]; [`TokenizerError::Io`] for a file that cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        Tokenizer::from_bytes(&read(path)?, &path.display().to_string())
    }

    /// Loads a `tokenizer.json` from memory; `origin` names it in errors.
    ///
    /// Merges may be `"a b"` strings or `["a", "b"]` pairs. `truncation`, `padding` and `dropout` in
    /// the file are not applied.
    ///
    /// Errors: [`TokenizerError::Malformed`] naming the field; [`TokenizerError::Library`] for contents
    /// that the library refuses; [`TokenizerError::FeatureDisabled`] without the feature `tokenizers`.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self, TokenizerError> {
        #[cfg(feature = "tokenizers")]
        return Tokenizer::from_library(file::parse_tokenizer_json(bytes, origin)?, origin);
        #[cfg(not(feature = "tokenizers"))]
        {
            let _ = bytes;
            Err(feature_disabled(origin))
        }
    }

    /// Loads a byte-level BPE tokenizer (GPT-2 rules) from a `vocab.json` and a `merges.txt`.
    ///
    /// `<|endoftext|>`, `<s>`, `</s>`, `<pad>`, `<unk>` and `<mask>` are special where the vocabulary
    /// has them, and `<unk>` stands for what it cannot spell.
    ///
    /// Errors: as [`Tokenizer::from_file`].
    pub fn from_bpe_files(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let (vocab, merges) = (vocab.as_ref(), merges.as_ref());
        #[cfg(feature = "tokenizers")]
        {
            let (vocab_name, merges_name) = (vocab.display().to_string(), merges.display().to_string());
            let (vocab, merges) = (read(vocab)?, read(merges)?);
            let tokenizer = file::parse_bpe((&vocab, &vocab_name), (&merges, &merges_name))?;
            Tokenizer::from_library(tokenizer, &vocab_name)
        }
        #[cfg(not(feature = "tokenizers"))]
        {
            let _ = merges;
            Err(feature_disabled(&vocab.display().to_string()))
        }
    }

    /// Makes a tokenizer of a vocabulary: a GGUF file's, or what [`Vocabulary::from_sentencepiece`] read.
    /// `origin` names the file in errors.
    ///
    /// Errors: [`TokenizerError::Unsupported`] naming a model or a split rule that is not implemented;
    /// [`TokenizerError::Malformed`] naming the key at fault; [`TokenizerError::FeatureDisabled`] for a byte-level BPE
    /// without the feature `tokenizers`.
    pub fn from_vocabulary(vocabulary: Vocabulary, origin: &str) -> Result<Self, TokenizerError> {
        match vocabulary.model.as_str() {
            "llama" | "t5" | "sentencepiece" | sentencepiece::UNIGRAM => {
                let pieces = SentencePiece::new(vocabulary, origin)?;
                Ok(Tokenizer { kind: Kind::SentencePiece(Arc::new(pieces)) })
            }
            #[cfg(feature = "tokenizers")]
            "gpt2" | "gemma4" => {
                let (tokenizer, newlines) = bpe::build(vocabulary, origin)?;
                let hf = hf::HfTokenizer::new(tokenizer, newlines, origin)?;
                Ok(Tokenizer { kind: Kind::Hf(Arc::new(hf)) })
            }
            #[cfg(not(feature = "tokenizers"))]
            "gpt2" | "gemma4" => Err(feature_disabled(origin)),
            other => Err(TokenizerError::Unsupported {
                origin: origin.to_string(),
                field: "tokenizer.ggml.model".to_string(),
                found: other.to_string(),
                reason: "gpt2 (byte-level BPE), gemma4 (BPE of characters), llama (sentencepiece BPE) and t5 (unigram) are read".to_string(),
            }),
        }
    }

    /// Loads a sentencepiece `tokenizer.model` from memory; `origin` names it in errors.
    ///
    /// Errors: as [`Vocabulary::from_sentencepiece`] and [`Tokenizer::from_vocabulary`].
    pub fn from_sentencepiece(bytes: &[u8], origin: &str) -> Result<Self, TokenizerError> {
        Tokenizer::from_vocabulary(Vocabulary::from_sentencepiece(bytes, origin)?, origin)
    }

    /// Makes a word-level tokenizer: whitespace separates the words, `<unk>` stands for unknown ones.
    ///
    /// Of several words with one id, the id decodes to the least one.
    pub fn from_words(vocab: HashMap<String, u32>) -> Self {
        Tokenizer { kind: Kind::Simple(Arc::new(simple::SimpleTokenizer::new(vocab))) }
    }

    #[cfg(feature = "tokenizers")]
    fn from_library(tokenizer: tokenizers::Tokenizer, origin: &str) -> Result<Self, TokenizerError> {
        Ok(Tokenizer { kind: Kind::Hf(Arc::new(hf::HfTokenizer::new(tokenizer, None, origin)?)) })
    }

    /// Returns the ids of a text.
    ///
    /// Errors: [`TokenizerError::UnknownWord`] and [`TokenizerError::UnknownCharacter`] for text that
    /// the vocabulary cannot write and has no unknown token for; [`TokenizerError::SpecialInText`] where
    /// special tokens are not parsed and the model would turn plain text into one all the same.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        match &self.kind {
            // A list of words has no rule that would add any special token.
            Kind::Simple(simple) => simple.encode(text, options.parse_special),
            Kind::SentencePiece(pieces) => pieces.encode(text, options),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.encode(text, options),
        }
    }

    /// Returns the text of ids, verbatim: no spaces are cleaned up.
    ///
    /// An id without an entry yields no text, nor does a special token with `skip_special`. Bytes that
    /// are not UTF-8 become U+FFFD.
    ///
    /// Errors: [`TokenizerError::Library`] where the file's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        match &self.kind {
            Kind::Simple(simple) => {
                let shown = ids.iter().filter(|&&id| !(skip_special && simple.is_special(id)));
                Ok(shown.filter_map(|&id| simple.id_to_token(id)).collect::<Vec<_>>().join(" "))
            }
            Kind::SentencePiece(pieces) => Ok(pieces.decode(ids, skip_special)),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.decode(ids, skip_special),
        }
    }

    /// Starts decoding ids one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream {
        TokenStream::new(self.clone(), skip_special)
    }

    /// Cuts a text at the special tokens that are spelled in it.
    ///
    /// Whitespace that a special token absorbs (`lstrip`, `rstrip`) belongs to no piece.
    pub fn split_special<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        match &self.kind {
            Kind::Simple(simple) => split_words(simple, text),
            Kind::SentencePiece(pieces) => pieces.split_special(text),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.split_special(text),
        }
    }

    /// Returns the id of a token, added tokens included. A token is spelled as in its vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::Simple(simple) => simple.token_to_id(token),
            Kind::SentencePiece(pieces) => pieces.token_to_id(token),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.token_to_id(token),
        }
    }

    /// Returns the token of an id, as spelled in its vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::Simple(simple) => simple.id_to_token(id).map(str::to_string),
            Kind::SentencePiece(pieces) => pieces.id_to_token(id).map(str::to_string),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.id_to_token(id),
        }
    }

    /// Returns one more than the greatest id, added tokens included; 0 for an empty vocabulary.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Simple(simple) => simple.vocab_size(),
            Kind::SentencePiece(pieces) => pieces.vocab_size(),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.vocab_size(),
        }
    }

    /// Returns whether the id is a special token's.
    pub fn is_special(&self, id: u32) -> bool {
        match &self.kind {
            Kind::Simple(simple) => simple.is_special(id),
            Kind::SentencePiece(pieces) => pieces.is_special(id),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.is_special(id),
        }
    }

    /// Returns the special tokens in the order of their ids.
    pub fn special_tokens(&self) -> Vec<(u32, String)> {
        match &self.kind {
            Kind::Simple(simple) => simple.special_tokens(),
            Kind::SentencePiece(pieces) => pieces.special_tokens(),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.special_tokens(),
        }
    }

    /// Returns the ids that [`EncodeOptions::add_special`] puts before a text: mostly one BOS, or none.
    pub fn prefix_ids(&self) -> &[u32] {
        match &self.kind {
            Kind::Simple(_) => &[],
            Kind::SentencePiece(pieces) => pieces.prefix(),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.prefix(),
        }
    }

    /// Adds special tokens under the given ids, or marks existing tokens as special.
    ///
    /// A word-level tokenizer takes any free id. A loaded one gives a new token its next free id, so
    /// only that id can be asked for. Other handles on this tokenizer are not changed.
    ///
    /// Errors: [`TokenizerError::SpecialTokenConflict`]; the tokens before it are added.
    pub fn add_special_tokens(&mut self, tokens: &[(&str, u32)]) -> Result<(), TokenizerError> {
        match &mut self.kind {
            Kind::Simple(shared) => {
                let simple = Arc::make_mut(shared);
                tokens.iter().try_for_each(|&(token, id)| simple.add_special(token, id))
            }
            Kind::SentencePiece(shared) => {
                let pieces = Arc::make_mut(shared);
                tokens.iter().try_for_each(|&(token, id)| pieces.add_special(token, id))
            }
            #[cfg(feature = "tokenizers")]
            Kind::Hf(shared) => {
                if Arc::get_mut(shared).is_none() {
                    *shared = Arc::new(shared.duplicate()?);
                }
                // Only this handle is left: the branch above made sure.
                let Some(hf) = Arc::get_mut(shared) else { return Ok(()) };
                tokens.iter().try_for_each(|&(token, id)| hf.add_special(token, id))
            }
        }
    }

    fn decode_kind(&self) -> DecodeKind {
        match &self.kind {
            Kind::Simple(_) => DecodeKind::Words,
            Kind::SentencePiece(pieces) => DecodeKind::Bytes { drop_space: pieces.drops_space() },
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.decode_kind(),
        }
    }

    /// The token as it enters the decoder.
    fn decoder_token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::Simple(simple) => simple.id_to_token(id).map(str::to_string),
            Kind::SentencePiece(pieces) => pieces.id_to_token(id).map(str::to_string),
            #[cfg(feature = "tokenizers")]
            Kind::Hf(hf) => hf.decoder_token(id),
        }
    }

    /// Appends the bytes of a token where tokens are bytes, and nothing for an id without an entry.
    fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::SentencePiece(pieces) => pieces.append_bytes(id, out),
            _ => {
                if let Some(token) = self.decoder_token(id) {
                    byte_level::append_bytes(&token, out);
                }
            }
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Cuts a text at the special words in it.
fn split_words<'t>(simple: &simple::SimpleTokenizer, text: &'t str) -> Vec<Piece<'t>> {
    let mut pieces = Vec::new();
    let mut from = 0;
    for word in text.split_whitespace() {
        let Some(id) = simple.token_to_id(word).filter(|&id| simple.is_special(id)) else { continue };
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        if from < start {
            pieces.push(Piece::Text(&text[from..start]));
        }
        pieces.push(Piece::Special(id));
        from = start + word.len();
    }
    if from < text.len() {
        pieces.push(Piece::Text(&text[from..]));
    }
    pieces
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path)
        .map_err(|e| TokenizerError::Io { path: path.display().to_string(), reason: e.to_string() })
}

#[cfg(not(feature = "tokenizers"))]
fn feature_disabled(origin: &str) -> TokenizerError {
    TokenizerError::FeatureDisabled { origin: origin.to_string(), feature: "tokenizers" }
}
