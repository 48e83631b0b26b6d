//! The unigram model: of all ways to cut a text into pieces, the one whose scores have the greatest sum.
//!
//! A character that no piece covers costs 10 more than the worst piece. User-defined pieces cost next to nothing, so
//! that they are taken wherever they stand. Of equal ways the first that was found stays. What counts as equal depends on
//! the arithmetic, which is that of the reader whose format it is: sentencepiece adds in single precision (0.2.3; up to 0.2.1
//! it held sums of double precision against those), readers of GGUF in double.
//! Source: Kudo 2018, and the way sentencepiece breaks ties.

use super::matcher::Matcher;
use super::{SentencePiece, TokenType, Unknowns};
use crate::tokenizer::TokenizerError;

/// What an unknown character costs beyond the worst piece.
const UNKNOWN_COST: f32 = 10.0;
/// What a user-defined piece costs beyond its bytes at the best score, which is next to nothing or more.
const USER_DEFINED_COST: f32 = 0.1;

/// Scores of the pieces, and what finds them.
#[derive(Clone)]
pub(super) struct Unigram {
    pieces: Matcher,
    scores: Vec<f64>,
    unknown_score: f64,
    /// Whether sums keep their double precision.
    is_double: bool,
}

/// The best way to the end of a piece: where the piece begins, which it is, and the sum.
#[derive(Clone, Copy)]
struct Step {
    from: usize,
    id: Option<u32>,
    sum: f64,
}

impl Unigram {
    /// Takes the pieces of a vocabulary with their types and scores; `is_double` as readers of GGUF calculate.
    pub(super) fn new(vocabulary: &SentencePiece, scores: &[f32], is_double: bool) -> Self {
        let pieces = (0_u32..).zip(vocabulary.tokens.iter().zip(&vocabulary.types));
        let pieces =
            pieces.filter(|(_, (_, kind))| matches!(kind, TokenType::Normal | TokenType::UserDefined));
        let normal = scores.iter().zip(&vocabulary.types).filter(|(_, kind)| **kind == TokenType::Normal);
        let normal = normal.map(|(score, _)| *score);
        let worst = normal.clone().reduce(f32::min).unwrap_or(0.0);
        let best = normal.fold(f32::MIN_POSITIVE, f32::max);
        let score = |(&score, (kind, token)): (&f32, (&TokenType, &std::sync::Arc<str>))| match kind {
            TokenType::UserDefined if is_double => 0.0,
            TokenType::UserDefined => f64::from(token.len() as f32 * best - USER_DEFINED_COST),
            _ => f64::from(score),
        };
        Unigram {
            pieces: Matcher::new(pieces.map(|(id, (token, _))| (token.clone(), id))),
            scores: scores.iter().zip(vocabulary.types.iter().zip(&vocabulary.tokens)).map(score).collect(),
            unknown_score: f64::from(worst - UNKNOWN_COST),
            is_double,
        }
    }

    /// Appends the ids of a text whose spaces are U+2581.
    pub(super) fn encode(
        &self,
        vocabulary: &SentencePiece,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut best: Vec<Option<Step>> = vec![None; text.len() + 1];
        best[0] = Some(Step { from: 0, id: None, sum: 0.0 });
        for (at, character) in text.char_indices() {
            // Every character can be unknown, so that there is a way to each.
            let Some(here) = best[at].map(|step| step.sum) else { continue };
            let width = character.len_utf8();
            let mut offer = |length: usize, id: Option<u32>, score: f64| {
                let (place, sum) = (&mut best[at + length], self.sum(here, score));
                if place.is_none_or(|step| sum > step.sum) {
                    *place = Some(Step { from: at, id, sum });
                }
            };
            let mut covered = false;
            self.pieces.prefixes(&text.as_bytes()[at..], |length, id| {
                covered |= length == width;
                offer(length, Some(id), self.scores[id as usize]);
            });
            if !covered {
                offer(width, None, self.unknown_score);
            }
        }
        let (mut end, mut way) = (text.len(), Vec::new());
        while let Some(step) = best[end].filter(|_| end > 0) {
            way.push((step.from, end, step.id));
            end = step.from;
        }
        let mut unknowns = Unknowns::default();
        for &(from, end, id) in way.iter().rev() {
            match id {
                Some(id) => unknowns.known(id, ids),
                None => unknowns.spell(vocabulary, &text[from..end], ids)?,
            }
        }
        Ok(())
    }
    /// Adds in the precision of this model; rounding the exact sum to single precision is what adding in it gives.
    fn sum(&self, sum: f64, score: f64) -> f64 {
        let sum = sum + score;
        if self.is_double { sum } else { f64::from(sum as f32) }
    }
}
