//! Int8 rows: their quantisation, and their products on every available tier.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_kernels::scalar::int8::{MAX_COLS, limit};
use bitnet_kernels::{Isa, Kernels};

fn tiers() -> Vec<&'static Kernels> {
    Isa::available().map(|isa| Kernels::for_isa(isa).unwrap()).collect()
}

fn period(i: usize) -> i32 {
    (i % 251 * 7919 % 251) as i32
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| (period(i) - 125) as f32 * 0.037 + (i % 7) as f32 * 1e-3).collect()
}

#[test]
fn products_are_exact_on_every_tier() {
    for kernels in tiers() {
        for cols in [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 2560] {
            for (rows, tokens) in [(1, 1), (2, 3), (5, 4), (9, 5), (3, 9)] {
                let weights: Vec<i8> = (0..rows * cols).map(|i| (period(i) - 125) as i8).collect();
                let most = limit(cols);
                let x: Vec<i16> = (0..tokens * cols)
                    .map(|i| ((period(i + 7) - 125) * most / 125).clamp(-most, most) as i16)
                    .collect();
                let mut out = vec![i32::MAX; rows * tokens];
                (kernels.int8_i16)(&weights, cols, &x, &mut out);
                for (row, out) in weights.chunks_exact(cols).zip(out.chunks_exact(tokens)) {
                    for (x, &found) in x.chunks_exact(cols).zip(out) {
                        let exact: i64 = row.iter().zip(x).map(|(&w, &x)| i64::from(w) * i64::from(x)).sum();
                        assert_eq!(i64::from(found), exact, "{} {cols}, {rows} x {tokens}", kernels.isa);
                    }
                }
            }
        }
    }
}

#[test]
fn products_do_not_overflow_at_the_limit() {
    for kernels in tiers() {
        for cols in [1, 64, 2560, 6912, MAX_COLS] {
            for sign in [-1i32, 1] {
                let (weights, x) = (vec![127i8; cols], vec![(sign * limit(cols)) as i16; cols]);
                let mut out = [0];
                (kernels.int8_i16)(&weights, cols, &x, &mut out);
                let exact = i64::from(sign) * 127 * i64::from(limit(cols)) * cols as i64;
                assert_eq!(i64::from(out[0]), exact, "{} {cols}", kernels.isa);
            }
        }
        assert!(limit(MAX_COLS) >= 255);
    }
}

#[test]
fn activations_round_to_the_nearest_step_on_every_tier() {
    for kernels in tiers() {
        for cols in [1, 7, 64, 300, 2560] {
            let x = floats(cols);
            let (mut q, mut scalar) = (vec![0; cols], vec![0; cols]);
            let step = (kernels.quantize_i16)(&x, &mut q);
            let truth = (Kernels::for_isa(Isa::Scalar).unwrap().quantize_i16)(&x, &mut scalar);
            assert_eq!((step.to_bits(), &q), (truth.to_bits(), &scalar), "{} {cols}", kernels.isa);
            assert!(q.iter().all(|&q| i32::from(q).abs() <= limit(cols)));
            for (&x, &q) in x.iter().zip(&q) {
                assert!((x - f32::from(q) * step).abs() <= 0.51 * step, "{x} as {q} x {step}");
            }
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut q = [3; 4];
            assert!((kernels.quantize_i16)(&[1.0, bad, 0.0, -2.0], &mut q).is_nan());
            assert_eq!(q, [0; 4]);
        }
        let mut q = [3; 2];
        assert!((kernels.quantize_i16)(&[0.0, -0.0], &mut q).is_finite());
        assert_eq!(q, [0; 2]);
    }
}

/// The norms of `x - q * step` and of `x`, in f64.
fn exact(x: &[f32], q: &[i8], step: f32) -> (f64, f64) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let differences = &mut x.iter().zip(q).map(|(&x, &q)| f64::from(x) - f64::from(q) * f64::from(step));
    (norm(differences), norm(&mut x.iter().map(|&x| f64::from(x))))
}

#[test]
fn rows_round_to_the_nearest_step_within_their_bounds_on_every_tier() {
    let tiny = f32::from_bits(3);
    let wave = |scale: f32| floats(2571).iter().map(|x| x * scale).collect::<Vec<_>>();
    let long: Vec<f32> = (0..MAX_COLS).map(|i| (period(i) - 125) as f32 * 1e-2).collect();
    let rows = [
        wave(1.0),
        wave(1e-30),
        wave(1e30),
        long,
        vec![1.0, -1.0],
        vec![tiny, -f32::from_bits(1), 0.0],
        vec![f32::MAX, 1.0],
        (-127..=127).map(|q| q as f32 * 0.5).collect(),
    ];
    for kernels in tiers() {
        for row in &rows {
            let mut codes = vec![0; row.len()];
            let found = (kernels.quantize_int8_row)(row, &mut codes);
            assert!(codes.iter().any(|&code| code.unsigned_abs() == 127), "{codes:?}");
            for (&x, &q) in row.iter().zip(&codes) {
                let distance = (f64::from(x) - f64::from(q) * f64::from(found.step)).abs();
                assert!(distance <= 0.51 * f64::from(found.step) + f64::from(tiny) * 50.0, "{x} as {q}");
            }
            let (error, norm) = exact(row, &codes, found.step);
            assert!(f64::from(found.error) >= error, "{} below {error}", found.error);
            assert!(f64::from(found.norm) >= norm, "{} below {norm}", found.norm);
            if norm > 1e-37 && norm < 1e37 {
                assert!(f64::from(found.norm) <= norm * 1.01);
                assert!(f64::from(found.error) <= error * 1.01 + norm * 1e-5, "{} for {error}", found.error);
            }
        }
        let mut codes = [9; 3];
        let zero = (kernels.quantize_int8_row)(&[0.0; 3], &mut codes);
        assert_eq!((zero.step, zero.error, zero.norm, codes), (0.0, 0.0, 0.0, [0; 3]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!((kernels.quantize_int8_row)(&[1.0, bad, 2.0], &mut codes).step.is_nan());
        }
    }
}
