//! Matrices whose values are ternary already.

use bitnet_core::backend::BitNetDType;
use bitnet_kernels::Kernels;

use crate::matrix::{Byte, Element, Visitor, check_bytes, find_block};
use crate::pack::{find_row, pack_quarters};
use crate::packing::kernels;
use crate::{FloatMatrix, QuantError};

/// A float matrix that was found to be ternary.
#[derive(Debug, Clone, PartialEq)]
pub struct UniformTernary {
    /// The magnitude of every non-zero value.
    pub magnitude: f32,
    /// The codes, packed by row quarters.
    pub packed: Vec<u8>,
}

/// Recognises a matrix whose every value is exactly `-s`, `0` or `s` for one finite `s`.
///
/// `None` for any other matrix, and for one that is all zero, which has no magnitude. A matrix that is
/// not ternary is turned down at its first odd value. It is packed by the scalar text, which is there on every machine.
pub fn detect(matrix: &FloatMatrix<'_>) -> Option<UniformTernary> {
    matrix.visit(Detect(matrix))
}

struct Detect<'a>(&'a FloatMatrix<'a>);

impl Visitor for Detect<'_> {
    type Out = Option<UniformTernary>;

    fn run<E: Element>(self) -> Self::Out {
        let (rows, cols) = (self.0.rows(), self.0.cols());
        let row = |row| self.0.row(row);
        let nonzero = |_: usize, values: &[f32]| values.iter().copied().find(|value| *value != 0.0);
        let magnitude = (0..rows).find_map(|index| find_block::<E, _>(row(index), nonzero))?.abs();
        let odd = |index: usize| odd_value::<E>(row(index), magnitude);
        // Sequential at first: an ordinary matrix fails in its first row, and costs no wake-up.
        let head = rows.min(4);
        if !magnitude.is_finite() || (0..head).any(|index| odd(index).is_some()) {
            return None;
        }
        match find_row(rows - head, cols, |index| odd(head + index)) {
            Some(_) => None,
            None => {
                let packed = pack_quarters::<E>(Kernels::SCALAR, (rows, cols), 1.0 / magnitude, row);
                Some(UniformTernary { magnitude, packed })
            }
        }
    }
}

/// Packs a float matrix whose every value has to be `-1`, `0` or `1`.
///
/// # Errors
/// The first other value, by element; a forced instruction set that is missing.
pub fn pack_floats(matrix: &FloatMatrix<'_>) -> Result<Vec<u8>, QuantError> {
    matrix.visit(PackUnit(matrix))
}

struct PackUnit<'a>(&'a FloatMatrix<'a>);

impl Visitor for PackUnit<'_> {
    type Out = Result<Vec<u8>, QuantError>;

    fn run<E: Element>(self) -> Self::Out {
        pack_unit::<E>(self.0.rows(), self.0.cols(), |row| self.0.row(row))
    }
}

/// Packs a row-major matrix of signed bytes whose every value has to be `-1`, `0` or `1`.
///
/// # Errors
/// The first other value, by element; bytes that are not those of the shape; a forced instruction set that is missing.
pub fn pack_bytes(bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<u8>, QuantError> {
    check_bytes(BitNetDType::I8, bytes, rows, cols)?;
    pack_unit::<Byte>(rows, cols, |row| &bytes[row * cols..(row + 1) * cols])
}

fn pack_unit<'a, E: Element>(
    rows: usize,
    cols: usize,
    bytes: impl Fn(usize) -> &'a [u8] + Sync + Send,
) -> Result<Vec<u8>, QuantError> {
    let odd = |row| odd_value::<E>(bytes(row), 1.0).map(|(col, value)| (row, col, value));
    if let Some((row, col, value)) = find_row(rows, cols, odd) {
        return Err(QuantError::NotTernary { row, col, magnitude: 1.0, value });
    }
    Ok(pack_quarters::<E>(kernels()?, (rows, cols), 1.0, bytes))
}

/// Finds the first value that is neither zero nor of the given magnitude; a NaN is neither.
fn odd_value<E: Element>(row: &[u8], magnitude: f32) -> Option<(usize, f32)> {
    find_block::<E, _>(row, |first, values| {
        let odd = |value: f32| (value != 0.0) & (value.abs() != magnitude);
        // The whole block without an early exit vectorises; the place is looked for only when there is one.
        if !values.iter().fold(false, |seen, &value| seen | odd(value)) {
            return None;
        }
        let col = values.iter().position(|&value| odd(value))?;
        Some((first + col, values[col]))
    })
}
