//! Copies of tensors, of the same type or another.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::cast::Cast;
use super::output::{build, unsupported};
use super::source::{Number, Source, unpacked};
use super::walk::{Walk, fill};
use crate::memory::HybridMemoryPool;
use crate::memory::conversion::{ConversionConfig, ConversionEngine};
use crate::memory::tensor::BitNetTensor;

/// Calls `$body` with `$type` standing for the elements of a whole-byte type; `bool` is `u8`.
macro_rules! for_number {
    ($dtype:expr, $type:ident => $body:expr, packed => $packed:expr) => {
        for_number!(@ $dtype, $type, $body, $packed,
            F64 f64, F32 f32, F16 half::f16, BF16 half::bf16, I64 i64, I32 i32, I16 i16, I8 i8,
            U64 u64, U32 u32, U16 u16, U8 u8, Bool u8)
    };
    (@ $dtype:expr, $type:ident, $body:expr, $packed:expr, $($name:ident $element:ty),+) => {
        match $dtype {
            $(BitNetDType::$name => {
                type $type = $element;
                $body
            })+
            _ => $packed,
        }
    };
}
pub(crate) use for_number;

/// Copies a tensor, row-major, into memory of `pool`.
pub(crate) fn copy(tensor: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let dtype = tensor.dtype();
    for_number!(dtype, T => converted::<T>(tensor, dtype, pool, "copy"), packed => {
        let mut copy = BitNetTensor::zeros(tensor.shape(), dtype, &tensor.device(), pool)?;
        // Each packed element is a digit of its byte, the first one the lowest; what the tensor does not use of the
        // last byte may belong to another view, and becomes zeros.
        let radix: u8 = match dtype {
            BitNetDType::I4 => 16,
            BitNetDType::BitNet158 => 4,
            _ => 3,
        };
        let used = (tensor.element_count() % dtype.block().0) as u32;
        let bytes = copy.as_mut_bytes()?;
        let zeros = bytes.last().copied().unwrap_or(0);
        bytes.copy_from_slice(tensor.as_bytes()?);
        if let (Some(last), 1..) = (bytes.last_mut(), used) {
            let place = radix.pow(used);
            *last = *last % place + (zeros - zeros % place);
        }
        Ok(copy)
    })
}

/// Makes a row-major tensor of the elements of one that is not packed.
fn converted<T: Number>(
    tensor: &BitNetTensor,
    dtype: BitNetDType,
    pool: &HybridMemoryPool,
    operation: &str,
) -> Result<BitNetTensor> {
    let layout = tensor.layout();
    build(tensor.shape(), dtype, pool, operation, |out: &mut [T]| {
        let walk = Walk::new(layout.shape(), [layout.strides()], [layout.offset()]);
        fill(&walk, [Source::of(tensor)], out, &|[values]: [&[T]; 1], out: &mut [T]| {
            out.copy_from_slice(values)
        });
        Ok(())
    })
}

/// Converts values to elements of a whole-byte type. Returns the first value that an integer type cannot hold.
pub(crate) fn cast_slice_from_f64(values: &[f64], dtype: BitNetDType, out: &mut [u8]) -> Option<usize> {
    if dtype == BitNetDType::Bool {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = u8::from(value != 0.0));
        return None;
    }
    for_number!(dtype, T => {
        let out: &mut [T] = bytemuck::cast_slice_mut(out);
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = Cast::cast(value));
        let held = |(out, value): (&T, &f64)| <f64 as Cast<T>>::cast(*out) == *value;
        if dtype.is_float() { None } else { out.iter().zip(values).position(|pair| !held(pair)) }
    }, packed => Some(0))
}

impl BitNetTensor {
    /// Returns the tensor as another element type: a clone that shares the memory where it has that type already.
    ///
    /// Floats are rounded half to even, once. Integers made of floats are rounded towards zero and kept within
    /// the range of the type, NaN becomes 0; integers made of wider ones keep their low bits. `bool` is whether the
    /// element is not zero. Packed types take integers that are within their range.
    ///
    /// # Errors
    /// `Mismatch` for a value out of the range of a packed type; `Unsupported` when floats are to become a packed
    /// type (that is quantisation) or the memory belongs to no pool; otherwise as an allocation.
    pub fn cast(&self, dtype: BitNetDType) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let pool = self.result_pool("cast")?;
        if dtype.is_float() {
            return ConversionEngine::new(ConversionConfig::balanced(), pool.clone())?.convert(self, dtype);
        }
        // The engine rounds to the nearest integer, where NumPy and PyTorch round towards zero.
        let source = unpacked(self, "cast")?;
        if dtype == BitNetDType::Bool {
            return for_number!(source.dtype(), T => truth::<T>(&source, pool), packed => unreachable!("unpacked"));
        }
        for_number!(dtype, T => converted::<T>(&source, dtype, pool, "cast"), packed => pack(&source, dtype, pool))
    }
}

fn truth<T: Number + PartialEq>(tensor: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let layout = tensor.layout();
    build(tensor.shape(), BitNetDType::Bool, pool, "cast", |out: &mut [u8]| {
        let walk = Walk::new(layout.shape(), [layout.strides()], [layout.offset()]);
        let zero = <T as Cast<u8>>::cast(0);
        fill(&walk, [Source::of(tensor)], out, &|[values]: [&[T]; 1], out: &mut [u8]| {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = u8::from(*value != zero));
        });
        Ok(())
    })
}

fn pack(tensor: &BitNetTensor, dtype: BitNetDType, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    if tensor.dtype().is_float() {
        let reason = format!("making {dtype} of floats is quantisation, which needs a scale");
        return Err(unsupported("cast", &[tensor], &reason));
    }
    // A packed element is a digit of its byte, the first one the lowest.
    let (low, high, radix, zero) = match dtype {
        BitNetDType::I4 => (-8, 7, 16u8, 0u8),
        BitNetDType::BitNet158 => (-1, 1, 4, 1),
        _ => (-1, 1, 3, 1),
    };
    let values = tensor.cast(BitNetDType::I64)?.contiguous()?;
    let mut packed = BitNetTensor::zeros(tensor.shape(), dtype, &tensor.device(), pool)?;
    let (per_byte, bytes) = (dtype.block().0, packed.as_mut_bytes()?);
    for (index, &value) in values.as_slice::<i64>()?.iter().enumerate() {
        // Above the range of i64 an unsigned value is negative here, and outside all the same.
        if !(low..=high).contains(&value) {
            let what = format!("element {index} of a cast of shape {:?} to {dtype}", tensor.shape());
            return Err(BitNetError::mismatch(what, format!("{low} to {high}"), value));
        }
        let digit = if radix == 16 { value as u8 & 15 } else { (value + 1) as u8 };
        let place = radix.pow((index % per_byte) as u32);
        let byte = &mut bytes[index / per_byte];
        *byte = byte.wrapping_add(digit.wrapping_sub(zero).wrapping_mul(place));
    }
    Ok(packed)
}
