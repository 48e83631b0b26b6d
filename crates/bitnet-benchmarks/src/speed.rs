//! Prompts and decoding of a whole model.

use std::time::Instant;

use bitnet_core::backend::{Backend, BitNetDType, LinearWeights, LogitsWanted, StepLimits, WeightStorage};
use bitnet_core::cpu::{CpuBackend, CpuOptions, HeadPrecision, TernaryLayout};
use bitnet_inference::model::Model;
use bitnet_inference::runner::{Feed, Runner, SequenceId};
use bitnet_kernels::Isa;
use bitnet_kernels::probe::ComputeProbe;

use crate::BenchError;
use crate::roofline::{compute_round, read_round};
use crate::statistics::{Summary, ratio};

/// Tokens of one pass over a prompt, as the engine cuts it.
const STEP_TOKENS: usize = 128;
/// Tokens of the prompt that is compared with the scalar tier: every kernel for many tokens comes into play.
const CHECKED_TOKENS: usize = 70;

/// How a model runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Threads.
    pub threads: usize,
    /// Element type of the KV cache.
    pub kv: BitNetDType,
    /// Arithmetic of the head.
    pub head: HeadPrecision,
    /// How ternary codes are kept.
    pub layout: TernaryLayout,
    /// Tier; `None` follows `BITNET_ISA`, else takes the best.
    pub isa: Option<Isa>,
}

/// The speed of a model with some threads. Operations are those of ternary products alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Tokens a second of the prompt; NaN when none was measured.
    pub prompt: Summary,
    /// Billions of operations a second of the prompt.
    pub prompt_gops: f64,
    /// Billions of bytes of weights a second of the prompt.
    pub prompt_gb_per_s: f64,
    /// The prompt's share of [`compute`](Self::compute).
    pub prompt_share: f64,
    /// Operations a second of the tier's [`ComputeProbe`] on as many threads, between the rounds; NaN where
    /// there is none.
    pub compute: f64,
    /// Tokens a second of decoding; NaN when none was measured.
    pub decode: Summary,
    /// Billions of operations a second of decoding.
    pub decode_gops: f64,
    /// Billions of bytes a second of decoding, of weights and cache.
    pub decode_gb_per_s: f64,
    /// Bytes of weights that a decoded token reads.
    pub weight_bytes: usize,
    /// Bytes of cached keys and values that a decoded token reads, at the middle of the run.
    pub kv_bytes: usize,
    /// Bytes a second of reading the very bytes of these weights with as many threads, between the rounds.
    pub bandwidth: f64,
    /// Decoding's share of that bandwidth.
    pub share: f64,
    /// The kernels that ran.
    pub kernels: String,
}

/// A model on the CPU backend, as the engine runs it, without text.
///
/// # Errors
/// What the backend refuses.
pub fn runner(model: &Model, settings: Settings, context: usize) -> Result<Runner, BenchError> {
    let Settings { threads, kv, head, layout, isa } = settings;
    let options = CpuOptions { threads: Some(threads), isa, kv, head, layout, pool: None };
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(options)?);
    let graph = model.clone().build(&mut *backend)?;
    let limits = StepLimits { max_tokens: STEP_TOKENS, max_logits_rows: 4 };
    let vocab = graph.vocab;
    backend.load_graph(graph, limits)?;
    Ok(Runner::new(backend, limits, vocab, context))
}

/// Measures a prompt of `prompt` tokens and `decode` tokens after it, in rounds that alternate with the probes of
/// the machine's limits.
///
/// # Errors
/// What the backend met.
pub fn measure(
    model: &Model,
    settings: Settings,
    (prompt, decode): (usize, usize),
    rounds: usize,
) -> Result<Speed, BenchError> {
    let mut runner = runner(model, settings, prompt + decode + 1)?;
    let kernels = runner.backend().info().kernels;
    let isa = settings.isa.map_or_else(Isa::select, Ok)?;
    let compute_probe = ComputeProbe::for_isa(isa).filter(|_| prompt > 0);
    let ids: Vec<u32> = (0..prompt.max(1)).map(|i| (i * 7919 % model.config.vocab) as u32).collect();
    let (mut prompts, mut decodes) = (Vec::new(), Vec::new());
    let (mut reads, mut computes) = (Vec::new(), Vec::new());
    // The first round touches the pages and is not counted.
    for round in 0..=rounds {
        let sequence = runner.start();
        let started = Instant::now();
        feed(&mut runner, sequence, &ids)?;
        let prefill = started.elapsed().as_secs_f64();
        let compute = compute_probe.map_or(f64::NAN, |probe| compute_round(probe, settings.threads));
        let mut next = Vec::new();
        runner.argmax(&mut next)?;
        let started = Instant::now();
        generate(&mut runner, sequence, &mut next, decode)?;
        let seconds = started.elapsed().as_secs_f64();
        runner.release(sequence);
        let read = read_round(&runner.backend().weights(true), settings.threads);
        if round > 0 {
            prompts.push(prompt as f64 / prefill);
            decodes.push(decode as f64 / seconds);
            reads.push(read);
            computes.push(compute);
        }
    }
    let bytes = |logits| runner.backend().weights(logits).into_iter().map(<[u8]>::len).sum::<usize>();
    let (weight_bytes, kv_bytes) = (bytes(true), kv_bytes(model, settings, prompt + decode / 2));
    // Every step of the prompt reads the layers, the last one the head.
    let prompt_bytes = (ids.len().div_ceil(STEP_TOKENS) - 1) * bytes(false) + weight_bytes;
    let of = |count: usize, values: &[f64]| if count == 0 { Summary::NONE } else { Summary::of(values) };
    let (prompts_of, decodes_of) = (of(prompt, &prompts), of(decode, &decodes));
    let operations = operations_per_token(model) as f64;
    let (token_bytes, compute) = ((weight_bytes + kv_bytes) as f64, Summary::of(&computes).median);
    Ok(Speed {
        prompt: prompts_of,
        prompt_gops: prompts_of.median * operations / 1e9,
        prompt_gb_per_s: prompts_of.median / prompt as f64 * prompt_bytes as f64 / 1e9,
        prompt_share: ratio(&prompts, &computes) * operations,
        compute,
        decode: decodes_of,
        decode_gops: decodes_of.median * operations / 1e9,
        decode_gb_per_s: decodes_of.median * token_bytes / 1e9,
        weight_bytes,
        kv_bytes,
        bandwidth: Summary::of(&reads).median,
        share: if decode == 0 { f64::NAN } else { ratio(&decodes, &reads) * token_bytes },
        kernels,
    })
}

/// Feeds a prompt in steps and computes the logits of its last token.
fn feed(runner: &mut Runner, sequence: SequenceId, ids: &[u32]) -> Result<(), BenchError> {
    let last = ids.len().div_ceil(STEP_TOKENS).max(1) - 1;
    for (step, tokens) in ids.chunks(STEP_TOKENS).enumerate() {
        let logits = if step == last { LogitsWanted::Last } else { LogitsWanted::None };
        runner.forward(&[Feed { sequence, tokens, logits }])?;
    }
    Ok(())
}

/// Feeds the token in `next` and puts the likeliest one after it there, `count` times.
pub(crate) fn generate(
    runner: &mut Runner,
    sequence: SequenceId,
    next: &mut Vec<u32>,
    count: usize,
) -> Result<(), BenchError> {
    for _ in 0..count {
        runner.forward(&[Feed { sequence, tokens: next, logits: LogitsWanted::Last }])?;
        next.clear();
        runner.argmax(next)?;
    }
    Ok(())
}

/// One step of a model over and over: the same tokens after the same context.
pub struct Repeated {
    runner: Runner,
    sequence: SequenceId,
    context: usize,
    tokens: Vec<u32>,
}

impl Repeated {
    /// Prepares a step of `tokens` tokens after `context` others.
    ///
    /// # Errors
    /// What the backend refuses.
    pub fn new(model: &Model, settings: Settings, context: usize, tokens: usize) -> Result<Self, BenchError> {
        let mut runner = runner(model, settings, context + tokens)?;
        let sequence = runner.start();
        feed(&mut runner, sequence, &vec![7; context])?;
        Ok(Repeated { runner, sequence, context, tokens: vec![7; tokens] })
    }

    /// Runs the step.
    ///
    /// # Errors
    /// What the backend met.
    pub fn step(&mut self) -> Result<(), BenchError> {
        self.runner.truncate(self.sequence, self.context)?;
        feed(&mut self.runner, self.sequence, &self.tokens)
    }
}

/// Returns the operations of all ternary products for one token: two for each weight.
fn operations_per_token(model: &Model) -> usize {
    let ternary = |weights: &&LinearWeights| matches!(weights.storage, WeightStorage::Ternary { .. });
    model.matrices().filter(ternary).map(|weights| 2 * weights.rows * weights.cols).sum()
}

/// Returns the bytes of keys and values that decoding one token reads, with `context` tokens in the cache.
pub fn kv_bytes(model: &Model, settings: Settings, context: usize) -> usize {
    let width = if settings.kv == BitNetDType::F32 { 4 } else { 2 };
    let config = &model.config;
    config.layers * 2 * config.kv_heads * config.head_dim * context * width
}

/// Compares logits bit for bit.
fn compare(expected: &[f32], found: &[f32], tier: String, threads: usize) -> Result<(), BenchError> {
    match expected.iter().zip(found).position(|(expected, found)| expected.to_bits() != found.to_bits()) {
        None => Ok(()),
        Some(at) => {
            let (expected, found) = (expected[at], found[at]);
            Err(BenchError::Differs { tier, threads, at, expected, found })
        }
    }
}

/// Compares logits of a prompt and of one token after it with those of the scalar tier, bit for bit: with each of some
/// numbers of threads, and the same settings otherwise.
///
/// # Errors
/// [`BenchError::Differs`]; what the backend met.
pub fn check(model: &Model, settings: Settings, threads: &[usize]) -> Result<(), BenchError> {
    let logits = |settings: Settings| -> Result<(Vec<f32>, String), BenchError> {
        let mut runner = runner(model, settings, CHECKED_TOKENS + 1)?;
        let sequence = runner.start();
        let ids: Vec<u32> = (1..=CHECKED_TOKENS).map(|i| (i * 7919 % model.config.vocab) as u32).collect();
        let mut all = Vec::new();
        for tokens in [&ids[..], &ids[..1]] {
            feed(&mut runner, sequence, tokens)?;
            all.extend_from_slice(runner.logits()?);
        }
        Ok((all, runner.backend().info().kernels))
    };
    let most = threads.iter().copied().max().unwrap_or(1);
    let (expected, _) = logits(Settings { threads: most, isa: Some(Isa::Scalar), ..settings })?;
    for &threads in threads {
        let (found, tier) = logits(Settings { threads, ..settings })?;
        compare(&expected, &found, tier, threads)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::SHAPES;
    use crate::synthetic;

    const SETTINGS: Settings = Settings {
        threads: 1,
        kv: BitNetDType::F16,
        head: HeadPrecision::Stored,
        layout: TernaryLayout::RowQuarters,
        isa: None,
    };

    fn small() -> Model {
        let shape = crate::shape::Shape {
            vocab: 300,
            hidden: 64,
            intermediate: 160,
            heads: 4,
            kv_heads: 2,
            ..SHAPES[3]
        };
        synthetic::model(&shape, 2, 1)
    }

    fn weight_bytes(model: &Model, settings: Settings, logits: bool) -> usize {
        let runner = runner(model, settings, 1).unwrap();
        runner.backend().weights(logits).into_iter().map(<[u8]>::len).sum()
    }

    #[test]
    fn bytes_of_a_token_are_those_of_the_published_model() {
        let shape = SHAPES[0];
        // Anchored figures of 2B-4T: 521 MB of ternary body, 657 MB of 16-bit head, 2.084 G weights.
        let layer = synthetic::model(&crate::shape::Shape { vocab: 64, ..shape }, 1, 1);
        assert_eq!(weight_bytes(&layer, SETTINGS, false) * shape.layers, 521_011_200);
        assert_eq!(operations_per_token(&layer) * shape.layers, 2 * 4 * 521_011_200);
        // Of each row of a narrow head its step and two norms.
        let fifths = Settings { layout: TernaryLayout::RowFifths, ..SETTINGS };
        for (settings, body, row) in [
            (SETTINGS, 521_011_200, 2 * shape.hidden),
            (Settings { head: HeadPrecision::Int8, ..fifths }, 416_901_120, shape.hidden + 12),
            (Settings { head: HeadPrecision::Int6, ..fifths }, 416_901_120, shape.hidden / 4 * 3 + 12),
        ] {
            let found = weight_bytes(&layer, settings, true);
            assert_eq!(found, body / shape.layers + 64 * row, "{settings:?}");
        }
        // Five heads of 128 keys and as many values, in two bytes.
        assert_eq!(kv_bytes(&layer, SETTINGS, 10), 10 * 2 * 5 * 128 * 2);
    }

    /// A copy beside them might lie on other pages.
    #[test]
    fn the_weights_that_are_read_are_those_that_were_given() {
        let model = small();
        let runner = runner(&model, SETTINGS, 1).unwrap();
        let mut given: Vec<*const u8> = Vec::new();
        for weights in model.matrices() {
            match &weights.storage {
                WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } => {
                    given.push(bytes.as_ptr());
                }
                other => panic!("{other:?}"),
            }
        }
        let mut lent: Vec<_> = runner.backend().weights(true).iter().map(|bytes| bytes.as_ptr()).collect();
        given.sort_unstable();
        lent.sort_unstable();
        assert_eq!(given, lent);
    }

    #[test]
    fn a_synthetic_model_runs_checks_and_is_measured() {
        let model = small();
        for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
            for layout in [TernaryLayout::RowQuarters, TernaryLayout::RowFifths] {
                let settings = Settings { head, layout, threads: 2, ..SETTINGS };
                check(&model, settings, &[1, 2]).unwrap();
                let speed = measure(&model, settings, (5, 3), 1).unwrap();
                assert!(speed.prompt.min > 0.0 && speed.decode.min > 0.0 && speed.share > 0.0, "{speed:?}");
                let probe = ComputeProbe::for_isa(Isa::select().unwrap());
                assert_eq!(speed.prompt_share > 0.0, probe.is_some(), "{speed:?}");
                let per_token = (speed.weight_bytes + speed.kv_bytes) as f64 / 1e9;
                let ratio = speed.decode_gb_per_s / (speed.decode.median * per_token);
                assert!((ratio - 1.0).abs() < 1e-9, "{speed:?}");
                assert!(speed.prompt_gops > 0.0 && speed.decode_gops > 0.0, "{speed:?}");
                // Of one round, so that medians of ratios are ratios of medians.
                let share = speed.decode_gb_per_s * 1e9 / speed.bandwidth;
                assert!((speed.share / share - 1.0).abs() < 1e-9, "{speed:?}");
                let share = speed.prompt_gops * 1e9 / speed.compute;
                assert!(probe.is_none() || (speed.prompt_share / share - 1.0).abs() < 1e-9, "{speed:?}");
            }
        }
        let prefill = measure(&model, SETTINGS, (300, 0), 1).unwrap();
        assert!(prefill.decode.median.is_nan() && prefill.share.is_nan(), "{prefill:?}");
        // Three steps, the last one with the head.
        let bytes = 2 * weight_bytes(&model, SETTINGS, false) + weight_bytes(&model, SETTINGS, true);
        let expected = prefill.prompt.median / 300.0 * bytes as f64 / 1e9;
        assert!((prefill.prompt_gb_per_s / expected - 1.0).abs() < 1e-9, "{prefill:?}");
    }

    #[test]
    fn a_step_is_repeated_after_its_context() {
        let model = small();
        let mut step = Repeated::new(&model, SETTINGS, 130, 1).unwrap();
        for _ in 0..2 {
            step.step().unwrap();
            assert_eq!(step.runner.len(step.sequence).unwrap(), 131);
        }
    }

    #[test]
    fn one_bit_of_one_logit_is_seen() {
        let expected = [1.0f32, -0.0, 3.5];
        compare(&expected, &expected, "avx2".into(), 2).unwrap();
        for (at, value) in [(0, 1.0f32.next_up()), (1, 0.0), (2, 3.5f32.next_down())] {
            let mut found = expected;
            found[at] = value;
            let error = compare(&expected, &found, "avx2".into(), 2).unwrap_err();
            assert!(
                matches!(error, BenchError::Differs { at: place, threads: 2, .. } if place == at),
                "{error}"
            );
        }
    }

    #[test]
    fn another_model_differs() {
        let (a, mut b) = (small(), small());
        b.final_norm.values[0] = 2.0;
        let logits = |model: &Model| {
            let mut runner = runner(model, SETTINGS, 4).unwrap();
            let sequence = runner.start();
            runner.forward(&[Feed { sequence, tokens: &[1, 2], logits: LogitsWanted::Last }]).unwrap();
            runner.logits().unwrap().to_vec()
        };
        assert_ne!(logits(&a), logits(&b));
    }
}
