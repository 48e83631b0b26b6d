//! Kernels on floats, and attention, against the scalar truth and their definitions.

use bitnet_kernels::scalar::attention::{BLOCK, scratch_len, stride};
use bitnet_kernels::{AttentionBlock, AttentionState, DenseRow, Kernels, KvRows};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::inputs::{COLS, bits, floats, scalar, tiers};

#[test]
fn float_kernels_give_the_same_bits_on_every_tier() {
    for kernels in tiers() {
        for cols in COLS {
            let (x, y) = (floats(cols), floats(cols + 9));
            let y = &y[9..];
            let run = |k: &Kernels| {
                let mut norm = vec![0.0; cols];
                (k.rms_norm)(&x, y, 1e-5, &mut norm);
                let mut q = vec![0; cols];
                let quantized = (k.quantize)(&norm, &mut q);
                let (mut relu, mut silu) = (vec![0.0; cols], vec![0.0; cols]);
                (k.squared_relu)(&x, y, &mut relu);
                (k.silu)(&x, y, &mut silu);
                let mut exps = x.iter().map(|x| 9.0 * x).collect::<Vec<_>>();
                exps[0] = f32::NEG_INFINITY;
                let greatest = exps.iter().copied().fold(0.0, f32::max);
                let sum = (k.exponentiate)(&mut exps, greatest, 0.8).to_bits();
                (norm, q, quantized.scale.to_bits(), quantized.sum, relu, silu, exps, sum)
            };
            let (a, b) = (run(kernels), run(scalar()));
            assert_eq!(bits(&a.0), bits(&b.0), "rms_norm {} {cols}", kernels.isa);
            assert_eq!((&a.1, a.2, a.3), (&b.1, b.2, b.3), "quantize {} {cols}", kernels.isa);
            assert_eq!(bits(&a.4), bits(&b.4), "squared_relu {} {cols}", kernels.isa);
            assert_eq!(bits(&a.5), bits(&b.5), "silu {} {cols}", kernels.isa);
            assert_eq!((bits(&a.6), a.7), (bits(&b.6), b.7), "exponentiate {} {cols}", kernels.isa);
            let sum: f64 = b.6.iter().map(|&value| f64::from(value)).sum();
            assert!((f64::from_bits(b.7) - sum).abs() <= 1e-12 * sum && b.6[0] == 0.0, "{cols}");
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

/// Attends with `heads` rows for each of the tokens at the last `tokens` of `count` positions, every block at once
/// or `apart` and merged afterwards.
fn attend(kernels: &Kernels, shape: [usize; 4], narrow: bool, apart: bool) -> Vec<f32> {
    let [head_dim, heads, count, tokens] = shape;
    let (stride, rows) = (stride(head_dim), heads * tokens);
    let padded = count.next_multiple_of(BLOCK);
    let [keys, values] = [5, 11].map(|skip| floats(padded * head_dim + skip)[skip..].to_vec());
    let [keys16, values16] = [&keys, &values].map(|wide| {
        let mut half = vec![f16::ZERO; wide.len()];
        half.convert_from_f32_slice(wide);
        half
    });
    let mut queries = vec![0.0; rows * stride];
    for (query, values) in
        queries.chunks_exact_mut(stride).zip(floats(rows * head_dim).chunks_exact(head_dim))
    {
        query.iter_mut().zip(values).for_each(|(query, value)| *query = value * 0.1);
    }
    let mut states = vec![AttentionState::EMPTY; rows];
    let mut out = vec![0.0; rows * stride];
    let mut scratch = vec![f32::NAN; scratch_len(rows, head_dim)];
    for start in (0..count).step_by(BLOCK) {
        // Rows that see none of a block are the first.
        let seen = |row: usize| (count - tokens + 1 + row / heads).saturating_sub(start).min(BLOCK);
        let first = (0..rows).position(|row| seen(row) > 0).unwrap_or(rows);
        let counts: Vec<usize> = (first..rows).map(seen).collect();
        let at = start * head_dim..(start + BLOCK) * head_dim;
        let rows = |wide, half| if narrow { KvRows::F16(half) } else { KvRows::F32(wide) };
        let block = AttentionBlock {
            keys: rows(&keys[at.clone()], &keys16[at.clone()]),
            values: rows(&values[at.clone()], &values16[at]),
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let (queries, states, out) =
            (&queries[first * stride..], &mut states[first..], &mut out[first * stride..]);
        if apart {
            let (mut own, mut sums) = (vec![AttentionState::EMPTY; states.len()], vec![0.0; out.len()]);
            (kernels.attend)(block, &counts, queries, &mut own, &mut sums, &mut scratch);
            (kernels.merge)(&own, &sums, states, out);
        } else {
            (kernels.attend)(block, &counts, queries, states, out, &mut scratch);
        }
    }
    (kernels.finish)(&states, &mut out);
    out
}

#[test]
fn attention_matches_its_definition_and_is_the_same_on_every_tier() {
    for shape in [
        [64, 1, 1, 1],
        [64, 4, 63, 1],
        [128, 4, 64, 2],
        [80, 3, 65, 3],
        [128, 3, 65, 7],
        [6, 2, 130, 5],
        [256, 9, 200, 1],
        [32, 4, 150, 16],
    ] {
        let [head_dim, heads, count, tokens] = shape;
        let stride = stride(head_dim);
        let expected = attend(scalar(), shape, false, false);
        let [keys, values] =
            [5, 11].map(|skip| floats(count.next_multiple_of(BLOCK) * head_dim + skip)[skip..].to_vec());
        let queries: Vec<f32> = floats(heads * tokens * head_dim).iter().map(|q| q * 0.1).collect();
        for (row, out) in expected.chunks_exact(stride).enumerate() {
            let query = &queries[row * head_dim..][..head_dim];
            let exact = naive_attention(query, &keys, &values, head_dim, count - tokens + 1 + row / heads);
            for (&out, exact) in out.iter().zip(exact) {
                assert!((f64::from(out) - exact).abs() < 5e-6, "{shape:?} row {row}: {out} against {exact}");
            }
            assert!(out[head_dim..].iter().all(|&rest| rest == 0.0));
        }
        for kernels in tiers() {
            for narrow in [false, true] {
                let expected = attend(scalar(), shape, narrow, false);
                for apart in [false, true] {
                    let out = attend(kernels, shape, narrow, apart);
                    assert_eq!(bits(&out), bits(&expected), "{} {shape:?} {narrow} {apart}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn blocks_of_dense_rows_give_the_bits_of_single_rows() {
    for (cols, rows) in [(1, 3), (32, 8), (33, 9), (300, 17), (641, 5)] {
        let matrix = floats(rows * cols);
        let half: Vec<f16> = matrix.iter().map(|&v| f16::from_f32(v)).collect();
        let brain: Vec<bf16> = matrix.iter().map(|&v| bf16::from_f32(v)).collect();
        for tokens in [1, 2, 3, 4, 5, 12, 13, 30] {
            let x = floats(tokens * cols);
            let (wide, half) = (DenseRow::F32(&matrix), DenseRow::F16(&half));
            for matrix in [wide, half, DenseRow::BF16(&brain)] {
                let mut expected = vec![0.0; rows * tokens];
                for (row, expected) in expected.chunks_exact_mut(tokens).enumerate() {
                    let at = row * cols..(row + 1) * cols;
                    let row = match matrix {
                        DenseRow::F32(rows) => DenseRow::F32(&rows[at]),
                        DenseRow::F16(rows) => DenseRow::F16(&rows[at]),
                        DenseRow::BF16(rows) => DenseRow::BF16(&rows[at]),
                    };
                    (scalar().dense)(row, &x, expected);
                }
                for kernels in tiers() {
                    let mut out = vec![7.0; rows * tokens];
                    (kernels.dense_rows)(matrix, cols, &x, &mut out);
                    assert_eq!(bits(&out), bits(&expected), "{} {rows} x {cols}, {tokens}", kernels.isa);
                }
            }
        }
    }
}

#[test]
fn dequantised_sums_land_in_their_rows() {
    for (lines, last) in [(1, 1), (7, 5), (8, 8), (16, 16), (35, 33), (40, 0)] {
        for step in [1, 3] {
            let acc: Vec<[i32; 4]> = (0..lines * step)
                .map(|i| std::array::from_fn(|p| (i * 7919 + p * 104_729) as i32 % 20_011 - 10_000))
                .collect();
            for kernels in tiers() {
                for accumulate in [false, true] {
                    let mut rows = [(); 4].map(|()| floats(lines));
                    let before = rows.clone();
                    let [a, b, c, d] = &mut rows;
                    let mut out = [&mut a[..], &mut b[..], &mut c[..], &mut d[..last]];
                    (kernels.dequantize)(&acc, step, (37.25, 1.7), accumulate, &mut out);
                    for (part, (row, before)) in rows.iter().zip(&before).enumerate() {
                        for (line, (&found, &before)) in row.iter().zip(before).enumerate() {
                            let value = acc[line * step][part] as f32 / 37.25 * 1.7;
                            let expected = match (part == 3 && line >= last, accumulate) {
                                (true, _) => before,
                                (false, true) => before + value,
                                (false, false) => value,
                            };
                            assert_eq!(found.to_bits(), expected.to_bits(), "{} {lines} {part}", kernels.isa);
                        }
                    }
                }
            }
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
