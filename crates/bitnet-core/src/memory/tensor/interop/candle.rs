//! Tensors of candle.

use bitnet_backend::{BitNetDType, BitNetError, Device, Result};
use candle_core::{CpuStorage, DType, Storage, Tensor, WithDType};

use super::heap::tensor_in;
use crate::memory::tensor::file::in_row_order;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};
use crate::memory::{Element, HybridMemoryPool};

/// Lets `look` read a tensor of candle where it lies: its description, with its own strides, and the whole bytes of
/// its storage. candle cannot write to the storage meanwhile.
///
/// # Errors
/// `DeviceUnavailable` for a tensor that is not in host memory; `Mismatch` for an element type that we do not have.
pub fn look_at_candle<R>(tensor: &Tensor, look: impl FnOnce(&TensorMetadata, &[u8]) -> R) -> Result<R> {
    let dtype = BitNetDType::try_from(tensor.dtype())?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        let reason = "its memory is not the host's: move the tensor to the CPU in candle first".into();
        let device = Device::from(tensor.device());
        return Err(bitnet_backend::ErrorKind::DeviceUnavailable { device, reason }.into());
    };
    let bytes: &[u8] = match storage {
        CpuStorage::U8(values) => values,
        CpuStorage::U32(values) => bytemuck::cast_slice(values),
        CpuStorage::I16(values) => bytemuck::cast_slice(values),
        CpuStorage::I32(values) => bytemuck::cast_slice(values),
        CpuStorage::I64(values) => bytemuck::cast_slice(values),
        CpuStorage::BF16(values) => bytemuck::cast_slice(values),
        CpuStorage::F16(values) => bytemuck::cast_slice(values),
        CpuStorage::F32(values) => bytemuck::cast_slice(values),
        CpuStorage::F64(values) => bytemuck::cast_slice(values),
        other => {
            let found = format!("{:?}", std::mem::discriminant(other));
            return Err(BitNetError::mismatch("storage of a candle tensor", dtype, found));
        }
    };
    let strides = layout.stride().iter().map(|&stride| stride as isize).collect();
    let layout = Layout::strided(layout.dims().to_vec(), strides, layout.start_offset());
    Ok(look(&TensorMetadata::with_layout(layout, dtype, Device::Cpu), bytes))
}

impl BitNetTensor {
    /// Copies a tensor of candle into a pool, row-major: one pass, whatever its strides.
    ///
    /// # Errors
    /// As [`look_at_candle`]; otherwise as [`HybridMemoryPool::allocate`].
    pub fn from_candle(tensor: &Tensor, pool: &HybridMemoryPool) -> Result<Self> {
        look_at_candle(tensor, |metadata, bytes| {
            let described = TensorMetadata::new(metadata.shape().to_vec(), metadata.dtype(), Device::Cpu);
            let mut out = BitNetTensor::new(described, pool)?;
            let mut rest = out.as_mut_bytes()?;
            in_row_order(metadata, bytes, &mut |piece| {
                let (next, after) = std::mem::take(&mut rest).split_at_mut(piece.len());
                next.copy_from_slice(piece);
                rest = after;
                Ok(())
            })?;
            Ok(out)
        })?
    }
}

/// Calls a function for the elements of a data type of candle.
macro_rules! for_element {
    ($dtype:expr, $function:ident, $($argument:expr),+) => {
        match $dtype {
            DType::U8 => $function::<u8>($($argument),+),
            DType::U32 => $function::<u32>($($argument),+),
            DType::I16 => $function::<i16>($($argument),+),
            DType::I32 => $function::<i32>($($argument),+),
            DType::I64 => $function::<i64>($($argument),+),
            DType::BF16 => $function::<half::bf16>($($argument),+),
            DType::F16 => $function::<half::f16>($($argument),+),
            DType::F32 => $function::<f32>($($argument),+),
            DType::F64 => $function::<f64>($($argument),+),
            other => Err(BitNetError::mismatch("candle's data type", "one that we have", other.as_str())),
        }
    };
}

impl TryFrom<&Tensor> for BitNetTensor {
    type Error = BitNetError;

    /// Copies a tensor of candle into a vector of its own, row-major: one pass, whatever its strides.
    /// [`BitNetTensor::from_candle`] copies into a pool.
    fn try_from(tensor: &Tensor) -> Result<Self> {
        fn copy<T: Element>(metadata: &TensorMetadata, bytes: &[u8]) -> Result<BitNetTensor> {
            tensor_in(elements::<T>(metadata, bytes)?, Layout::row_major(metadata.shape().to_vec()))
        }
        look_at_candle(tensor, |metadata, bytes| for_element!(tensor.dtype(), copy, metadata, bytes))?
    }
}

/// Copies the elements of a tensor in `bytes` into a vector, row-major.
fn elements<T: Element>(metadata: &TensorMetadata, bytes: &[u8]) -> Result<Vec<T>> {
    let mut values: Vec<T> = Vec::with_capacity(metadata.element_count()?);
    in_row_order(metadata, bytes, &mut |piece| {
        // Pieces are whole elements, at the alignment of the element in the tensor or of the buffer.
        match bytemuck::try_cast_slice(piece) {
            Ok(elements) => values.extend_from_slice(elements),
            Err(_) => {
                values.extend(piece.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned::<T>));
            }
        }
        Ok(())
    })?;
    Ok(values)
}

impl TryFrom<&BitNetTensor> for Tensor {
    type Error = BitNetError;

    /// Copies a tensor into storage of candle on the CPU, row-major: one pass, whatever its strides.
    ///
    /// # Errors
    /// `Mismatch` for an element type that candle does not have: widen or unpack first; for a tensor with a scale, of
    /// which candle knows nothing.
    fn try_from(tensor: &BitNetTensor) -> Result<Self> {
        fn copy<T: Element + WithDType>(tensor: &BitNetTensor) -> Result<Tensor> {
            let values = elements::<T>(tensor.metadata(), tensor.memory().bytes())?;
            Tensor::from_vec(values, tensor.shape(), &candle_core::Device::Cpu).map_err(refused)
        }
        if let Some(scale) = tensor.scale() {
            return Err(BitNetError::mismatch("scale of a tensor for candle", "none", scale));
        }
        for_element!(DType::try_from(tensor.dtype())?, copy, tensor)
    }
}

fn refused(error: candle_core::Error) -> BitNetError {
    // One line: candle may add a stack.
    let found = error.to_string().lines().next().unwrap_or_default().to_owned();
    BitNetError::mismatch("tensor of candle", "one that it accepts", found)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn pool() -> HybridMemoryPool {
        HybridMemoryPool::new().unwrap()
    }

    #[test]
    fn views_of_ours_are_what_candle_sees() {
        let pool = pool();
        let tensor =
            BitNetTensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &Device::Cpu, &pool)
                .unwrap();
        let candle = Tensor::try_from(&tensor).unwrap();
        assert_eq!(candle.to_vec2::<f32>().unwrap(), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let view = tensor.transpose(0, 1).unwrap().flip(&[0]).unwrap();
        let candle = Tensor::try_from(&view).unwrap();
        assert_eq!(candle.to_vec2::<f32>().unwrap(), [[3.0, 6.0], [2.0, 5.0], [1.0, 4.0]]);
        let ternary = BitNetTensor::ones(&[4], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        assert!(Tensor::try_from(&ternary).unwrap_err().to_string().ends_with("found bitnet158"));
        let scaled = BitNetTensor::from_memory(
            tensor.metadata().clone().with_scale(Some(2.0)).unwrap(),
            tensor.memory().clone(),
        );
        assert!(Tensor::try_from(&scaled.unwrap()).unwrap_err().to_string().contains("scale"));
    }

    #[test]
    fn every_shared_type_goes_there_and_back() {
        let pool = pool();
        for dtype in BitNetDType::ALL {
            let Ok(theirs) = DType::try_from(dtype) else { continue };
            let tensor = BitNetTensor::ones(&[3, 5], dtype, &Device::Cpu, &pool).unwrap();
            let candle = Tensor::try_from(&tensor).unwrap();
            assert_eq!((candle.dtype(), candle.dims()), (theirs, &[3, 5][..]));
            for back in [BitNetTensor::from_candle(&candle, &pool), BitNetTensor::try_from(&candle)] {
                let back = back.unwrap();
                assert_eq!((back.dtype(), back.as_bytes().unwrap()), (dtype, tensor.as_bytes().unwrap()));
            }
        }
    }

    #[test]
    fn views_of_candle_are_copied_as_what_they_show_and_looked_at_in_place() {
        let pool = pool();
        let values: Vec<bf16> = (0..24).map(|i| bf16::from_f32(i as f32)).collect();
        let whole = Tensor::from_vec(values, (2, 3, 4), &candle_core::Device::Cpu).unwrap();
        let view = whole.transpose(1, 2).unwrap().narrow(1, 1, 2).unwrap();
        let expected: Vec<bf16> = view.flatten_all().unwrap().to_vec1().unwrap();
        for ours in [BitNetTensor::from_candle(&view, &pool), BitNetTensor::try_from(&view)] {
            let ours = ours.unwrap();
            assert_eq!((ours.shape(), ours.as_slice::<bf16>().unwrap()), (&[2, 2, 3][..], &expected[..]));
        }
        let looked = look_at_candle(&view, |metadata, bytes| {
            assert_eq!((metadata.strides(), metadata.layout().offset()), (&[12, 1, 4][..], 1));
            bytes.len()
        });
        assert_eq!(looked.unwrap(), 48);
    }
}
