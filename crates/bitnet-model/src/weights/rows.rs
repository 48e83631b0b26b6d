//! Rows of a matrix on their way into memory: reordered, decoded, widened.

use bitnet_core::backend::BitNetDType;
use bitnet_core::memory::conversion::{ConversionEngine, to_file_order};
use bitnet_quant::ggml::{GgmlError, GgmlType, I2sLayout, dequantize, dequantize_i2_s};
use half::f16;

/// Elements below which a matrix is not worth waking other threads for.
const PARALLEL_ELEMENTS: usize = 1 << 16;

/// Which row of the file is which row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// The same.
    AsStored,
    /// The file has the rows of each head in pairs that are rotated together; the matrix has the first of every
    /// pair, then the second.
    Interleaved {
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Returns the row of the file that is row `row` of the matrix.
    pub(super) fn source(self, row: usize) -> usize {
        match self {
            RowOrder::AsStored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (second, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + second
            }
        }
    }
}

/// Fills `out`, a matrix with lines of `width`, by `fill(row, line)`, on all cores.
///
/// # Errors
/// One of those of `fill`.
fn fill_rows<T: Send, E: Send>(
    out: &mut [T],
    width: usize,
    fill: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    #[cfg(feature = "parallel")]
    if out.len() >= PARALLEL_ELEMENTS {
        use rayon::prelude::*;
        return out.par_chunks_mut(width).enumerate().try_for_each(|(row, line)| fill(row, line));
    }
    let _ = PARALLEL_ELEMENTS;
    out.chunks_mut(width).enumerate().try_for_each(|(row, line)| fill(row, line))
}

/// Copies rows of `width` bytes in another order to `out`, which is as long.
pub(super) fn reorder(bytes: &[u8], width: usize, order: RowOrder, out: &mut [u8]) {
    let copied = fill_rows(out, width.max(1), |row, line| {
        line.copy_from_slice(&bytes[order.source(row) * width..][..width]);
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(()) = copied;
}

/// A tensor of blocks that is to be decoded.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) ty: GgmlType,
    pub(super) layout: I2sLayout,
    pub(super) bytes: &'a [u8],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: RowOrder,
}

impl Blocks<'_> {
    fn row(&self, row: usize, out: &mut [f32]) -> Result<(), GgmlError> {
        let ty = self.ty;
        let width = ty.row_bytes(self.cols);
        let width = width.ok_or(GgmlError::Elements { ty, block: ty.block_len(), found: self.cols })?;
        let bytes = &self.bytes[self.order.source(row) * width..][..width];
        if ty != GgmlType::I2_S {
            return dequantize(ty, bytes, out);
        }
        // The scale stands behind the whole tensor.
        let tail = &self.bytes[self.bytes.len() - ty.tail_bytes()..];
        dequantize_i2_s(self.layout, &[bytes, tail].concat(), out)
    }

    /// Decodes to little-endian f32 in `out`, each value multiplied by `factor`.
    ///
    /// # Errors
    /// Rows that are no whole number of blocks.
    pub(super) fn to_f32(self, factor: f32, out: &mut [u8]) -> Result<(), GgmlError> {
        fill_rows(out, self.cols * 4, |row, line| {
            let mut values = vec![0.0; self.cols];
            self.row(row, &mut values)?;
            for (out, value) in line.as_chunks_mut::<4>().0.iter_mut().zip(&values) {
                *out = (value * factor).to_le_bytes();
            }
            Ok(())
        })
    }

    /// Decodes to little-endian f16 in `out`; false when a finite value does not fit.
    ///
    /// # Errors
    /// Rows that are no whole number of blocks.
    pub(super) fn to_f16(self, engine: &ConversionEngine, out: &mut [u8]) -> Result<bool, GgmlError> {
        let done = fill_rows(out, self.cols * 2, |row, line| {
            let mut values = vec![0.0; self.cols];
            self.row(row, &mut values).map_err(Some)?;
            if values.iter().any(|value| value.is_finite() && value.abs() > f16::MAX.to_f32()) {
                return Err(None);
            }
            let wide = (BitNetDType::F32, bytemuck::cast_slice(&values));
            let narrowed = engine.convert_elements(self.cols, wide, (BitNetDType::F16, &mut *line));
            // Both lines are of the matrix, and floats always become floats.
            debug_assert!(narrowed.is_ok(), "{narrowed:?}");
            to_file_order(BitNetDType::F16, line);
            Ok(())
        });
        match done {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::memory::HybridMemoryPool;
    use bitnet_core::memory::conversion::ConversionConfig;

    use super::*;

    /// The definition: `[heads, 2, head_dim / 2]` becomes `[heads, head_dim / 2, 2]` when a file is written.
    #[test]
    fn the_order_of_rows_undoes_that_of_writers() {
        let (heads, head_dim) = (3, 8);
        let mut written = Vec::new();
        for head in 0..heads {
            for pair in 0..head_dim / 2 {
                for second in 0..2 {
                    written.push((head * head_dim + second * head_dim / 2 + pair) as u8);
                }
            }
        }
        let order = RowOrder::Interleaved { head_dim };
        let reordered = |bytes: &[u8], width, order| {
            let mut out = vec![99; bytes.len()];
            reorder(bytes, width, order, &mut out);
            out
        };
        let expected: Vec<u8> = (0..24).collect();
        assert_eq!(reordered(&written, 1, order), expected);
        assert_eq!(reordered(&written, 4, RowOrder::AsStored), written);
        let wide: Vec<u8> = written.iter().flat_map(|&row| [row; 3]).collect();
        assert_eq!(reordered(&wide, 3, order), expected.iter().flat_map(|&row| [row; 3]).collect::<Vec<_>>());
    }

    #[test]
    fn values_too_large_for_f16_are_told() {
        let pool = HybridMemoryPool::new().unwrap();
        let engine = ConversionEngine::new(ConversionConfig::default(), pool).unwrap();
        let block = |d: f32| {
            let mut bytes = f16::from_f32(d).to_le_bytes().to_vec();
            bytes.extend((0..32u8).map(|i| i.wrapping_mul(8)));
            bytes
        };
        let bytes = [block(1.0), block(600.0)].concat();
        let (ty, layout, order) = (GgmlType::Q8_0, I2sLayout::X86, RowOrder::AsStored);
        let blocks = Blocks { ty, layout, bytes: &bytes, rows: 2, cols: 32, order };
        let (mut wide, mut narrow) = ([0; 256], [0; 128]);
        assert!(!blocks.to_f16(&engine, &mut narrow).unwrap());
        blocks.to_f32(2.0, &mut wide).unwrap();
        assert_eq!(wide[32 * 4 + 4..][..4], (600.0f32 * 8.0 * 2.0).to_le_bytes());
        let small = Blocks { bytes: &bytes[..34], rows: 1, ..blocks };
        assert!(small.to_f16(&engine, &mut narrow[..64]).unwrap());
        assert_eq!(narrow[2..4], f16::from_f32(8.0).to_le_bytes());
    }
}
