//! Integer schemes of every tier against their definitions.

use bitnet_kernels::{AffineSteps, FloatRange};

use crate::inputs::{floats, tiers};

const LENGTHS: [usize; 12] = [0, 1, 2, 3, 15, 31, 32, 33, 64, 97, 256, 1001];

/// Signed and unsigned codes of eight and four bits.
const STEPS: [AffineSteps; 4] = [
    AffineSteps { scale: 0.0071, least: -127, greatest: 127, shift: 0 },
    AffineSteps { scale: 0.0093, least: -96, greatest: 159, shift: -32 },
    AffineSteps { scale: 0.13, least: -7, greatest: 7, shift: 8 },
    AffineSteps { scale: 0.11, least: -5, greatest: 10, shift: 5 },
];

#[test]
fn codes_and_values_are_the_same_bits_on_every_tier() {
    for (n, steps) in LENGTHS.into_iter().flat_map(|n| STEPS.map(|steps| (n, steps))) {
        let mut values = floats(n);
        // Halves of a step, and what is far outside.
        let odd = [0.5 * steps.scale, -1.5 * steps.scale, f32::MAX, f32::MIN, 0.0];
        values.iter_mut().step_by(3).zip(odd.iter().cycle()).for_each(|(value, &odd)| *value = odd);
        let (least, greatest) = (f32::from(steps.least), f32::from(steps.greatest));
        let code = |v: f32| {
            ((v * (1.0 / steps.scale)).round_ties_even().clamp(least, greatest) as i16 + steps.shift) as i8
        };
        let codes: Vec<i8> = values.iter().map(|&value| code(value)).collect();
        let back = |code: &i8| (i32::from(*code) - i32::from(steps.shift)) as f32 * steps.scale;
        let decoded: Vec<f32> = codes.iter().map(back).collect();
        for kernels in tiers() {
            let (mut found, mut out) = (vec![99; n], vec![99.0; n]);
            (kernels.affine.codes)(&values, steps, &mut found);
            assert_eq!(found, codes, "{} {n} {steps:?}", kernels.isa);
            (kernels.affine.values)(&codes, steps, &mut out);
            assert_eq!(out, decoded, "{} {n} {steps:?}", kernels.isa);
        }
    }
}

#[test]
fn nibbles_stand_where_the_layout_says_on_every_tier() {
    for n in LENGTHS {
        let codes: Vec<i8> = (0..n).map(|i| (i * 7 % 16) as i8).collect();
        let mut expected = vec![0u8; n.div_ceil(2)];
        codes.iter().enumerate().for_each(|(i, &code)| expected[i / 2] |= (code as u8) << (4 * (i % 2)));
        for kernels in tiers() {
            let (mut packed, mut back) = (vec![0xff; n.div_ceil(2)], vec![99; n]);
            (kernels.casts.pack_i4)(&codes, &mut packed);
            assert_eq!(packed, expected, "{} {n}", kernels.isa);
            (kernels.affine.split)(&packed, &mut back);
            assert_eq!(back, codes, "{} {n}", kernels.isa);
        }
    }
}

#[test]
fn ranges_are_exact_and_refuse_what_is_not_finite_on_every_tier() {
    for n in LENGTHS {
        let values = floats(n);
        let least = values.iter().copied().reduce(f32::min);
        let greatest = values.iter().copied().reduce(f32::max);
        let expected = least.zip(greatest).map(|(min, max)| FloatRange { min, max });
        for kernels in tiers() {
            assert_eq!((kernels.affine.range)(&values), expected, "{} {n}", kernels.isa);
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, n / 2, n.saturating_sub(1)] {
                    let mut values = values.clone();
                    let Some(place) = values.get_mut(at) else { continue };
                    *place = odd;
                    assert_eq!((kernels.affine.range)(&values), None, "{} {n} {at} {odd}", kernels.isa);
                }
            }
        }
    }
}
