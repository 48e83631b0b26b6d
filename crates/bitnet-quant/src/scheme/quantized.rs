//! A quantised matrix.

use bitnet_kernels::Kernels;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::{AffineParams, ErrorMetrics, ErrorSums, Granularity, Rows, Scheme, Symmetry};
use crate::packing::TernaryPackedWeights;
use crate::packing::flat_sparse::VALUES as SIGNS;
use crate::{FloatMatrix, QuantError};

/// Codes and parameters of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedMatrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) scheme: Scheme,
    pub(super) granularity: Granularity,
    pub(super) codes: Codes,
    /// Parameters of every part, in the order of rows and groups; none for floats.
    pub(super) params: Vec<AffineParams>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Codes {
    /// -1, 0, +1 in base 3.
    Ternary(TernaryPackedWeights),
    /// One bit a weight, lowest first, rows on whole bytes; set for -1.
    Sign(Vec<u8>),
    /// A byte a weight: the code less 128 where codes are unsigned.
    Int8(Vec<u8>),
    /// Two codes a byte, the first in the low half, rows on whole bytes; signed codes are 8 more.
    Int4(Vec<u8>),
    /// Bits of 16-bit floats.
    Float(Vec<u16>),
}

/// Parts of a row that share parameters.
pub(super) fn part(granularity: Granularity, cols: usize) -> usize {
    match granularity {
        Granularity::PerGroup(size) => size.min(cols),
        _ => cols,
    }
}

/// What is taken off a code where it is stored.
pub(super) fn offset(scheme: Scheme) -> i16 {
    match scheme {
        Scheme::Int8(Symmetry::Asymmetric) => 128,
        Scheme::Int4(Symmetry::Symmetric) => -8,
        _ => 0,
    }
}

pub(super) fn param_index(granularity: Granularity, cols: usize, row: usize, index: usize) -> usize {
    match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerChannel => row,
        Granularity::PerGroup(size) => row * cols.div_ceil(size.min(cols)) + index,
    }
}

impl QuantizedMatrix {
    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the parameters of every part, in the order of rows and groups; none for floats.
    pub fn params(&self) -> &[AffineParams] {
        &self.params
    }

    /// Returns the packed codes of the ternary scheme.
    pub fn ternary(&self) -> Option<&TernaryPackedWeights> {
        match &self.codes {
            Codes::Ternary(packed) => Some(packed),
            _ => None,
        }
    }

    /// Returns the bits a weight takes, parameters included: a scale is 32 bits, a zero point as wide as a code.
    pub fn bits_per_weight(&self) -> f64 {
        let codes = match &self.codes {
            Codes::Ternary(packed) => packed.memory_footprint,
            Codes::Sign(codes) | Codes::Int4(codes) | Codes::Int8(codes) => codes.len(),
            Codes::Float(codes) => 2 * codes.len(),
        };
        let zero_point = match self.scheme {
            Scheme::Int8(Symmetry::Asymmetric) | Scheme::Int4(Symmetry::Asymmetric) => self.scheme.bits(),
            _ => 0,
        };
        (8 * codes + self.params.len() * (32 + zero_point)) as f64 / (self.rows * self.cols) as f64
    }

    /// Writes the values that a row's codes stand for.
    ///
    /// # Errors
    /// A row that the matrix does not have, or a destination of another width; a forced instruction set that is missing.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), QuantError> {
        if row >= self.rows || out.len() != self.cols {
            return Err(QuantError::Row { row, rows: self.rows, cols: self.cols, found: out.len() });
        }
        self.dequantize_with(row, &mut Vec::new(), out)
    }

    /// Writes the values of a row that is there, with a buffer for its codes.
    fn dequantize_with(&self, row: usize, buffer: &mut Vec<i8>, out: &mut [f32]) -> Result<(), QuantError> {
        let (cols, kernels) = (self.cols, Kernels::select()?);
        buffer.resize(cols, 0);
        let codes: &[i8] = match &self.codes {
            Codes::Float(bits) => {
                let bits = &bits[row * cols..(row + 1) * cols];
                match self.scheme {
                    Scheme::Fp16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(out),
                    _ => {
                        let wide = |&bits: &u16| f32::from_bits(u32::from(bits) << 16);
                        out.iter_mut().zip(bits).for_each(|(out, bits)| *out = wide(bits));
                    }
                }
                return Ok(());
            }
            Codes::Ternary(packed) => {
                packed.unpack_range(kernels, row * cols..(row + 1) * cols, buffer)?;
                buffer
            }
            Codes::Sign(bits) => {
                let bits = &bits[row * cols.div_ceil(8)..];
                for (codes, &byte) in buffer.chunks_mut(8).zip(bits) {
                    codes.copy_from_slice(&SIGNS[usize::from(byte)][..codes.len()]);
                }
                buffer
            }
            Codes::Int8(stored) => bytemuck::cast_slice(&stored[row * cols..(row + 1) * cols]),
            Codes::Int4(stored) => {
                let width = cols.div_ceil(2);
                (kernels.affine.split)(&stored[row * width..(row + 1) * width], buffer);
                buffer
            }
        };
        let width = part(self.granularity, cols);
        for (index, (codes, out)) in codes.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let params = &self.params[param_index(self.granularity, cols, row, index)];
            (kernels.affine.values)(codes, params.steps(offset(self.scheme)), out);
        }
        Ok(())
    }

    /// Returns all values that the codes stand for.
    ///
    /// # Errors
    /// A forced instruction set that is missing.
    pub fn dequantize(&self) -> Result<Vec<f32>, QuantError> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.dequantize_into(&mut out)?;
        Ok(out)
    }

    /// Writes all values that the codes stand for.
    ///
    /// # Errors
    /// A destination of another length; a forced instruction set that is missing.
    pub fn dequantize_into(&self, out: &mut [f32]) -> Result<(), QuantError> {
        let (expected, found) = (self.rows * self.cols, out.len());
        if expected != found {
            return Err(QuantError::Values { what: "dequantised values", expected, found });
        }
        let mut buffer = Vec::new();
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.dequantize_with(row, &mut buffer, out)?;
        }
        Ok(())
    }

    /// Measures the error against the matrix that was quantised.
    ///
    /// # Errors
    /// A matrix of another shape; a forced instruction set that is missing.
    pub fn error(&self, matrix: &FloatMatrix<'_>) -> Result<ErrorMetrics, QuantError> {
        let (expected, found) = ([self.rows, self.cols], [matrix.rows(), matrix.cols()]);
        if expected != found {
            return Err(QuantError::OtherShape { expected, found });
        }
        let mut sums = ErrorSums::default();
        let (mut rows, mut found, mut buffer) = (Rows::new(matrix), vec![0.0; self.cols], Vec::new());
        for row in 0..self.rows {
            self.dequantize_with(row, &mut buffer, &mut found)?;
            sums.add(rows.read(row), &found);
        }
        Ok(sums.metrics())
    }
}
