//! The same memory as a tensor of another type.

use std::sync::Arc;

use bitnet_backend::{BitNetDType, BitNetError, Result};

use crate::memory::tensor::{BitNetTensor, TensorMetadata};

/// Returns a view of the elements as another type; see
/// [`ConversionEngine::zero_copy_convert`](super::ConversionEngine::zero_copy_convert).
pub fn view(tensor: &BitNetTensor, dtype: BitNetDType) -> Result<BitNetTensor> {
    let from = tensor.dtype();
    if from == dtype {
        return Ok(tensor.clone());
    }
    let what = || format!("element type of {from} elements seen in place");
    if !same_bits(from, dtype) {
        let expected = "the same type, or one of its size where the bits are meant";
        return Err(BitNetError::mismatch(what(), expected, format!("{dtype}; convert copies")));
    }
    if let Some(scale) = tensor.scale() {
        let found = format!("{dtype}, with the scale {scale:e}");
        return Err(BitNetError::mismatch(what(), "the same type, as a scale is stated", found));
    }
    let metadata = TensorMetadata::with_layout(tensor.layout().clone(), dtype, tensor.device());
    BitNetTensor::in_memory(metadata, Arc::clone(tensor.memory()))
}

/// Reports whether every element of one type is one of the other, with a meaning that its bits give it.
///
/// Two float types of one size are left out: a number of one is another number of the other, and `convert` is meant.
fn same_bits(from: BitNetDType, to: BitNetDType) -> bool {
    let sizes = (from.element_bytes(), to.element_bytes());
    let same_size = matches!(sizes, (Some(from), Some(to)) if from == to);
    // A byte is no bool unless it is 0 or 1.
    same_size && to != BitNetDType::Bool && !(from.is_float() && to.is_float())
}
