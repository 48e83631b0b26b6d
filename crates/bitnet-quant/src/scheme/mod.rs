//! Quantisation schemes of matrices: ternary, sign, INT8, INT4, FP16 and BF16, by tensor, channel or group.
//!
//! [`quantize`] reads a [`FloatMatrix`] and gives a [`QuantizedMatrix`], which dequantises, packs and measures its own
//! error. *Static* parameters come from a [`ValueRange`] that an [`Observer`] saw beforehand, one for all parts
//! ([`QuantOptions::with_range`]) or one for each ([`quantize_static`]); *dynamic* ones from the values themselves. [`affine`] holds the integer formulas for vectors, for activations as for weights.
//! The ternary scheme by tensor is [`absmean`](crate::absmean), bit by bit; by channel and group it is the same with a
//! mean of each part.

pub mod affine;
mod encode;
mod metrics;
mod observer;
mod quantized;

pub use affine::{AffineParams, Bits, Symmetry};
pub use metrics::{ErrorMetrics, ErrorSums};
pub use observer::{Calibration, Observer, ValueRange};
pub use quantized::QuantizedMatrix;

use bitnet_kernels::Kernels;

use encode::Ranges;

use crate::matrix::{Element, Visitor};
use crate::{FloatMatrix, QuantError};

/// What a weight becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// BitNet b1.58: -1, 0, +1 times the mean magnitude.
    Ternary,
    /// -1 or +1 times the mean magnitude; zero becomes +1.
    Sign,
    /// Eight bits.
    Int8(Symmetry),
    /// Four bits.
    Int4(Symmetry),
    /// IEEE binary16.
    Fp16,
    /// The upper half of binary32.
    Bf16,
}

/// Which weights share parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// All of them.
    PerTensor,
    /// Those of a row: an output feature.
    PerChannel,
    /// So many consecutive weights of a row; the last group of a row may be shorter.
    PerGroup(usize),
}

/// A scheme, and what it is applied to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantOptions {
    /// What a weight becomes.
    pub scheme: Scheme,
    /// Which weights share parameters.
    pub granularity: Granularity,
    /// Parameters of integer schemes: from this range for every part (static), or each from its own values
    /// (dynamic). Other schemes take none.
    pub range: Option<ValueRange>,
}

impl QuantOptions {
    /// Returns dynamic options.
    pub fn new(scheme: Scheme, granularity: Granularity) -> Self {
        QuantOptions { scheme, granularity, range: None }
    }

    /// Returns static options of one range for all parts; see [`quantize_static`] for one each.
    pub fn with_range(self, range: ValueRange) -> Self {
        QuantOptions { range: Some(range), ..self }
    }
}

impl Granularity {
    /// Returns how many parts a matrix has: as many as it gets parameters of integers. A group of no weights makes none.
    pub fn parts(self, rows: usize, cols: usize) -> usize {
        match self {
            Granularity::PerTensor => 1,
            Granularity::PerChannel => rows,
            Granularity::PerGroup(0) => 0,
            Granularity::PerGroup(size) => rows * cols.div_ceil(size),
        }
    }
}

impl Scheme {
    /// Returns the bits of a code.
    pub const fn bits(self) -> usize {
        match self {
            Scheme::Ternary => 2,
            Scheme::Sign => 1,
            Scheme::Int8(_) => 8,
            Scheme::Int4(_) => 4,
            Scheme::Fp16 | Scheme::Bf16 => 16,
        }
    }

    /// Returns the name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Ternary => "ternary",
            Scheme::Sign => "sign",
            Scheme::Int8(Symmetry::Symmetric) => "int8",
            Scheme::Int8(Symmetry::Asymmetric) => "int8 asymmetric",
            Scheme::Int4(Symmetry::Symmetric) => "int4",
            Scheme::Int4(Symmetry::Asymmetric) => "int4 asymmetric",
            Scheme::Fp16 => "fp16",
            Scheme::Bf16 => "bf16",
        }
    }
}

/// Quantises a matrix.
///
/// # Errors
/// A NaN or infinite weight, by element; a group of no weights; a range that is none, or of a scheme that takes none; a scale
/// of a mean that does not fit f32; a weight beyond FP16; a forced instruction set that is missing.
pub fn quantize(matrix: &FloatMatrix<'_>, options: &QuantOptions) -> Result<QuantizedMatrix, QuantError> {
    let ranges = options.range.map_or(Ranges::Dynamic, Ranges::Shared);
    encode::quantize(matrix, options.scheme, options.granularity, ranges)
}

/// Quantises a matrix to integers by ranges that were seen beforehand, one for each part, in the order of rows and groups.
///
/// # Errors
/// As [`quantize`]; ranges that are not as many as the [parts](Granularity::parts).
pub fn quantize_static(
    matrix: &FloatMatrix<'_>,
    scheme: Scheme,
    granularity: Granularity,
    ranges: &[ValueRange],
) -> Result<QuantizedMatrix, QuantError> {
    encode::quantize(matrix, scheme, granularity, Ranges::Each(ranges))
}

/// The rows of a matrix as f32, one at a time.
pub(crate) struct Rows<'a> {
    matrix: &'a FloatMatrix<'a>,
    /// A widened row.
    buffer: Vec<f32>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(matrix: &'a FloatMatrix<'a>) -> Self {
        Rows { matrix, buffer: Vec::new() }
    }

    /// Returns a row's elements, where they stand if they are f32 already.
    pub(crate) fn read(&mut self, row: usize) -> &[f32] {
        struct Read<'a, 'b>(&'a [u8], &'b mut [f32]);
        impl<'a> Visitor for Read<'a, '_> {
            type Out = Option<&'a [f32]>;
            fn run<E: Element>(self) -> Self::Out {
                let there = E::borrow(self.0);
                if there.is_none() {
                    E::widen(self.0, self.1);
                }
                there
            }
        }
        self.buffer.resize(self.matrix.cols(), 0.0);
        let there = self.matrix.visit(Read(self.matrix.row(row), &mut self.buffer));
        there.unwrap_or(&self.buffer)
    }

    /// Returns a row's elements, all of them finite.
    pub(crate) fn read_finite(&mut self, kernels: &Kernels, row: usize) -> Result<&[f32], QuantError> {
        let values = self.read(row);
        match ValueRange::by(kernels, values) {
            Some(_) => Ok(values),
            None => Err(not_finite(row, values)),
        }
    }
}

/// Names the first value of a row that is not finite.
pub(crate) fn not_finite(row: usize, values: &[f32]) -> QuantError {
    let col = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
    QuantError::NotFinite { row, col, value: values.get(col).copied().unwrap_or(f32::NAN) }
}
