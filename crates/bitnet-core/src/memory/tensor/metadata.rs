//! What a tensor is, apart from its elements.

use bitnet_backend::{BitNetDType, BitNetError, Device, ErrorKind, Result};

use super::Layout;

/// Shape, strides, element type, scale and device of a tensor.
///
/// Making one never fails; the sizes it implies are checked where they are asked for. The values of a tensor with a
/// scale are its stored numbers times the scale: that of a quantised tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMetadata {
    layout: Layout,
    dtype: BitNetDType,
    device: Device,
    /// The bits of the scale.
    scale: Option<u32>,
}

impl TensorMetadata {
    /// Describes a row-major tensor. An empty shape is a scalar.
    pub fn new(shape: Vec<usize>, dtype: BitNetDType, device: Device) -> Self {
        Self::with_layout(Layout::row_major(shape), dtype, device)
    }

    /// Describes a tensor whose elements lie as `layout` says.
    pub fn with_layout(layout: Layout, dtype: BitNetDType, device: Device) -> Self {
        TensorMetadata { layout, dtype, device, scale: None }
    }

    /// Describes a tensor whose values are its stored numbers times `scale`.
    ///
    /// # Errors
    /// `Mismatch` for a scale that is not a finite number above zero.
    pub fn with_scale(self, scale: Option<f32>) -> Result<Self> {
        if let Some(scale) = scale.filter(|scale| !(*scale > 0.0 && scale.is_finite())) {
            return Err(BitNetError::mismatch("scale of a tensor", "a finite number above zero", scale));
        }
        Ok(TensorMetadata { scale: scale.map(f32::to_bits), ..self })
    }

    /// Describes the same elements in another layout: a view, or a copy in another order.
    pub fn relaid(&self, layout: Layout) -> Self {
        TensorMetadata { layout, ..self.clone() }
    }

    /// Returns shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the length of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Returns the distance, in elements, between neighbours along each dimension.
    pub fn strides(&self) -> &[isize] {
        self.layout.strides()
    }

    /// Returns the element type.
    pub fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    /// Returns the device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns what stored numbers are multiplied by to give values, where that is stated.
    pub fn scale(&self) -> Option<f32> {
        self.scale.map(f32::from_bits)
    }

    /// Returns the number of dimensions.
    pub fn rank(&self) -> usize {
        self.layout.rank()
    }

    /// Returns the number of elements.
    ///
    /// # Errors
    /// `TensorTooLarge` when the product of the non-zero dimensions does not fit an `isize`; an empty
    /// tensor of such a shape is refused too, as its strides cannot be stated.
    pub fn element_count(&self) -> Result<usize> {
        self.layout.element_count().ok_or_else(|| self.too_large())
    }

    /// Returns the bytes that the elements occupy when packed without gaps.
    ///
    /// # Errors
    /// `TensorTooLarge` when that or the element count does not fit a `usize`.
    pub fn size_bytes(&self) -> Result<usize> {
        self.dtype.size_bytes(self.element_count()?).ok_or_else(|| self.too_large())
    }

    fn too_large(&self) -> BitNetError {
        BitNetError::new(ErrorKind::TensorTooLarge { dtype: self.dtype, shape: self.shape().to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(shape: &[usize], dtype: BitNetDType) -> TensorMetadata {
        TensorMetadata::new(shape.to_vec(), dtype, Device::Cpu)
    }

    #[test]
    fn sizes_count_elements_and_bytes() {
        let tensor = metadata(&[2, 3, 5], BitNetDType::F32);
        assert_eq!((tensor.element_count().unwrap(), tensor.size_bytes().unwrap()), (30, 120));
        let scalar = metadata(&[], BitNetDType::F16);
        assert_eq!((scalar.element_count().unwrap(), scalar.size_bytes().unwrap()), (1, 2));
        let empty = metadata(&[4, 0, 3], BitNetDType::F16);
        assert_eq!((empty.element_count().unwrap(), empty.size_bytes().unwrap()), (0, 0));
    }

    #[test]
    fn ternary_elements_take_two_bits() {
        assert_eq!(metadata(&[3, 3], BitNetDType::BitNet158).size_bytes().unwrap(), 3);
    }

    #[test]
    fn sizes_beyond_the_address_space_are_typed_errors() {
        let half = usize::MAX / 2 + 1;
        for result in [
            metadata(&[half / 2], BitNetDType::F64).size_bytes(),
            metadata(&[half], BitNetDType::F32).size_bytes(),
            metadata(&[half, 2], BitNetDType::BitNet158).element_count(),
            metadata(&[0, half, 2], BitNetDType::F32).element_count(),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::TensorTooLarge { .. }), "{error}");
        }
        let most = metadata(&[half / 2], BitNetDType::F16);
        assert_eq!(most.size_bytes().unwrap(), half);
    }
}
