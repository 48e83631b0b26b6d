//! Absmean quantisation of master weights (BitNet b1.58), one scale a tensor.
//!
//! With `m = max(mean |W|, 1e-5)` and `s = 1 / m`, both in f32, a weight becomes
//! `clamp(round_half_even(w * s), -1, 1)` and stands for itself divided by `s`.
//! Source: `transformers/integrations/bitnet.py`, `WeightQuant`.

use bitnet_core::backend::WeightScale;
use bitnet_kernels::Kernels;

use crate::matrix::{Element, Visitor, find_block, for_quads};
use crate::pack::{map_rows, pack_quarters, room};
use crate::{FloatMatrix, QuantError};

/// The least mean magnitude: an all-zero matrix still has a scale.
pub(crate) const MIN_MEAN_ABS: f32 = 1e-5;

/// A matrix quantised by its mean magnitude.
#[derive(Debug, Clone, PartialEq)]
pub struct AbsmeanTernary {
    /// The codes, packed by row quarters.
    pub packed: Vec<u8>,
    /// `m`: the mean magnitude, at least 1e-5.
    pub mean_abs: f32,
    /// Multiply by `1 / (1 / m)`: the division by `s` of the definition, which f32 does not undo exactly.
    pub scale: WeightScale,
}

/// Quantises a matrix of master weights.
///
/// The mean is accumulated in f64 in an order that does not depend on the number of threads, then rounded
/// to f32.
///
/// # Errors
/// A NaN or infinite weight, by element; weights whose scale does not fit f32; a forced instruction set that is missing.
pub fn quantize(matrix: &FloatMatrix<'_>) -> Result<AbsmeanTernary, QuantError> {
    let mut packed = room(matrix.rows(), matrix.cols());
    let (mean_abs, scale) = quantize_into(matrix, &mut packed)?;
    Ok(AbsmeanTernary { packed, mean_abs, scale })
}

/// Quantises as [`quantize`] does, into memory that is there already; returns `m` and the scale.
///
/// # Errors
/// As [`quantize`].
///
/// # Panics
/// When `packed` is not as long as the packed form.
pub fn quantize_into(matrix: &FloatMatrix<'_>, packed: &mut [u8]) -> Result<(f32, WeightScale), QuantError> {
    matrix.visit(Quantize(matrix, packed))
}

struct Quantize<'a>(&'a FloatMatrix<'a>, &'a mut [u8]);

impl Visitor for Quantize<'_> {
    type Out = Result<(f32, WeightScale), QuantError>;

    fn run<E: Element>(self) -> Self::Out {
        let (rows, cols) = (self.0.rows(), self.0.cols());
        let kernels = Kernels::select()?;
        let mean_abs = mean_abs::<E>(kernels, self.0)?;
        let inverse = 1.0 / mean_abs;
        let scale = 1.0 / inverse;
        if !inverse.is_normal() || !scale.is_finite() {
            return Err(QuantError::Scale { mean_abs });
        }
        pack_quarters::<E>(kernels, (rows, cols), inverse, |row| self.0.row(row), self.1);
        Ok((mean_abs, WeightScale::Multiply(scale)))
    }
}

fn mean_abs<E: Element>(kernels: &Kernels, matrix: &FloatMatrix<'_>) -> Result<f32, QuantError> {
    let mean =
        row_sums::<E>(kernels, matrix)?.iter().sum::<f64>() / (matrix.rows() as f64 * matrix.cols() as f64);
    Ok((mean as f32).max(MIN_MEAN_ABS))
}

fn row_sums<E: Element>(kernels: &Kernels, matrix: &FloatMatrix<'_>) -> Result<Vec<f64>, QuantError> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    // Four rows far apart: four streams of the memory, where neighbours would share its pages.
    let lines = rows.div_ceil(4);
    let quads = map_rows(lines, 4 * cols, |index| {
        sum_abs::<E>(kernels, [0, 1, 2, 3].map(|quarter| matrix.get(quarter * lines + index)), cols)
    });
    let sums: Vec<f64> = (0..rows).map(|row| quads[row % lines][row / lines]).collect();
    if let Some(row) = sums.iter().position(|sum| !sum.is_finite()) {
        let at = |first: usize, values: &[f32]| {
            let col = values.iter().position(|value| !value.is_finite())?;
            Some((first + col, values[col]))
        };
        // A finite row cannot sum to infinity: f64 holds any number of f32 magnitudes.
        let (col, value) = find_block::<E, _>(matrix.row(row), at).unwrap_or((0, f32::NAN));
        return Err(QuantError::NotFinite { row, col, value });
    }
    Ok(sums)
}

/// Sums the magnitudes of rows, each over eight interleaved partial sums: a fixed order that vectorises.
fn sum_abs<E: Element>(kernels: &Kernels, rows: [Option<&[u8]>; 4], cols: usize) -> [f64; 4] {
    let mut lanes = [[0.0f64; 8]; 4];
    // Blocks are whole eights but for the last, so the lanes go on from one to the next.
    for_quads::<E>(rows, cols, |_, values| (kernels.flat.add_magnitudes)(values, &mut lanes));
    lanes.map(|lanes| lanes.iter().sum())
}

/// Returns the mean magnitude of a matrix as [`quantize`] takes it.
///
/// # Errors
/// A NaN or infinite weight, by element; a forced instruction set that is missing.
pub(crate) fn mean_magnitude(matrix: &FloatMatrix<'_>) -> Result<f32, QuantError> {
    struct Mean<'a>(&'a FloatMatrix<'a>);
    impl Visitor for Mean<'_> {
        type Out = Result<f32, QuantError>;
        fn run<E: Element>(self) -> Self::Out {
            mean_abs::<E>(Kernels::select()?, self.0)
        }
    }
    matrix.visit(Mean(matrix))
}

/// Returns the sum of the magnitudes of each row, as [`quantize`] takes it.
///
/// # Errors
/// A NaN or infinite weight, by element; a forced instruction set that is missing.
pub(crate) fn row_magnitudes(matrix: &FloatMatrix<'_>) -> Result<Vec<f64>, QuantError> {
    struct Sums<'a>(&'a FloatMatrix<'a>);
    impl Visitor for Sums<'_> {
        type Out = Result<Vec<f64>, QuantError>;
        fn run<E: Element>(self) -> Self::Out {
            row_sums::<E>(Kernels::select()?, self.0)
        }
    }
    matrix.visit(Sums(matrix))
}
