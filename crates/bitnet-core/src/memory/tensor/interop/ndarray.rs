//! Arrays of `ndarray`, in place both ways.

use bitnet_backend::{BitNetError, Result};
use ndarray::{Array, ArrayViewD, ArrayViewMutD, Axis, Dimension, IxDyn, ShapeBuilder};

use super::heap::tensor_in;
use crate::memory::Element;
use crate::memory::tensor::{BitNetTensor, Layout};

impl BitNetTensor {
    /// Returns the elements as an array view, with the tensor's own strides.
    ///
    /// # Errors
    /// `Mismatch` when `T` is not the element type.
    pub fn as_ndarray<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        self.check_element::<T>()?;
        let layout = self.layout();
        let shape = IxDyn(layout.shape());
        if self.element_count() == 0 {
            return ArrayViewD::from_shape(shape, &[]).map_err(refused);
        }
        // Whatever lies before or behind the tensor need not be whole elements.
        let width = size_of::<T>();
        let bytes = self.memory().bytes();
        let elements: &[T] = bytemuck::cast_slice(&bytes[..bytes.len() / width * width]);
        // ndarray starts at the lowest address: dimensions that run backwards are turned round, there and back.
        let mut start = layout.offset();
        for (&length, &stride) in layout.shape().iter().zip(layout.strides()) {
            if stride < 0 {
                start -= (length - 1) * stride.unsigned_abs();
            }
        }
        let strides: Vec<usize> = layout.strides().iter().map(|stride| stride.unsigned_abs()).collect();
        let mut view =
            ArrayViewD::from_shape(shape.strides(IxDyn(&strides)), &elements[start..]).map_err(refused)?;
        for (axis, &stride) in layout.strides().iter().enumerate() {
            if stride < 0 {
                view.invert_axis(Axis(axis));
            }
        }
        Ok(view)
    }

    /// Returns the elements as an array view for writing; copies them first when another tensor shares the memory.
    ///
    /// # Errors
    /// As [`as_mut_slice`](Self::as_mut_slice): the tensor has to be contiguous.
    pub fn as_ndarray_mut<T: Element>(&mut self) -> Result<ArrayViewMutD<'_, T>> {
        let shape = IxDyn(self.shape());
        ArrayViewMutD::from_shape(shape, self.as_mut_slice()?).map_err(refused)
    }
}

impl<T: Element, D: Dimension> TryFrom<Array<T, D>> for BitNetTensor {
    type Error = BitNetError;

    /// Takes the memory of an array over, with its strides and without a copy.
    ///
    /// # Errors
    /// `TensorTooLarge`.
    fn try_from(array: Array<T, D>) -> Result<Self> {
        let (shape, strides) = (array.shape().to_vec(), array.strides().to_vec());
        let (values, offset) = array.into_raw_vec_and_offset();
        tensor_in(values, Layout::strided(shape, strides, offset.unwrap_or_default()))
    }
}

fn refused(error: ndarray::ShapeError) -> BitNetError {
    BitNetError::mismatch("layout of an array view", "one that ndarray accepts", error)
}

#[cfg(test)]
mod tests {
    use bitnet_backend::Device;
    use half::f16;
    use ndarray::{Array2, Array3, array, s};

    use super::*;
    use crate::memory::HybridMemoryPool;

    #[test]
    fn views_have_our_strides_and_our_memory() {
        let pool = HybridMemoryPool::new().unwrap();
        let values: Vec<i32> = (0..24).collect();
        let tensor = BitNetTensor::from_slice(&values, &[2, 3, 4], &Device::Cpu, &pool).unwrap();
        let expected = Array3::from_shape_vec((2, 3, 4), values).unwrap();
        assert_eq!(tensor.as_ndarray::<i32>().unwrap(), expected.view().into_dyn());
        let address = tensor.as_slice::<i32>().unwrap().as_ptr();
        assert_eq!(tensor.as_ndarray::<i32>().unwrap().as_ptr(), address);

        let turned = tensor.permute(&[2, 0, 1]).unwrap().flip(&[0, 2]).unwrap();
        let mut wanted = expected.view().permuted_axes([2, 0, 1]);
        wanted.invert_axis(Axis(0));
        wanted.invert_axis(Axis(2));
        let seen = turned.as_ndarray::<i32>().unwrap();
        assert_eq!((seen.view(), seen.strides()), (wanted.view().into_dyn(), turned.layout().strides()));

        let part = tensor.slice(2, Some(3), None, -2).unwrap().narrow(1, 1, 2).unwrap();
        assert_eq!(part.as_ndarray::<i32>().unwrap(), expected.slice(s![.., 1..3, ..;-2]).into_dyn());
        let spread = tensor.narrow(1, 1, 1).unwrap().broadcast_to(&[2, 5, 4]).unwrap();
        let wanted = expected.slice(s![.., 1..2, ..]);
        assert_eq!(spread.as_ndarray::<i32>().unwrap(), wanted.broadcast((2, 5, 4)).unwrap().into_dyn());
        let empty = tensor.narrow(0, 1, 0).unwrap();
        assert_eq!(empty.as_ndarray::<i32>().unwrap().shape(), [0, 3, 4]);
        assert!(tensor.as_ndarray::<f32>().is_err());
    }

    #[test]
    fn writing_through_a_view_reaches_one_tensor() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut tensor =
            BitNetTensor::zeros(&[2, 2], bitnet_backend::BitNetDType::F16, &Device::Cpu, &pool).unwrap();
        let other = tensor.clone();
        tensor.as_ndarray_mut::<f16>().unwrap()[[1, 0]] = f16::ONE;
        assert_eq!(tensor.as_slice::<f16>().unwrap(), [f16::ZERO, f16::ZERO, f16::ONE, f16::ZERO]);
        assert_eq!(other.as_slice::<f16>().unwrap(), [f16::ZERO; 4]);
        assert!(tensor.transpose(0, 1).unwrap().as_ndarray_mut::<f16>().is_err());
    }

    #[test]
    fn arrays_of_any_order_become_tensors_in_place() {
        let array: Array2<f64> = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
        let address = array.as_ptr();
        let tensor = BitNetTensor::try_from(array.clone()).unwrap();
        assert_eq!(tensor.as_slice::<f64>().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut odd = array.reversed_axes();
        odd.invert_axis(Axis(0));
        let expected = odd.clone();
        let tensor = BitNetTensor::try_from(odd).unwrap();
        assert_eq!(tensor.memory().bytes().as_ptr().cast(), address);
        assert_eq!((tensor.shape(), tensor.layout().strides()), (&[3, 2][..], &[-1, 3][..]));
        assert_eq!(tensor.as_ndarray::<f64>().unwrap(), expected.into_dyn());
        let scalar = BitNetTensor::try_from(ndarray::arr0(7u8)).unwrap();
        assert_eq!((scalar.shape(), scalar.as_slice::<u8>().unwrap()), (&[][..], &[7][..]));
        let empty = BitNetTensor::try_from(Array2::<f32>::zeros((0, 3))).unwrap();
        assert_eq!((empty.shape(), empty.element_count()), (&[0, 3][..], 0));
    }
}
