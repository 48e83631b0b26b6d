//! A small decoder, built by hand, where a whole model does not reach: numbers that a cache does not hold, and passes
//! on fewer workers than the team has.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_backend::{
    AttentionShape, Backend, BitNetDType, BlockId, BufferKind, Graph, LinearId, LinearWeights, LogitsWanted,
    Norm, Op, Step, StepLimits, WeightStorage,
};
use bitnet_testing::rng::Rng;

use super::{CpuBackend, CpuOptions, HeadPrecision};

const WIDTH: usize = 64;
const HEAD_DIM: usize = 16;
const SHAPE: AttentionShape = AttentionShape { heads: 4, kv_heads: 2, head_dim: HEAD_DIM, scale: 0.25 };
/// Enough that the rows of the head are handed out in pieces for several tokens.
const VOCAB: usize = 2_000;
const TOKENS: usize = 16;

/// Loads a decoder of one layer with dense matrices, which `change` may alter, by name.
fn load(options: CpuOptions, mut change: impl FnMut(&str, &mut Vec<f32>)) -> CpuBackend {
    let mut backend = CpuBackend::new(options).unwrap();
    let mut matrix = |name: &str, rows: usize, cols: usize| -> LinearId {
        let mut values = Rng::named(3, name).normal_vec(rows * cols, 0.2);
        change(name, &mut values);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
        let storage = WeightStorage::Dense { dtype: BitNetDType::F32, bytes };
        backend.prepare_linear(LinearWeights { name: name.into(), rows, cols, storage, bias: None }).unwrap()
    };
    let [embed, head] = ["embed", "head"].map(|name| matrix(name, VOCAB, WIDTH));
    let q = matrix("q", SHAPE.heads * HEAD_DIM, WIDTH);
    let [k, v] = ["k", "v"].map(|name| matrix(name, SHAPE.kv_heads * HEAD_DIM, WIDTH));
    let o = matrix("o", WIDTH, SHAPE.heads * HEAD_DIM);
    let norm = Norm { weight: backend.prepare_vector("norm", &[1.0; WIDTH]).unwrap(), eps: 1e-5 };
    let mut graph = Graph {
        buffers: Vec::new(),
        ops: Vec::new(),
        layers: 1,
        attention: SHAPE,
        rope_frequencies: (0..HEAD_DIM / 2).map(|i| 100f32.powf(-2.0 * i as f32 / HEAD_DIM as f32)).collect(),
        vocab: VOCAB,
    };
    let mut buffer = |name, width| graph.buffer(name, width, BufferKind::F32);
    let [x, normed, out] = ["x", "normed", "out"].map(|name| buffer(name, WIDTH));
    let queries = buffer("q", SHAPE.heads * HEAD_DIM);
    let [keys, values] = ["k", "v"].map(|name| buffer(name, SHAPE.kv_heads * HEAD_DIM));
    let linear = |x, weights, out, accumulate| Op::Linear { x, weights, out, accumulate };
    graph.ops = vec![
        Op::Embed { table: embed, out: x },
        Op::Norm { x, norm, out: normed },
        linear(normed, q, queries, false),
        linear(normed, k, keys, false),
        linear(normed, v, values, false),
        Op::RopeAppend { q: queries, k: keys, v: values, layer: 0 },
        Op::Attention { q: queries, layer: 0, out },
        linear(out, o, x, true),
        Op::Head { x, norm, weights: head },
    ];
    backend.load_graph(graph, StepLimits { max_tokens: TOKENS, max_logits_rows: TOKENS }).unwrap();
    backend.reserve_kv_blocks(4).unwrap();
    backend
}

/// A step of one sequence.
fn step(tokens: &[u32], past: usize) -> Step {
    let mut step = Step::default();
    step.push_sequence(tokens, past, &[0, 1, 2, 3].map(BlockId), LogitsWanted::All);
    step
}

fn options(threads: usize, kv: BitNetDType) -> CpuOptions {
    CpuOptions { threads: Some(threads), kv, ..CpuOptions::default() }
}

#[test]
fn keys_and_values_that_the_cache_does_not_hold_are_refused_by_place() {
    // Of the second key/value head.
    let row = (HEAD_DIM + 3) * WIDTH..(HEAD_DIM + 4) * WIDTH;
    for (name, part) in [("k", "key"), ("v", "value")] {
        for (factor, kv) in [
            (1e7, BitNetDType::F16),
            (-1e7, BitNetDType::F16),
            (f32::INFINITY, BitNetDType::F32),
            (f32::NEG_INFINITY, BitNetDType::F32),
            (f32::NAN, BitNetDType::F32),
            (f32::NAN, BitNetDType::F16),
        ] {
            let change = |found: &str, values: &mut Vec<f32>| {
                if found == name {
                    values[row.clone()].iter_mut().for_each(|value| *value *= factor);
                }
            };
            let mut errors = Vec::new();
            // A step of several tokens and one of one, which other stages run.
            for (threads, tokens) in [(1, 5), (3, 5), (1, 1), (3, 1)] {
                let mut backend = load(options(threads, kv), change);
                let error = backend.forward(&step(&[1, 2, 3, 4, 5][..tokens], 70)).unwrap_err().to_string();
                let start =
                    format!("{part} of head 1 in layer 0, sequence 0 of the step, position 70: expected ");
                assert!(error.starts_with(&start), "{error}");
                let limited = error.contains("at most 65504");
                assert_eq!(limited, kv == BitNetDType::F16, "{error}");
                assert!(backend.logits().is_err(), "logits of a pass that failed");
                errors.push(error);
            }
            assert_eq!(errors, vec![errors[0].clone(); 4]);
            // What f16 does not hold, f32 does.
            if factor.is_finite() {
                let mut backend = load(options(1, BitNetDType::F32), change);
                backend.forward(&step(&[1, 2, 3], 0)).unwrap();
                assert!(backend.logits().unwrap().iter().all(|logit| logit.is_finite()));
            }
        }
    }
}

#[test]
fn the_greatest_f16_is_held() {
    for (value, held) in [(65_504.0, true), (65_519.0, true), (65_520.0, false), (-65_520.0, false)] {
        // The value of every token is this number, whatever the token.
        let change = |name: &str, values: &mut Vec<f32>| match name {
            // Great enough that the norm is exact.
            "embed" => values.fill(1024.0),
            "v" => {
                values.fill(0.0);
                values[0] = value;
            }
            _ => {}
        };
        let mut backend = load(options(1, BitNetDType::F16), change);
        let outcome = backend.forward(&step(&[7], 0));
        assert_eq!(outcome.is_ok(), held, "{value}: {outcome:?}");
    }
}

#[test]
fn scores_that_are_no_numbers_reach_the_logits() {
    let nan_queries = |name: &str, values: &mut Vec<f32>| {
        if name == "q" {
            values[5 * WIDTH] = f32::NAN;
        }
    };
    // Each query is against its own key, so far that every score is -inf.
    let opposed = |name: &str, values: &mut Vec<f32>| {
        let keys = || Rng::named(3, "k").normal_vec(SHAPE.kv_heads * HEAD_DIM * WIDTH, 0.2);
        match name {
            "q" => {
                let group = SHAPE.heads / SHAPE.kv_heads;
                let heads =
                    keys().chunks_exact(HEAD_DIM * WIDTH).flat_map(|head| head.repeat(group)).collect();
                *values = heads;
                values.iter_mut().for_each(|value| *value *= -1e25);
            }
            "k" => values.iter_mut().for_each(|value| *value *= 1e25),
            _ => {}
        }
    };
    for threads in [1, 3] {
        for tokens in [&[9][..], &[9, 9, 9]] {
            let step = step(tokens, 0);
            let mut nan = load(options(threads, BitNetDType::F16), nan_queries);
            let mut masked = load(options(threads, BitNetDType::F32), opposed);
            for backend in [&mut nan, &mut masked] {
                backend.forward(&step).unwrap();
                assert!(backend.logits().unwrap()[0].is_nan());
                let error = backend.argmax(&mut Vec::new()).unwrap_err().to_string();
                assert_eq!(error, "logit of token 0: expected a finite number or -inf, found NaN");
            }
        }
    }
}

#[test]
fn passes_on_any_number_of_the_workers_give_the_same_bits() {
    let ids = Rng::new(8).token_ids(60, VOCAB);
    // Some tokens at once, for which rows are handed out in pieces, then one by one.
    let passes: Vec<_> = [0..16, 16..17, 17..18, 18..34, 34..35, 35..36, 36..50, 50..51, 51..52].into();
    for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
        let run = |threads, active: &[usize]| {
            let mut backend = load(CpuOptions { head, ..options(threads, BitNetDType::F16) }, |_, _| {});
            let mut bits = Vec::new();
            for (pass, &active) in passes.iter().zip(active.iter().cycle()) {
                backend.team.fix(active);
                backend.forward(&step(&ids[pass.clone()], pass.start)).unwrap();
                bits.push(backend.logits().unwrap().iter().map(|logit| logit.to_bits()).collect::<Vec<_>>());
            }
            bits
        };
        let expected = run(1, &[1]);
        for active in [&[4][..], &[4, 1, 3, 2], &[1, 4, 2], &[3, 2, 4, 1, 1]] {
            for (index, (found, expected)) in run(4, active).iter().zip(&expected).enumerate() {
                assert!(found == expected, "{head:?}: pass {index} on {active:?} of 4 workers");
            }
        }
    }
}

#[test]
fn a_backend_goes_on_after_a_pass_that_was_refused() {
    // One token alone has column 5, and one value row sees nothing else.
    let change = |name: &str, values: &mut Vec<f32>| match name {
        "embed" => {
            values.iter_mut().skip(5).step_by(WIDTH).for_each(|value| *value = 0.0);
            values[9 * WIDTH..10 * WIDTH].fill(0.0);
            values[9 * WIDTH + 5] = 1.0;
        }
        "v" => {
            values[..WIDTH].fill(0.0);
            values[5] = 1e5;
        }
        _ => {}
    };
    let logits = |backend: &mut CpuBackend| -> Vec<u32> {
        backend.forward(&step(&[1, 2, 3], 0)).unwrap();
        backend.logits().unwrap().iter().map(|logit| logit.to_bits()).collect()
    };
    for threads in [1, 3] {
        let expected = logits(&mut load(options(threads, BitNetDType::F16), change));
        let mut backend = load(options(threads, BitNetDType::F16), change);
        backend.forward(&step(&[1, 9, 3], 0)).unwrap_err();
        assert!(logits(&mut backend) == expected, "{threads} threads");
    }
}

#[test]
fn rows_that_tie_in_narrow_codes_give_the_same_bits_on_any_number_of_workers() {
    // Equal codes and steps in every row, of which the stored values differ by less than a step.
    let change = |name: &str, values: &mut Vec<f32>| {
        if name == "head" {
            let mut rng = Rng::named(4, "ties");
            for (index, value) in values.iter_mut().enumerate() {
                *value = match index % WIDTH {
                    0..16 => [1.0, -1.0][index % 2],
                    _ => rng.normal_vec(1, 5e-4)[0].clamp(-2e-3, 2e-3),
                };
            }
        }
    };
    for head in [HeadPrecision::Int8, HeadPrecision::Int6] {
        let logits = |threads| -> Vec<u32> {
            let mut backend = load(CpuOptions { head, ..options(threads, BitNetDType::F32) }, change);
            backend.forward(&step(&[1, 2, 3, 4, 5], 0)).unwrap();
            backend.logits().unwrap().iter().map(|logit| logit.to_bits()).collect()
        };
        let expected = logits(1);
        for threads in [2, 3, 4] {
            assert!(logits(threads) == expected, "{head:?}, {threads} workers");
        }
    }
}
