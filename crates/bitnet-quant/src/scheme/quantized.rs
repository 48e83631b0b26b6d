//! A quantised matrix.

use half::{bf16, f16};

use super::{
    AffineParams, Bits, ErrorMetrics, ErrorSums, Granularity, QuantOptions, Rows, Scheme, Symmetry,
    ValueRange,
};
use crate::packing::{TernaryPackWriter, TernaryPackedWeights, TernaryPackingConfig, TernaryPackingStrategy};
use crate::{FloatMatrix, QuantError, absmean};

/// Codes and parameters of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedMatrix {
    rows: usize,
    cols: usize,
    scheme: Scheme,
    granularity: Granularity,
    codes: Codes,
    /// Parameters of every part, in the order of rows and groups; none for floats.
    params: Vec<AffineParams>,
}

#[derive(Debug, Clone, PartialEq)]
enum Codes {
    /// -1, 0, +1 in base 3.
    Ternary(TernaryPackedWeights),
    /// One bit a weight, lowest first, rows on whole bytes; set for -1.
    Sign(Vec<u8>),
    /// A byte a weight: the code less 128 where codes are unsigned.
    Int8(Vec<i8>),
    /// Two codes a byte, the first in the low half, rows on whole bytes; signed codes are 8 more.
    Int4(Vec<u8>),
    /// Bits of 16-bit floats.
    Float(Vec<u16>),
}

/// Parts of a row that share parameters.
fn part(granularity: Granularity, cols: usize) -> usize {
    match granularity {
        Granularity::PerGroup(size) => size.min(cols),
        _ => cols,
    }
}

pub(super) fn quantize(
    matrix: &FloatMatrix<'_>,
    options: &QuantOptions,
) -> Result<QuantizedMatrix, QuantError> {
    let QuantOptions { scheme, granularity, .. } = *options;
    if granularity == Granularity::PerGroup(0) {
        return Err(QuantError::Group);
    }
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let means = match scheme {
        Scheme::Ternary | Scheme::Sign => means(matrix, granularity)?,
        _ => Vec::new(),
    };
    let params = params(matrix, options, &means)?;
    let mut codes = match scheme {
        Scheme::Ternary => Codes::Ternary(ternary_codes(matrix, granularity, &means)?),
        Scheme::Sign => Codes::Sign(Vec::with_capacity(rows * cols.div_ceil(8))),
        Scheme::Int8(_) => Codes::Int8(Vec::with_capacity(rows * cols)),
        Scheme::Int4(_) => Codes::Int4(Vec::with_capacity(rows * cols.div_ceil(2))),
        Scheme::Fp16 | Scheme::Bf16 => Codes::Float(Vec::with_capacity(rows * cols)),
    };
    let mut values = vec![0.0; cols];
    let mut row_codes = vec![0i16; cols];
    for row in 0..rows {
        if matches!(codes, Codes::Ternary(_)) {
            break;
        }
        Rows(matrix).read_finite(row, &mut values)?;
        if !params.is_empty() {
            let parts =
                values.chunks(part(granularity, cols)).zip(row_codes.chunks_mut(part(granularity, cols)));
            for (index, (values, codes)) in parts.enumerate() {
                let params = &params[param_index(granularity, cols, row, index)];
                codes.iter_mut().zip(values).for_each(|(code, &value)| *code = params.quantize(value));
            }
        }
        match &mut codes {
            Codes::Ternary(_) => {}
            Codes::Sign(out) => out.extend(values.chunks(8).map(|eight| {
                eight.iter().enumerate().fold(0, |byte, (bit, &value)| byte | u8::from(value < 0.0) << bit)
            })),
            Codes::Int8(out) => out.extend(row_codes.iter().map(|&code| (code - offset(scheme)) as i8)),
            Codes::Int4(out) => out.extend(row_codes.chunks(2).map(|pair| {
                let nibble = |code: i16| (code - offset(scheme)) as u8 & 15;
                nibble(pair[0]) | pair.get(1).map_or(0, |&code| nibble(code) << 4)
            })),
            Codes::Float(out) => {
                for (col, &value) in values.iter().enumerate() {
                    out.push(float_bits(scheme, value).ok_or(QuantError::Overflow { row, col, value })?);
                }
            }
        }
    }
    Ok(QuantizedMatrix { rows, cols, scheme, granularity, codes, params })
}

/// What is taken off a code where it is stored.
fn offset(scheme: Scheme) -> i16 {
    match scheme {
        Scheme::Int8(Symmetry::Asymmetric) => 128,
        Scheme::Int4(Symmetry::Symmetric) => -8,
        _ => 0,
    }
}

fn float_bits(scheme: Scheme, value: f32) -> Option<u16> {
    match scheme {
        Scheme::Fp16 => Some(f16::from_f32(value)).filter(|half| half.is_finite()).map(f16::to_bits),
        _ => Some(bf16::from_f32(value)).filter(|half| half.is_finite()).map(bf16::to_bits),
    }
}

fn param_index(granularity: Granularity, cols: usize, row: usize, index: usize) -> usize {
    match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerChannel => row,
        Granularity::PerGroup(size) => row * cols.div_ceil(size.min(cols)) + index,
    }
}

/// Chooses the parameters of every part.
fn params(
    matrix: &FloatMatrix<'_>,
    options: &QuantOptions,
    means: &[f32],
) -> Result<Vec<AffineParams>, QuantError> {
    let QuantOptions { scheme, granularity, range } = *options;
    let (bits, symmetry) = match scheme {
        Scheme::Int8(symmetry) => (Bits::Eight, symmetry),
        Scheme::Int4(symmetry) => (Bits::Four, symmetry),
        Scheme::Ternary | Scheme::Sign => return means.iter().map(|&mean| mean_params(mean)).collect(),
        Scheme::Fp16 | Scheme::Bf16 => return Ok(Vec::new()),
    };
    let cols = matrix.cols();
    let affine = |range: ValueRange| {
        let params = AffineParams::for_range(range, bits, symmetry);
        params.ok_or(QuantError::Range { min: range.min, max: range.max })
    };
    let mut values = vec![0.0; cols];
    let mut ranges = Vec::new();
    for row in 0..matrix.rows() {
        Rows(matrix).read_finite(row, &mut values)?;
        ranges.extend(values.chunks(part(granularity, cols)).filter_map(ValueRange::of));
    }
    if granularity == Granularity::PerTensor {
        let join = |a: ValueRange, b: ValueRange| ValueRange { min: a.min.min(b.min), max: a.max.max(b.max) };
        ranges = ranges.into_iter().reduce(join).into_iter().collect();
    }
    ranges.into_iter().map(|own| affine(range.unwrap_or(own))).collect()
}

/// Mean magnitudes of every part, at least that of [`absmean`].
fn means(matrix: &FloatMatrix<'_>, granularity: Granularity) -> Result<Vec<f32>, QuantError> {
    if granularity == Granularity::PerTensor {
        return Ok(vec![absmean::mean_magnitude(matrix)?]);
    }
    let mut values = vec![0.0; matrix.cols()];
    let mut means = Vec::new();
    for row in 0..matrix.rows() {
        Rows(matrix).read_finite(row, &mut values)?;
        for part in values.chunks(part(granularity, matrix.cols())) {
            let sum = part.iter().map(|value| f64::from(value.abs())).sum::<f64>();
            means.push(((sum / part.len() as f64) as f32).max(absmean::MIN_MEAN_ABS));
        }
    }
    Ok(means)
}

/// The scale of a mean magnitude as [`absmean`] has it: the reciprocal of its reciprocal.
fn mean_params(mean_abs: f32) -> Result<AffineParams, QuantError> {
    let inverse = 1.0 / mean_abs;
    let scale = 1.0 / inverse;
    match inverse.is_normal() && scale.is_finite() {
        true => Ok(AffineParams { scale, zero_point: 0, least: -1, greatest: 1 }),
        false => Err(QuantError::Scale { mean_abs }),
    }
}

fn ternary_codes(
    matrix: &FloatMatrix<'_>,
    granularity: Granularity,
    means: &[f32],
) -> Result<TernaryPackedWeights, QuantError> {
    let config = TernaryPackingConfig::default();
    let mut writer = TernaryPackWriter::new(TernaryPackingStrategy::Base3Packed, &config)?;
    let cols = matrix.cols();
    let (mut values, mut codes) = (vec![0.0; cols], vec![0u8; cols]);
    for row in 0..matrix.rows() {
        Rows(matrix).read_finite(row, &mut values)?;
        codes.fill(0);
        let parts = values.chunks(part(granularity, cols)).zip(codes.chunks_mut(part(granularity, cols)));
        for (index, (values, codes)) in parts.enumerate() {
            let inverse = 1.0 / means[param_index(granularity, cols, row, index)];
            (crate::packing::kernels().flat.add_codes)(values, inverse, 0, codes);
        }
        let signed: Vec<i8> = codes.iter().map(|&code| code as i8 - 1).collect();
        writer.push(&signed)?;
    }
    Ok(writer.finish())
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
            Codes::Sign(codes) | Codes::Int4(codes) => codes.len(),
            Codes::Int8(codes) => codes.len(),
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
    /// A row that the matrix does not have, or a destination of another width.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<(), QuantError> {
        if row >= self.rows || out.len() != self.cols {
            return Err(QuantError::Row { row, rows: self.rows, cols: self.cols, found: out.len() });
        }
        let cols = self.cols;
        let mut codes = vec![0i16; cols];
        match &self.codes {
            Codes::Float(bits) => {
                let bits = &bits[row * cols..(row + 1) * cols];
                let widen = |&bits: &u16| match self.scheme {
                    Scheme::Fp16 => f16::from_bits(bits).to_f32(),
                    _ => bf16::from_bits(bits).to_f32(),
                };
                out.iter_mut().zip(bits).for_each(|(out, bits)| *out = widen(bits));
                return Ok(());
            }
            Codes::Ternary(packed) => {
                let mut values = vec![0; cols];
                packed.unpack_range(crate::packing::kernels(), row * cols..(row + 1) * cols, &mut values)?;
                codes.iter_mut().zip(values).for_each(|(code, value)| *code = i16::from(value));
            }
            Codes::Sign(bits) => {
                let bits = &bits[row * cols.div_ceil(8)..];
                codes
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, code)| *code = 1 - 2 * i16::from(bits[i / 8] >> (i % 8) & 1));
            }
            Codes::Int8(stored) => {
                let stored = &stored[row * cols..];
                codes
                    .iter_mut()
                    .zip(stored)
                    .for_each(|(code, &s)| *code = i16::from(s) + offset(self.scheme));
            }
            Codes::Int4(stored) => {
                let stored = &stored[row * cols.div_ceil(2)..];
                let nibble = |i: usize| i16::from(stored[i / 2] >> (4 * (i % 2)) & 15);
                codes.iter_mut().enumerate().for_each(|(i, code)| *code = nibble(i) + offset(self.scheme));
            }
        }
        let width = part(self.granularity, cols);
        for (index, (codes, out)) in codes.chunks(width).zip(out.chunks_mut(width)).enumerate() {
            let params = &self.params[param_index(self.granularity, cols, row, index)];
            out.iter_mut().zip(codes).for_each(|(out, &code)| *out = params.dequantize(code));
        }
        Ok(())
    }

    /// Returns all values that the codes stand for.
    ///
    /// # Errors
    /// None for a matrix that was quantised here.
    pub fn dequantize(&self) -> Result<Vec<f32>, QuantError> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.dequantize_row(row, out)?;
        }
        Ok(out)
    }

    /// Measures the error against the matrix that was quantised.
    ///
    /// # Errors
    /// A matrix of another shape.
    pub fn error(&self, matrix: &FloatMatrix<'_>) -> Result<ErrorMetrics, QuantError> {
        if (matrix.rows(), matrix.cols()) != (self.rows, self.cols) {
            return Err(QuantError::Shape { rows: matrix.rows(), cols: matrix.cols() });
        }
        let mut sums = ErrorSums::default();
        let (mut reference, mut found) = (vec![0.0; self.cols], vec![0.0; self.cols]);
        for row in 0..self.rows {
            Rows(matrix).read(row, &mut reference);
            self.dequantize_row(row, &mut found)?;
            sums.add(&reference, &found);
        }
        Ok(sums.metrics())
    }
}
