//! Floats to codes, row by row.

use super::quantized::{Codes, offset, param_index, part};
use bitnet_kernels::Kernels;

use super::{
    AffineParams, Bits, Granularity, QuantizedMatrix, Rows, Scheme, Symmetry, ValueRange, not_finite,
};
use crate::packing::{TernaryPackWriter, TernaryPackedWeights, TernaryPackingConfig, TernaryPackingStrategy};
use crate::{FloatMatrix, QuantError, absmean};

type Encoded = (Codes, Vec<AffineParams>);

/// Where the parameters of integer codes come from.
#[derive(Clone, Copy)]
pub(super) enum Ranges<'a> {
    /// The values of each part.
    Dynamic,
    /// One range for all parts.
    Shared(ValueRange),
    /// A range for each part.
    Each(&'a [ValueRange]),
}

pub(super) fn quantize(
    matrix: &FloatMatrix<'_>,
    scheme: Scheme,
    granularity: Granularity,
    ranges: Ranges<'_>,
) -> Result<QuantizedMatrix, QuantError> {
    if granularity == Granularity::PerGroup(0) {
        return Err(QuantError::Group);
    }
    let integer = matches!(scheme, Scheme::Int8(_) | Scheme::Int4(_));
    if !integer && !matches!(ranges, Ranges::Dynamic) {
        return Err(QuantError::Ranged { scheme: scheme.name() });
    }
    let kernels = Kernels::select()?;
    let (codes, params) = match scheme {
        Scheme::Ternary => {
            let means = means(kernels, matrix, granularity)?;
            let params = means.iter().map(|&mean| mean_params(mean)).collect::<Result<_, _>>()?;
            (Codes::Ternary(ternary(kernels, matrix, granularity, &means)?), params)
        }
        Scheme::Sign => {
            let means = means(kernels, matrix, granularity)?;
            let params = means.iter().map(|&mean| mean_params(mean)).collect::<Result<_, _>>()?;
            (Codes::Sign(signs(kernels, matrix)), params)
        }
        Scheme::Int8(symmetry) => {
            integers(kernels, matrix, (scheme, Bits::Eight, symmetry), granularity, ranges)?
        }
        Scheme::Int4(symmetry) => {
            integers(kernels, matrix, (scheme, Bits::Four, symmetry), granularity, ranges)?
        }
        Scheme::Fp16 | Scheme::Bf16 => (Codes::Float(floats(kernels, matrix, scheme)?), Vec::new()),
    };
    Ok(QuantizedMatrix { rows: matrix.rows(), cols: matrix.cols(), scheme, granularity, codes, params })
}

/// Chooses the parameters of every part and writes its codes while the row is at hand.
fn integers(
    kernels: &Kernels,
    matrix: &FloatMatrix<'_>,
    (scheme, bits, symmetry): (Scheme, Bits, Symmetry),
    granularity: Granularity,
    ranges: Ranges<'_>,
) -> Result<Encoded, QuantError> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let affine = |range: ValueRange| {
        let params = AffineParams::for_range(range, bits, symmetry);
        params.ok_or(QuantError::Range { min: range.min, max: range.max })
    };
    let parts = granularity.parts(rows, cols);
    let fixed = match ranges {
        Ranges::Dynamic if granularity == Granularity::PerTensor => {
            Some(vec![affine(whole_range(kernels, matrix)?)?])
        }
        Ranges::Dynamic => None,
        Ranges::Shared(range) => Some(vec![affine(range)?; parts]),
        Ranges::Each(ranges) if ranges.len() == parts => {
            Some(ranges.iter().map(|&range| affine(range)).collect::<Result<_, _>>()?)
        }
        Ranges::Each(ranges) => {
            return Err(QuantError::Values { what: "ranges", expected: parts, found: ranges.len() });
        }
    };
    let width = part(granularity, cols);
    let bytes_of_row = if bits == Bits::Eight { cols } else { cols.div_ceil(2) };
    // Filled row by row and never with zeros first, which would be one more pass over the memory.
    let mut stored = Vec::with_capacity(rows * bytes_of_row);
    let (mut codes, mut nibbles) = (vec![0i8; cols], vec![0u8; cols.div_ceil(2)]);
    let mut own = Vec::with_capacity(if fixed.is_none() { parts } else { 0 });
    let mut source = Rows::new(matrix);
    for row in 0..rows {
        let values = source.read(row);
        for (index, (part, codes)) in values.chunks(width).zip(codes.chunks_mut(width)).enumerate() {
            let range = ValueRange::by(kernels, part).ok_or_else(|| not_finite(row, values))?;
            let params = match &fixed {
                Some(fixed) => fixed[param_index(granularity, cols, row, index)],
                None => {
                    let params = affine(range)?;
                    own.push(params);
                    params
                }
            };
            (kernels.affine.codes)(part, params.steps(offset(scheme)), codes);
        }
        match bits {
            Bits::Eight => stored.extend_from_slice(bytemuck::cast_slice(&codes)),
            Bits::Four => {
                (kernels.casts.pack_i4)(&codes, &mut nibbles);
                stored.extend_from_slice(&nibbles);
            }
        }
    }
    let codes = match bits {
        Bits::Eight => Codes::Int8(stored),
        Bits::Four => Codes::Int4(stored),
    };
    Ok((codes, fixed.unwrap_or(own)))
}

fn whole_range(kernels: &Kernels, matrix: &FloatMatrix<'_>) -> Result<ValueRange, QuantError> {
    let mut source = Rows::new(matrix);
    let mut whole = ValueRange { min: f32::INFINITY, max: f32::NEG_INFINITY };
    for row in 0..matrix.rows() {
        let values = source.read(row);
        let own = ValueRange::by(kernels, values).ok_or_else(|| not_finite(row, values))?;
        whole = ValueRange { min: whole.min.min(own.min), max: whole.max.max(own.max) };
    }
    Ok(whole)
}

fn floats(kernels: &Kernels, matrix: &FloatMatrix<'_>, scheme: Scheme) -> Result<Vec<u16>, QuantError> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let (full, mut out, mut source) = (exponent(scheme), vec![0u16; rows * cols], Rows::new(matrix));
    let casts = &kernels.casts;
    let cast = if scheme == Scheme::Fp16 { casts.f32_to_f16 } else { casts.f32_to_bf16 };
    for (row, out) in out.chunks_exact_mut(cols).enumerate() {
        let values = source.read_finite(kernels, row)?;
        cast(bytemuck::cast_slice(values), bytemuck::cast_slice_mut(out), false);
        if out.iter().fold(false, |seen, &bits| seen | (bits & full == full)) {
            let col = out.iter().position(|&bits| bits & full == full).unwrap_or(0);
            return Err(QuantError::Overflow { row, col, value: values[col] });
        }
    }
    Ok(out)
}

/// The exponent bits of infinity.
fn exponent(scheme: Scheme) -> u16 {
    if scheme == Scheme::Fp16 { 0x7c00 } else { 0x7f80 }
}

/// Mean magnitudes of every part, at least that of [`absmean`], and in its order of summing.
fn means(
    kernels: &Kernels,
    matrix: &FloatMatrix<'_>,
    granularity: Granularity,
) -> Result<Vec<f32>, QuantError> {
    let mean = |sum: f64, values: usize| ((sum / values as f64) as f32).max(absmean::MIN_MEAN_ABS);
    let size = match granularity {
        Granularity::PerTensor => return Ok(vec![absmean::mean_magnitude(matrix)?]),
        Granularity::PerChannel => {
            let sums = absmean::row_magnitudes(matrix)?;
            return Ok(sums.into_iter().map(|sum| mean(sum, matrix.cols())).collect());
        }
        Granularity::PerGroup(size) => size.min(matrix.cols()),
    };
    let (mut source, mut means) = (Rows::new(matrix), Vec::new());
    for row in 0..matrix.rows() {
        let groups: Vec<&[f32]> = source.read_finite(kernels, row)?.chunks(size).collect();
        for quad in groups.chunks(4) {
            // Where there are no four of one length, the first stands in for those that are missing.
            let like_first = |k: usize| quad.get(k).filter(|group| group.len() == quad[0].len());
            let sums = magnitudes(kernels, [0, 1, 2, 3].map(|k| *like_first(k).unwrap_or(&quad[0])));
            means.extend(quad.iter().enumerate().map(|(k, group)| match group.len() == quad[0].len() {
                true => mean(sums[k], group.len()),
                false => mean(magnitudes(kernels, [group; 4])[0], group.len()),
            }));
        }
    }
    Ok(means)
}

fn magnitudes(kernels: &Kernels, parts: [&[f32]; 4]) -> [f64; 4] {
    let mut lanes = [[0.0; 8]; 4];
    (kernels.flat.add_magnitudes)(parts, &mut lanes);
    lanes.map(|lanes| lanes.iter().sum())
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

/// Ternary codes of weights that were found finite when their means were taken.
fn ternary(
    kernels: &Kernels,
    matrix: &FloatMatrix<'_>,
    granularity: Granularity,
    means: &[f32],
) -> Result<TernaryPackedWeights, QuantError> {
    let config = TernaryPackingConfig::default();
    let mut writer = TernaryPackWriter::new(TernaryPackingStrategy::Base3Packed, &config)?;
    let (cols, width) = (matrix.cols(), part(granularity, matrix.cols()));
    let (mut source, mut codes) = (Rows::new(matrix), vec![0i8; cols]);
    for row in 0..matrix.rows() {
        let parts = source.read(row).chunks(width).zip(codes.chunks_mut(width));
        for (index, (values, codes)) in parts.enumerate() {
            let inverse = 1.0 / means[param_index(granularity, cols, row, index)];
            (kernels.flat.ternary)(values, inverse, codes);
        }
        writer.push(&codes)?;
    }
    Ok(writer.finish())
}

/// A set bit for each weight below zero, rows on whole bytes.
fn signs(kernels: &Kernels, matrix: &FloatMatrix<'_>) -> Vec<u8> {
    let cols = matrix.cols();
    let words = cols.div_ceil(64);
    let (mut source, mut codes) = (Rows::new(matrix), vec![0i8; cols]);
    let (mut there, mut negative) = (vec![0; words], vec![0; words]);
    let mut out = Vec::with_capacity(matrix.rows() * cols.div_ceil(8));
    for row in 0..matrix.rows() {
        let values = source.read(row);
        codes.iter_mut().zip(values).for_each(|(code, &value)| *code = -i8::from(value < 0.0));
        (kernels.flat.bitmaps)(&codes, &mut there, &mut negative);
        let bytes = negative.iter().flat_map(|word| word.to_le_bytes());
        out.extend(bytes.take(cols.div_ceil(8)));
    }
    out
}
