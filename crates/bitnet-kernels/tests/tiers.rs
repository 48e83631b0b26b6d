//! Float kernels of every available tier against the scalar truth, and the scalar truth against plain
//! definitions. Integer products are in `ternary.rs` and `int8.rs`.
//!
//! Sizes stand at the boundaries of vectors, lanes and deferred sums, plus and minus one; inputs have the
//! prime period 251, so that exchanged blocks cannot cancel.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_kernels::scalar::attention::BLOCK;
use bitnet_kernels::{AttentionBlock, AttentionState, DenseRow, Isa, Kernels, KvRows};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

const COLS: [usize; 18] = [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 544, 1023, 2560, 6912];

fn tiers() -> Vec<&'static Kernels> {
    Isa::available().map(|isa| Kernels::for_isa(isa).unwrap()).collect()
}

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

fn period(i: usize) -> i32 {
    (i % 251 * 7919 % 251) as i32
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| (period(i) - 125) as f32 * 0.037 + (i % 7) as f32 * 1e-3).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn float_kernels_give_the_same_bits_on_every_tier() {
    for kernels in tiers() {
        for cols in COLS {
            let (x, y) = (floats(3 * cols), floats(cols + 9));
            let y = &y[9..];
            let run = |k: &Kernels| {
                let mut norm = vec![0.0; cols];
                (k.rms_norm)(&x[..cols], y, 1e-5, &mut norm);
                let mut q = vec![0; cols];
                let quantized = (k.quantize)(&norm, &mut q);
                let (mut relu, mut silu) = (vec![0.0; cols], vec![0.0; cols]);
                (k.squared_relu)(&x[..cols], y, &mut relu);
                (k.silu)(&x[..cols], y, &mut silu);
                (norm, q, quantized.scale.to_bits(), quantized.sum, relu, silu)
            };
            let (a, b) = (run(kernels), run(scalar()));
            assert_eq!(bits(&a.0), bits(&b.0), "rms_norm {} {cols}", kernels.isa);
            assert_eq!((&a.1, a.2, a.3), (&b.1, b.2, b.3), "quantize {} {cols}", kernels.isa);
            assert_eq!(bits(&a.4), bits(&b.4), "squared_relu {} {cols}", kernels.isa);
            assert_eq!(bits(&a.5), bits(&b.5), "silu {} {cols}", kernels.isa);
        }
    }
}

#[test]
fn dense_rows_give_the_same_bits_on_every_tier_and_beside_any_tokens() {
    for cols in COLS {
        let row = floats(cols);
        let half: Vec<f16> = row.iter().map(|&v| f16::from_f32(v)).collect();
        let brain: Vec<bf16> = row.iter().map(|&v| bf16::from_f32(v)).collect();
        let x = floats(11 * cols);
        for row in [DenseRow::F32(&row), DenseRow::F16(&half), DenseRow::BF16(&brain)] {
            let mut expected = [0.0; 11];
            (scalar().dense)(row, &x, &mut expected);
            let mut wide = vec![0.0; cols];
            (scalar().widen)(row, &mut wide);
            for (token, &value) in expected.iter().enumerate() {
                let x = &x[token * cols..][..cols];
                let exact: f64 = wide.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let size: f64 = wide.iter().zip(x).map(|(&a, &b)| f64::from((a * b).abs())).sum();
                assert!((f64::from(value) - exact).abs() <= 1e-6 * size, "{cols}: {value} against {exact}");
            }
            for kernels in tiers() {
                let mut together = [0.0; 11];
                (kernels.dense)(row, &x, &mut together);
                assert_eq!(bits(&together), bits(&expected), "{} {cols}", kernels.isa);
                for (token, &value) in together.iter().enumerate() {
                    let mut alone = [0.0];
                    (kernels.dense)(row, &x[token * cols..][..cols], &mut alone);
                    assert_eq!(alone[0].to_bits(), value.to_bits());
                }
            }
        }
    }
}

#[test]
fn rotation_gives_the_same_bits_on_every_tier() {
    for head_dim in [2, 6, 64, 128, 256] {
        let (angle, row) = (floats(head_dim / 2), floats(3 * head_dim));
        let mut expected = row.clone();
        (scalar().rotate)(&mut expected, head_dim, &angle, &angle);
        for kernels in tiers() {
            let mut out = row.clone();
            (kernels.rotate)(&mut out, head_dim, &angle, &angle);
            assert_eq!(bits(&out), bits(&expected), "{} {head_dim}", kernels.isa);
        }
    }
}

/// Softmax attention by its definition, in f64.
fn naive_attention(query: &[f32], keys: &[f32], values: &[f32], head_dim: usize, count: usize) -> Vec<f64> {
    let score = |p: usize| {
        let key = &keys[p * head_dim..][..head_dim];
        let dot: f64 = query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
        dot / (head_dim as f64).sqrt()
    };
    let scores: Vec<f64> = (0..count).map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mean =
        |d: usize| (0..count).map(|p| weights[p] * f64::from(values[p * head_dim + d])).sum::<f64>() / sum;
    (0..head_dim).map(mean).collect()
}

#[test]
fn attention_matches_its_definition_and_is_the_same_on_every_tier() {
    for (head_dim, heads, count) in [(64, 1, 1), (64, 4, 63), (128, 4, 64), (128, 3, 65), (256, 9, 200)] {
        let queries: Vec<f32> = floats(heads * head_dim).iter().map(|q| q * 0.1).collect();
        let keys = floats(count * head_dim + 5)[5..].to_vec();
        let values = floats(count * head_dim + 11)[11..].to_vec();
        let run = |kernels: &Kernels, narrow: bool| {
            let (mut keys16, mut values16) = (vec![f16::ZERO; keys.len()], vec![f16::ZERO; values.len()]);
            keys16.convert_from_f32_slice(&keys);
            values16.convert_from_f32_slice(&values);
            let mut states = vec![AttentionState::EMPTY; heads];
            let mut out = vec![0.0; heads * head_dim];
            for start in (0..count).step_by(BLOCK) {
                let at = start * head_dim;
                let rows = |wide, half| if narrow { KvRows::F16(half) } else { KvRows::F32(wide) };
                let block = AttentionBlock {
                    keys: rows(&keys[at..], &keys16[at..]),
                    values: rows(&values[at..], &values16[at..]),
                    count: BLOCK.min(count - start),
                    head_dim,
                    scale: 1.0 / (head_dim as f32).sqrt(),
                };
                (kernels.attend)(block, &queries, &mut states, &mut out);
            }
            (kernels.finish)(&states, head_dim, &mut out);
            out
        };
        let expected = run(scalar(), false);
        for (head, out) in expected.chunks_exact(head_dim).enumerate() {
            let query = &queries[head * head_dim..][..head_dim];
            let exact = naive_attention(query, &keys, &values, head_dim, count);
            for (&out, exact) in out.iter().zip(exact) {
                assert!((f64::from(out) - exact).abs() < 5e-6, "{out} against {exact}");
            }
        }
        for kernels in tiers() {
            assert_eq!(bits(&run(kernels, false)), bits(&expected), "{} f32", kernels.isa);
            assert_eq!(bits(&run(kernels, true)), bits(&run(scalar(), true)), "{} f16", kernels.isa);
        }
    }
}

#[test]
fn a_nan_is_never_hidden() {
    for kernels in tiers() {
        for cols in [5, 64, 300] {
            let mut x = floats(cols);
            x[cols / 2] = f32::NAN;
            let mut out = vec![0.0; cols];
            (kernels.rms_norm)(&x, &x, 1e-5, &mut out);
            assert!(out.iter().all(|v| v.is_nan()));
            assert!((kernels.quantize)(&x, &mut vec![0; cols]).scale.is_nan());
            (kernels.squared_relu)(&x, &floats(cols), &mut out);
            assert!(out[cols / 2].is_nan());
            (kernels.silu)(&x, &floats(cols), &mut out);
            assert!(out[cols / 2].is_nan());
        }
    }
}
