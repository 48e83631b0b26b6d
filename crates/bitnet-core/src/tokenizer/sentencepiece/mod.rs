//! Sentencepiece: BPE, where characters merge by score, and unigram models, which take the pieces of the greatest sum;
//! spaces are U+2581, what has no token becomes bytes.
//!
//! Contract, for both sources of a vocabulary (GGUF models `llama` and `t5`, `tokenizer.model`):
//! - A text gets a space before it where the vocabulary asks for one, and so does text after a special token.
//! - Control, unknown and byte tokens never come out of plain text; special tokens are matched in it only
//!   where they are parsed, longest first.
//! - User-defined tokens are cut out of every text. In GGUF files they are matched as spelled and text after one
//!   begins anew (with a space before it); in a `tokenizer.model` they are matched after spaces became U+2581,
//!   and the text around them goes on.
//! - A character without a token becomes the tokens of its bytes, or else the unknown token, once for a run.
//! - Where the vocabulary says so, characters are rewritten by its table, and of several spaces one stays, of those at
//!   either end none.
//!
//! `normalize` prepares text with `charsmap`, `merge` and `unigram` are the algorithms, `matcher` finds tokens in text,
//! `unknown` spells what has none, `model_file` and `protobuf` read `tokenizer.model`, `beside` the files that go with it.

mod beside;
mod charsmap;
mod matcher;
mod merge;
mod model_file;
mod normalize;
mod protobuf;
mod unigram;
mod unknown;

use std::collections::HashMap;
use std::sync::Arc;

use super::vocabulary::{TokenType, Vocabulary, byte_of_token, malformed, quote};
use super::{EncodeOptions, Piece, TokenizerError};
use charsmap::{CharsMap, REPLACEMENT_LIMIT};
use matcher::Matcher;
use merge::Merger;
use unigram::Unigram;
use unknown::Unknowns;

/// The model of a vocabulary from a `tokenizer.model` of the unigram kind.
pub(super) const UNIGRAM: &str = "sentencepiece-unigram";
/// The character that stands for a space.
const SPACE: char = '\u{2581}';

/// A vocabulary ready for use.
#[derive(Clone)]
pub(super) struct SentencePiece {
    tokens: Vec<Arc<str>>,
    types: Vec<TokenType>,
    ids: HashMap<Arc<str>, u32>,
    /// The scores as integers in the same order.
    ranks: Vec<u32>,
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
    special: Matcher,
    user_defined: Matcher,
    /// Whether no token goes on over the beginning of a word, so that words merge on their own.
    splits_words: bool,
    has_unused: bool,
    space_prefix: bool,
    /// Whether of several spaces one stays.
    fewer_spaces: bool,
    charsmap: Option<CharsMap>,
    unigram: Option<Unigram>,
    /// Whether user-defined tokens are matched in the text as it is.
    raw_user_defined: bool,
    before: Vec<u32>,
    after: Vec<u32>,
}

impl SentencePiece {
    /// Builds the tables.
    ///
    /// Errors: [`TokenizerError::Malformed`] for scores that are missing or no numbers, repeated tokens, byte tokens that
    /// name no byte.
    pub(super) fn new(vocabulary: Vocabulary, origin: &str) -> Result<Self, TokenizerError> {
        let vocabulary = vocabulary.with_usual_ids();
        let types = vocabulary.check(origin)?;
        let from_t5 = vocabulary.model == "t5";
        let (before, after) = vocabulary.ends(origin)?;
        let charsmap = vocabulary.charsmap.as_deref().filter(|table| !table.is_empty());
        let charsmap = charsmap.map(|table| {
            let expected = format_args!("a double array and texts of at most {REPLACEMENT_LIMIT} bytes");
            CharsMap::new(table).map_err(|found| malformed(origin, "precompiled_charsmap", expected, found))
        });
        let space_prefix = vocabulary.has_space_prefix();
        let scores = vocabulary.scores.ok_or_else(|| malformed(origin, "scores", "a list", "nothing"))?;
        let mut this = SentencePiece {
            tokens: Vec::with_capacity(types.len()),
            ids: HashMap::with_capacity(types.len()),
            ranks: Vec::with_capacity(types.len()),
            bytes: [None; 256],
            unknown: vocabulary.unknown,
            special: Matcher::default(),
            user_defined: Matcher::default(),
            splits_words: true,
            has_unused: types.contains(&TokenType::Unused),
            space_prefix,
            fewer_spaces: vocabulary.fewer_spaces.unwrap_or(false),
            charsmap: charsmap.transpose()?,
            unigram: None,
            raw_user_defined: vocabulary.model == "llama",
            before,
            after,
            types: Vec::new(),
        };
        let is_unigram = from_t5 || vocabulary.model == UNIGRAM;
        for ((token, &score), (&kind, id)) in
            vocabulary.tokens.into_iter().zip(&scores).zip(types.iter().zip(0_u32..))
        {
            if score.is_nan() {
                return Err(malformed(origin, &format!("scores[{id}]"), "a number", score));
            }
            this.ranks.push(rank(score));
            this.take(token.into(), kind, id, origin)?;
        }
        this.types = types;
        this.unknown = this.unknown.or_else(|| this.id_of_type(TokenType::Unknown));
        this.index_matchers();
        this.unigram = is_unigram.then(|| Unigram::new(&this, &scores, from_t5));
        Ok(this)
    }

    fn take(
        &mut self,
        token: Arc<str>,
        kind: TokenType,
        id: u32,
        origin: &str,
    ) -> Result<(), TokenizerError> {
        self.tokens.push(token.clone());
        if token.is_empty() {
            return Ok(());
        }
        if kind == TokenType::Byte {
            let byte = byte_of_token(&token).ok_or_else(|| {
                malformed(origin, &format!("tokens[{id}]"), "a byte token such as \"<0x0A>\"", quote(&token))
            })?;
            self.bytes[usize::from(byte)].get_or_insert(id);
        } else if merges(kind) && crosses_word(&token) {
            self.splits_words = false;
        }
        match self.ids.insert(token.clone(), id) {
            None => Ok(()),
            Some(first) => {
                let found = format!("{}, which is token {first} too", quote(&token));
                Err(malformed(origin, &format!("tokens[{id}]"), "a token of its own", found))
            }
        }
    }

    fn id_of_type(&self, wanted: TokenType) -> Option<u32> {
        (0_u32..).zip(&self.types).find(|(_, kind)| **kind == wanted).map(|(id, _)| id)
    }

    fn index_matchers(&mut self) {
        let of = |wanted: fn(TokenType) -> bool| {
            let ids = (0_u32..).zip(self.tokens.iter().zip(&self.types));
            Matcher::new(
                ids.filter(|(_, (_, kind))| wanted(**kind)).map(|(id, (token, _))| (token.clone(), id)),
            )
        };
        self.special = of(TokenType::is_special);
        self.user_defined = of(|kind| kind == TokenType::UserDefined);
    }

    pub(super) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend(&self.before);
        }
        let pieces = if options.parse_special { self.special.split(text) } else { whole(text) };
        for piece in pieces {
            match piece {
                Piece::Special(id) => ids.push(id),
                Piece::Text(text) if self.raw_user_defined => self.encode_raw(text, &mut ids)?,
                Piece::Text(text) => {
                    let text = self.normalize(text);
                    match &self.unigram {
                        Some(unigram) => unigram.encode(self, &text, &mut ids)?,
                        None => self.encode_parts(self.user_defined.split(&text), &mut ids)?,
                    }
                }
            }
        }
        if options.add_special {
            ids.extend(&self.after);
        }
        Ok(ids)
    }

    /// Encodes text between special tokens, matching user-defined tokens as spelled.
    fn encode_raw(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        for piece in self.user_defined.split(text) {
            match piece {
                Piece::Special(id) => ids.push(id),
                Piece::Text(text) => {
                    self.encode_parts(whole(&self.normalize(text)), ids)?;
                }
            }
        }
        Ok(())
    }

    fn encode_parts(&self, parts: Vec<Piece<'_>>, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        for part in parts {
            match part {
                Piece::Special(id) => ids.push(id),
                Piece::Text(text) => Merger::new(self).encode(text, ids)?,
            }
        }
        Ok(())
    }

    /// Returns the token that a merge may make of `text`, with its rank.
    fn mergeable(&self, text: &str) -> Option<(u32, u32)> {
        let id = *self.ids.get(text)?;
        merges(self.types[id as usize]).then(|| (id, self.ranks[id as usize]))
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|&&id| !(skip_special && self.is_special(id))) {
            self.append_bytes(id, &mut bytes);
        }
        let bytes = bytes.strip_prefix(b" ").filter(|_| self.drops_space()).unwrap_or(&bytes);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Appends what a token stands for; nothing for an id without an entry.
    pub(super) fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let Some(token) = self.tokens.get(id as usize) else { return };
        let literal = self.types[id as usize];
        match literal {
            TokenType::Byte => out.extend(byte_of_token(token)),
            kind if kind.is_special() || (kind == TokenType::UserDefined && self.raw_user_defined) => {
                out.extend_from_slice(token.as_bytes());
            }
            _ => {
                for (index, part) in token.split(SPACE).enumerate() {
                    if index > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }

    /// Whether decoding drops the space that encoding put before a text.
    pub(super) fn drops_space(&self) -> bool {
        self.space_prefix || self.fewer_spaces
    }

    pub(super) fn split_special<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        self.special.split(text)
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub(super) fn id_to_token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(AsRef::as_ref)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.types.get(id as usize).is_some_and(|kind| kind.is_special())
    }

    pub(super) fn special_tokens(&self) -> Vec<(u32, String)> {
        let ids = (0_u32..).zip(self.tokens.iter().zip(&self.types));
        ids.filter(|(_, (_, kind))| kind.is_special())
            .map(|(id, (token, _))| (id, token.to_string()))
            .collect()
    }

    pub(super) fn prefix(&self) -> &[u32] {
        &self.before
    }

    /// Marks a token as a control token, or adds one under the next free id.
    pub(super) fn add_special(&mut self, token: &str, id: u32) -> Result<(), TokenizerError> {
        let conflict =
            |reason| Err(TokenizerError::SpecialTokenConflict { token: token.to_string(), id, reason });
        if token.is_empty() {
            return conflict("the token is empty".to_string());
        }
        match self.token_to_id(token) {
            Some(known) if known != id => return conflict(format!("the token has id {known}")),
            Some(known) => self.types[known as usize] = TokenType::Control,
            None => {
                if let Some(other) = self.id_to_token(id) {
                    return conflict(format!("it belongs to {other:?}"));
                }
                if id as usize != self.tokens.len() {
                    return conflict(format!("the next free id of this tokenizer is {}", self.tokens.len()));
                }
                let token: Arc<str> = token.into();
                self.tokens.push(token.clone());
                self.types.push(TokenType::Control);
                self.ranks.push(0);
                self.ids.insert(token, id);
            }
        }
        self.index_matchers();
        Ok(())
    }
}

fn whole(text: &str) -> Vec<Piece<'_>> {
    if text.is_empty() { Vec::new() } else { vec![Piece::Text(text)] }
}

/// Whether merging characters may give a token of this type.
fn merges(kind: TokenType) -> bool {
    matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused | TokenType::Undefined)
}

/// Whether a word ends inside the token: a space follows something else.
fn crosses_word(token: &str) -> bool {
    token.trim_start_matches(SPACE).contains(SPACE)
}

/// Returns an integer that orders as the score does.
fn rank(score: f32) -> u32 {
    // Adding zero makes both zeros one.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
