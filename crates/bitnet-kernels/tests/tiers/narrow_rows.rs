//! Quantised rows of every tier, and the bounds that re-scoring relies on.

use bitnet_kernels::layout::narrow_rows;
use bitnet_kernels::scalar::narrow::{MAX_COLS, RowFacts, TokenFacts};

use bitnet_kernels::DenseRow;
use bitnet_kernels::scalar::{int6, int8};

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
        for (row, most) in rows.iter().flat_map(|row| [(row, 127), (row, 31)]) {
            let mut codes = vec![0; row.len()];
            let found = (kernels.quantize_row)(row, most, &mut codes);
            let mut expected = vec![0; row.len()];
            assert_eq!(found, (scalar().quantize_row)(row, most, &mut expected), "{}", kernels.isa);
            assert_eq!(codes, expected, "{}", kernels.isa);
            assert_eq!(codes.iter().map(|code| code.unsigned_abs()).max(), Some(most as u8), "{codes:?}");
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
        let zero = (kernels.quantize_row)(&[0.0; 3], 31, &mut codes);
        assert_eq!((zero.step, zero.error, zero.norm, codes), (0.0, 0.0, 0.0, [0; 3]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!((kernels.quantize_row)(&[1.0, bad, 2.0], 127, &mut codes).step.is_nan());
        }
    }
}

#[test]
fn logits_their_greatest_and_candidates_are_the_same_on_every_tier() {
    for len in [0, 1, 31, 32, 33, 64, 200, 256, 257] {
        let acc: Vec<i32> = (0..len).map(|i| (period(i) - 125) * 9973).collect();
        let mut steps: Vec<f32> = floats(len).iter().map(|x| x.abs() * 1e-3).collect();
        steps.iter_mut().skip(9).step_by(40).for_each(|step| *step = f32::NAN);
        let errors: Vec<f32> = (0..len).map(|i| (period(i + 7) + 1) as f32 * 1e-3).collect();
        let norms: Vec<f32> = (0..len).map(|i| (period(i + 3) + 1) as f32 * 0.1).collect();
        let rows = RowFacts { errors: &errors, norms: &norms };
        for step in [1e-3, f32::NAN] {
            let token = TokenFacts { norm: 31.5, error: 0.02 };
            // By definition, in the order of the rows.
            let logits: Vec<f32> = acc.iter().zip(&steps).map(|(&acc, &s)| acc as f32 * (step * s)).collect();
            let error = |row: usize| {
                let (error, norm) = (errors[row], norms[row]);
                error * token.norm + (norm + error) * token.error + 2.5e-4 * norm * token.norm
            };
            let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for floor in [greatest, greatest / 2.0, f32::NEG_INFINITY] {
                let reach = (0..len).filter(|&row| logits[row] + error(row) >= floor).count();
                for kernels in tiers() {
                    let mut out = vec![7.0; len];
                    let found = (kernels.narrow_logits)(&acc, &steps, step, &mut out);
                    assert_eq!(bits(&out), bits(&logits), "{}: {len} rows", kernels.isa);
                    assert_eq!(found.to_bits(), greatest.to_bits(), "{}: {len} rows", kernels.isa);
                    let found = (kernels.narrow_candidates)(&out, rows, token, floor);
                    assert_eq!(found, reach, "{}: {len} rows", kernels.isa);
                    assert!(step.is_nan() || len == 0 || (1..=len).contains(&found));
                }
            }
        }
    }
}

/// Returns how far the logit of the narrow row is from that of the stored one, and the bound of it.
fn distance(row: &[f32], x: &[f32], most: i8) -> (f64, f64) {
    let (cols, kernels) = (row.len(), scalar());
    let (mut codes, mut fine) = (vec![0; cols], vec![0i16; cols]);
    let found = (kernels.quantize_row)(row, most, &mut codes);
    let limit = if most == 127 { int8::limit(cols) } else { int6::limit(cols) };
    let step = (kernels.quantize_i16)(x, limit, &mut fine);
    let acc = codes.iter().zip(&fine).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
    let (mut logit, mut stored) = ([0.0], [0.0]);
    (kernels.narrow_logits)(&[acc], &[found.step], step, &mut logit);
    (kernels.dense)(DenseRow::F32(row), x, &mut stored);
    let (error, norm) = narrow_rows::bounds(x, &fine, step);
    let bound = TokenFacts { norm, error }.logit_error(found.error, found.norm);
    ((f64::from(logit[0]) - f64::from(stored[0])).abs(), f64::from(bound))
}

#[test]
fn logits_stay_within_their_bound_and_come_near_it() {
    for cols in [1, 2, 31, 256, 2560, MAX_COLS] {
        for (most, scale) in [(127, 1.0), (31, 1.0), (127, 1e-12), (31, 1e12)] {
            let row: Vec<f32> = floats(cols).iter().map(|x| x * scale).collect();
            let mut codes = vec![0; cols];
            let step = (scalar().quantize_row)(&row, most, &mut codes).step;
            let error: Vec<f32> = row.iter().zip(&codes).map(|(&w, &q)| w - f32::from(q) * step).collect();
            let wave: Vec<f32> = (0..cols).map(|i| (period(3 * i + 1) - 125) as f32 * 0.07).collect();
            let signs: Vec<f32> = row.iter().map(|w| w.signum()).collect();
            for x in [&error, &wave, &signs, &row] {
                let (distance, bound) = distance(&row, x, most);
                assert!(distance <= bound, "{cols} columns, {most}: {distance} beyond {bound}");
            }
            // Activations along the row's error are what the first term is for.
            if cols >= 256 {
                let (distance, bound) = distance(&row, &error, most);
                assert!(
                    distance >= 0.5 * bound - 1e-3 * bound,
                    "{cols} columns, {most}: {distance} of {bound}"
                );
            }
        }
    }
}

#[test]
fn the_error_of_activations_is_part_of_the_bound() {
    // Small values beside one great one round to nothing; the row sees only those, and holds them exactly.
    let (cols, small) = (2560, 0.49f32 / int8::limit(2560) as f32);
    let x: Vec<f32> = (0..cols).map(|i| if i == 0 { 1.0 } else { small }).collect();
    let row: Vec<f32> = (0..cols).map(|i| if i == 0 { 0.0 } else { 1.0 }).collect();
    let (distance, bound) = distance(&row, &x, 127);
    assert!(
        distance <= bound && distance > 0.9 * (cols - 1) as f64 * f64::from(small),
        "{distance} of {bound}"
    );
    let without = f64::from(TokenFacts { norm: 1.001, error: 0.0 }.logit_error(0.0, 51.0));
    assert!(distance > without, "{distance} and {without}");
}
