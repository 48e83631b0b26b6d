//! Quantisation against direct computations, at shapes around the packing's boundaries.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_quant::{FloatMatrix, QuantError, absmean, packing::row_quarters, ternary};
use half::{bf16, f16};
use proptest::prelude::*;

fn stored(dtype: BitNetDType, values: &[f32]) -> Vec<u8> {
    match dtype {
        BitNetDType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        BitNetDType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn widened(dtype: BitNetDType, values: &[f32]) -> Vec<f32> {
    match dtype {
        BitNetDType::F16 => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
        BitNetDType::BF16 => values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
        _ => values.to_vec(),
    }
}

fn floats() -> impl Strategy<Value = BitNetDType> {
    prop_oneof![Just(BitNetDType::F32), Just(BitNetDType::F16), Just(BitNetDType::BF16)]
}

/// A matrix of prime period, so that swapped rows or columns cannot cancel.
fn periodic(rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| ((i * 7919 % 251) as f32 - 125.0) / 97.0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn absmean_is_its_definition(rows in 1usize..14, cols in 1usize..40, dtype in floats(), seed in 0usize..1000) {
        let raw: Vec<f32> = (0..rows * cols).map(|i| ((i + seed) * 7919 % 251) as f32 / 97.0 - 1.3).collect();
        let values = widened(dtype, &raw);
        let bytes = stored(dtype, &raw);
        let found = absmean::quantize(&FloatMatrix::new(dtype, &bytes, rows, cols).unwrap()).unwrap();
        let sum: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
        let mean = ((sum / values.len() as f64) as f32).max(1e-5);
        prop_assert!((found.mean_abs - mean).abs() <= mean * f32::EPSILON);
        let inverse = 1.0 / found.mean_abs;
        prop_assert_eq!(found.scale, WeightScale::Multiply(1.0 / inverse));
        let expected: Vec<i8> =
            values.iter().map(|v| (v * inverse).round_ties_even().clamp(-1.0, 1.0) as i8).collect();
        let mut packed = vec![0; row_quarters::packed_len(rows, cols).unwrap()];
        row_quarters::pack(&expected, rows, cols, &mut packed);
        prop_assert_eq!(found.packed, packed);
    }

    #[test]
    fn ternary_matrices_round_trip(
        rows in 1usize..14,
        cols in 1usize..40,
        dtype in floats(),
        codes in prop::collection::vec(-1i8..=1, 14 * 40),
    ) {
        let codes = &codes[..rows * cols];
        let values: Vec<f32> = codes.iter().map(|&c| f32::from(c) * 0.15625).collect();
        let bytes = stored(dtype, &values);
        let found = ternary::detect(&FloatMatrix::new(dtype, &bytes, rows, cols).unwrap());
        if codes.iter().all(|&c| c == 0) {
            prop_assert!(found.is_none());
        } else {
            let found = found.unwrap();
            prop_assert_eq!(found.magnitude, 0.15625);
            let mut back = vec![0; rows * cols];
            row_quarters::unpack(&found.packed, rows, cols, &mut back);
            prop_assert_eq!(&back, codes);
            prop_assert_eq!(row_quarters::find_invalid(&found.packed), None);
        }
    }
}

#[test]
fn exactly_one_half_rounds_to_zero() {
    // Mean magnitude 1, so that 0.5 and its neighbours scale to themselves.
    let values = [0.5, -0.5, f32::from_bits(0.5f32.to_bits() + 1), 2.5];
    let rest = 4.0 - values.iter().map(|v| v.abs()).sum::<f32>();
    let bytes = stored(BitNetDType::F32, &[values[0], values[1], values[2], values[3] + rest]);
    let found = absmean::quantize(&FloatMatrix::new(BitNetDType::F32, &bytes, 1, 4).unwrap()).unwrap();
    assert_eq!(found.mean_abs, 1.0);
    let mut codes = [0; 4];
    row_quarters::unpack(&found.packed, 1, 4, &mut codes);
    assert_eq!(codes, [0, 0, 1, 1]);
}

#[test]
fn an_all_zero_matrix_has_the_least_scale() {
    let bytes = stored(BitNetDType::BF16, &[0.0; 15]);
    let found = absmean::quantize(&FloatMatrix::new(BitNetDType::BF16, &bytes, 5, 3).unwrap()).unwrap();
    assert_eq!(found.mean_abs, 1e-5);
    assert_eq!(row_quarters::count_codes(&found.packed, 5, 3), [0, 15, 0]);
}

#[cfg(feature = "parallel")]
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, cols) = (301, 517);
    let bytes = stored(BitNetDType::F32, &periodic(rows, cols));
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, rows, cols).unwrap();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| absmean::quantize(&matrix).unwrap())
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

#[test]
fn unusable_weights_are_named_by_element() {
    for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut values = periodic(300, 301);
        values[211 * 301 + 17] = bad;
        let bytes = stored(BitNetDType::F32, &values);
        let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, 300, 301).unwrap();
        let error = absmean::quantize(&matrix).unwrap_err();
        assert_eq!(error.to_string(), format!("element [211, 17]: expected a finite weight, found {text}"));
        assert_eq!(ternary::detect(&matrix), None);
    }
    let bytes = stored(BitNetDType::F32, &[f32::MAX; 4]);
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, 2, 2).unwrap();
    assert_eq!(absmean::quantize(&matrix).unwrap_err(), QuantError::Scale { mean_abs: f32::MAX });
}

#[test]
fn values_that_are_not_ternary_are_named_by_element() {
    let error = ternary::pack_bytes(&[0, 1, 255, 2], 2, 2).unwrap_err();
    assert_eq!(error.to_string(), "element [1, 1]: expected -1, 0 or 1, found 2");
    let bytes = stored(BitNetDType::F16, &[1.0, 0.0, -1.0, 0.5]);
    let error = ternary::pack_floats(&FloatMatrix::new(BitNetDType::F16, &bytes, 1, 4).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "element [0, 3]: expected -1, 0 or 1, found 0.5");
    assert_eq!(ternary::detect(&FloatMatrix::new(BitNetDType::F16, &bytes, 1, 4).unwrap()), None);
}

#[test]
fn shapes_and_types_that_do_not_fit_are_refused() {
    let refuse = |dtype, bytes: &[u8], rows, cols| FloatMatrix::new(dtype, bytes, rows, cols).unwrap_err();
    assert_eq!(
        refuse(BitNetDType::F32, &[0; 15], 2, 2).to_string(),
        "bytes: expected 16 for 2 x 2 of f32, found 15"
    );
    assert!(matches!(refuse(BitNetDType::U8, &[0; 4], 2, 2), QuantError::DType { .. }));
    for (rows, cols) in [(0, 4), (4, 0), (usize::MAX, 2), (usize::MAX / 2, 2)] {
        assert_eq!(refuse(BitNetDType::F32, &[], rows, cols), QuantError::Shape { rows, cols });
    }
}

#[test]
fn ternary_values_of_any_magnitude_are_recognised_and_packed() {
    for magnitude in [f32::from_bits(1), f32::MIN_POSITIVE / 2.0, 0.37, f32::MAX] {
        let values = [1.0, 0.0, -1.0, -0.0, -1.0, 1.0].map(|sign: f32| sign * magnitude);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let found = ternary::detect(&FloatMatrix::new(BitNetDType::F32, &bytes, 2, 3).unwrap()).unwrap();
        let mut codes = [7; 6];
        row_quarters::unpack(&found.packed, 2, 3, &mut codes);
        assert_eq!((found.magnitude, codes), (magnitude, [1, 0, -1, 0, -1, 1]), "{magnitude:e}");
    }
}
