//! Casts of every tier against the `half` crate and plain definitions.
#![allow(clippy::type_complexity, reason = "a row of a table is a name, a kernel and its definition")]

use bitnet_kernels::{CastKernels, CodeRule, Extent};
use half::{bf16, f16};

use crate::inputs::{bits, period, tiers};

/// Around the ends of registers, and long enough for writing past the caches.
const LENGTHS: [usize; 16] = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1001];

type Cast<const I: usize, const O: usize> = fn(&[[u8; I]], &mut [[u8; O]], bool);

fn bytes4(values: &[u32]) -> Vec<[u8; 4]> {
    values.iter().map(|bits| bits.to_ne_bytes()).collect()
}

fn bytes2(values: &[u16]) -> Vec<[u8; 2]> {
    values.iter().map(|bits| bits.to_ne_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<[u8; 4]> {
    bytes4(&bits(values))
}

fn check<const I: usize, const O: usize>(name: &str, cast: Cast<I, O>, x: &[[u8; I]], expected: &[[u8; O]]) {
    for past in [false, true] {
        let mut out = vec![[0xa5; O]; x.len()];
        cast(x, &mut out, past);
        if let Some(at) = (0..x.len()).find(|&at| out[at] != expected[at]) {
            panic!("{name} past={past}: {:x?} gave {:x?}, not {:x?}", x[at], out[at], expected[at]);
        }
    }
}

/// Every pattern of 16 bits as a value, the values halfway between neighbours, and one unit to either side.
fn edges(to_f32: fn(u16) -> f32, fraction: u32) -> Vec<u32> {
    let around = |bits: u16| {
        let (here, half) = (to_f32(bits).to_bits(), 1 << (fraction - 1));
        [-1, 0, 1].into_iter().flat_map(move |step: i32| {
            [here, here.wrapping_add(half)].map(|bits| bits.wrapping_add_signed(step))
        })
    };
    (0..=u16::MAX).flat_map(around).collect()
}

#[test]
fn halves_widen_as_the_half_crate_does_on_every_tier() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let casts: [(&str, fn(&CastKernels) -> Cast<2, 4>, fn(u16) -> f32); 2] = [
        ("f16_to_f32", |k| k.f16_to_f32, |bits| f16::from_bits(bits).to_f32()),
        ("bf16_to_f32", |k| k.bf16_to_f32, |bits| bf16::from_bits(bits).to_f32()),
    ];
    for (kernels, (name, cast, value)) in tiers().into_iter().flat_map(|k| casts.map(|cast| (k, cast))) {
        let expected: Vec<u32> = all.iter().map(|&bits| value(bits).to_bits()).collect();
        let name = format!("{} {name}", kernels.isa);
        check(&name, cast(&kernels.casts), &bytes2(&all), &bytes4(&expected));
    }
}

#[test]
fn floats_round_to_halves_as_the_half_crate_does_on_every_tier() {
    let mut x = edges(|bits| f16::from_bits(bits).to_f32(), 13);
    x.extend(edges(|bits| bf16::from_bits(bits).to_f32(), 16));
    // Numbers below the normal ones of f16, whose spacing is not that of their own exponent.
    x.extend((0..1u32 << 14).map(|step| 0x3300_0000 + step * 7919));
    x.extend((0..1u32 << 17).map(|step| step.wrapping_mul(32_771)));
    let casts: [(&str, fn(&CastKernels) -> Cast<4, 2>, fn(f32) -> u16); 2] = [
        ("f32_to_f16", |k| k.f32_to_f16, |x| f16::from_f32(x).to_bits()),
        ("f32_to_bf16", |k| k.f32_to_bf16, |x| bf16::from_f32(x).to_bits()),
    ];
    for (kernels, (name, cast, narrow)) in tiers().into_iter().flat_map(|k| casts.map(|cast| (k, cast))) {
        let expected: Vec<u16> = x.iter().map(|&bits| narrow(f32::from_bits(bits))).collect();
        let name = format!("{} {name}", kernels.isa);
        check(&name, cast(&kernels.casts), &bytes4(&x), &bytes2(&expected));
    }
}

#[test]
fn halves_of_one_kind_become_the_other_through_their_values_on_every_tier() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let casts: [(&str, fn(&CastKernels) -> Cast<2, 2>, fn(u16) -> u16); 2] = [
        ("f16_to_bf16", |k| k.f16_to_bf16, |b| bf16::from_f32(f16::from_bits(b).to_f32()).to_bits()),
        ("bf16_to_f16", |k| k.bf16_to_f16, |b| f16::from_f32(bf16::from_bits(b).to_f32()).to_bits()),
    ];
    for (kernels, (name, cast, across)) in tiers().into_iter().flat_map(|k| casts.map(|cast| (k, cast))) {
        let expected: Vec<u16> = all.iter().map(|&bits| across(bits)).collect();
        let name = format!("{} {name}", kernels.isa);
        check(&name, cast(&kernels.casts), &bytes2(&all), &bytes2(&expected));
    }
}

#[test]
fn casts_keep_to_their_slices_at_any_length_and_address() {
    let source: Vec<u8> = (0..5000).map(|i| period(i) as u8).collect();
    for (kernels, n) in tiers().into_iter().flat_map(|kernels| LENGTHS.map(|n| (kernels, n))) {
        for (from, to, past) in [(0, 0, true), (1, 2, true), (3, 64, false), (2, 31, true), (8, 6, true)] {
            let x = &source[from..].as_chunks::<4>().0[..n];
            let mut out = vec![0x5a; 2 * n + 128];
            let start = out.as_ptr().align_offset(64) + to;
            (kernels.casts.f32_to_f16)(x, &mut out[start..].as_chunks_mut::<2>().0[..n], past);
            let expected: Vec<u8> =
                x.iter().flat_map(|&x| f16::from_f32(f32::from_ne_bytes(x)).to_ne_bytes()).collect();
            assert_eq!(out[start..start + 2 * n], expected, "{} {n} {from} {to}", kernels.isa);
            let around = out[..start].iter().chain(&out[start + 2 * n..]);
            assert!(around.copied().all(|byte| byte == 0x5a), "{} {n} {to}", kernels.isa);
        }
    }
}

#[test]
fn codes_are_rounded_half_to_even_and_saturate_on_every_tier() {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        126.5,
        127.5,
        -128.5,
        1e30,
        -1e30,
        0.0,
        -0.0,
        0.499_999_97,
        2_147_483_648.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
    ];
    for (kernels, n) in tiers().into_iter().flat_map(|kernels| LENGTHS.map(|n| (kernels, n))) {
        let x: Vec<f32> = (0..n)
            .map(|i| match i % 5 {
                0 => special[i / 5 % special.len()],
                _ => (period(i) - 125) as f32 * 0.37,
            })
            .collect();
        for (inverse, least, greatest) in [(1.0f32, -128, 127), (1.7, -127, 127), (0.21, -8, 7), (1.0, -1, 1)]
        {
            let rule = CodeRule { inverse, least, greatest };
            let code = |x: &f32| (x * inverse).round_ties_even().clamp(least.into(), greatest.into()) as i8;
            let expected: Vec<i8> = x.iter().map(code).collect();
            for past in [false, true] {
                let mut out = vec![99; n];
                (kernels.casts.f32_to_codes)(&floats(&x), rule, &mut out, past);
                assert_eq!(out, expected, "{} {n} {rule:?}", kernels.isa);
            }
            let wide: Vec<f32> = expected.iter().map(|&code| f32::from(code) * inverse).collect();
            for past in [false, true] {
                let mut out = vec![[7; 4]; n];
                (kernels.casts.codes_to_f32)(&expected, inverse, &mut out, past);
                assert_eq!(out, floats(&wide), "{} {n}", kernels.isa);
            }
        }
    }
}

#[test]
fn packed_codes_stand_where_the_type_says_on_every_tier() {
    for (kernels, n) in tiers().into_iter().flat_map(|kernels| LENGTHS.map(|n| (kernels, n))) {
        let codes: Vec<i8> = (0..n).map(|i| (period(i) % 16 - 8) as i8).collect();
        let mut nibbles = vec![0u8; n.div_ceil(2)];
        codes.iter().enumerate().for_each(|(i, &code)| nibbles[i / 2] |= (code as u8 & 15) << (4 * (i % 2)));
        let mut packed = vec![0xee; nibbles.len()];
        (kernels.casts.pack_i4)(&codes, &mut packed);
        assert_eq!(packed, nibbles, "{} {n}", kernels.isa);
        let mut back = vec![99; n];
        (kernels.casts.unpack_i4)(&packed, &mut back);
        assert_eq!(back, codes, "{} {n}", kernels.isa);

        let values: Vec<i8> = (0..n).map(|i| (period(i) % 3 - 1) as i8).collect();
        let mut quarters = vec![0b01_01_01_01u8; n.div_ceil(4)];
        for (i, &value) in values.iter().enumerate() {
            let shift = 2 * (i % 4);
            quarters[i / 4] = quarters[i / 4] & !(3 << shift) | ((value + 1) as u8) << shift;
        }
        let mut packed = vec![0xee; quarters.len()];
        (kernels.casts.pack_ternary)(&values, &mut packed);
        assert_eq!(packed, quarters, "{} {n}", kernels.isa);
        let mut back = vec![99; n];
        (kernels.casts.unpack_ternary)(&packed, &mut back);
        assert_eq!(back, values, "{} {n}", kernels.isa);
    }
}

#[test]
fn extents_leave_out_what_is_not_finite_on_every_tier() {
    for (kernels, n) in tiers().into_iter().flat_map(|kernels| LENGTHS.map(|n| (kernels, n))) {
        let extent = |x: &[f32]| (kernels.casts.extent)(&floats(x));
        let mut x: Vec<f32> = (0..n).map(|i| (period(i) - 125) as f32 * 1e30).collect();
        let absmax = x.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
        assert_eq!(extent(&x), Extent { absmax, finite: true }, "{} {n}", kernels.isa);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let Some(at) = n.checked_sub(1 + n / 3) else { continue };
            x[at] = bad;
            let absmax = x.iter().filter(|x| x.is_finite()).fold(0f32, |greatest, x| greatest.max(x.abs()));
            assert_eq!(extent(&x), Extent { absmax, finite: false }, "{} {n} {bad}", kernels.isa);
        }
    }
}

#[test]
fn moments_are_the_same_bits_on_every_tier() {
    for (kernels, n) in tiers().into_iter().flat_map(|kernels| LENGTHS.map(|n| (kernels, n))) {
        let mut x: Vec<f32> = (0..n).map(|i| (period(i) - 125) as f32 * 0.037).collect();
        if let Some(last) = x.last_mut() {
            *last = f32::NAN;
        }
        let codes: Vec<i8> = (0..n).map(|i| (period(i + 7) - 125) as i8).collect();
        let (mut products, mut squares) = ([0f64; 8], 0i64);
        for (i, (x, &code)) in x.iter().zip(&codes).enumerate() {
            let x = if x.is_finite() { *x } else { 0.0 };
            products[i % 8] += f64::from(x) * f64::from(code);
            squares += i64::from(code) * i64::from(code);
        }
        let (product, square) = (kernels.casts.moments)(&floats(&x), &codes);
        assert_eq!((product.to_bits(), square), (products.iter().sum::<f64>().to_bits(), squares));
    }
}

/// Minutes on one core in the test profile: a part of `cargo xtask nightly`.
#[test]
#[ignore = "minutes: run by cargo xtask nightly"]
fn every_binary32_rounds_as_the_half_crate_does() {
    const PIECE: u64 = 1 << 20;
    let mut out = vec![[0; 2]; PIECE as usize];
    for first in (0..1u64 << 32).step_by(PIECE as usize) {
        let x: Vec<u32> = (first..first + PIECE).map(|bits| bits as u32).collect();
        let single: Vec<u16> = x.iter().map(|&b| f16::from_f32(f32::from_bits(b)).to_bits()).collect();
        let upper: Vec<u16> = x.iter().map(|&b| bf16::from_f32(f32::from_bits(b)).to_bits()).collect();
        let (x, single, upper) = (bytes4(&x), bytes2(&single), bytes2(&upper));
        for kernels in tiers() {
            (kernels.casts.f32_to_f16)(&x, &mut out, false);
            assert!(out == single, "{} f16 from {first:#x}", kernels.isa);
            (kernels.casts.f32_to_bf16)(&x, &mut out, false);
            assert!(out == upper, "{} bf16 from {first:#x}", kernels.isa);
        }
    }
}
