//! The tiers, and what their kernels are given.

use bitnet_kernels::layout::row_fifths;
use bitnet_kernels::{Isa, Kernels, TernaryKernels};

/// Columns around the widths of vectors and lanes.
pub const COLS: [usize; 18] =
    [1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 544, 1023, 2560, 6912];
/// Columns around the blocks in which kernels take long rows.
pub const BLOCK_COLS: [usize; 12] = [1023, 1024, 1025, 1055, 1537, 2047, 2048, 2049, 2079, 4095, 4096, 4097];
/// Packed lines, or rows, of a call.
pub const LINES: [usize; 5] = [1, 2, 3, 5, 17];
/// Tokens of a call that meet every count of lines: around whole tiles.
pub const TOKENS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 17, 23, 33, 63, 64, 65, 130];

/// Tokens of a call of two lines: every count to past the longest tile, and to where spreading codes pays.
pub const EVERY_TOKENS: std::ops::RangeInclusive<usize> = 1..=66;

pub fn tiers() -> Vec<&'static Kernels> {
    Isa::available().map(|isa| Kernels::for_isa(isa).unwrap()).collect()
}

pub fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

pub fn period(i: usize) -> i32 {
    (i % 251 * 7919 % 251) as i32
}

/// From -128 to 127, both ends included.
pub fn int8(n: usize) -> Vec<i8> {
    (0..n).map(|i| (period(i) + (i % 6) as i32 - 128) as i8).collect()
}

pub fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| (period(i) - 125) as f32 * 0.037 + (i % 7) as f32 * 1e-3).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A ternary layout by the definition of its bytes, which owes nothing to the layout's own code.
pub struct Layout<const N: usize> {
    pub name: &'static str,
    /// What a row's code counts in a byte.
    pub places: [u8; N],
    pub of: fn(&Kernels) -> TernaryKernels<N>,
}

pub const QUARTERS: Layout<4> =
    Layout { name: "row_quarters", places: [1, 4, 16, 64], of: |k| k.row_quarters };
pub const FIFTHS: Layout<5> = Layout { name: "row_fifths", places: [1, 3, 9, 27, 81], of: |k| k.row_fifths };

impl<const N: usize> Layout<N> {
    /// Packs codes 0, 1, 2: one of each row a byte.
    pub fn pack(&self, codes: &[[u8; N]]) -> Vec<u8> {
        let byte = |codes: &[u8; N]| codes.iter().zip(self.places).map(|(code, place)| code * place).sum();
        codes.iter().map(byte).collect()
    }
}

/// The codes of `n` bytes; rows differ, and lines do unless their length is a multiple of 251.
pub fn codes<const N: usize>(n: usize) -> Vec<[u8; N]> {
    (0..n).map(|i| std::array::from_fn(|row| (period(i + 61 * row) % 3) as u8)).collect()
}

#[test]
fn bytes_are_those_of_the_layouts() {
    assert_eq!(QUARTERS.pack(&[[0, 1, 2, 1]]), [0b01_10_01_00]);
    assert_eq!(FIFTHS.pack(&[[0; 5], [2; 5], [1, 2, 0, 0, 0]]), [0, row_fifths::BYTES as u8 - 1, 7]);
}
