//! A float matrix as a file stores it.

use bitnet_core::backend::BitNetDType;
use half::{bf16, f16};

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
        let width = self.cols * (self.dtype.bits() / 8);
        if row >= self.rows {
            return &[];
        }
        &self.bytes[row * width..(row + 1) * width]
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

/// A stored element type that widens to f32 exactly.
pub(crate) trait Element: Sync {
    /// Iterates over the elements of a row, widened.
    fn iter(row: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone;
}

/// Binary32.
pub(crate) struct Single;
/// Binary16.
pub(crate) struct Half;
/// The upper half of binary32.
pub(crate) struct Brain;
/// A signed byte.
pub(crate) struct Byte;

impl Element for Single {
    fn iter(row: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone {
        row.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
    }
}

impl Element for Half {
    fn iter(row: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone {
        row.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32())
    }
}

impl Element for Brain {
    fn iter(row: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone {
        row.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())
    }
}

impl Element for Byte {
    fn iter(row: &[u8]) -> impl ExactSizeIterator<Item = f32> + Clone {
        row.iter().map(|&byte| f32::from(byte as i8))
    }
}
