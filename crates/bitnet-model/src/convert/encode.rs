//! Rows of matrices, encoded on all cores into a bounded buffer and written in order.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::backend::{BitNetDType, LinearWeights, WeightScale, WeightStorage};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::conversion::{
    ConversionConfig, ConversionEngine, Streaming, machine_order, to_file_order,
};
use bitnet_quant::ggml::{GgmlType, TernaryRows, dequantize, quantize};
use bitnet_quant::packing::row_quarters;

use super::ConvertError;

/// Writes bytes of the tensor that was begun last.
pub(super) type Write<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Encodes matrices through one buffer.
pub(super) struct Encoder {
    streaming: Streaming,
    engine: ConversionEngine,
    /// The file, for errors.
    file: String,
}

/// Reports whether a matrix holds ternary codes.
pub(super) fn is_ternary(weights: &LinearWeights) -> bool {
    matches!(weights.storage, WeightStorage::Ternary { .. })
}

/// Returns what values are multiplied by.
pub(super) fn factor(scale: WeightScale) -> f32 {
    match scale {
        WeightScale::Multiply(scale) => scale,
        WeightScale::Divide(scale) => 1.0 / scale,
    }
}

/// Returns the ggml type of a float type.
pub(super) fn float_type(dtype: BitNetDType) -> GgmlType {
    match dtype {
        BitNetDType::F16 => GgmlType::F16,
        BitNetDType::BF16 => GgmlType::BF16,
        _ => GgmlType::F32,
    }
}

impl Encoder {
    /// Makes an encoder for a file that is called `file` in errors.
    pub(super) fn new(file: &str) -> Result<Self, ConvertError> {
        let pool = HybridMemoryPool::new()?;
        let streaming = Streaming::new(&pool)?;
        let engine = ConversionEngine::new(ConversionConfig::default(), pool)?;
        Ok(Encoder { streaming, engine, file: file.to_owned() })
    }

    fn run(
        &mut self,
        units: usize,
        unit_bytes: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync + Send,
        write: Write<'_>,
    ) -> Result<(), ConvertError> {
        let file = &self.file;
        self.streaming.run(units, unit_bytes, fill, |piece| write(piece).map_err(ConvertError::write(file)))
    }

    /// Writes codes in row quarters; absent rows become zeros whatever the source holds there.
    pub(super) fn quarters(
        &mut self,
        weights: &LinearWeights,
        codes: &[u8],
        write: Write<'_>,
    ) -> Result<(), ConvertError> {
        let (rows, cols, lines) = (weights.rows, weights.cols, row_quarters::quads(weights.rows));
        self.run(
            lines,
            cols,
            |line, out| {
                let there = (0..4).filter(|lane| lane * lines + line < rows).count();
                let (keep, zeros) = ((1u16 << (2 * there)) as u8, 0x55u8);
                let keep = keep.wrapping_sub(1);
                for (out, byte) in out.iter_mut().zip(&codes[line * cols..]) {
                    *out = byte & keep | zeros & !keep;
                }
            },
            write,
        )
    }

    /// Writes a matrix as rows of `ty`, row `r` being row `order(r)` of the source.
    ///
    /// The type has to divide the rows. A value or scale that it cannot hold is an error.
    pub(super) fn rows(
        &mut self,
        weights: &LinearWeights,
        ty: GgmlType,
        order: impl Fn(usize) -> usize + Sync + Send,
        write: Write<'_>,
    ) -> Result<(), ConvertError> {
        let (rows, cols, name) = (weights.rows, weights.cols, &weights.name);
        let Some(row_bytes) = ty.row_bytes(cols) else {
            let message =
                format!("{ty}: expected rows of a multiple of {} elements, found {cols}", ty.block_len());
            return Err(ConvertError::tensor(name, message));
        };
        match &weights.storage {
            WeightStorage::Ternary { bytes, scale, .. } if ty.is_ternary() => {
                let encoder = TernaryRows::new(ty, bytes, rows, cols, factor(*scale));
                let encoder = encoder.map_err(|error| ConvertError::tensor(name, error))?;
                self.run(rows, row_bytes, |row, out| encoder.encode_row(order(row), out), write)?;
                let tail = encoder.tail();
                if tail.is_empty() { Ok(()) } else { write(&tail).map_err(ConvertError::write(&self.file)) }
            }
            WeightStorage::Ternary { bytes, scale, .. } => {
                let (lines, scale) = (row_quarters::quads(rows), factor(*scale));
                self.floats(weights, ty, row_bytes, write, |_, row, values| {
                    let row = order(row);
                    let (line, shift) = (&bytes[row % lines * cols..], 2 * (row / lines));
                    for (value, byte) in values.iter_mut().zip(line) {
                        *value = f32::from((byte >> shift & 3) as i8 - 1) * scale;
                    }
                })
            }
            WeightStorage::Dense { dtype, bytes } => {
                let (source, width) = (float_type(*dtype), bytes.len() / rows.max(1));
                let row_of = |row: usize| &bytes[order(row) * width..][..width];
                if source == ty {
                    return self.run(rows, width, |row, out| out.copy_from_slice(row_of(row)), write);
                }
                self.floats(weights, ty, row_bytes, write, |engine, row, values| {
                    let row = machine_order(*dtype, row_of(row));
                    let wide = (BitNetDType::F32, bytemuck::cast_slice_mut(values));
                    let widened = engine.convert_elements(cols, (*dtype, &row), wide);
                    // The lengths are those of the row, and floats always become floats.
                    debug_assert!(widened.is_ok(), "{widened:?}");
                })
            }
            other => Err(ConvertError::tensor(name, format!("expected codes or floats, found {other:?}"))),
        }
    }

    /// Encodes rows of floats that `read` produces; refuses what overflows the type.
    fn floats(
        &mut self,
        weights: &LinearWeights,
        ty: GgmlType,
        row_bytes: usize,
        write: Write<'_>,
        read: impl Fn(&ConversionEngine, usize, &mut [f32]) + Sync + Send,
    ) -> Result<(), ConvertError> {
        const NONE: usize = usize::MAX;
        let limit = match ty {
            GgmlType::F16 => 65_504.0f32,
            // The scale of a block is an f16: the greatest value over the greatest quant.
            GgmlType::Q8_0 => 65_504.0 * 127.0,
            GgmlType::Q6_K => 65_504.0 * 127.0 * 31.0,
            _ => f32::MAX,
        };
        let Encoder { streaming, engine, file } = self;
        let overflow = AtomicUsize::new(NONE);
        let fill = |row: usize, out: &mut [u8]| {
            let mut values = vec![0f32; weights.cols];
            read(engine, row, &mut values);
            if !values.iter().all(|value| value.abs() <= limit) {
                overflow.fetch_min(row, Ordering::Relaxed);
            }
            encode(engine, ty, &values, out);
        };
        streaming
            .run(weights.rows, row_bytes, fill, |piece| write(piece).map_err(ConvertError::write(file)))?;
        match overflow.into_inner() {
            NONE => Ok(()),
            row => {
                let message =
                    format!("row {row}: expected values that {ty} can hold, found one over {limit}");
                Err(ConvertError::tensor(&weights.name, message))
            }
        }
    }
}

/// Encodes a row whose length the type divides.
fn encode(engine: &ConversionEngine, ty: GgmlType, values: &[f32], out: &mut [u8]) {
    let dtype = match ty {
        GgmlType::F32 => BitNetDType::F32,
        GgmlType::F16 => BitNetDType::F16,
        GgmlType::BF16 => BitNetDType::BF16,
        _ => {
            let encoded = quantize(ty, values, out);
            debug_assert!(encoded.is_ok(), "{encoded:?}");
            return;
        }
    };
    let wide = (BitNetDType::F32, bytemuck::cast_slice(values));
    let narrowed = engine.convert_elements(values.len(), wide, (dtype, &mut *out));
    debug_assert!(narrowed.is_ok(), "{narrowed:?}");
    to_file_order(dtype, out);
}

/// Returns the shortest type that holds every value exactly: BF16, F16, else F32.
pub(super) fn exact_type(values: &[f32]) -> GgmlType {
    let exact = |ty: GgmlType| {
        let mut bytes = vec![0; values.len() * 2];
        let mut back = vec![0f32; values.len()];
        quantize(ty, values, &mut bytes).is_ok()
            && dequantize(ty, &bytes, &mut back).is_ok()
            && values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    [GgmlType::BF16, GgmlType::F16].into_iter().find(|&ty| exact(ty)).unwrap_or(GgmlType::F32)
}

/// Returns the bytes of values in a float type.
pub(super) fn vector_bytes(ty: GgmlType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(values.len()).unwrap_or_default()];
    let encoded = quantize(ty, values, &mut bytes);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    bytes
}
