//! Tensors that operations make.

use std::sync::Arc;

use bitnet_backend::{BitNetDType, BitNetError, Device, ErrorKind, Result};

use crate::memory::tensor::{BitNetTensor, TensorMetadata};
use crate::memory::{Element, HybridMemoryPool, PoolBuffer};

/// Allocates a row-major tensor and lets `fill` write every element.
///
/// `T` is the element type of `dtype`, or `u8` for `bool`.
///
/// # Errors
/// As an allocation, and those of `fill`.
pub(crate) fn build<T: Element>(
    shape: &[usize],
    dtype: BitNetDType,
    pool: &HybridMemoryPool,
    operation: &str,
    fill: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<BitNetTensor> {
    let metadata = TensorMetadata::new(shape.to_vec(), dtype, Device::Cpu);
    let size = metadata.size_bytes().map_err(|error| error.context(operation))?;
    debug_assert_eq!(dtype.element_bytes(), Some(size_of::<T>()));
    let purpose = format!("{operation}: {dtype} tensor of shape {shape:?}");
    let mut data = PoolBuffer::<u8>::for_overwrite(pool, size, &Device::Cpu, &purpose)?;
    fill(if data.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(&mut data) })?;
    BitNetTensor::in_memory(metadata, Arc::new(data))
}

/// Returns the pool of the first operand that has one.
///
/// # Errors
/// `Unsupported` when none has one, and for an operand with a scale.
pub(crate) fn pool_of<'a>(operation: &str, operands: &[&'a BitNetTensor]) -> Result<&'a HybridMemoryPool> {
    operands.iter().try_for_each(|tensor| tensor.check_unscaled(operation))?;
    let pooled = operands.iter().find_map(|tensor| tensor.memory().pool());
    match (pooled, operands.first()) {
        (Some(pool), _) => Ok(pool),
        (None, Some(first)) => first.result_pool(operation),
        (None, None) => Err(BitNetError::mismatch(format!("operands of {operation}"), "at least one", 0)),
    }
}

/// Returns an empty vector with room for `len` values.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn room<T>(operation: &str, len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(len) {
        Ok(()) => Ok(room),
        Err(error) => Err(BitNetError::new(ErrorKind::OutOfMemory {
            requested: len.saturating_mul(size_of::<T>()),
            purpose: operation.to_owned(),
            available: error.to_string(),
        })),
    }
}

/// Says that an operation has no meaning for these element types.
pub(crate) fn unsupported(operation: &str, operands: &[&BitNetTensor], reason: &str) -> BitNetError {
    let types: Vec<String> =
        operands.iter().map(|tensor| format!("{} {:?}", tensor.dtype(), tensor.shape())).collect();
    BitNetError::new(ErrorKind::Unsupported {
        backend: "cpu",
        operation: format!("{operation} of {}", types.join(" and ")),
        reason: reason.into(),
    })
}

/// Says that shapes do not fit an operation.
pub(crate) fn shapes(operation: &str, expected: &str, operands: &[&BitNetTensor]) -> BitNetError {
    let found: Vec<String> = operands.iter().map(|tensor| format!("{:?}", tensor.shape())).collect();
    BitNetError::mismatch(format!("shapes of {operation}"), expected, found.join(" and "))
}
