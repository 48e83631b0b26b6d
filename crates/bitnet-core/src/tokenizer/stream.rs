//! Incremental decoding: ids go in one by one, text comes out as soon as it is certain.
//!
//! Everything emitted, put together, is what [`Tokenizer::decode`](super::Tokenizer::decode) gives
//! for all the ids. Byte-level tokens are bytes, so text is certain as soon as its bytes are complete.
//! For other decoders a short window of ids is decoded again at each step; a run of byte-fallback
//! tokens (`<0xE2>`) is held back until it ends, since its last byte decides how all of it decodes.

use super::vocabulary::byte_of_token;
use super::{DecodeKind, Tokenizer};

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
    /// Bytes of an incomplete character, and whether a space at the beginning of all text is dropped.
    Bytes { pending: Vec<u8>, drop_space: bool },
    /// Whole words joined by spaces: whether one was emitted.
    Words { started: bool },
    /// Ids of which the first `emitted` are in the text already.
    Window { ids: Vec<u32>, emitted: usize },
}

impl TokenStream {
    pub(super) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let state = match tokenizer.decode_kind() {
            DecodeKind::Bytes { drop_space } => State::Bytes { pending: Vec::new(), drop_space },
            DecodeKind::Words => State::Words { started: false },
            DecodeKind::Window => State::Window { ids: Vec::new(), emitted: 0 },
        };
        TokenStream { tokenizer, skip_special, state }
    }

    /// Makes what is pushed go on after `context`, which the stream itself does not show: the first token
    /// then keeps the space that a text begins without.
    #[must_use]
    pub fn after(mut self, context: &[u32]) -> Self {
        let (tokenizer, skip) = (&self.tokenizer, self.skip_special);
        let mut shown = context.iter().copied().filter(|&id| !(skip && tokenizer.is_special(id)));
        match &mut self.state {
            State::Bytes { drop_space, .. } => *drop_space &= shown.next().is_none(),
            State::Words { started } => *started |= shown.next().is_some(),
            State::Window { ids, emitted } => {
                ids.extend(shown.filter(|&id| tokenizer.decoder_token(id).is_some()));
                ids.drain(..ids.len().saturating_sub(CONTEXT));
                *emitted = ids.len();
            }
        }
        self
    }

    /// Takes the next id and returns the text that became certain, if any.
    ///
    /// An id without an entry, or a special token where these are skipped, changes nothing.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        let text = match &mut self.state {
            State::Bytes { pending, drop_space } => {
                self.tokenizer.append_bytes(id, pending);
                if *drop_space && !pending.is_empty() {
                    *drop_space = false;
                    if pending[0] == b' ' {
                        pending.remove(0);
                    }
                }
                take_complete(pending)
            }
            State::Words { started } => {
                let token = self.tokenizer.decoder_token(id)?;
                let separator = if std::mem::replace(started, true) { " " } else { "" };
                format!("{separator}{token}")
            }
            State::Window { ids, emitted } => {
                let token = self.tokenizer.decoder_token(id)?;
                ids.push(id);
                if byte_of_token(&token).is_some() {
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
            State::Bytes { pending, .. } => String::from_utf8_lossy(&pending).into_owned(),
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
