//! Prompts and decoding of a whole model.

use std::time::Instant;

use bitnet_core::backend::{Backend, BitNetDType, LinearWeights, LogitsWanted, StepLimits, WeightStorage};
use bitnet_core::cpu::{CpuBackend, CpuOptions, HeadPrecision, TernaryLayout};
use bitnet_inference::model::{Head, Layer, Model};
use bitnet_inference::runner::{Feed, Runner};
use bitnet_kernels::Isa;
use bitnet_kernels::layout::int6_rows;
use bitnet_kernels::probe::ComputeProbe;

use crate::BenchError;
use crate::roofline::{compute_round, read_round};
use crate::statistics::Summary;

/// Tokens of one pass over a prompt, as the engine cuts it.
const STEP_TOKENS: usize = 128;

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

/// The speed of a model with some threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Tokens a second of the prompt; NaN when none was measured.
    pub prompt: Summary,
    /// The prompt's share of [`compute`](Self::compute), ternary products alone counted.
    pub prompt_share: f64,
    /// Operations a second of the tier's [`ComputeProbe`] on as many threads, between the rounds; NaN where
    /// there is none.
    pub compute: f64,
    /// Tokens a second of decoding; NaN when none was measured.
    pub decode: Summary,
    /// Bytes of weights that a decoded token reads.
    pub weight_bytes: usize,
    /// Bytes of cached keys and values that a decoded token reads, at the middle of the run.
    pub kv_bytes: usize,
    /// Bytes a second of reading the model's weights with as many threads, between the rounds.
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
    let weights: Vec<&[u8]> = model.matrices().map(stored).collect();
    let ids: Vec<u32> = (0..prompt.max(1)).map(|i| (i * 7919 % model.config.vocab) as u32).collect();
    let (mut prompts, mut decodes) = (Vec::new(), Vec::new());
    let (mut reads, mut computes) = (Vec::new(), Vec::new());
    // The first round touches the pages and is not counted.
    for round in 0..=rounds {
        let sequence = runner.start();
        let started = Instant::now();
        let steps = ids.len().div_ceil(STEP_TOKENS);
        for (step, tokens) in ids.chunks(STEP_TOKENS).enumerate() {
            let logits = if step + 1 == steps { LogitsWanted::Last } else { LogitsWanted::None };
            runner.forward(&[Feed { sequence, tokens, logits }])?;
        }
        let prefill = started.elapsed().as_secs_f64();
        let compute = compute_probe.map_or(f64::NAN, |probe| compute_round(probe, settings.threads));
        let mut next = Vec::new();
        runner.argmax(&mut next)?;
        let started = Instant::now();
        for _ in 0..decode {
            let tokens = &[next[0]];
            runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }])?;
            next.clear();
            runner.argmax(&mut next)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        runner.release(sequence);
        let read = read_round(&weights, settings.threads);
        if round > 0 {
            prompts.push(prompt as f64 / prefill);
            decodes.push(decode as f64 / seconds);
            reads.push(read);
            computes.push(compute);
        }
    }
    let (weight_bytes, kv_bytes) =
        (weight_bytes(model, settings), kv_bytes(model, settings, prompt + decode / 2));
    let share = |rates: &[f64], cost: usize, limits: &[f64]| {
        let shares: Vec<f64> =
            rates.iter().zip(limits).map(|(rate, limit)| rate * cost as f64 / limit).collect();
        Summary::of(&shares).median
    };
    let of = |count: usize, values: &[f64]| if count == 0 { Summary::NONE } else { Summary::of(values) };
    Ok(Speed {
        prompt: of(prompt, &prompts),
        prompt_share: share(&prompts, operations_per_token(model), &computes),
        compute: Summary::of(&computes).median,
        decode: of(decode, &decodes),
        weight_bytes,
        kv_bytes,
        bandwidth: Summary::of(&reads).median,
        share: if decode == 0 { f64::NAN } else { share(&decodes, weight_bytes + kv_bytes, &reads) },
        kernels,
    })
}

fn stored(weights: &LinearWeights) -> &[u8] {
    match &weights.storage {
        WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } => bytes,
        _ => &[],
    }
}

/// Returns the operations of all ternary products for one token: two for each weight.
fn operations_per_token(model: &Model) -> usize {
    let ternary = |weights: &&LinearWeights| matches!(weights.storage, WeightStorage::Ternary { .. });
    model.matrices().filter(ternary).map(|weights| 2 * weights.rows * weights.cols).sum()
}

/// Returns the bytes of weights that decoding one token reads.
pub fn weight_bytes(model: &Model, settings: Settings) -> usize {
    let body = |weights: &LinearWeights| match (&weights.storage, settings.layout) {
        (WeightStorage::Ternary { .. }, TernaryLayout::RowFifths) => weights.rows.div_ceil(5) * weights.cols,
        _ => weights.stored_bytes(),
    };
    let layers: usize = model.layers.iter().flat_map(Layer::projections).map(|p| body(&p.weights)).sum();
    let head = match &model.head {
        Head::Tied => &model.embedding,
        Head::Separate(weights) => weights,
    };
    let head = match settings.head {
        HeadPrecision::Stored => head.stored_bytes(),
        HeadPrecision::Int8 => head.rows * (head.cols + 12),
        HeadPrecision::Int6 => head.rows * (int6_rows::row_bytes(head.cols) + 12),
    };
    layers + head
}

/// Returns the bytes of keys and values that decoding one token reads, with `context` tokens in the cache.
pub fn kv_bytes(model: &Model, settings: Settings, context: usize) -> usize {
    let width = if settings.kv == BitNetDType::F32 { 4 } else { 2 };
    let config = &model.config;
    config.layers * 2 * config.kv_heads * config.head_dim * context * width
}

/// Compares logits of a short prompt and of one token after it with those of the scalar tier, bit for bit, with
/// the same settings otherwise.
///
/// # Errors
/// [`BenchError::Differs`]; what the backend met.
pub fn check(model: &Model, settings: Settings) -> Result<(), BenchError> {
    const IDS: [u32; 5] = [1, 2, 3, 5, 8];
    let logits = |isa: Option<Isa>| -> Result<(Vec<f32>, String), BenchError> {
        let mut runner = runner(model, Settings { isa, ..settings }, IDS.len() + 1)?;
        let sequence = runner.start();
        let ids = IDS.map(|id| id % model.config.vocab as u32);
        let mut all = Vec::new();
        for tokens in [&ids[..], &ids[..1]] {
            runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }])?;
            all.extend_from_slice(runner.logits()?);
        }
        Ok((all, runner.backend().info().kernels))
    };
    let ((expected, _), (found, tier)) = (logits(Some(Isa::Scalar))?, logits(settings.isa)?);
    match (0..expected.len()).find(|&at| expected[at].to_bits() != found[at].to_bits()) {
        None => Ok(()),
        Some(at) => Err(BenchError::Differs { tier, at, expected: expected[at], found: found[at] }),
    }
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

    #[test]
    fn bytes_of_a_token_are_those_of_the_published_model() {
        let shape = SHAPES[0];
        // Anchored figures of 2B-4T: 521 MB of ternary body, 657 MB of 16-bit head, 2.084 G weights.
        let layer = synthetic::model(&crate::shape::Shape { vocab: 64, ..shape }, 1, 1);
        let head = 64 * shape.hidden * 2;
        assert_eq!((weight_bytes(&layer, SETTINGS) - head) * shape.layers, 521_011_200);
        assert_eq!(operations_per_token(&layer) * shape.layers, 2 * 4 * 521_011_200);
        // Five heads of 128 keys and as many values, in two bytes.
        assert_eq!(kv_bytes(&layer, SETTINGS, 10), 10 * 2 * 5 * 128 * 2);
    }

    #[test]
    fn a_synthetic_model_runs_checks_and_is_measured() {
        let model = small();
        for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
            for layout in [TernaryLayout::RowQuarters, TernaryLayout::RowFifths] {
                let settings = Settings { head, layout, threads: 2, ..SETTINGS };
                check(&model, settings).unwrap();
                let speed = measure(&model, settings, (5, 3), 2).unwrap();
                assert!(speed.prompt.min > 0.0 && speed.decode.min > 0.0 && speed.share > 0.0, "{speed:?}");
                let probe = ComputeProbe::for_isa(Isa::select().unwrap());
                assert_eq!(speed.prompt_share > 0.0, probe.is_some(), "{speed:?}");
            }
        }
        let prefill = measure(&model, SETTINGS, (5, 0), 1).unwrap();
        assert!(prefill.decode.median.is_nan() && prefill.share.is_nan(), "{prefill:?}");
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
