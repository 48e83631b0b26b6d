//! Incremental decoding: ids go in one by one, text comes out as soon as it is certain.
//!
//! Everything emitted, put together, is what [`Tokenizer::decode`](super::Tokenizer::decode) gives
//! for all the ids. Byte-level tokens are bytes, so text is certain as soon as its bytes are complete.
//! For other decoders a short window of ids is decoded again at each step; a run of byte-fallback
//! tokens (`<0xE2>`) is held back until it ends, since its last byte decides how all of it decodes.

use super::{DecodeKind, Tokenizer, byte_level};

/// Ids kept before the window's new ids, as context for decoders that look at their neighbours.
const CONTEXT: usize = 8;

/// Ids after which a window is emitted even if it does not extend the text before it.
const LONGEST_WINDOW: usize = 64;

/// Decodes ids one at a time. Made by [`Tokenizer::stream`].
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Bytes of an incomplete character.
    Bytes(Vec<u8>),
    /// Whole words joined by spaces: whether one was emitted.
    Words { started: bool },
    /// Ids of which the first `emitted` are in the text already.
    Window { ids: Vec<u32>, emitted: usize },
}

impl TokenStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = match tokenizer.decode_kind() {
            DecodeKind::Bytes => State::Bytes(Vec::new()),
            DecodeKind::Words => State::Words { started: false },
            DecodeKind::Window => State::Window { ids: Vec::new(), emitted: 0 },
        };
        TokenStream { tokenizer, skip_special, state }
    }

    /// Takes the next id and returns the text that became certain, if any.
    ///
    /// An id without an entry, or a special token where these are skipped, changes nothing.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        let token = self.tokenizer.decoder_token(id)?;
        let text = match &mut self.state {
            State::Bytes(pending) => {
                byte_level::append_bytes(&token, pending);
                take_complete(pending)
            }
            State::Words { started } => {
                let separator = if std::mem::replace(started, true) { " " } else { "" };
                format!("{separator}{token}")
            }
            State::Window { ids, emitted } => {
                ids.push(id);
                if is_byte_token(&token) {
                    return None;
                }
                let overdue = ids.len() - *emitted > LONGEST_WINDOW;
                take_window(&self.tokenizer, ids, emitted, overdue)
            }
        };
        (!text.is_empty()).then_some(text)
    }

    /// Ends the stream and returns the text still held back: what an incomplete character decodes to.
    pub fn finish(self) -> String {
        match self.state {
            State::Bytes(pending) => String::from_utf8_lossy(&pending).into_owned(),
            State::Words { .. } => String::new(),
            State::Window { mut ids, mut emitted } => {
                take_window(&self.tokenizer, &mut ids, &mut emitted, true)
            }
        }
    }
}

/// Moves what is certain out of `pending`: complete characters, and a replacement character for each
/// maximal ill-formed sequence, as decoding the whole would give.
fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = pending.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, tail) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                rest = tail;
                let Some(length) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[length..];
            }
        }
    }
    let kept = rest.len();
    pending.drain(..pending.len() - kept);
    text
}

/// Decodes the window with and without its new ids and returns the difference.
///
/// Text that does not extend the text before it is held back, unless `flush` asks for it.
fn take_window(tokenizer: &Tokenizer, ids: &mut Vec<u32>, emitted: &mut usize, flush: bool) -> String {
    // The ids hold no skipped tokens. A decoder that fails would fail on the whole text too: nothing
    // it could say is certain.
    let (Ok(before), Ok(whole)) = (tokenizer.decode(&ids[..*emitted], false), tokenizer.decode(ids, false))
    else {
        return String::new();
    };
    let new = match whole.strip_prefix(before.as_str()) {
        Some(new) => new.to_string(),
        None if flush => whole.chars().skip(before.chars().count()).collect(),
        None => return String::new(),
    };
    ids.drain(..ids.len().saturating_sub(CONTEXT));
    *emitted = ids.len();
    new
}

/// Whether the token is a byte-fallback token such as `<0xE2>`.
fn is_byte_token(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
