//! Chooses the next token from a row of logits.
//!
//! The steps, always in this order; a step whose parameter is *off* changes nothing:
//!
//! 1. **Repetition penalty** (CTRL, Keskar et al. 2019): the logit of each distinct token among the
//!    last `repeat_window` of the history is divided by the penalty when positive and multiplied by
//!    it when negative, once however often the token occurs.
//! 2. **Temperature**: logits are divided by it. At 0 the choice is greedy: the greatest logit after
//!    step 1, the lowest id among equals, and the remaining steps do not apply.
//! 3. **Top-k**: the `top_k` greatest logits remain.
//! 4. **Top-p** (nucleus): with the probabilities of what remains, in descending order, the smallest
//!    set whose mass reaches `top_p`, at least one token.
//! 5. **Min-p**: tokens whose probability is at least `min_p` times the greatest one remain.
//! 6. **Draw** among the remaining tokens in proportion to their probabilities.
//!
//! Among equal values the lower id ranks first. A logit of -inf masks its token: it is no candidate
//! at any step.
//!
//! # Reproducibility
//!
//! The result is a function of parameters, logits, history and step alone. The random number of a
//! draw is computed from (seed, step), not taken from a running state, so that neither thread count,
//! batch nor chunking can shift it. Logits are widened to f64; the exponential is `libm`'s, plain
//! IEEE arithmetic, where the standard library's last bit depends on the platform. Totals are summed
//! in ascending order of ids and the nucleus in descending order of probability.
//!
//! # Cost
//!
//! One pass over the row. Top-k and the nucleus are found by partial selection, and only what they
//! keep is ever sorted; without either nothing is. Scratch memory (16 bytes a token, none when
//! greedy) is kept between calls, which allocate nothing after the first.

use std::cmp::Ordering;

/// Size of the first piece of the nucleus search; each further piece is four times as large.
const FIRST_PIECE: usize = 64;

/// Configures a [`Sampler`].
///
/// The default suits free text: temperature 0.8 with a nucleus of 0.95, every other step off, seed 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// Divisor of the logits: finite, not negative; 0 is greedy. Default 0.8.
    pub temperature: f32,
    /// Number of greatest logits that remain; 0 is off. Default 0.
    pub top_k: usize,
    /// Mass of the nucleus, from 0 (the single best token) to 1 (off). Default 0.95.
    pub top_p: f32,
    /// Least probability relative to the greatest one, from 0 (off) to 1. Default 0.
    pub min_p: f32,
    /// Penalty on tokens of the recent history: finite, above 0; 1 is off, below 1 rewards
    /// repetition. Default 1.
    pub repeat_penalty: f32,
    /// Number of latest history tokens (prompt and output) that are penalised; 0 penalises none.
    /// Default 64: about a paragraph, short enough that names and articles recover.
    pub repeat_window: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Returns the parameters of greedy decoding: temperature 0, everything else as by default.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Reports whether the choice is the greatest logit and nothing else.
    pub fn is_plain_greedy(&self) -> bool {
        self.temperature == 0.0 && (self.repeat_penalty == 1.0 || self.repeat_window == 0)
    }

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`SamplerError::Parameter`] for the first field out of range.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let check = |field, value: f32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(SamplerError::Parameter { field, expected, found: value }) }
        };
        let (t, penalty) = (self.temperature, self.repeat_penalty);
        check("temperature", t, t.is_finite() && t >= 0.0, "a finite number of at least 0")?;
        check("top_p", self.top_p, (0.0..=1.0).contains(&self.top_p), "a number from 0 to 1")?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number from 0 to 1")?;
        check("repeat_penalty", penalty, penalty.is_finite() && penalty > 0.0, "a finite number above 0")
    }
}

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// A sampling parameter is out of range.
    #[error("sampling parameter {field}: expected {expected}, found {found}")]
    Parameter {
        /// Name of the field of [`SamplingParams`].
        field: &'static str,
        /// Its range in words.
        expected: &'static str,
        /// The value given.
        found: f32,
    },
    /// The vocabulary has no token, or more than token ids can name.
    #[error("vocabulary size: expected 1 to 4294967295 tokens, found {found}")]
    Vocabulary {
        /// The size given.
        found: usize,
    },
    /// The row of logits does not have one value a token.
    #[error("row of logits: expected {expected} values, found {found}")]
    LogitCount {
        /// Size of the vocabulary.
        expected: usize,
        /// Length of the row.
        found: usize,
    },
    /// A logit is NaN or +inf.
    #[error("logit of token {token}: expected a finite number or -inf, found {found}")]
    Logit {
        /// The token's id.
        token: u32,
        /// Its logit.
        found: f32,
    },
    /// Every logit is -inf.
    #[error("row of logits: expected at least one finite value, found {count} times -inf")]
    AllMasked {
        /// Length of the row.
        count: usize,
    },
    /// A token of the history is not in the vocabulary.
    #[error("token {position} of the history: expected an id below {vocab}, found {token}")]
    HistoryToken {
        /// Index into the history.
        position: usize,
        /// The id found there.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
}

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    /// The logit at first; after `exponentiate` the probability, relative to the greatest one.
    value: f64,
}

impl Candidate {
    /// Ranks by descending value, then ascending id: a total order, as values are never NaN.
    fn rank(&self, other: &Self) -> Ordering {
        other.value.total_cmp(&self.value).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens of one vocabulary, by one set of parameters.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    vocab: usize,
    /// One bit a token, set while the token's logit is to be penalised; all clear between calls.
    penalised: Vec<u64>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Makes a sampler for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`SamplerError::Parameter`] for a field out of range, [`SamplerError::Vocabulary`] for an
    /// empty vocabulary or one of 2³² tokens and more.
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self, SamplerError> {
        params.validate()?;
        if vocab == 0 || u32::try_from(vocab).is_err() {
            return Err(SamplerError::Vocabulary { found: vocab });
        }
        Ok(Self { params, vocab, penalised: Vec::new(), candidates: Vec::new() })
    }

    /// Returns the parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses a token.
    ///
    /// `history` is everything the penalty may look at, prompt and output, oldest first. `step` is
    /// the index of the token within the output; it selects the random number and should differ
    /// between the tokens of one sequence.
    ///
    /// Shapes: `logits` `[vocab]`.
    ///
    /// # Errors
    /// [`SamplerError::LogitCount`], [`SamplerError::Logit`] and [`SamplerError::AllMasked`] for an
    /// unusable row, [`SamplerError::HistoryToken`] for an id outside the vocabulary among the
    /// tokens that the penalty looks at.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], step: u64) -> Result<u32, SamplerError> {
        self.check_logits(logits)?;
        let recent = self.penalised_tokens(history)?;
        for &token in recent {
            self.penalised[token as usize / 64] |= 1 << (token % 64);
        }
        let choice = if self.params.temperature == 0.0 {
            self.greatest(logits)
        } else {
            self.filter(logits);
            draw(&self.candidates, uniform(self.params.seed, step))
        };
        for &token in recent {
            self.penalised[token as usize / 64] = 0;
        }
        choice.ok_or(SamplerError::AllMasked { count: self.vocab })
    }

    fn check_logits(&self, logits: &[f32]) -> Result<(), SamplerError> {
        if logits.len() != self.vocab {
            return Err(SamplerError::LogitCount { expected: self.vocab, found: logits.len() });
        }
        match logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
            Some(at) => Err(SamplerError::Logit { token: at as u32, found: logits[at] }),
            None => Ok(()),
        }
    }

    /// Returns the part of the history that the penalty applies to and makes room to mark it.
    fn penalised_tokens<'h>(&mut self, history: &'h [u32]) -> Result<&'h [u32], SamplerError> {
        if self.params.repeat_penalty == 1.0 {
            return Ok(&[]);
        }
        let start = history.len().saturating_sub(self.params.repeat_window);
        let recent = &history[start..];
        if let Some(at) = recent.iter().position(|&token| token as usize >= self.vocab) {
            return Err(SamplerError::HistoryToken {
                position: start + at,
                token: recent[at],
                vocab: self.vocab,
            });
        }
        self.penalised.resize(self.vocab.div_ceil(64), 0);
        Ok(recent)
    }

    /// Returns the unmasked tokens in ascending order of ids with their logits after the penalty.
    fn scores(&self, logits: &[f32]) -> impl Iterator<Item = Candidate> {
        let penalty = f64::from(self.params.repeat_penalty);
        let penalised = |i: usize| self.penalised.get(i / 64).is_some_and(|bits| bits >> (i % 64) & 1 == 1);
        logits.iter().enumerate().filter(|(_, logit)| **logit != f32::NEG_INFINITY).map(move |(i, &logit)| {
            let value = match f64::from(logit) {
                value if !penalised(i) => value,
                value if value > 0.0 => value / penalty,
                value => value * penalty,
            };
            // Adding zero turns -0.0 into 0.0, which are equals here but not to `total_cmp`.
            Candidate { id: i as u32, value: value + 0.0 }
        })
    }

    fn greatest(&self, logits: &[f32]) -> Option<u32> {
        self.scores(logits).reduce(|best, c| if c.value > best.value { c } else { best }).map(|c| c.id)
    }

    /// Leaves in `candidates` the tokens that may be drawn, in ascending order of ids, with their
    /// relative probabilities; none when every token is masked.
    fn filter(&mut self, logits: &[f32]) {
        let mut kept = std::mem::take(&mut self.candidates);
        kept.clear();
        kept.reserve_exact(self.vocab);
        kept.extend(self.scores(logits));
        keep_top_k(&mut kept, self.params.top_k);
        exponentiate(&mut kept, f64::from(self.params.temperature));
        keep_top_p(&mut kept, f64::from(self.params.top_p));
        // The greatest relative probability is 1 by construction.
        let least = f64::from(self.params.min_p);
        kept.retain(|c| c.value >= least);
        self.candidates = kept;
    }
}

/// Keeps the `k` first-ranked candidates; all of them for `k` = 0.
///
/// The temperature, yet to be applied, does not change the ranking.
fn keep_top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k != 0 && k < kept.len() {
        kept.select_nth_unstable_by(k - 1, Candidate::rank);
        kept.truncate(k);
        kept.sort_unstable_by_key(|c| c.id);
    }
}

/// Turns logits into probabilities relative to the greatest one.
fn exponentiate(kept: &mut [Candidate], temperature: f64) {
    let greatest = kept.iter().fold(f64::NEG_INFINITY, |greatest, c| greatest.max(c.value));
    for c in kept {
        c.value = libm::exp((c.value - greatest) / temperature);
    }
}

/// Keeps the smallest set of first-ranked candidates whose mass reaches the share `p` of the total.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 || kept.is_empty() {
        return;
    }
    let wanted = p * kept.iter().map(|c| c.value).sum::<f64>();
    let mut mass = 0.0;
    let (mut start, mut piece) = (0, FIRST_PIECE);
    // Ranks one piece after another, so that a small nucleus costs no sort of the vocabulary.
    let size = loop {
        let rest = &mut kept[start..];
        if piece < rest.len() {
            rest.select_nth_unstable_by(piece - 1, Candidate::rank);
        }
        let end = piece.min(rest.len());
        rest[..end].sort_unstable_by(Candidate::rank);
        let reached = rest[..end].iter().position(|c| {
            mass += c.value;
            mass >= wanted
        });
        match reached {
            Some(at) => break start + at + 1,
            None if start + end == kept.len() => break kept.len(),
            None => (start, piece) = (start + end, piece * 4),
        }
    };
    kept.truncate(size);
    kept.sort_unstable_by_key(|c| c.id);
}

/// Returns the candidate at the share `u` of the total mass, in ascending order of ids.
fn draw(kept: &[Candidate], u: f64) -> Option<u32> {
    let target = u * kept.iter().map(|c| c.value).sum::<f64>();
    let mut mass = 0.0;
    let at = kept.iter().find(|c| {
        mass += c.value;
        mass > target
    });
    // `u` < 1 keeps the target below the total, so the search misses only when there is none.
    at.map(|c| c.id)
}

/// Returns the random number of a step, uniform in [0, 1) with 53 bits.
///
/// SplitMix64's stream is `mix64(state + n × GAMMA)`, so any element of it can be had directly. The
/// seed is mixed into the state first: streams of neighbouring seeds would otherwise be shifted
/// copies of each other.
fn uniform(seed: u64, step: u64) -> f64 {
    let state = mix64(seed.wrapping_add(GAMMA));
    let bits = mix64(state.wrapping_add(step.wrapping_add(1).wrapping_mul(GAMMA)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// The increment of SplitMix64: 2⁶⁴ over the golden ratio, odd.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes 64 bits so that each input bit flips each output bit with a probability near one half.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), with the
/// constants of Stafford's variant 13.
fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
