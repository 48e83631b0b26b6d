//! Matrices whose values are ternary already.

use bitnet_core::backend::BitNetDType;
use bitnet_kernels::Kernels;

use crate::matrix::{Byte, Element, Visitor, check_bytes, find_block};
use crate::pack::{find_row, pack_quarters, room};
use crate::{FloatMatrix, QuantError};

/// A float matrix that was found to be ternary.
#[derive(Debug, Clone, PartialEq)]
pub struct UniformTernary {
    /// The magnitude of every non-zero value.
    pub magnitude: f32,
    /// The codes, packed by row quarters.
    pub packed: Vec<u8>,
}

/// Recognises a matrix whose every value is exactly `-s`, `0` or `s` for one finite `s`, and packs its codes.
///
/// `None` for any other matrix, and for one that is all zero, which has no magnitude. A matrix that is
/// not ternary is turned down at its first odd value.
pub fn detect(matrix: &FloatMatrix<'_>) -> Option<UniformTernary> {
    let magnitude = find_magnitude(matrix)?;
    let mut packed = room(matrix.rows(), matrix.cols());
    pack_signs_into(matrix, &mut packed);
    Some(UniformTernary { magnitude, packed })
}

/// Returns `s` of a matrix that [`detect`] recognises.
pub fn find_magnitude(matrix: &FloatMatrix<'_>) -> Option<f32> {
    matrix.visit(Magnitude(matrix))
}

/// Packs the signs of values by row quarters, into memory that is there already, by the scalar text, which is there on every
/// machine.
///
/// # Panics
/// When `packed` is not as long as the packed form.
pub fn pack_signs_into(matrix: &FloatMatrix<'_>, packed: &mut [u8]) {
    matrix.visit(PackSigns(matrix, packed));
}

struct Magnitude<'a>(&'a FloatMatrix<'a>);

impl Visitor for Magnitude<'_> {
    type Out = Option<f32>;

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
            None => Some(magnitude),
        }
    }
}

struct PackSigns<'a>(&'a FloatMatrix<'a>, &'a mut [u8]);

impl Visitor for PackSigns<'_> {
    type Out = ();

    fn run<E: Element>(self) {
        let shape = (self.0.rows(), self.0.cols());
        // Times infinity all but zero is beyond one half.
        pack_quarters::<E>(Kernels::SCALAR, shape, f32::INFINITY, |row| self.0.row(row), self.1);
    }
}

/// Packs a float matrix whose every value has to be `-1`, `0` or `1`.
///
/// # Errors
/// The first other value, by element; a forced instruction set that is missing.
pub fn pack_floats(matrix: &FloatMatrix<'_>) -> Result<Vec<u8>, QuantError> {
    let mut packed = room(matrix.rows(), matrix.cols());
    pack_floats_into(matrix, &mut packed)?;
    Ok(packed)
}

/// Packs as [`pack_floats`] does, into memory that is there already.
///
/// # Errors
/// As [`pack_floats`].
///
/// # Panics
/// When `packed` is not as long as the packed form.
pub fn pack_floats_into(matrix: &FloatMatrix<'_>, packed: &mut [u8]) -> Result<(), QuantError> {
    matrix.visit(PackUnit(matrix, packed))
}

struct PackUnit<'a>(&'a FloatMatrix<'a>, &'a mut [u8]);

impl Visitor for PackUnit<'_> {
    type Out = Result<(), QuantError>;

    fn run<E: Element>(self) -> Self::Out {
        pack_unit::<E>(self.0.rows(), self.0.cols(), |row| self.0.row(row), self.1)
    }
}

/// Packs a row-major matrix of signed bytes whose every value has to be `-1`, `0` or `1`.
///
/// # Errors
/// The first other value, by element; bytes that are not those of the shape; a forced instruction set that is missing.
pub fn pack_bytes(bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<u8>, QuantError> {
    check_bytes(BitNetDType::I8, bytes, rows, cols)?;
    let mut packed = room(rows, cols);
    pack_bytes_into(bytes, rows, cols, &mut packed)?;
    Ok(packed)
}

/// Packs as [`pack_bytes`] does, into memory that is there already.
///
/// # Errors
/// As [`pack_bytes`].
///
/// # Panics
/// When `packed` is not as long as the packed form.
pub fn pack_bytes_into(bytes: &[u8], rows: usize, cols: usize, packed: &mut [u8]) -> Result<(), QuantError> {
    check_bytes(BitNetDType::I8, bytes, rows, cols)?;
    pack_unit::<Byte>(rows, cols, |row| &bytes[row * cols..(row + 1) * cols], packed)
}

fn pack_unit<'a, E: Element>(
    rows: usize,
    cols: usize,
    bytes: impl Fn(usize) -> &'a [u8] + Sync + Send,
    packed: &mut [u8],
) -> Result<(), QuantError> {
    let odd = |row| odd_value::<E>(bytes(row), 1.0).map(|(col, value)| (row, col, value));
    if let Some((row, col, value)) = find_row(rows, cols, odd) {
        return Err(QuantError::NotTernary { row, col, magnitude: 1.0, value });
    }
    pack_quarters::<E>(Kernels::select()?, (rows, cols), 1.0, bytes, packed);
    Ok(())
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
