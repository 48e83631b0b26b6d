//! Narrow rows: how near codes are, and the rows that have no step of their own.

use bitnet_kernels::layout::narrow_rows::quantize_row;

/// Quantises a row over what was there before.
fn quantize(row: &[f32]) -> (Vec<i8>, f32) {
    let mut codes = vec![99; row.len()];
    let step = quantize_row(row, 127, &mut codes).step;
    (codes, step)
}

fn check(row: &[f32]) {
    for most in [127, 31] {
        check_to(row, most);
    }
}

fn check_to(row: &[f32], most: i8) {
    let mut codes = vec![99; row.len()];
    let step = quantize_row(row, most, &mut codes).step;
    let absmax = row.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert_eq!(step, absmax / f32::from(most));
    assert_eq!(codes.iter().map(|code| code.unsigned_abs()).max(), Some(most as u8));
    // Half a step and the roundings of f32; a subnormal step is itself only as fine as subnormals are.
    let step = f64::from(step);
    let bound = step * (0.5 + 127.0 * 2f64.powi(-21)) + 128.0 * f64::from(f32::from_bits(1));
    for (&value, &code) in row.iter().zip(&codes) {
        let error = (f64::from(value) - f64::from(code) * step).abs();
        assert!(error <= bound, "{value:e} as {code} steps of {step:e}");
    }
}

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i % 251 * 7919 % 251) as f32 - 125.0) * 0.037 + (i % 7) as f32 * 1e-3).collect()
}

#[test]
fn codes_are_within_half_a_step_at_any_length() {
    for cols in (1..=70).chain([255, 256, 257, 2560]) {
        check(&floats(cols));
    }
}

#[test]
fn codes_are_within_half_a_step_at_any_magnitude() {
    // The last ones are rows of subnormals.
    for scale in [f32::MAX / 8.0, 1e30, 1.0, 1e-20, 1e-36, 1e-37, 1e-38, 1e-39, 1e-40] {
        for cols in [1, 5, 64, 131] {
            let row: Vec<f32> = floats(cols).iter().map(|x| x * scale).collect();
            check(&row);
        }
    }
}

#[test]
fn the_least_subnormals_keep_their_signs_and_order() {
    let tiny = |n: u32| f32::from_bits(n);
    let (codes, step) = quantize(&[tiny(1), -tiny(1), tiny(0)]);
    assert_eq!(codes, [127, -127, 0]);
    assert!(step.is_finite() && step >= 0.0);
    let (codes, _) = quantize(&[tiny(254), tiny(127), -tiny(2), tiny(0)]);
    assert_eq!(codes, [127, 64, -1, 0]);
}

#[test]
fn halves_round_to_even() {
    let (codes, step) = quantize(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]);
    assert_eq!((codes, step), (vec![127, 0, 2, 2, 0, -2, -127], 1.0));
}

#[test]
fn a_row_of_zeros_has_step_zero() {
    for zero in [0.0f32, -0.0] {
        assert_eq!(quantize(&[zero; 37]), (vec![0; 37], 0.0));
    }
    assert_eq!(quantize(&[]), (vec![], 0.0));
}

#[test]
fn a_nan_or_an_infinity_reaches_the_step() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 20, 36] {
            let mut row = floats(37);
            row[at] = bad;
            let (codes, step) = quantize(&row);
            assert!(step.is_nan() && codes == [0; 37], "{bad} at {at}");
        }
    }
}

#[test]
#[should_panic(expected = "a row and its codes")]
fn slices_of_different_lengths_are_refused() {
    quantize_row(&[1.0, 2.0], 127, &mut [0]);
}
