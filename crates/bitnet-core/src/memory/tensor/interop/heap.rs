//! Memory of the general allocator.

use std::fmt;
use std::sync::Arc;

use bitnet_backend::{Device, Result};

use crate::memory::Element;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMemory, TensorMetadata};

/// A vector as the memory of tensors; no pool knows of it.
pub(super) struct HeapMemory<T>(Vec<T>);

impl<T: Element> TensorMemory for HeapMemory<T> {
    fn kind(&self) -> &'static str {
        "vector"
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        Ok(bytemuck::cast_slice_mut(&mut self.0))
    }
}

impl<T> fmt::Debug for HeapMemory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeapMemory({} elements)", self.0.len())
    }
}

/// Makes a tensor of a vector whose elements lie as `layout` says, without a copy.
pub(super) fn tensor_in<T: Element>(values: Vec<T>, layout: Layout) -> Result<BitNetTensor> {
    let metadata = TensorMetadata::with_layout(layout, T::DTYPE, Device::Cpu);
    BitNetTensor::from_memory(metadata, Arc::new(HeapMemory(values)))
}

impl BitNetTensor {
    /// Makes a tensor of a vector, row-major, without a copy.
    ///
    /// It belongs to no pool: operations that need memory ask for one, and writing to it while it is shared is refused.
    ///
    /// # Errors
    /// `TensorTooLarge`; `Mismatch` when the number of values is not that of the shape.
    pub fn from_vec<T: Element>(values: Vec<T>, shape: &[usize]) -> Result<Self> {
        let layout = Layout::row_major(shape.to_vec());
        let metadata = TensorMetadata::with_layout(layout.clone(), T::DTYPE, Device::Cpu);
        let expected = metadata.element_count()?;
        if values.len() != expected {
            let what = format!("values for a tensor of shape {shape:?}");
            return Err(bitnet_backend::BitNetError::mismatch(what, expected, values.len()));
        }
        tensor_in(values, layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_become_tensors_without_a_copy() {
        let values = vec![1i16, 2, 3, 4, 5, 6];
        let address = values.as_ptr();
        let mut tensor = BitNetTensor::from_vec(values, &[2, 3]).unwrap();
        assert_eq!(tensor.as_slice::<i16>().unwrap().as_ptr(), address);
        tensor.as_mut_slice::<i16>().unwrap()[5] = -6;
        let view = tensor.clone();
        let error = tensor.as_mut_slice::<i16>().unwrap_err().to_string();
        assert!(error.contains("writing to a tensor in a vector"), "{error}");
        assert_eq!(view.as_slice::<i16>().unwrap(), [1, 2, 3, 4, 5, -6]);
        assert!(
            BitNetTensor::from_vec(vec![1u8; 5], &[2, 3])
                .unwrap_err()
                .to_string()
                .contains("expected 6, found 5")
        );
        assert!(
            BitNetTensor::from_vec(Vec::<f64>::new(), &[0, 3]).unwrap().as_slice::<f64>().unwrap().is_empty()
        );
    }
}
