//! Tokenizers of the Hugging Face `tokenizers` crate behind this crate's contract.
//!
//! The crate keeps "parse special tokens or not" as a switch inside the tokenizer. Here it stands
//! behind a lock and is set under it, so that threads with different options cannot see each other's
//! setting; threads with equal options encode side by side.

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, Encoding, Model, ModelWrapper, NormalizedString, Normalizer,
    NormalizerWrapper, OffsetReferential, OffsetType, Tokenizer,
};

use super::byte_level;
use super::contained::contained;
use super::error::one_line;
use super::newlines::Newlines;
use super::{DecodeKind, EncodeOptions, Piece, TokenizerError};

/// A loaded pipeline and what is asked of it often.
pub(super) struct HfTokenizer {
    inner: RwLock<Tokenizer>,
    origin: String,
    special: BTreeMap<u32, String>,
    /// The special tokens alone, matched as spelled: a normaliser must not turn other text into them.
    splitter: AddedVocabulary,
    /// Special tokens that the model's own vocabulary holds: plain text may turn into one.
    reachable_special: HashSet<u32>,
    /// Bytes that a byte-level model without an unknown token cannot spell, as a table.
    unspellable: Option<Box<[bool; 256]>>,
    /// What takes runs of newlines whole, for the rule that does.
    newlines: Option<Newlines>,
    vocab_size: usize,
    prefix: Vec<u32>,
    decode: DecodeKind,
}

impl HfTokenizer {
    pub(super) fn new(
        tokenizer: Tokenizer,
        newlines: Option<Newlines>,
        origin: &str,
    ) -> Result<Self, TokenizerError> {
        let vocab_size = vocab_size(&tokenizer);
        let mut this = HfTokenizer {
            unspellable: unspellable_bytes(&tokenizer),
            decode: decode_kind(&tokenizer),
            inner: RwLock::new(tokenizer),
            origin: origin.to_string(),
            special: BTreeMap::new(),
            splitter: AddedVocabulary::new(),
            reachable_special: HashSet::new(),
            newlines,
            vocab_size,
            prefix: Vec::new(),
        };
        this.refresh_special()?;
        this.prefix = this.find_prefix()?;
        Ok(this)
    }

    /// A second tokenizer of the same content, for changing one of the two.
    pub(super) fn duplicate(&self) -> Result<Self, TokenizerError> {
        HfTokenizer::new(self.read().clone(), self.newlines.clone(), &self.origin)
    }

    pub(super) fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.with_parsing(options.parse_special);
        let body = self.run(|| tokenizer.encode_fast(text, false))?;
        if !options.parse_special {
            self.refuse_special(&tokenizer, body.get_ids())?;
        }
        if let Some(table) = self.unspellable.as_deref().filter(|table| has_marked_byte(text, table)) {
            contained(|| refuse_loss(&tokenizer, text, body.get_ids(), table))
                .ok_or_else(|| self.library("encode", "the tokenizer library panicked"))??;
        }
        let whole = match options.add_special {
            true => self.run(|| tokenizer.post_process(body, None, true))?,
            false => body,
        };
        let ids = whole.get_ids();
        Ok(self.newlines.as_ref().map_or_else(|| ids.to_vec(), |newlines| newlines.join(ids)))
    }

    fn run(&self, work: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Encoding, TokenizerError> {
        // The crate's models index tables that come from the file: a panic there is the file's fault
        // and must not take the program down.
        contained(work)
            .ok_or_else(|| self.library("encode", "the tokenizer library panicked"))?
            .map_err(|e| self.library("encode", e))
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let kept: Vec<u32>;
        let ids = if skip_special {
            kept = ids.iter().copied().filter(|&id| !self.is_special(id)).collect();
            &kept
        } else {
            ids
        };
        let tokenizer = self.read();
        contained(|| tokenizer.decode(ids, false))
            .ok_or_else(|| self.library("decode", "the tokenizer library panicked"))?
            .map_err(|e| self.library("decode", e))
    }

    pub(super) fn add_special(&mut self, token: &str, id: u32) -> Result<(), TokenizerError> {
        let conflict = |reason: String| {
            Err(TokenizerError::SpecialTokenConflict { token: token.to_string(), id, reason })
        };
        if token.is_empty() {
            return conflict("the token is empty".to_string());
        }
        let tokenizer = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let known = tokenizer.token_to_id(token);
        if let Some(known) = known.filter(|&known| known != id) {
            return conflict(format!("the token has id {known}"));
        }
        if let Some(other) = tokenizer.id_to_token(id).filter(|other| known.is_none() && other != token) {
            return conflict(format!("it belongs to {other:?}"));
        }
        let before = tokenizer.clone();
        let added = tokenizer.add_special_tokens([AddedToken::from(token, true)]);
        added.map_err(|e| TokenizerError::Library {
            origin: self.origin.clone(),
            operation: "add a special token",
            reason: one_line(e),
        })?;
        if let Some(given) = tokenizer.token_to_id(token).filter(|&given| given != id) {
            *tokenizer = before;
            return conflict(format!("the next free id of this tokenizer is {given}"));
        }
        self.vocab_size = self.vocab_size.max(id as usize + 1);
        self.refresh_special()
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.read().token_to_id(token)
    }

    /// The token as it is written in text: an added token's own content, not its normalised form.
    pub(super) fn id_to_token(&self, id: u32) -> Option<String> {
        let tokenizer = self.read();
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| tokenizer.id_to_token(id))
    }

    /// The token as it enters the decoder.
    pub(super) fn decoder_token(&self, id: u32) -> Option<String> {
        self.read().id_to_token(id)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    pub(super) fn special_tokens(&self) -> Vec<(u32, String)> {
        self.special.iter().map(|(&id, token)| (id, token.clone())).collect()
    }

    pub(super) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    pub(super) fn decode_kind(&self) -> DecodeKind {
        self.decode
    }

    /// Cuts text at its special tokens by the crate's own matching (longest first, with each token's
    /// `lstrip`, `rstrip` and `single_word`).
    pub(super) fn split_special<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        let found = self.splitter.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = found.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces = splits.into_iter().filter(|(_, (start, end), _)| start < end);
        pieces
            .map(|(_, (start, end), tokens)| {
                let token = tokens.as_deref().and_then(|tokens| tokens.first());
                let content = token.and_then(|token| self.splitter.simple_id_to_token(token.id));
                let id = content.and_then(|content| self.token_to_id(&content));
                id.map_or(Piece::Text(&text[start..end]), Piece::Special)
            })
            .collect()
    }

    fn library(&self, operation: &'static str, reason: impl std::fmt::Display) -> TokenizerError {
        TokenizerError::Library { origin: self.origin.clone(), operation, reason: one_line(reason) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tokenizer> {
        // A panic while the lock was held cannot have left a half-written tokenizer: the only thing
        // written under it is the switch.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the tokenizer with its switch set; the lock keeps it set.
    fn with_parsing(&self, parse_special: bool) -> RwLockReadGuard<'_, Tokenizer> {
        let ignore = !parse_special;
        let shared = self.read();
        if shared.get_encode_special_tokens() == ignore {
            return shared;
        }
        drop(shared);
        let mut exclusive = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        exclusive.set_encode_special_tokens(ignore);
        RwLockWriteGuard::downgrade(exclusive)
    }

    fn refresh_special(&mut self) -> Result<(), TokenizerError> {
        let tokenizer = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let model = tokenizer.get_model();
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        self.special = special.clone().map(|(&id, token)| (id, token.content.clone())).collect();
        self.reachable_special = self
            .special
            .iter()
            .filter(|(_, token)| model.token_to_id(token).is_some() && !is_unknown_token(model, token))
            .map(|(&id, _)| id)
            .collect();
        let mut splitter = AddedVocabulary::new();
        splitter
            .add_tokens(special.map(|(_, t)| t.clone().normalized(false)), model, None::<&NormalizerWrapper>)
            .map_err(|e| TokenizerError::Library {
                origin: self.origin.clone(),
                operation: "index its special tokens",
                reason: one_line(e),
            })?;
        self.splitter = splitter;
        Ok(())
    }

    /// The ids that `add_special` puts before a text.
    fn find_prefix(&self) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.with_parsing(true);
        for probe in ["a", "1", " ", "e"] {
            let Ok(bare) = self.run(|| tokenizer.encode_fast(probe, false)) else { continue };
            if bare.get_ids().is_empty() {
                continue;
            }
            let (bare, full) = (bare.get_ids(), self.run(|| tokenizer.encode_fast(probe, true))?);
            let full = full.get_ids();
            let at = full.windows(bare.len()).position(|window| window == bare);
            return Ok(full[..at.unwrap_or(0)].to_vec());
        }
        Ok(Vec::new())
    }

    fn refuse_special(&self, tokenizer: &Tokenizer, body: &[u32]) -> Result<(), TokenizerError> {
        if self.reachable_special.is_empty() {
            return Ok(());
        }
        match body.iter().find(|id| self.reachable_special.contains(id)) {
            Some(&id) => Err(TokenizerError::SpecialInText {
                token: tokenizer.id_to_token(id).unwrap_or_else(|| id.to_string()),
            }),
            None => Ok(()),
        }
    }
}

/// Whether the model writes this token for text that it does not know.
fn is_unknown_token(model: &ModelWrapper, token: &str) -> bool {
    match model {
        ModelWrapper::BPE(model) => model.unk_token.as_deref() == Some(token),
        ModelWrapper::WordPiece(model) => model.unk_token == token,
        ModelWrapper::WordLevel(model) => model.unk_token == token,
        // This model knows its unknown token by id, in a private field; the name is a convention.
        ModelWrapper::Unigram(_) => token == "<unk>",
    }
}

fn decode_kind(tokenizer: &Tokenizer) -> DecodeKind {
    let byte_level = |decoder: &DecoderWrapper| matches!(decoder, DecoderWrapper::ByteLevel(_));
    match tokenizer.get_decoder() {
        None => DecodeKind::Words,
        Some(DecoderWrapper::Sequence(list)) => match list.get_decoders() {
            [only] if byte_level(only) => DecodeKind::Bytes { drop_space: false },
            _ => DecodeKind::Window,
        },
        Some(decoder) if byte_level(decoder) => DecodeKind::Bytes { drop_space: false },
        Some(_) => DecodeKind::Window,
    }
}

/// Returns 1 + the greatest id.
fn vocab_size(tokenizer: &Tokenizer) -> usize {
    let count = tokenizer.get_vocab_size(true);
    // Ids without a gap, as nearly always: the count answers, and the vocabulary need not be copied.
    if u32::try_from(count).is_ok_and(|count| (0..count).all(|id| tokenizer.id_to_token(id).is_some())) {
        return count;
    }
    tokenizer.get_vocab(true).values().max().map_or(0, |&greatest| greatest as usize + 1)
}

/// The bytes that text would lose: a BPE model without an unknown token drops what it cannot spell.
fn unspellable_bytes(tokenizer: &Tokenizer) -> Option<Box<[bool; 256]>> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
    let byte_level = match tokenizer.get_pre_tokenizer()? {
        PreTokenizerWrapper::ByteLevel(_) => true,
        PreTokenizerWrapper::Sequence(list) => {
            list.as_ref().iter().any(|part| matches!(part, PreTokenizerWrapper::ByteLevel(_)))
        }
        _ => false,
    };
    if !byte_level || model.unk_token.is_some() {
        return None;
    }
    let mut table = Box::new([false; 256]);
    let mut spelling = [0; 4];
    for byte in 0..=u8::MAX {
        let entry: &str = byte_level::char_of(byte).encode_utf8(&mut spelling);
        table[usize::from(byte)] = model.token_to_id(entry).is_none();
    }
    table.contains(&true).then_some(table)
}

fn has_marked_byte(text: &str, table: &[bool; 256]) -> bool {
    text.bytes().any(|byte| table[usize::from(byte)])
}

/// Fails where `ids` do not spell `text`, naming the first character that the vocabulary lacks.
fn refuse_loss(
    tokenizer: &Tokenizer,
    text: &str,
    ids: &[u32],
    table: &[bool; 256],
) -> Result<(), TokenizerError> {
    let mut normalized = NormalizedString::from(text);
    let is_normalized =
        tokenizer.get_normalizer().is_none_or(|normalizer| normalizer.normalize(&mut normalized).is_ok());
    let decoded = tokenizer.decode(ids, false).unwrap_or_default();
    if is_normalized && decoded.trim_start() == normalized.get().trim_start() {
        return Ok(());
    }
    let mut bytes = [0; 4];
    for character in text.chars() {
        let spelled = character.encode_utf8(&mut bytes).bytes().find(|&byte| table[usize::from(byte)]);
        if let Some(byte) = spelled {
            return Err(TokenizerError::UnknownCharacter { character, byte });
        }
    }
    Ok(())
}
