//! Prompts and decoding of a whole model.

use std::time::Instant;

use bitnet_core::backend::{Backend, BitNetDType, LinearWeights, LogitsWanted, StepLimits, WeightStorage};
use bitnet_core::cpu::{CpuBackend, CpuOptions, HeadPrecision, TernaryLayout};
use bitnet_inference::model::{Head, Layer, Model};
use bitnet_inference::runner::{Feed, Runner};
use bitnet_kernels::Isa;

use crate::BenchError;
use crate::roofline::ReadProbe;
use crate::statistics::median;

/// Tokens of one pass over a prompt, as the engine cuts it.
const STEP_TOKENS: usize = 128;
/// Bytes of the bandwidth probe.
const PROBE_BYTES: usize = 256 << 20;

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
    pub prompt: f64,
    /// Tokens a second of decoding; NaN when none was measured.
    pub decode: f64,
    /// Bytes of weights and cached keys and values that a decoded token reads, at the middle of the run.
    pub bytes_per_token: usize,
    /// Bytes a second read with as many threads, between the rounds.
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

/// Measures a prompt of `prompt` tokens and `decode` tokens after it, in alternating rounds with reads of
/// memory.
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
    let probe = ReadProbe::new(PROBE_BYTES, settings.threads);
    let ids: Vec<u32> = (0..prompt.max(1)).map(|i| (i * 7919 % model.config.vocab) as u32).collect();
    let (mut prompts, mut decodes, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    // The first round touches the pages and is not counted.
    for round in 0..=rounds {
        let sequence = runner.start();
        let started = Instant::now();
        for tokens in ids.chunks(STEP_TOKENS) {
            runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }])?;
        }
        let prefill = started.elapsed().as_secs_f64();
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
        let read = probe.round();
        if round > 0 {
            prompts.push(prompt as f64 / prefill);
            decodes.push(decode as f64 / seconds);
            reads.push(read);
        }
    }
    let bytes_per_token = bytes_per_token(model, settings, prompt + decode / 2);
    let shares: Vec<f64> =
        decodes.iter().zip(&reads).map(|(rate, read)| rate * bytes_per_token as f64 / read).collect();
    let of = |count: usize, values: &[f64]| if count == 0 { f64::NAN } else { median(values) };
    Ok(Speed {
        prompt: of(prompt, &prompts),
        decode: of(decode, &decodes),
        bytes_per_token,
        bandwidth: median(&reads),
        share: of(decode, &shares),
        kernels,
    })
}

/// Returns the bytes that decoding one token reads, with `context` tokens in the cache.
pub fn bytes_per_token(model: &Model, settings: Settings, context: usize) -> usize {
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
    };
    let width = if settings.kv == BitNetDType::F32 { 4 } else { 2 };
    let config = &model.config;
    let cached = config.layers * 2 * config.kv_heads * config.head_dim * context * width;
    layers + head + cached
}

/// Compares the logits of a few tokens with those of the scalar tier, bit for bit. The head is as stored: an
/// int8 one computes something else.
///
/// # Errors
/// [`BenchError::Differs`]; what the backend met.
pub fn check(model: &Model, settings: Settings) -> Result<(), BenchError> {
    const IDS: [u32; 5] = [1, 2, 3, 5, 8];
    let logits = |isa: Option<Isa>| -> Result<(Vec<f32>, String), BenchError> {
        let mut runner = runner(model, Settings { isa, ..settings }, IDS.len())?;
        let sequence = runner.start();
        let ids = IDS.map(|id| id % model.config.vocab as u32);
        runner.forward(&[Feed { sequence, tokens: &ids, logits: LogitsWanted::Last }])?;
        Ok((runner.logits()?.to_vec(), runner.backend().info().kernels))
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
        let body = (bytes_per_token(&layer, SETTINGS, 0) - head) * shape.layers;
        assert_eq!(body, 521_011_200);
    }

    #[test]
    fn a_synthetic_model_runs_checks_and_is_measured() {
        let model = small();
        for head in [HeadPrecision::Stored, HeadPrecision::Int8] {
            for layout in [TernaryLayout::RowQuarters, TernaryLayout::RowFifths] {
                let settings = Settings { head, layout, threads: 2, ..SETTINGS };
                check(&model, settings).unwrap();
                let speed = measure(&model, settings, (5, 3), 2).unwrap();
                assert!(speed.prompt > 0.0 && speed.decode > 0.0 && speed.share > 0.0, "{speed:?}");
            }
        }
        assert!(measure(&model, SETTINGS, (5, 0), 1).unwrap().decode.is_nan());
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
