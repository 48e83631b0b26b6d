//! Ranges: what observers choose, what static ones do, and the parameters at the ends of f32.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod matrices;

use bitnet_quant::prelude::*;
use bitnet_quant::scheme::{quantize, quantize_static};
use matrices::{weights, with_matrix};

const KINDS: [(Bits, Symmetry); 4] = [
    (Bits::Eight, Symmetry::Symmetric),
    (Bits::Eight, Symmetry::Asymmetric),
    (Bits::Four, Symmetry::Symmetric),
    (Bits::Four, Symmetry::Asymmetric),
];

fn squared_error(values: &[f32], range: ValueRange, bits: Bits, symmetry: Symmetry) -> f64 {
    let params = AffineParams::for_range(range, bits, symmetry).unwrap();
    values.iter().map(|&v| f64::from(params.dequantize(params.quantize(v)) - v).powi(2)).sum()
}

#[test]
fn observers_see_what_streams_past() {
    let values: Vec<f32> = weights(40, 251);
    let observe = |calibration, part: usize| {
        let mut observer = Observer::new(calibration).unwrap();
        assert_eq!(observer.range(), None);
        values.chunks(part).for_each(|part| observer.observe(part).unwrap());
        observer.range().unwrap()
    };
    let whole = ValueRange::of(&values).unwrap();
    assert_eq!(observe(Calibration::MinMax, 7), whole);
    // 1 value in 1013 is an outlier of 0.7 among magnitudes up to 0.08.
    for part in [3, 251, usize::MAX] {
        let range = observe(Calibration::Percentile(0.99), part);
        assert!(range.max > 0.05 && range.max < 0.09, "{range:?} in parts of {part}");
        assert_eq!(observe(Calibration::Percentile(1.0), part).max, whole.max);
    }
    let (bits, symmetry) = (Bits::Four, Symmetry::Symmetric);
    let error = |range: ValueRange| squared_error(&values, range, bits, symmetry);
    let mse = observe(Calibration::Mse(bits, symmetry), 100);
    assert!(error(mse) <= error(whole));
    let scaled = |share: f32| ValueRange { min: whole.min * share, max: whole.max * share };
    let least = (1..=500).map(|i| error(scaled(i as f32 / 500.0))).fold(f64::INFINITY, f64::min);
    assert!(error(mse) <= 1.02 * least, "{} beside {least}", error(mse));
}

/// One end far out and the other near: one share for both would clip the near end as well.
#[test]
fn each_end_of_asymmetric_codes_has_its_own_clipping() {
    for side in [1.0f32, -1.0] {
        let mut values: Vec<f32> = (0..6000).map(|i| ((i * 7919 % 251) as f32 - 125.0) / 125.0).collect();
        values[700] = 8.0 * side;
        let (bits, symmetry) = (Bits::Four, Symmetry::Asymmetric);
        let mut observer = Observer::new(Calibration::Mse(bits, symmetry)).unwrap();
        values.chunks(97).for_each(|part| observer.observe(part).unwrap());
        let found = squared_error(&values, observer.range().unwrap(), bits, symmetry);
        let seen = ValueRange::of(&values).unwrap();
        let error = |min: f32, max: f32| {
            let range = ValueRange { min: seen.min * min / 24.0, max: seen.max * max / 24.0 };
            squared_error(&values, range, bits, symmetry)
        };
        let shares = || (1..=24).map(|share| share as f32);
        let least = |errors: &mut dyn Iterator<Item = f64>| errors.fold(f64::INFINITY, f64::min);
        let shared = least(&mut shares().map(|share| error(share, share)));
        let apart = least(
            &mut shares().flat_map(|min| shares().map(move |max| (min, max))).map(|(a, b)| error(a, b)),
        );
        assert!(apart < 0.8 * shared, "the case tells nothing: {apart} beside {shared}");
        assert!(found <= apart, "{found} beside {apart}, {shared} with one share");
    }
}

#[test]
fn percentiles_of_values_on_one_side_of_zero_are_ranges() {
    for (share, sign) in
        [0.0, 0.3, 1.0].into_iter().flat_map(|share| [1.0f32, -1.0].map(|sign| (share, sign)))
    {
        let mut observer = Observer::new(Calibration::Percentile(share)).unwrap();
        observer.observe(&[5.0, 6.0, 7.0, 9.0].map(|value| sign * value)).unwrap();
        let range = observer.range().unwrap();
        assert!(AffineParams::for_range(range, Bits::Eight, Symmetry::Asymmetric).is_some(), "{range:?}");
    }
}

#[test]
fn the_greatest_values_of_f32_have_a_least_error() {
    for (bits, symmetry) in [(Bits::Four, Symmetry::Symmetric), (Bits::Four, Symmetry::Asymmetric)] {
        let mut observer = Observer::new(Calibration::Mse(bits, symmetry)).unwrap();
        // The bin of the second value has its middle past the last number.
        for value in [0.75 * f32::MAX, f32::MAX] {
            observer.observe(&[value]).unwrap();
        }
        let many: Vec<f32> = (0..4000).map(|i| [1.0, -1.0][i % 2] * f32::MAX / 16.0).collect();
        observer.observe(&many).unwrap();
        let range = observer.range().unwrap();
        assert!(range.max < 0.9 * f32::MAX, "{range:?} {symmetry:?}");
    }
}

#[test]
fn calibrations_that_are_none_are_refused() {
    for bad in [99.9, -0.1, 1.0 + f64::EPSILON, f64::NAN, f64::INFINITY] {
        let error = Observer::new(Calibration::Percentile(bad)).unwrap_err();
        assert_eq!(error.to_string(), format!("percentile: expected a share from 0 to 1, found {bad}"));
    }
    let mut observer = Observer::new(Calibration::MinMax).unwrap();
    assert!(observer.observe(&[0.0, f32::NAN]).is_err() && observer.range().is_none());
}

const ROWS: usize = 4;
const COLS: usize = 101;

#[test]
fn each_part_has_its_own_static_range() {
    let values = weights(ROWS, COLS);
    for granularity in [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup(32)] {
        let width = match granularity {
            Granularity::PerTensor => values.len(),
            Granularity::PerChannel => COLS,
            Granularity::PerGroup(size) => size,
        };
        let line = if granularity == Granularity::PerTensor { values.len() } else { COLS };
        let parts: Vec<&[f32]> = values.chunks(line).flat_map(|row| row.chunks(width)).collect();
        let ranges: Vec<ValueRange> = parts.iter().map(|part| ValueRange::of(part).unwrap()).collect();
        assert_eq!(granularity.parts(ROWS, COLS), ranges.len());
        for (bits, symmetry) in KINDS {
            let scheme = if bits == Bits::Eight { Scheme::Int8(symmetry) } else { Scheme::Int4(symmetry) };
            with_matrix(&values, COLS, |matrix| {
                // Ranges of the values themselves give what dynamic quantisation does.
                let dynamic = quantize(matrix, &QuantOptions::new(scheme, granularity)).unwrap();
                assert_eq!(quantize_static(matrix, scheme, granularity, &ranges).unwrap(), dynamic);
                // A range of one part touches that part alone.
                let mut narrow = ranges.clone();
                narrow[ranges.len() - 1] = ValueRange { min: -0.01, max: 0.01 };
                let clipped = quantize_static(matrix, scheme, granularity, &narrow).unwrap();
                assert!(clipped.params()[..ranges.len() - 1] == dynamic.params()[..ranges.len() - 1]);
                let last = values.len() - parts[ranges.len() - 1].len();
                let (clipped, dynamic) = (clipped.dequantize().unwrap(), dynamic.dequantize().unwrap());
                assert_eq!(clipped[..last], dynamic[..last], "{scheme:?} {granularity:?}");
                assert!(clipped[last..].iter().all(|value| value.abs() < 0.012) && clipped != dynamic);
                for count in [ranges.len() - 1, ranges.len() + 1] {
                    let ranges: Vec<_> = ranges.iter().cycle().take(count).copied().collect();
                    let error = quantize_static(matrix, scheme, granularity, &ranges).unwrap_err();
                    assert!(error.to_string().ends_with(&format!("values, found {count}")), "{error}");
                }
            });
        }
    }
}

#[test]
fn ranges_are_refused_where_they_are_none_or_mean_nothing() {
    let ranges =
        [(f32::NAN, f32::NAN), (5.0, -5.0), (f32::NEG_INFINITY, 1.0), (-1.0, f32::INFINITY), (0.0, f32::NAN)];
    for (min, max) in ranges {
        for (bits, symmetry) in KINDS {
            assert_eq!(AffineParams::for_range(ValueRange { min, max }, bits, symmetry), None, "{min} {max}");
        }
        let options = QuantOptions::new(Scheme::Int8(Symmetry::Symmetric), Granularity::PerTensor);
        let options = options.with_range(ValueRange { min, max });
        let error = with_matrix(&[0.5, 0.1], 2, |matrix| quantize(matrix, &options).unwrap_err());
        assert!(error.to_string().contains("expected finite ends"), "{error}");
    }
    let range = ValueRange { min: -1.0, max: 1.0 };
    for scheme in [Scheme::Ternary, Scheme::Sign, Scheme::Fp16, Scheme::Bf16] {
        let options = QuantOptions::new(scheme, Granularity::PerTensor).with_range(range);
        with_matrix(&[0.5, 0.1], 2, |matrix| {
            let expected = QuantError::Ranged { scheme: scheme.name() };
            assert_eq!(quantize(matrix, &options).unwrap_err(), expected);
            let apart = quantize_static(matrix, scheme, Granularity::PerTensor, &[range]);
            assert_eq!(apart.unwrap_err(), expected);
        });
    }
}

/// Every finite range has codes, every code a finite value, and every value of the range a code within half a step.
#[test]
fn ranges_at_the_ends_of_f32_have_codes() {
    let ends = [f32::MAX, f32::MAX.next_down(), f32::MAX / 2.0, 1.0, 1e-36, f32::MIN_POSITIVE, 1e-44, 0.0];
    for (max, min) in ends.iter().flat_map(|&max| ends.map(|min| (max, -min))) {
        for (bits, symmetry) in KINDS {
            let params = AffineParams::for_range(ValueRange { min, max }, bits, symmetry).unwrap();
            let (least, greatest) = params.codes();
            assert!(params.scale().is_normal() && params.scale() > 0.0, "{min} {max} {params:?}");
            assert!(
                (least..=greatest).all(|code| params.dequantize(code).is_finite()),
                "{min} {max} {params:?}"
            );
            assert_eq!(params.dequantize(params.zero_point()), 0.0);
            for value in [min, min / 2.0, min / 3.0, 0.0, max / 7.0, max / 2.0, max] {
                let error = (f64::from(params.dequantize(params.quantize(value))) - f64::from(value)).abs();
                // The zero point is rounded, so that an end can be half a step past the last code.
                let steps = if symmetry == Symmetry::Symmetric { 0.5001 } else { 1.0001 };
                assert!(
                    error <= steps * f64::from(params.scale()),
                    "{value} of {min} {max}: {error} {params:?}"
                );
            }
        }
    }
}

#[test]
fn a_group_of_tiny_weights_does_not_fail_the_matrix() {
    let mut values = weights(ROWS, COLS);
    values[..64].iter_mut().for_each(|value| *value *= 1e-38);
    for scheme in [Scheme::Int8(Symmetry::Symmetric), Scheme::Int4(Symmetry::Asymmetric)] {
        let options = QuantOptions::new(scheme, Granularity::PerGroup(64));
        let found =
            with_matrix(&values, COLS, |matrix| quantize(matrix, &options).unwrap().dequantize().unwrap());
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= f32::MIN_POSITIVE;
        assert!(found[..64].iter().zip(&values).all(near), "{scheme:?}");
    }
}

#[test]
fn what_is_no_number_has_the_code_of_zero() {
    for (bits, symmetry) in KINDS {
        let params = AffineParams::for_range(ValueRange { min: -0.7, max: 1.9 }, bits, symmetry).unwrap();
        // Bits of a payload are none of a code.
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_00ff), f32::from_bits(0xff80_0001)] {
            assert_eq!(params.quantize(nan), params.zero_point());
        }
        let (least, greatest) = params.codes();
        assert_eq!(params.quantize(f32::INFINITY), greatest);
        assert_eq!(params.quantize(f32::NEG_INFINITY), least);
        for code in least..=greatest {
            assert_eq!(params.quantize(params.dequantize(code)), code, "{bits:?} {symmetry:?}");
        }
    }
}
