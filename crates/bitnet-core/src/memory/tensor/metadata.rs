//! What a tensor is, apart from its elements.

use bitnet_backend::{BitNetDType, BitNetError, Device, ErrorKind, Result};

/// Shape, element type and device of a tensor.
///
/// Making one never fails; the sizes it implies are checked where they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    shape: Vec<usize>,
    dtype: BitNetDType,
    device: Device,
}

impl TensorMetadata {
    /// Describes a tensor. An empty shape is a scalar.
    pub fn new(shape: Vec<usize>, dtype: BitNetDType, device: Device) -> Self {
        TensorMetadata { shape, dtype, device }
    }

    /// Returns the length of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the element type.
    pub fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Returns the distance, in elements, between neighbours along each dimension (row-major).
    ///
    /// # Errors
    /// As [`element_count`](Self::element_count).
    pub fn strides(&self) -> Result<Vec<usize>> {
        let mut strides = vec![1; self.shape.len()];
        self.extent(|dimension, inner| strides[dimension] = inner)?;
        Ok(strides)
    }

    /// Returns the number of elements.
    ///
    /// # Errors
    /// `TensorTooLarge` when the product of the non-zero dimensions does not fit a `usize`; an empty
    /// tensor of such a shape is refused too, as its strides cannot be stated.
    pub fn element_count(&self) -> Result<usize> {
        let extent = self.extent(|_, _| {})?;
        Ok(if self.shape.contains(&0) { 0 } else { extent })
    }

    /// Returns the bytes that the packed elements occupy.
    ///
    /// # Errors
    /// `TensorTooLarge` when that or the element count does not fit a `usize`.
    pub fn size_bytes(&self) -> Result<usize> {
        self.dtype.size_bytes(self.element_count()?).ok_or_else(|| self.too_large())
    }

    /// Multiplies the non-zero dimensions from the innermost out, showing each its inner product.
    fn extent(&self, mut visit: impl FnMut(usize, usize)) -> Result<usize> {
        let mut extent: usize = 1;
        for (dimension, &length) in self.shape.iter().enumerate().rev() {
            visit(dimension, extent);
            extent = extent.checked_mul(length.max(1)).ok_or_else(|| self.too_large())?;
        }
        Ok(extent)
    }

    pub(super) fn too_large(&self) -> BitNetError {
        BitNetError::new(ErrorKind::TensorTooLarge { dtype: self.dtype, shape: self.shape.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(shape: &[usize], dtype: BitNetDType) -> TensorMetadata {
        TensorMetadata::new(shape.to_vec(), dtype, Device::Cpu)
    }

    #[test]
    fn strides_are_row_major_in_elements() {
        let tensor = metadata(&[2, 3, 5], BitNetDType::F32);
        assert_eq!(tensor.strides().unwrap(), [15, 5, 1]);
        assert_eq!((tensor.element_count().unwrap(), tensor.size_bytes().unwrap()), (30, 120));
    }

    #[test]
    fn scalars_have_one_element_and_empty_tensors_none() {
        let scalar = metadata(&[], BitNetDType::F16);
        assert_eq!((scalar.element_count().unwrap(), scalar.size_bytes().unwrap()), (1, 2));
        let empty = metadata(&[4, 0, 3], BitNetDType::F16);
        assert_eq!((empty.element_count().unwrap(), empty.size_bytes().unwrap()), (0, 0));
        assert_eq!(empty.strides().unwrap(), [3, 3, 1]);
    }

    #[test]
    fn ternary_elements_take_two_bits() {
        assert_eq!(metadata(&[3, 3], BitNetDType::BitNet158).size_bytes().unwrap(), 3);
    }

    #[test]
    fn sizes_beyond_the_address_space_are_typed_errors() {
        let half = usize::MAX / 2 + 1;
        let bytes_only = metadata(&[half], BitNetDType::F32);
        assert_eq!(bytes_only.element_count().unwrap(), half);
        for result in [
            bytes_only.size_bytes(),
            metadata(&[half, 2], BitNetDType::BitNet158).element_count(),
            metadata(&[0, half, 2], BitNetDType::F32).element_count(),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::TensorTooLarge { .. }), "{error}");
        }
        assert!(metadata(&[0, half, 2], BitNetDType::F32).strides().is_err());
    }
}
