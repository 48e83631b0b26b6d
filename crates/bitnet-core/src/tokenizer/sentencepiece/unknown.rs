//! What has no token: its bytes where the vocabulary has them, else the unknown token, once for a run.

use super::SentencePiece;
use crate::tokenizer::TokenizerError;

/// Whether a run of unknown characters is open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unknowns {
    open: bool,
}

impl Unknowns {
    /// Reports whether the last thing written was an unknown token.
    pub(super) fn is_open(self) -> bool {
        self.open
    }

    /// Appends a token.
    pub(super) fn known(&mut self, id: u32, ids: &mut Vec<u32>) {
        ids.push(id);
        self.open = false;
    }

    /// Appends what stands for a text without a token.
    pub(super) fn spell(
        &mut self,
        vocabulary: &SentencePiece,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let from = ids.len();
        for byte in text.bytes() {
            match (vocabulary.bytes[usize::from(byte)], vocabulary.unknown) {
                (Some(id), _) => ids.push(id),
                (None, Some(unknown)) => {
                    ids.truncate(from);
                    if !std::mem::replace(&mut self.open, true) {
                        ids.push(unknown);
                    }
                    return Ok(());
                }
                (None, None) => {
                    let character = text.chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
                    return Err(TokenizerError::UnknownCharacter { character, byte });
                }
            }
        }
        self.open = false;
        Ok(())
    }
}
