//! Activations in up to 16 bits: the same on every tier, and as near as the step allows.

use bitnet_kernels::scalar::int8::limit;

use crate::inputs::{BLOCK_COLS, COLS, floats, scalar, tiers};

/// Quantises on every tier, sees that they agree, and returns what they gave.
fn quantize(x: &[f32]) -> (Vec<i16>, f32) {
    let mut expected = vec![7; x.len()];
    let step = (scalar().quantize_i16)(x, limit(x.len()), &mut expected);
    for kernels in tiers() {
        let mut q = vec![7; x.len()];
        let other = (kernels.quantize_i16)(x, limit(x.len()), &mut q);
        assert!(other.to_bits() == step.to_bits() || other.is_nan() && step.is_nan(), "{}", kernels.isa);
        assert_eq!(q, expected, "{} {} columns", kernels.isa, x.len());
    }
    (expected, step)
}

/// Half a step, and what three roundings of f32 add to the greatest code.
fn check(x: &[f32]) {
    let (q, step) = quantize(x);
    let limit = limit(x.len());
    let bound = f64::from(step) * (0.5 + f64::from(limit) * 2f64.powi(-22));
    for (&x, &q) in x.iter().zip(&q) {
        assert!(i32::from(q).abs() <= limit, "{q} beyond {limit}");
        let error = (f64::from(x) - f64::from(q) * f64::from(step)).abs();
        assert!(error <= bound, "{x} as {q} steps of {step}");
    }
    let absmax = x.iter().fold(0f32, |max, x| max.max(x.abs()));
    let used = q.iter().map(|&q| i32::from(q).abs()).max().unwrap();
    assert!(absmax < 1e-30 || used == limit, "{used} of {limit} codes");
}

#[test]
fn any_length_is_near_and_the_same_on_every_tier() {
    for cols in (1..=70).chain(COLS).chain(BLOCK_COLS).chain([65_536]) {
        let mut x = floats(cols);
        // A maximum that no other value hides, anywhere in the row.
        x[cols * 5 / 7] = -23.5;
        check(&x);
    }
}

#[test]
fn any_magnitude_is_near_and_the_same_on_every_tier() {
    for scale in [f32::MAX / 8.0, 1e30, 1.0, 1e-10, 1e-29, 1e-31, 1e-38, 1e-42] {
        for cols in [3, 64, 2560] {
            let x: Vec<f32> = floats(cols).iter().map(|x| x * scale).collect();
            check(&x);
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero() {
    for zero in [0.0f32, -0.0] {
        let (q, step) = quantize(&[zero; 37]);
        assert_eq!(q, [0; 37]);
        assert!(step.is_finite());
    }
    quantize(&[]);
}

#[test]
fn a_nan_or_an_infinity_reaches_the_step() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for cols in [1, 31, 64, 131] {
            for at in [0, cols / 2, cols - 1] {
                let mut x = floats(cols);
                x[at] = bad;
                let (q, step) = quantize(&x);
                assert!(step.is_nan() && q.iter().all(|&q| q == 0), "{bad} at {at} of {cols}");
            }
        }
    }
}

#[test]
fn halves_round_to_even() {
    // With 65,536 columns the limit is 258; a maximum of 258 makes the step 1.
    let mut x = vec![0.0; 65_536];
    x[..6].copy_from_slice(&[258.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    let (q, step) = quantize(&x);
    assert_eq!((&q[..6], step), (&[258, 0, 2, 2, 0, -2][..], 1.0));
}
