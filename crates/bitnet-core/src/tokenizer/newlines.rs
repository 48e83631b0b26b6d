//! Runs of newlines as Gemma 4's rule has them: a run that is a token is taken as it is, whatever the merges make of it.
//!
//! The rule cuts text into lines and runs of newlines, so the tokens of a run stand together, and what stands beside them
//! is a line or a token that was cut out before.

use std::collections::HashMap;

use super::vocabulary::{TokenType, byte_of_token};

/// The tokens that are newlines only.
#[derive(Debug, Clone)]
pub(super) struct Newlines {
    /// Newlines of a token.
    lengths: HashMap<u32, usize>,
    /// The token of so many newlines.
    whole: HashMap<usize, u32>,
}

impl Newlines {
    /// Takes the tokens of a vocabulary that plain text can become, with their types.
    pub(super) fn new(tokens: &[String], types: &[TokenType]) -> Self {
        let (mut lengths, mut whole) = (HashMap::new(), HashMap::new());
        for ((token, kind), id) in tokens.iter().zip(types).zip(0_u32..) {
            let is_cut_out = kind.is_special() || *kind == TokenType::UserDefined;
            if byte_of_token(token) == Some(b'\n') {
                lengths.insert(id, 1);
            } else if !is_cut_out && !token.is_empty() && token.bytes().all(|byte| byte == b'\n') {
                lengths.insert(id, token.len());
                whole.insert(token.len(), id);
            }
        }
        Newlines { lengths, whole }
    }

    /// Puts the token of each run that has one in the place of those that the merges made.
    pub(super) fn join(&self, ids: &[u32]) -> Vec<u32> {
        let mut joined = Vec::with_capacity(ids.len());
        for run in
            ids.chunk_by(|left, right| self.lengths.contains_key(left) && self.lengths.contains_key(right))
        {
            let length = run.iter().filter_map(|id| self.lengths.get(id)).sum::<usize>();
            match self.whole.get(&length) {
                Some(&id) => joined.push(id),
                None => joined.extend(run),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_become_their_token_and_others_stay() {
        let tokens = ["a", "\n", "\n\n", "\n\n\n\n", "<0x0A>", "<nl>"].map(str::to_owned);
        let mut types = [TokenType::Normal; 6];
        (types[4], types[5]) = (TokenType::Byte, TokenType::UserDefined);
        let newlines = Newlines::new(&tokens, &types);
        for (ids, wanted) in [
            (&[0, 1, 1, 0][..], &[0, 2, 0][..]),
            (&[1, 1, 1, 1], &[3]),
            (&[2, 2], &[3]),
            (&[1, 1, 1], &[1, 1, 1]),
            (&[4], &[1]),
            (&[1, 5, 1], &[1, 5, 1]),
            (&[0, 0], &[0, 0]),
            (&[], &[]),
        ] {
            assert_eq!(newlines.join(ids), wanted, "{ids:?}");
        }
    }
}
