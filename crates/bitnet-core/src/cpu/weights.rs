//! Matrices as the CPU kernels read them.

use bitnet_backend::{
    BitNetDType, BitNetError, LinearWeights, Result, TernaryWire, WeightBytes, WeightScale, WeightStorage,
};
use bitnet_kernels::DenseRow;
use bitnet_kernels::layout::row_quarters;
use half::{bf16, f16};

use crate::memory::{HybridMemoryPool, PoolBuffer};

/// A prepared matrix.
pub struct Matrix {
    /// Name in the checkpoint.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Elements.
    pub elements: Elements,
    /// Added to the product.
    pub bias: Option<Vec<f32>>,
}

/// The elements of a matrix.
pub enum Elements {
    /// Row-quarter codes, in place.
    Ternary(Bytes, WeightScale),
    /// Dense floats, in place where the file aligned them.
    Dense(BitNetDType, Bytes),
}

/// Bytes of a matrix: the loader's, or a copy of them in the pool.
pub enum Bytes {
    /// Adopted without a copy.
    InPlace(WeightBytes),
    /// Copied, because the file did not align the elements.
    Copied(PoolBuffer<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::InPlace(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl Matrix {
    /// Adopts what a loader read.
    pub fn prepare(weights: LinearWeights, pool: &HybridMemoryPool) -> Result<Matrix> {
        weights.validate()?;
        let LinearWeights { name, rows, cols, storage, bias } = weights;
        let elements = match storage {
            WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes, scale } => {
                ternary(&name, cols, bytes, scale)?
            }
            WeightStorage::Dense { dtype, bytes } => dense(&name, dtype, bytes, pool)?,
            other => return Err(unsupported(format!("matrix {name} stored as {other:?}"))),
        };
        Ok(Matrix { name, rows, cols, elements, bias })
    }

    /// Returns a row of a dense matrix; `None` when the matrix is ternary.
    pub fn dense_row(&self, row: usize) -> Option<DenseRow<'_>> {
        let Elements::Dense(dtype, bytes) = &self.elements else { return None };
        let width = self.cols * dtype.bits() / 8;
        let bytes = &bytes[row * width..][..width];
        // Alignment was checked when the matrix was prepared.
        match dtype {
            BitNetDType::F32 => bytemuck::try_cast_slice(bytes).ok().map(DenseRow::F32),
            BitNetDType::F16 => bytemuck::try_cast_slice::<u8, f16>(bytes).ok().map(DenseRow::F16),
            BitNetDType::BF16 => bytemuck::try_cast_slice::<u8, bf16>(bytes).ok().map(DenseRow::BF16),
            _ => None,
        }
    }

    /// Returns the bytes of the elements and the bias.
    pub fn bytes(&self) -> usize {
        let (Elements::Ternary(bytes, _) | Elements::Dense(_, bytes)) = &self.elements;
        bytes.len() + self.bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice()))
    }
}

fn ternary(name: &str, cols: usize, bytes: WeightBytes, scale: WeightScale) -> Result<Elements> {
    if cols > row_quarters::MAX_COLS {
        let expected = format!("at most {} input features", row_quarters::MAX_COLS);
        return Err(BitNetError::mismatch(name, expected, cols));
    }
    if !(scale.value().is_finite() && scale.value() > 0.0) {
        return Err(BitNetError::mismatch(format!("{name}: scale"), "a positive number", scale.value()));
    }
    Ok(Elements::Ternary(Bytes::InPlace(bytes), scale))
}

fn dense(name: &str, dtype: BitNetDType, bytes: WeightBytes, pool: &HybridMemoryPool) -> Result<Elements> {
    let align = match dtype {
        BitNetDType::F32 => align_of::<f32>(),
        BitNetDType::F16 | BitNetDType::BF16 => align_of::<u16>(),
        other => return Err(unsupported(format!("matrix {name} of {other}"))),
    };
    if cfg!(target_endian = "big") {
        return Err(unsupported(format!("little-endian matrix {name} in place")));
    }
    if bytes.as_ptr().addr().is_multiple_of(align) {
        return Ok(Elements::Dense(dtype, Bytes::InPlace(bytes)));
    }
    let mut copy = PoolBuffer::zeroed(pool, bytes.len(), &bitnet_backend::Device::Cpu, name)?;
    copy.copy_from_slice(&bytes);
    Ok(Elements::Dense(dtype, Bytes::Copied(copy)))
}

fn unsupported(operation: String) -> BitNetError {
    bitnet_backend::ErrorKind::Unsupported {
        backend: super::NAME,
        operation,
        reason: "the CPU kernels read row-quarter codes and f32, f16 or bf16 rows".into(),
    }
    .into()
}
