//! Direct conversion of every pair of types.

use bitnet_core::backend::NumericRange;
use bitnet_core::memory::conversion::ConversionConfig;
use bitnet_core::memory::tensor::BitNetDType;
use half::{bf16, f16};

use crate::inputs::{Number, engine, numbers, odd_values, tensor};

/// Whole blocks and an odd rest.
const LEN: usize = 2 * 1280 + 333;

/// The nearest number of a 16-bit float type, ties to even, by looking at the neighbours of a first guess.
fn nearest_half(x: Number, value: fn(u16) -> f64, guess: u16) -> f64 {
    let finite = |bits: u16| value(bits).is_finite();
    // In f64, exactly: neighbours are near. Integers in units of 2^-24, which no integer of 64 bits is between.
    let distance = |bits: u16| match x {
        Number::Float(x) => ((x - value(bits)).abs(), 0),
        Number::Integer(x) => (0.0, ((x << 24) - (value(bits) * 16_777_216.0) as i128).abs()),
    };
    let candidates = [guess.wrapping_sub(1), guess, guess.wrapping_add(1)].into_iter().filter(|&b| finite(b));
    let best = candidates
        .min_by(|&a, &b| distance(a).partial_cmp(&distance(b)).unwrap().then((a & 1).cmp(&(b & 1))));
    best.map_or(f64::NAN, value)
}

fn expected(x: Number, to: BitNetDType) -> Number {
    let wide = x.float();
    if let NumericRange::Integer { min, max } = to.range() {
        if to == BitNetDType::Bool {
            return Number::Integer((x != Number::Integer(0) && wide != 0.0).into());
        }
        return Number::Integer(match x {
            Number::Integer(x) => x.clamp(min, max),
            Number::Float(x) if x.is_nan() => 0,
            Number::Float(x) => (x.round_ties_even() as i128).clamp(min, max),
        });
    }
    Number::Float(match (to, x) {
        _ if !wide.is_finite() => wide,
        (BitNetDType::F64, _) => wide,
        (BitNetDType::F32, Number::Float(x)) => f64::from(x as f32),
        (BitNetDType::F32, Number::Integer(x)) => f64::from(x as f32),
        // Halfway between the greatest number and the next power of two.
        (BitNetDType::F16, _) if wide.abs() >= 65_520.0 => f64::INFINITY.copysign(wide),
        (BitNetDType::F16, x) => nearest_half(
            x,
            |b| f16::from_bits(b).into(),
            f16::from_f64(wide.abs().min(65_504.0).copysign(wide)).to_bits(),
        ),
        (_, _) if wide.abs() >= 2f64.powi(128) - 2f64.powi(119) => f64::INFINITY.copysign(wide),
        (_, x) => {
            let most = bf16::MAX.to_f64();
            nearest_half(
                x,
                |b| bf16::from_bits(b).into(),
                bf16::from_f64(wide.abs().min(most).copysign(wide)).to_bits(),
            )
        }
    })
}

#[test]
fn every_pair_is_exact_or_correctly_rounded() {
    let engine = engine(ConversionConfig::default());
    for (from, to) in BitNetDType::ALL.into_iter().flat_map(|from| BitNetDType::ALL.map(|to| (from, to))) {
        let source = odd_values(from, LEN);
        let result = engine.convert(&source, to).unwrap();
        assert_eq!((result.dtype(), result.shape(), result.scale()), (to, &[LEN][..], None));
        for (index, (x, found)) in numbers(&source).into_iter().zip(numbers(&result)).enumerate() {
            let expected = expected(x, to);
            let same = match (expected, found) {
                (Number::Float(a), Number::Float(b)) => {
                    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
                }
                (a, b) => a == b,
            };
            assert!(same, "{from} to {to}, element {index}: {x:?} gave {found:?}, not {expected:?}");
        }
    }
    assert_eq!(engine.get_stats().total_conversions, 256);
}

#[test]
fn all_halves_go_there_and_back_as_the_half_crate_has_them() {
    let engine = engine(ConversionConfig::default());
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let singles: Vec<f16> = all.iter().map(|&bits| f16::from_bits(bits)).collect();
    let uppers: Vec<bf16> = all.iter().map(|&bits| bf16::from_bits(bits)).collect();
    let quiet = |bits: u16, infinity: u16, bit: u16| if bits & 0x7fff > infinity { bits | bit } else { bits };
    for (source, infinity, bit) in [(tensor(&singles), 0x7c00, 0x200), (tensor(&uppers), 0x7f80, 0x40)] {
        let wide = engine.convert(&source, BitNetDType::F32).unwrap();
        for (bits, wide) in all.iter().zip(wide.as_slice::<f32>().unwrap()) {
            let expected = match infinity {
                0x7c00 => f16::from_bits(*bits).to_f32(),
                _ => bf16::from_bits(*bits).to_f32(),
            };
            assert_eq!(wide.to_bits(), expected.to_bits(), "{bits:#06x}");
        }
        let back = engine.convert(&wide, source.dtype()).unwrap();
        let found = back.as_bytes().unwrap().as_chunks::<2>().0;
        for (&bits, found) in all.iter().zip(found) {
            // Everything comes back, a signalling NaN as the quiet one with its payload.
            assert_eq!(u16::from_ne_bytes(*found), quiet(bits, infinity, bit), "{bits:#06x}");
        }
    }
}

#[test]
fn what_no_integer_is_becomes_the_nearest_end_or_zero() {
    let engine = engine(ConversionConfig::default());
    let source = tensor(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 300.0, -300.0, 2.5, -1e20]);
    let i8s = engine.convert(&source, BitNetDType::I8).unwrap();
    assert_eq!(i8s.as_slice::<i8>().unwrap(), [0, 127, -128, 127, -128, 2, -128]);
    let u8s = engine.convert(&source, BitNetDType::U8).unwrap();
    assert_eq!(u8s.as_slice::<u8>().unwrap(), [0, 255, 0, 255, 0, 2, 0]);
    let i64s = engine.convert(&source, BitNetDType::I64).unwrap();
    assert_eq!(i64s.as_slice::<i64>().unwrap(), [0, i64::MAX, i64::MIN, 300, -300, 2, i64::MIN]);
    let halves = engine.convert(&tensor(&[65_519.9f32, 65_520.0, -1e9]), BitNetDType::F16).unwrap();
    let halves: Vec<f32> = halves.as_slice::<f16>().unwrap().iter().map(|half| half.to_f32()).collect();
    assert_eq!(halves, [65_504.0, f32::INFINITY, f32::NEG_INFINITY]);
}

#[test]
fn empty_and_scalar_tensors_convert() {
    let engine = engine(ConversionConfig::default());
    for to in BitNetDType::ALL {
        let empty = engine.convert(&tensor::<f32>(&[]), to).unwrap();
        assert_eq!((empty.dtype(), empty.size_bytes()), (to, 0));
        let one = engine.convert(&tensor(&[1.0f32]), to).unwrap();
        assert_eq!(numbers(&one)[0].float(), 1.0, "{to}");
    }
}
