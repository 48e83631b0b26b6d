//! Flat packed sequences of every tier against their definitions.

use bitnet_kernels::layout::{flat_base3, flat_sparse, flat_two_bit};
use bitnet_kernels::{Isa, Pieces};

use crate::inputs::{floats, period, tiers};

/// Around the ends of blocks, words and registers.
const LENGTHS: [usize; 30] = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 95, 125, 127, 128, 129, 155, 159, 160, 161, 319, 320,
    321, 511, 640, 5003,
];

fn values(n: usize, zeros: i32) -> Vec<i8> {
    let value = |i: usize| match period(i + 3) % 10 {
        rest if rest < zeros => 0,
        rest => (rest % 2 * 2 - 1) as i8,
    };
    (0..n).map(value).collect()
}

/// Byte and plane of value `i` of `n`, for `k` values a byte: the definition of both planar layouts.
fn place(i: usize, n: usize, k: usize) -> (usize, usize) {
    let (block, at) = (i / (32 * k), i % (32 * k));
    let stride = (n - block * 32 * k).div_ceil(k).min(32);
    (block * 32 + at % stride, at / stride)
}

/// Unpacks past the caches to places of every alignment.
fn streamed(unpack: fn(&[u8], &mut [i8]), packed: &[u8], n: usize) -> Vec<Vec<i8>> {
    let at = |offset: usize| {
        let mut out = vec![7; n + 128];
        let start = out.as_ptr().align_offset(64) + offset;
        unpack(packed, &mut out[start..start + n]);
        out[start..start + n].to_vec()
    };
    [0, 1, 16, 40, 48].map(at).to_vec()
}

#[test]
fn two_bit_codes_stand_where_the_layout_says_on_every_tier() {
    for n in LENGTHS {
        let values = values(n, 3);
        let mut expected = vec![0b01_01_01_01u8; n.div_ceil(4)];
        for (i, &value) in values.iter().enumerate() {
            let (byte, plane) = place(i, n, 4);
            expected[byte] = expected[byte] & !(3 << (2 * plane)) | ((value + 1) as u8) << (2 * plane);
        }
        for kernels in tiers() {
            let mut packed = vec![0xff; n.div_ceil(4)];
            (kernels.flat.pack_two_bit)(&values, &mut packed);
            assert_eq!(packed, expected, "{} {n}", kernels.isa);
            let mut out = vec![7; n];
            (kernels.flat.unpack_two_bit)(&packed, &mut out);
            assert_eq!(out, values, "{} {n}", kernels.isa);
            if let Some(stream) = kernels.flat.stream_two_bit {
                assert!(streamed(stream, &packed, n).iter().all(|out| *out == values), "{} {n}", kernels.isa);
            }
        }
        assert_eq!(flat_two_bit::find_invalid(&expected, n), None);
        for at in 0..expected.len() {
            let mut bad = expected.clone();
            bad[at] |= 0b11;
            assert_eq!(flat_two_bit::find_invalid(&bad, n), Some(at));
        }
    }
    assert_eq!(flat_two_bit::find_invalid(&[0b00_01_01_01], 3), Some(0), "a value past the last");
}

#[test]
fn base3_digits_stand_where_the_layout_says_on_every_tier() {
    for n in LENGTHS {
        let values = values(n, 3);
        let mut digits = vec![[1u8; 5]; n.div_ceil(5)];
        for (i, &value) in values.iter().enumerate() {
            let (byte, plane) = place(i, n, 5);
            digits[byte][plane] = (value + 1) as u8;
        }
        let number = |digits: &[u8; 5]| digits.iter().fold(0, |number, digit| number * 3 + digit);
        let expected: Vec<u8> = digits.iter().map(|d| flat_base3::byte_of(number(d))).collect();
        for kernels in tiers() {
            let mut packed = vec![0xff; n.div_ceil(5)];
            (kernels.flat.pack_base3)(&values, &mut packed);
            assert_eq!(packed, expected, "{} {n}", kernels.isa);
            let mut out = vec![7; n];
            (kernels.flat.unpack_base3)(&packed, &mut out);
            assert_eq!(out, values, "{} {n}", kernels.isa);
            if let Some(stream) = kernels.flat.stream_base3 {
                assert!(streamed(stream, &packed, n).iter().all(|out| *out == values), "{} {n}", kernels.isa);
            }
        }
        assert_eq!(flat_base3::find_invalid(&expected, n), None);
    }
    assert_eq!(flat_base3::find_invalid(&[flat_base3::byte_of(0)], 4), Some(0), "a value past the last");
}

#[test]
fn every_number_has_one_byte_with_its_five_digits() {
    let images: Vec<u8> = (0..243).map(flat_base3::byte_of).collect();
    for (number, &byte) in images.iter().enumerate() {
        assert_eq!(usize::from(flat_base3::number_of(byte)), number);
        let (low, high) = (256 * number, 256 * (number + 1));
        assert!((low..high).contains(&(243 * usize::from(byte))), "{number}");
        for kernels in tiers() {
            // A whole block, so that vector code sees the byte too.
            let mut out = [9; 160];
            (kernels.flat.unpack_base3)(&[byte; 32], &mut out);
            let digits = [81, 27, 9, 3, 1].map(|place| (number / place % 3) as i8 - 1);
            assert!((0..160).all(|i| out[i] == digits[i / 32]), "{} {number}", kernels.isa);
        }
    }
    for byte in 0..=255u8 {
        let invalid = flat_base3::find_invalid(&[byte], 5).is_some();
        assert_eq!(invalid, !images.contains(&byte), "{byte}");
    }
}

#[test]
fn bitmaps_and_signs_stand_where_the_layout_says_on_every_tier() {
    for (n, zeros) in LENGTHS.into_iter().flat_map(|n| [0, 1, 5, 9, 10].map(|zeros| (n, zeros))) {
        let values = values(n, zeros);
        let mut bitmap = vec![0u8; n.div_ceil(8)];
        let mut signs = vec![0u8; n.div_ceil(8)];
        let mut bits = 0;
        for (i, &value) in values.iter().enumerate().filter(|(_, value)| **value != 0) {
            bitmap[i / 8] |= 1 << (i % 8);
            signs[bits / 8] |= u8::from(value < 0) << (bits % 8);
            bits += 1;
        }
        assert_eq!(flat_sparse::count(&bitmap), bits);
        for kernels in tiers() {
            let (mut found, mut found_signs) = (vec![0xaa; bitmap.len()], vec![0; bitmap.len()]);
            assert_eq!((kernels.flat.pack_sparse)(&values, &mut found, &mut found_signs), bits);
            assert_eq!((&found, &found_signs), (&bitmap, &signs), "{} {n} {zeros}", kernels.isa);
            let mut out = vec![7; n];
            // Exactly the bytes that hold signs: nothing beyond them is read.
            (kernels.flat.unpack_sparse)(&bitmap, &signs[..bits.div_ceil(8)], &mut out);
            assert_eq!(out, values, "{} {n} {zeros}", kernels.isa);
            for (stream, offset) in kernels
                .flat
                .stream_sparse
                .into_iter()
                .flat_map(|stream| [0, 1, 16, 40].map(|at| (stream, at)))
            {
                let mut out = vec![7; n + 128];
                let start = out.as_ptr().align_offset(64) + offset;
                stream(&bitmap, &signs[..bits.div_ceil(8)], &mut out[start..start + n]);
                assert_eq!(out[start..start + n], values, "{} {n} {zeros} {offset}", kernels.isa);
            }
        }
    }
}

/// An entry that wrote plainly would be taken for one that does not, and hide the tier's way past the caches.
#[test]
fn tiers_have_entries_past_the_caches_only_where_they_write_past_them() {
    for kernels in tiers() {
        let flat = &kernels.flat;
        let own = [flat.stream_two_bit.is_some(), flat.stream_base3.is_some(), flat.stream_sparse.is_some()];
        let (streams, expected) = match kernels.isa {
            Isa::Sse2 => (true, [true, true, false]),
            Isa::Scalar | Isa::Neon | Isa::Dotprod | Isa::I8mm => (false, [false; 3]),
            _ => (true, [true; 3]),
        };
        assert_eq!((flat.streams, own), (streams, expected), "{}", kernels.isa);
    }
}

#[test]
fn odd_values_are_found_and_ternary_ones_counted_on_every_tier() {
    for n in LENGTHS.into_iter().chain([4095, 4096, 4097, 9000]) {
        let mut values = values(n, 4);
        let there = values.iter().filter(|value| **value != 0).count();
        let negative = values.iter().filter(|value| **value < 0).count();
        for kernels in tiers() {
            assert_eq!((kernels.flat.find_odd)(&values), None);
            assert_eq!((kernels.flat.count)(&values), (there, negative), "{} {n}", kernels.isa);
        }
        for odd in [2, -2, 127, -128] {
            let Some(at) = n.checked_sub(1 + n / 3) else { continue };
            let before = std::mem::replace(&mut values[at], odd);
            for kernels in tiers() {
                assert_eq!((kernels.flat.find_odd)(&values), Some(at), "{} {n}", kernels.isa);
            }
            values[at] = before;
        }
    }
}

struct Cut<'a> {
    rest: &'a [i8],
    lengths: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Pieces for Cut<'_> {
    fn next(&mut self) -> Option<&[i8]> {
        let length = *self.lengths.next()?;
        let (now, later) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = later;
        (!now.is_empty()).then_some(now)
    }
}

#[test]
fn streams_write_every_value_at_any_alignment_and_cut() {
    let source: Vec<i8> = (0..1000).map(|i| period(i) as i8).collect();
    let cuts: [&[usize]; 5] = [&[1000], &[1], &[7, 100, 64], &[63, 65], &[128]];
    for (kernels, cut) in tiers().into_iter().flat_map(|kernels| cuts.map(|cut| (kernels, cut))) {
        for (to, n) in [(0, 1000), (3, 700), (64, 63), (17, 64), (1, 129), (0, 0), (63, 1)] {
            let mut out = vec![99; 1100];
            // More than there is room for is left out.
            let mut pieces = Cut { rest: &source, lengths: cut.iter().cycle() };
            assert_eq!((kernels.flat.stream)(&mut pieces, &mut out[to..to + n]), n);
            assert_eq!(out[to..to + n], source[..n], "{} {cut:?} {to} {n}", kernels.isa);
            assert!(out[..to].iter().chain(&out[to + n..]).all(|&value| value == 99), "{}", kernels.isa);
            let mut short = Cut { rest: &source[..n / 2], lengths: cut.iter().cycle() };
            assert_eq!((kernels.flat.stream)(&mut short, &mut out[to..to + n]), n / 2);
        }
    }
}

#[test]
fn magnitudes_and_codes_are_the_same_bits_on_every_tier() {
    for n in LENGTHS {
        let all: Vec<f32> = floats(4 * n + 9);
        // Rows at places that no register likes.
        let rows = [0, n + 1, 2 * n + 4, 3 * n + 9].map(|start| &all[start..start + n]);
        let mut sums = [[0.25f64; 8]; 4];
        for (row, sums) in rows.iter().zip(&mut sums) {
            row.iter().enumerate().for_each(|(i, w)| sums[i % 8] += f64::from(w.abs()));
        }
        let inverse = 1.0 / 0.74f32;
        let value = |w: f32| (w * inverse).round_ties_even().clamp(-1.0, 1.0) as i8;
        let code = |r: usize, i: usize| ((value(rows[r][i]) + 1) as u8) << (2 * r);
        let line: Vec<u8> = (0..n).map(|i| (0..4).fold(0, |byte, r| byte | code(r, i))).collect();
        let values: Vec<i8> = rows[1].iter().map(|&w| value(w)).collect();
        for kernels in tiers() {
            let mut found = [[0.25; 8]; 4];
            (kernels.flat.add_magnitudes)(rows, &mut found);
            assert_eq!(found, sums, "{} {n}", kernels.isa);
            let mut out = vec![0xaa; n];
            (kernels.flat.pack_quarters)(rows, inverse, &mut out);
            assert_eq!(out, line, "{} {n}", kernels.isa);
            let mut out = vec![7; n];
            (kernels.flat.ternary)(rows[1], inverse, &mut out);
            assert_eq!(out, values, "{} {n}", kernels.isa);
        }
    }
}

#[test]
fn a_half_becomes_zero_and_what_is_beyond_it_one_on_every_tier() {
    let ends = [0.5f32, -0.5, 0.5f32.next_up(), (-0.5f32).next_down(), 0.0, -0.0, f32::MAX, f32::MIN];
    let row: Vec<f32> = ends.iter().cycle().take(64).copied().collect();
    let line: Vec<u8> =
        [1u8, 1, 2, 0, 1, 1, 2, 0].iter().cycle().take(64).map(|code| code * 0b01_01_01_01).collect();
    for kernels in tiers() {
        let mut out = vec![0; 64];
        (kernels.flat.pack_quarters)([&row; 4], 1.0, &mut out);
        assert_eq!(out, line, "{}", kernels.isa);
    }
}

#[test]
fn bitmaps_have_a_bit_for_every_value_on_every_tier() {
    for (n, zeros) in LENGTHS.into_iter().flat_map(|n| [0, 4, 10].map(|zeros| (n, zeros))) {
        let values = values(n, zeros);
        let mut expected = [vec![0u64; n.div_ceil(64)], vec![0u64; n.div_ceil(64)]];
        for (i, &value) in values.iter().enumerate() {
            expected[0][i / 64] |= u64::from(value != 0) << (i % 64);
            expected[1][i / 64] |= u64::from(value < 0) << (i % 64);
        }
        for kernels in tiers() {
            let mut found = expected.clone().map(|words| vec![u64::MAX; words.len()]);
            let [there, negative] = &mut found;
            (kernels.flat.bitmaps)(&values, there, negative);
            assert_eq!(found, expected, "{} {n}", kernels.isa);
        }
    }
}
