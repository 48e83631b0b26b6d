//! Quantised rows of every tier, and the bounds that re-scoring relies on.

use bitnet_kernels::scalar::int8::{MAX_COLS, RowFacts, TokenFacts};

use crate::inputs::{bits, floats, period, scalar, tiers};

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
            let mut expected = vec![0; row.len()];
            assert_eq!(found, (scalar().quantize_int8_row)(row, &mut expected), "{}", kernels.isa);
            assert_eq!(codes, expected, "{}", kernels.isa);
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

#[test]
fn logits_floors_and_candidates_are_the_same_on_every_tier() {
    for len in [0, 1, 31, 32, 33, 64, 200, 256, 257] {
        let acc: Vec<i32> = (0..len).map(|i| (period(i) - 125) * 9973).collect();
        let steps: Vec<f32> = floats(len).iter().map(|x| x.abs() * 1e-3).collect();
        let errors: Vec<f32> = (0..len).map(|i| (period(i + 7) + 1) as f32 * 1e-3).collect();
        let norms: Vec<f32> = (0..len).map(|i| (period(i + 3) + 1) as f32 * 0.1).collect();
        let rows = RowFacts { steps: &steps, errors: &errors, norms: &norms };
        for step in [1e-3, f32::NAN] {
            let token = TokenFacts { step, norm: 31.5, error: 0.02 };
            // By definition, in the order of the rows.
            let logits: Vec<f32> = acc.iter().zip(&steps).map(|(&acc, &s)| acc as f32 * (step * s)).collect();
            let error = |row: usize| {
                let (error, norm) = (errors[row], norms[row]);
                error * token.norm + (norm + error) * token.error + 2.5e-4 * norm * token.norm
            };
            let floor = (0..len).map(|row| logits[row] - error(row)).fold(f32::NEG_INFINITY, f32::max);
            let reach = (0..len).filter(|&row| logits[row] + error(row) >= floor).count();
            for kernels in tiers() {
                let mut out = vec![7.0; len];
                let found = (kernels.int8_logits)(&acc, rows, token, &mut out);
                assert_eq!(bits(&out), bits(&logits), "{}: {len} rows", kernels.isa);
                assert_eq!(found.to_bits(), floor.to_bits(), "{}: {len} rows", kernels.isa);
                let found = (kernels.int8_candidates)(&out, rows, token, floor);
                assert_eq!(found, reach, "{}: {len} rows", kernels.isa);
                assert!(step.is_nan() || len == 0 || (1..=len).contains(&found));
            }
        }
    }
}
