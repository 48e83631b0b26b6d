//! A float matrix as a file stores it.

use std::borrow::Cow;

use bitnet_core::backend::BitNetDType;

use crate::QuantError;

/// A row-major matrix of little-endian floats, borrowed from a file.
#[derive(Debug, Clone, Copy)]
pub struct FloatMatrix<'a> {
    dtype: BitNetDType,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> FloatMatrix<'a> {
    /// Borrows `bytes` as `[rows, cols]` of `dtype`, which is F32, F16 or BF16.
    ///
    /// # Errors
    /// Another element type; an empty or overflowing shape; bytes that are not those of the shape.
    pub fn new(dtype: BitNetDType, bytes: &'a [u8], rows: usize, cols: usize) -> Result<Self, QuantError> {
        if !matches!(dtype, BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16) {
            return Err(QuantError::DType { expected: "f32, f16 or bf16", found: dtype });
        }
        check_bytes(dtype, bytes, rows, cols)?;
        Ok(FloatMatrix { dtype, bytes, rows, cols })
    }

    /// Returns the element type.
    pub fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    /// Returns the number of rows (output features).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns (input features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the bytes of one row; an empty slice for a row that the matrix does not have.
    pub(crate) fn row(&self, row: usize) -> &'a [u8] {
        let Some(width) = self.dtype.size_bytes(self.cols).filter(|_| row < self.rows) else {
            return &[];
        };
        &self.bytes[row * width..(row + 1) * width]
    }

    /// Returns the bytes of a row, if the matrix has it.
    pub(crate) fn get(&self, row: usize) -> Option<&'a [u8]> {
        (row < self.rows).then(|| self.row(row))
    }

    /// Runs `visitor` with the element type as a type.
    pub(crate) fn visit<V: Visitor>(&self, visitor: V) -> V::Out {
        match self.dtype {
            BitNetDType::F16 => visitor.run::<Half>(),
            BitNetDType::BF16 => visitor.run::<Brain>(),
            // `new` admits no fourth type.
            _ => visitor.run::<Single>(),
        }
    }
}

/// Returns the bytes of f32 values as files have them: where they stand, if the machine has that order.
pub(crate) fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    match cfg!(target_endian = "little") {
        true => Cow::Borrowed(bytemuck::cast_slice(values)),
        false => Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

/// Checks that `bytes` are those of a non-empty `[rows, cols]`.
pub(crate) fn check_bytes(
    dtype: BitNetDType,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<(), QuantError> {
    let elements = rows.checked_mul(cols).filter(|&elements| elements > 0);
    let Some(expected) = elements.and_then(|elements| dtype.size_bytes(elements)) else {
        return Err(QuantError::Shape { rows, cols });
    };
    if expected != bytes.len() {
        return Err(QuantError::ByteLength { dtype, rows, cols, expected, found: bytes.len() });
    }
    Ok(())
}

/// A computation that is generic over the stored element type.
pub(crate) trait Visitor {
    /// What it returns.
    type Out;

    /// Runs for elements of type `E`.
    fn run<E: Element>(self) -> Self::Out;
}

/// Elements widened at a time: a block stays in the first-level cache.
pub(crate) const BLOCK: usize = 256;

/// A stored element type that widens to f32 exactly.
pub(crate) trait Element: Sync {
    /// Bytes of one element.
    const BYTES: usize;

    /// Widens `bytes` to as many elements of `out`.
    fn widen(bytes: &[u8], out: &mut [f32]);

    /// Returns the elements where they stand, if they are f32 in the order of this machine at a place for f32.
    fn borrow(_bytes: &[u8]) -> Option<&[f32]> {
        None
    }

    /// Returns elements where they stand, or widened to `block`, which holds [`BLOCK`].
    fn read<'a>(bytes: &'a [u8], block: &'a mut [f32; BLOCK]) -> &'a [f32] {
        if let Some(elements) = Self::borrow(bytes) {
            return elements;
        }
        let elements = &mut block[..bytes.len() / Self::BYTES];
        Self::widen(bytes, elements);
        elements
    }
}

/// Runs `function(first column, elements)` over a row, block by block, until it returns `Some`.
pub(crate) fn find_block<E: Element, T>(
    row: &[u8],
    mut function: impl FnMut(usize, &[f32]) -> Option<T>,
) -> Option<T> {
    let mut block = [0.0; BLOCK];
    row.chunks(BLOCK * E::BYTES)
        .enumerate()
        .find_map(|(index, bytes)| function(index * BLOCK, E::read(bytes, &mut block)))
}

/// Runs `function(first column, elements)` over four rows of `cols` columns at a time, block by block; a row that is
/// absent is zero.
pub(crate) fn for_quads<E: Element>(
    rows: [Option<&[u8]>; 4],
    cols: usize,
    mut function: impl FnMut(usize, [&[f32]; 4]),
) {
    // Rows that need no widening go as they stand: long rows are what the memory likes.
    if let [Some(a), Some(b), Some(c), Some(d)] = rows.map(|row| row.and_then(E::borrow)) {
        return function(0, [a, b, c, d]);
    }
    let mut blocks = [[0.0; BLOCK]; 4];
    for first in (0..cols).step_by(BLOCK) {
        let places = first..(first + BLOCK).min(cols);
        let [a, b, c, d] = &mut blocks;
        let read = |row: usize, block| match rows[row] {
            Some(bytes) => E::read(&bytes[places.start * E::BYTES..places.end * E::BYTES], block),
            None => &ZEROS[..places.len()],
        };
        function(first, [read(0, a), read(1, b), read(2, c), read(3, d)]);
    }
}

/// A block of an absent row.
static ZEROS: [f32; BLOCK] = [0.0; BLOCK];

/// Binary32.
pub(crate) struct Single;
/// Binary16.
pub(crate) struct Half;
/// The upper half of binary32.
pub(crate) struct Brain;
/// A signed byte.
pub(crate) struct Byte;

impl Element for Single {
    const BYTES: usize = 4;

    fn widen(bytes: &[u8], out: &mut [f32]) {
        out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(out, &b)| *out = f32::from_le_bytes(b));
    }

    fn borrow(bytes: &[u8]) -> Option<&[f32]> {
        if cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(bytes).ok()
    }
}

impl Element for Half {
    const BYTES: usize = 2;

    fn widen(bytes: &[u8], out: &mut [f32]) {
        out.iter_mut()
            .zip(bytes.as_chunks::<2>().0)
            .for_each(|(out, &b)| *out = widen_half(u16::from_le_bytes(b)));
    }
}

impl Element for Brain {
    const BYTES: usize = 2;

    fn widen(bytes: &[u8], out: &mut [f32]) {
        let wide = |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16);
        out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(out, &b)| *out = wide(b));
    }
}

impl Element for Byte {
    const BYTES: usize = 1;

    fn widen(bytes: &[u8], out: &mut [f32]) {
        out.iter_mut().zip(bytes).for_each(|(out, &b)| *out = f32::from(b as i8));
    }
}

/// Widens binary16 without a branch or a table, so that a loop over it vectorises on every tier.
///
/// Exponent and fraction move to their places in binary32; a multiplication by 2^112, exact for normal and
/// subnormal numbers alike, corrects the bias; infinities and NaN get the full exponent afterwards.
fn widen_half(bits: u16) -> f32 {
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let finite = (f32::from_bits(rest) * REBIAS).to_bits();
    let special = if rest >= 0x1f << 23 { 0xff << 23 } else { 0 };
    f32::from_bits(finite | special | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (expected, found) = (half::f16::from_bits(bits).to_f32(), widen_half(bits));
            assert!(
                expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan(),
                "{bits:#06x}"
            );
        }
    }
}
