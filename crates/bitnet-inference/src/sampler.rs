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
//! batch nor chunking can shift it. The exponential is a kernel's, the same bits on every tier and
//! machine. It is taken in f32, and is 0 below about 1e-38 of the greatest probability; a penalised
//! logit is rounded to f32. Sums are taken in f64 and in a fixed order: totals by ids, in parts, the
//! nucleus by descending probability.
//!
//! # Cost
//!
//! A greedy choice reads the row once. Otherwise the row is copied, and what is behind the `top_k`
//! greatest logits or outside the nucleus is told from the rest by comparing many values at once:
//! only what may be kept is ever ranked. Scratch memory (16 bytes a token, of which most is touched only
//! when much of the vocabulary is kept) stays between calls, which allocate nothing after the first.

use bitnet_core::backend::{UnusableLogits, greatest_logit};
use bitnet_kernels::{IsaError, Kernels};

/// Values that are compared at once.
const BLOCK: usize = 64;
/// Values whose sum is taken at once.
const PART: usize = 1024;
/// Relative probabilities down to which the nucleus is looked for, one after the other. What is below the last is 0.
const FLOORS: [f32; 4] = [1.0 / 256.0, 1.0 / 65_536.0, 1e-9, f32::MIN_POSITIVE];
/// Size of the first piece of the nucleus that is ranked; each further piece is four times as large.
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
    /// The instruction-set tier that was asked for is not here.
    #[error(transparent)]
    Isa(#[from] IsaError),
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

/// A value of a row, with its place there.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    at: u32,
    value: f32,
}

impl Candidate {
    /// Returns what is the less the earlier it ranks: by descending value, then by place. Values are never NaN, and
    /// zero has one sign.
    fn rank(&self) -> u64 {
        let bits = self.value.to_bits();
        // Numbers order like their bits, negative ones the other way round.
        let descending = if self.value < 0.0 { bits } else { !bits & i32::MAX as u32 };
        u64::from(descending) << 32 | u64::from(self.at)
    }
}

/// Chooses tokens of one vocabulary, by one set of parameters.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    vocab: usize,
    kernels: &'static Kernels,
    /// What remains of the row: logits at first, probabilities relative to the greatest one later.
    row: Vec<f32>,
    /// Ids of what remains, ascending; empty while all of the vocabulary does.
    ids: Vec<u32>,
    /// Sum of each part of the row.
    masses: Vec<f64>,
    candidates: Vec<Candidate>,
    peaks: Vec<f32>,
}

impl Sampler {
    /// Makes a sampler for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// [`SamplerError::Parameter`] for a field out of range, [`SamplerError::Vocabulary`] for an
    /// empty vocabulary or one of 2³² tokens and more, [`SamplerError::Isa`] where `BITNET_ISA` names
    /// no tier of this machine.
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self, SamplerError> {
        params.validate()?;
        if vocab == 0 || u32::try_from(vocab).is_err() {
            return Err(SamplerError::Vocabulary { found: vocab });
        }
        let kernels = Kernels::select()?;
        let (row, ids, masses, candidates, peaks) = Default::default();
        Ok(Self { params, vocab, kernels, row, ids, masses, candidates, peaks })
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
        if logits.len() != self.vocab {
            return Err(SamplerError::LogitCount { expected: self.vocab, found: logits.len() });
        }
        let best = greatest(logits)?;
        let recent = self.recent(history)?;
        if self.params.temperature == 0.0 && recent.is_empty() {
            return Ok(best as u32);
        }
        let best = self.penalise(logits, recent, best)?;
        if self.params.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.filter(self.row[best]);
        let at = draw(&self.row, &self.masses, uniform(self.params.seed, step));
        Ok(self.ids.get(at).copied().unwrap_or(at as u32))
    }

    /// Returns the part of the history that the penalty applies to.
    fn recent<'h>(&self, history: &'h [u32]) -> Result<&'h [u32], SamplerError> {
        if self.params.repeat_penalty == 1.0 {
            return Ok(&[]);
        }
        let start = history.len().saturating_sub(self.params.repeat_window);
        let recent = &history[start..];
        match recent.iter().position(|&token| token as usize >= self.vocab) {
            Some(at) => {
                Err(SamplerError::HistoryToken { position: start + at, token: recent[at], vocab: self.vocab })
            }
            None => Ok(recent),
        }
    }

    /// Copies the row, with the logits of `recent` tokens penalised, and returns the place of the greatest one.
    fn penalise(&mut self, logits: &[f32], recent: &[u32], best: usize) -> Result<usize, SamplerError> {
        self.row.clear();
        self.row.extend_from_slice(logits);
        self.ids.clear();
        let penalty = f64::from(self.params.repeat_penalty);
        for &token in recent {
            // From the logit as it came: a token is penalised once, however often it occurs.
            let value = match f64::from(logits[token as usize]) {
                f64::NEG_INFINITY => continue,
                value if value > 0.0 => value / penalty,
                value => value * penalty,
            };
            self.row[token as usize] = value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
        }
        if recent.is_empty() { Ok(best) } else { greatest(&self.row) }
    }

    /// Leaves in `row` the relative probabilities of the tokens that may be drawn, in ascending order of ids, and
    /// their sums in `masses`. `greatest` is the greatest logit.
    fn filter(&mut self, greatest: f32) {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        // At once, so that no later row needs more.
        self.candidates.clear();
        self.candidates.reserve_exact(self.vocab);
        self.ids.reserve_exact(self.vocab);
        if top_k != 0 && top_k < self.vocab {
            self.find_top_k(top_k);
            self.keep_candidates();
        }
        self.masses.clear();
        self.masses.reserve_exact(self.vocab.div_ceil(PART));
        let parts = self.row.chunks_mut(PART);
        self.masses.extend(parts.map(|part| (self.kernels.exponentiate)(part, greatest, temperature)));
        if top_p < 1.0 {
            self.find_nucleus(f64::from(top_p));
            self.keep_candidates();
        }
        // The greatest relative probability is 1.
        if min_p > 0.0 {
            collect(&self.row, min_p, &mut self.candidates);
            self.keep_candidates();
        }
    }

    /// Leaves the candidates alone in the row.
    fn keep_candidates(&mut self) {
        self.candidates.sort_unstable_by_key(|candidate| candidate.at);
        let whole = self.ids.is_empty();
        for (index, &Candidate { at, value }) in self.candidates.iter().enumerate() {
            self.row[index] = value;
            if whole {
                self.ids.push(at);
            } else {
                self.ids[index] = self.ids[at as usize];
            }
        }
        self.row.truncate(self.candidates.len());
        self.ids.truncate(self.candidates.len());
        self.masses.clear();
        self.masses.extend(self.row.chunks(PART).map(sum));
    }

    /// Makes the `k` first-ranked logits candidates.
    ///
    /// The temperature, yet to be applied, does not change the ranking.
    fn find_top_k(&mut self, k: usize) {
        self.peaks.clear();
        self.peaks.extend(self.row.chunks(BLOCK).map(peak));
        // As many logits as there are blocks with such a peak are not below it.
        let floor = if k < self.peaks.len() {
            *self.peaks.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
        } else {
            f32::MIN
        };
        // Masked tokens are no candidates.
        collect(&self.row, floor.max(f32::MIN), &mut self.candidates);
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by_key(k - 1, Candidate::rank);
            self.candidates.truncate(k);
        }
    }

    /// Makes the smallest set of first-ranked probabilities candidates whose mass reaches the share `p` of all.
    fn find_nucleus(&mut self, p: f64) {
        let wanted = p * self.masses.iter().sum::<f64>();
        for floor in FLOORS {
            collect(&self.row, floor, &mut self.candidates);
            if self.candidates.iter().map(|c| f64::from(c.value)).sum::<f64>() >= wanted {
                break;
            }
        }
        let kept = &mut self.candidates;
        let mut mass = 0.0;
        let (mut start, mut piece) = (0, FIRST_PIECE);
        // Ranks one piece after another, so that a small nucleus costs no sort of all candidates.
        let size = loop {
            let rest = &mut kept[start..];
            if piece < rest.len() {
                rest.select_nth_unstable_by_key(piece - 1, Candidate::rank);
            }
            let end = piece.min(rest.len());
            rest[..end].sort_unstable_by_key(Candidate::rank);
            let reached = rest[..end].iter().position(|c| {
                mass += f64::from(c.value);
                mass >= wanted
            });
            match reached {
                Some(at) => break start + at + 1,
                None if start + end == kept.len() => break kept.len(),
                None => (start, piece) = (start + end, piece * 4),
            }
        };
        kept.truncate(size);
    }
}

/// Returns the place of the greatest logit.
fn greatest(logits: &[f32]) -> Result<usize, SamplerError> {
    greatest_logit(logits).map_err(|unusable| match unusable {
        UnusableLogits::Value(at) => SamplerError::Logit { token: at as u32, found: logits[at] },
        UnusableLogits::AllMasked => SamplerError::AllMasked { count: logits.len() },
    })
}

/// Returns the greatest value.
fn peak(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for values in whole {
        lanes = std::array::from_fn(|l| greater(lanes[l], values[l]));
    }
    rest.iter().chain(&lanes).copied().fold(f32::NEG_INFINITY, greater)
}

/// Makes the values that are not below `floor` candidates, in their order.
fn collect(values: &[f32], floor: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    for (block, values) in values.chunks(BLOCK).enumerate() {
        // Without an early exit, so that the compiler compares many at once.
        if !values.iter().fold(false, |any, &value| any | (value >= floor)) {
            continue;
        }
        let places = (block * BLOCK) as u32..;
        // Adding zero turns -0.0 into 0.0, which are equals here but not to `total_cmp`.
        let each = places.zip(values).map(|(at, &value)| Candidate { at, value: value + 0.0 });
        candidates.extend(each.filter(|candidate| candidate.value >= floor));
    }
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum()
}

/// Returns the place of the probability at the share `u` < 1 of the total mass; `masses` are the sums of the parts.
fn draw(row: &[f32], masses: &[f64], u: f64) -> usize {
    let target = u * masses.iter().sum::<f64>();
    let mut mass = 0.0;
    for (part, (values, &own)) in row.chunks(PART).zip(masses).enumerate() {
        if mass + own > target {
            let at = values.iter().position(|&value| {
                mass += f64::from(value);
                mass > target
            });
            // The sum of the part may have been rounded up.
            let last = || values.iter().rposition(|&value| value > 0.0);
            return part * PART + at.or_else(last).unwrap_or(0);
        }
        mass += own;
    }
    // The target is below the total, and the sum of the parts was taken in the same order above.
    row.iter().rposition(|&value| value > 0.0).unwrap_or(0)
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
