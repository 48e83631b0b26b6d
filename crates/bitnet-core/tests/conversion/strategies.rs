//! Strategies against their mathematics.

use bitnet_core::backend::WeightScale;
use bitnet_core::memory::conversion::{Arithmetic, ConversionConfig, ConversionStrategy};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};
use bitnet_quant::{FloatMatrix, absmean};
use half::{bf16, f16};

use crate::inputs::{bell, engine, numbers, tensor};

const CODES: [(BitNetDType, f64); 4] = [
    (BitNetDType::I8, 127.0),
    (BitNetDType::I4, 7.0),
    (BitNetDType::BitNet158, 1.0),
    (BitNetDType::TernaryBase3, 1.0),
];

fn with(strategy: ConversionStrategy) -> ConversionConfig {
    ConversionConfig::default().with_strategy(strategy)
}

/// What the codes and the scale of a result stand for.
fn values(result: &BitNetTensor) -> Vec<f64> {
    let scale = f64::from(result.scale().unwrap_or(1.0));
    numbers(result).into_iter().map(|number| number.float() * scale).collect()
}

fn squared_error(source: &[f32], result: &BitNetTensor) -> f64 {
    source.iter().zip(values(result)).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum()
}

#[test]
fn scales_of_the_greatest_magnitude_keep_errors_below_half_a_unit() {
    let x = bell(10_000);
    let absmax = x.iter().fold(0f32, |most, x| most.max(x.abs()));
    for arithmetic in [Arithmetic::Single, Arithmetic::Double] {
        let engine = engine(ConversionConfig { arithmetic, ..with(ConversionStrategy::Scaled) });
        for (to, greatest) in CODES.into_iter().take(2) {
            let result = engine.convert(&tensor(&x), to).unwrap();
            let scale = result.scale().unwrap();
            assert_eq!(scale, absmax / greatest as f32);
            let slack = if arithmetic == Arithmetic::Double { 1e-12 } else { 1e-5 };
            for (x, y) in x.iter().zip(values(&result)) {
                let units = (f64::from(*x) - y).abs() / f64::from(scale);
                assert!(units <= 0.5 + slack, "{to} {x} {units}");
            }
        }
    }
}

#[test]
fn double_arithmetic_gives_the_nearest_code_where_single_may_not() {
    // Quotients one unit in the last place beside ties: the reciprocal moves some of them over.
    let scale = 0.3f32 / 127.0;
    let mut x: Vec<f32> = (0..126)
        .flat_map(|code| {
            let tie = (f64::from(code) + 0.5) * f64::from(scale);
            [-1i32, 0, 1].map(|step| f32::from_bits((tie as f32).to_bits().wrapping_add_signed(step)))
        })
        .collect();
    x.push(0.3);
    let nearest = |x: f32| (f64::from(x) / f64::from(scale)).round_ties_even() as i8;
    let wrong = |arithmetic| {
        let engine = engine(ConversionConfig { arithmetic, ..with(ConversionStrategy::Scaled) });
        let result = engine.convert(&tensor(&x), BitNetDType::I8).unwrap();
        let codes = result.as_slice::<i8>().unwrap().to_vec();
        x.iter().zip(codes).filter(|&(&x, code)| nearest(x) != code).count()
    };
    assert_eq!(wrong(Arithmetic::Double), 0);
    assert!(wrong(Arithmetic::Single) > 0);
}

#[test]
fn the_ternary_scale_is_that_of_absmean_quantisation() {
    for n in [1, 7, 5000, 200_000] {
        let x: Vec<f32> = bell(n).iter().map(|x| x * 0.02).collect();
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let reference =
            absmean::quantize(&FloatMatrix::new(BitNetDType::F32, &bytes, 1, n).unwrap()).unwrap();
        for to in [BitNetDType::BitNet158, BitNetDType::TernaryBase3] {
            let result = engine(with(ConversionStrategy::Scaled)).convert(&tensor(&x), to).unwrap();
            assert_eq!(WeightScale::Multiply(result.scale().unwrap()), reference.scale, "{n}");
            for (index, number) in numbers(&result).into_iter().enumerate() {
                // One row: its codes are the lowest two bits of each byte.
                assert_eq!(number.float(), f64::from(reference.packed[index] & 3) - 1.0, "{n} {index}");
            }
        }
    }
}

#[test]
fn the_scale_of_least_squared_error_beats_the_others() {
    let mut outlier = bell(20_000);
    outlier[77] = 40.0;
    for x in [bell(20_000), outlier] {
        for (to, greatest) in CODES {
            let error = |strategy| {
                let result = engine(with(strategy)).convert(&tensor(&x), to).unwrap();
                (squared_error(&x, &result), result.scale().unwrap())
            };
            let (least, scale) = error(ConversionStrategy::QuantizationAware);
            let (scaled, _) = error(ConversionStrategy::Scaled);
            assert!(least <= scaled * (1.0 + 1e-9), "{to}: {least} {scaled}");
            if to == BitNetDType::I4 {
                assert!(least < 0.95 * scaled, "{to}: {least} {scaled}");
            }
            // No scale of a fine grid is much better.
            for step in 1..200 {
                let other = f64::from(scale) * f64::from(step) * 0.01;
                let code = |x: f32| (f64::from(x) / other).round_ties_even().clamp(-greatest, greatest);
                let found: f64 = x.iter().map(|&x| (f64::from(x) - code(x) * other).powi(2)).sum();
                assert!(least <= found * 1.05, "{to} at {step} %: {least} {found}");
            }
        }
    }
}

#[test]
fn halves_that_would_overflow_are_scaled_by_a_power_of_two() {
    let scaled = engine(with(ConversionStrategy::Scaled));
    let result = scaled.convert(&tensor(&[3e6f32, -1.5, 65_504.0]), BitNetDType::F16).unwrap();
    assert_eq!(result.scale(), Some(64.0));
    assert_eq!(result.as_slice::<f16>().unwrap()[0], f16::from_f32(3e6 / 64.0));
    let fits = scaled.convert(&tensor(&[65_504.0f32, f32::INFINITY]), BitNetDType::F16).unwrap();
    assert_eq!(fits.scale(), None);
    let back = scaled.convert(&result, BitNetDType::F32).unwrap();
    assert_eq!(back.as_slice::<f32>().unwrap()[1..], [-1.5, 65_504.0]);
}

#[test]
fn what_is_not_finite_saturates_and_does_not_move_the_scale() {
    let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.0, -1.0, 0.0];
    for strategy in [ConversionStrategy::Scaled, ConversionStrategy::StochasticRounding] {
        let result = engine(with(strategy)).convert(&tensor(&x), BitNetDType::I8).unwrap();
        assert_eq!(result.scale(), Some(2.0 / 127.0));
        assert_eq!(result.as_slice::<i8>().unwrap()[..4], [0, 127, -127, 127], "{strategy}");
    }
    let zeros =
        engine(with(ConversionStrategy::Scaled)).convert(&tensor(&[0.0f32; 9]), BitNetDType::I8).unwrap();
    assert_eq!((zeros.scale(), zeros.as_slice::<i8>().unwrap()), (Some(1.0), &[0; 9][..]));
    // The reciprocal of such a scale is no number.
    let tiny = tensor(&[f32::from_bits(3), f32::from_bits(1), -f32::from_bits(3)]);
    let result = engine(with(ConversionStrategy::Scaled)).convert(&tiny, BitNetDType::I8).unwrap();
    assert_eq!(result.as_slice::<i8>().unwrap(), [3, 1, -3]);
    assert_eq!(result.scale(), Some(f32::from_bits(1)));
}

/// The mean of many roundings of one value lies within five standard deviations of the value, and the results are its
/// two neighbours.
#[test]
fn stochastic_rounding_is_unbiased() {
    const N: usize = 200_000;
    let deviations = 5.0;
    let check = |x: f64, below: f64, above: f64, results: &[f64]| {
        assert!(results.iter().all(|&y| y == below || y == above), "{x}");
        let share = (x - below) / (above - below);
        let mean = results.iter().sum::<f64>() / N as f64;
        let deviation = (above - below) * (share * (1.0 - share) / N as f64).sqrt();
        assert!((mean - x).abs() <= deviations * deviation, "{x}: {mean}, deviation {deviation}");
    };
    for seed in [0, 1, 0xdead_beef] {
        let engine = engine(ConversionConfig { seed, ..with(ConversionStrategy::StochasticRounding) });
        for x in [1.000_1f32, -0.333_333, 3.3e-6, 1.234e-7, 2047.9, 1e-8, -60_001.7] {
            let source = tensor(&vec![x; N]);
            let halves = engine.convert(&source, BitNetDType::F16).unwrap();
            let near = f16::from_f32(x);
            let (below, above) = match near.to_f32() <= x {
                true => (near, next_up(near)),
                false => (next_down(near), near),
            };
            check(x.into(), below.into(), above.into(), &values(&halves));
            let uppers = engine.convert(&source, BitNetDType::BF16).unwrap();
            let near = bf16::from_f32(x);
            let toward = if (near.to_f32() <= x) == (x > 0.0) { 1 } else { u16::MAX };
            let other = bf16::from_bits(near.to_bits().wrapping_add(toward));
            let (a, b) = (near.to_f64(), other.to_f64());
            check(x.into(), a.min(b), a.max(b), &values(&uppers));
        }
        // With a scale: the greatest magnitude fixes it, the other values fall between codes.
        for share in [0.1f32, 0.25, 0.5, 0.999] {
            let mut x = vec![(41.0 + share) / 127.0; N];
            x[0] = 1.0;
            let result = engine.convert(&tensor(&x), BitNetDType::I8).unwrap();
            let scale = f64::from(result.scale().unwrap());
            let found: Vec<f64> = values(&result)[1..].iter().map(|y| (y / scale).round()).collect();
            let mean = found.iter().sum::<f64>() / found.len() as f64;
            assert!((mean - 41.0 - f64::from(share)).abs() < deviations * 0.5 / (N as f64).sqrt() + 1e-4);
        }
    }
}

fn next_up(x: f16) -> f16 {
    f16::from_bits(if x.is_sign_negative() { x.to_bits() - 1 } else { x.to_bits() + 1 })
}

fn next_down(x: f16) -> f16 {
    f16::from_bits(if x.is_sign_negative() { x.to_bits() + 1 } else { x.to_bits() - 1 })
}

#[test]
fn random_bits_of_neighbours_and_of_seeds_do_not_correlate() {
    const N: usize = 100_000;
    let x = vec![0.5f64; N];
    let round = |seed| {
        let engine = engine(ConversionConfig { seed, ..with(ConversionStrategy::StochasticRounding) });
        let result = engine.convert(&tensor(&x), BitNetDType::I32).unwrap();
        result.as_slice::<i32>().unwrap().iter().map(|&up| f64::from(up) - 0.5).collect::<Vec<_>>()
    };
    let (a, b) = (round(1), round(2));
    let correlation =
        |a: &[f64], b: &[f64]| 4.0 * a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / a.len() as f64;
    let limit = 5.0 / (N as f64).sqrt();
    for lag in [1, 2, 3, 64, 1280] {
        assert!(correlation(&a[lag..], &a).abs() < limit, "lag {lag}");
    }
    assert!(correlation(&a, &b).abs() < limit);
    assert_eq!(a, round(1));
}

#[test]
fn stochastic_results_stay_finite_and_exact_values_stay() {
    let engine = engine(with(ConversionStrategy::StochasticRounding));
    let x: Vec<f32> = vec![65_519.0, 1e9, -1e9, 1.5, -0.0, f32::INFINITY];
    let halves = engine.convert(&tensor(&x), BitNetDType::F16).unwrap();
    let found: Vec<f32> = halves.as_slice::<f16>().unwrap().iter().map(|half| half.to_f32()).collect();
    assert_eq!(found, [65_504.0, 65_504.0, -65_504.0, 1.5, 0.0, f32::INFINITY]);
    let wide = engine.convert(&tensor(&[0.1f64, 1.0]), BitNetDType::F32).unwrap();
    let found = wide.as_slice::<f32>().unwrap();
    assert!((f64::from(found[0]) - 0.1).abs() < 1e-8 && found[1] == 1.0);
}

#[test]
fn stochastic_rounding_leaves_integers_of_64_bits_as_they_are() {
    let engine = engine(with(ConversionStrategy::StochasticRounding));
    let values = [i64::MAX, (1 << 53) + 1, (1 << 62) + 3, 7, 0];
    let unsigned = engine.convert(&tensor(&values), BitNetDType::U64).unwrap();
    assert_eq!(unsigned.as_slice::<u64>().unwrap(), values.map(|value| value as u64));
    let back = engine.convert(&unsigned, BitNetDType::I64).unwrap();
    assert_eq!(back.as_slice::<i64>().unwrap(), values);
    let narrow = engine.convert(&tensor(&[i64::MIN, -5, 70_000]), BitNetDType::I16).unwrap();
    assert_eq!(narrow.as_slice::<i16>().unwrap(), [i16::MIN, -5, i16::MAX]);
}

#[test]
fn views_and_copies_keep_the_scale_and_operations_refuse_it() {
    let source =
        BitNetTensor::from_slice(&bell(12), &[3, 4], &Default::default(), &crate::inputs::pool()).unwrap();
    let scaled = engine(with(ConversionStrategy::Scaled)).convert(&source, BitNetDType::I8).unwrap();
    let scale = scaled.scale();
    assert!(scale.is_some());
    let view = scaled.transpose(0, 1).unwrap();
    assert_eq!(view.scale(), scale);
    assert_eq!(view.contiguous().unwrap().scale(), scale);
    // A transposed view converts to the transposed values.
    let direct = engine(ConversionConfig::default());
    let wide = direct.convert(&view, BitNetDType::F32).unwrap();
    let expected = direct.convert(&scaled, BitNetDType::F32).unwrap().transpose(0, 1).unwrap();
    assert_eq!(wide.as_slice::<f32>().unwrap(), expected.contiguous().unwrap().as_slice::<f32>().unwrap());
    let error = scaled.cast(BitNetDType::F32).unwrap_err().to_string();
    assert!(error.contains("cast of a i8 tensor of shape [3, 4] with the scale"), "{error}");
    assert!(scaled.add(&scaled).is_err());
}

#[test]
fn zeros_have_a_scale_and_small_values_their_own() {
    use ConversionStrategy::{QuantizationAware, Scaled, StochasticRounding};
    for strategy in [Scaled, QuantizationAware, StochasticRounding] {
        for (to, _) in CODES {
            let result = engine(with(strategy)).convert(&tensor(&[0f32; 3000]), to).unwrap();
            let floor = to.is_ternary() && strategy != StochasticRounding;
            let expected = if floor { 1.0 / (1.0 / 1e-5f32) } else { 1.0 };
            assert_eq!(result.scale(), Some(expected), "{strategy} to {to}");
            assert!(values(&result).iter().all(|&value| value == 0.0));
        }
    }
    // The floor of BitNet's mean is none of the least squared error.
    let small: Vec<f32> = bell(5000).iter().map(|x| x * 1e-9).collect();
    for (to, _) in CODES {
        let result = engine(with(QuantizationAware)).convert(&tensor(&small), to).unwrap();
        let energy: f64 = small.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!(squared_error(&small, &result) < 0.25 * energy, "{to}");
    }
}
