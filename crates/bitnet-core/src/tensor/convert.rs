//! Copies of tensors, of the same type or another.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::cast::Cast;
use super::output::{build, unsupported};
use super::source::{Number, Source, unpacked};
use super::walk::{Walk, fill};
use crate::memory::HybridMemoryPool;
use crate::memory::conversion::{ConversionConfig, ConversionEngine};
use crate::memory::tensor::BitNetTensor;
use crate::memory::tensor::packed::{Digits, codes_of, store_codes};

/// Values that are packed at a time: whole bytes of every packed type.
const PIECE: usize = 1280;

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
        // What the tensor does not use of the last byte may belong to another view, and becomes zeros.
        let used = tensor.element_count() % dtype.block().0;
        let bytes = copy.as_mut_bytes()?;
        bytes.copy_from_slice(tensor.as_bytes()?);
        if let (Some(digits), Some(last), 1..) = (Digits::of(dtype), bytes.last_mut(), used) {
            *last = digits.cut(*last, used);
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
        // Not what became of it: the greatest integers of 64 bits are rounded to numbers beyond them.
        let range = dtype.range();
        let held = |value: &f64| value.trunc() == *value && range.contains(*value);
        if dtype.is_float() { None } else { values.iter().position(|value| !held(value)) }
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
        self.cast_in(dtype, self.result_pool("cast")?)
    }

    /// Is [`cast`](Self::cast) with the result in `pool`.
    pub(crate) fn cast_in(&self, dtype: BitNetDType, pool: &HybridMemoryPool) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        self.check_unscaled("cast")?;
        if dtype.is_float() {
            return ConversionEngine::new(ConversionConfig::balanced(), pool.clone())?.convert(self, dtype);
        }
        // The engine rounds to the nearest integer, where NumPy and PyTorch round towards zero.
        let source = unpacked(self, "cast", pool)?;
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
    let (low, high) = codes_of(dtype).unwrap_or_default();
    let kernels = crate::cpu::select_kernels()?;
    let values = tensor.cast_in(BitNetDType::I64, pool)?.contiguous_in(pool)?;
    let mut packed = BitNetTensor::zeros(tensor.shape(), dtype, &tensor.device(), pool)?;
    let (values, mut codes) = (values.as_slice::<i64>()?, [0; PIECE]);
    let pieces = packed.as_mut_bytes()?.chunks_mut(PIECE / dtype.block().0);
    for (piece, (values, out)) in values.chunks(PIECE).zip(pieces).enumerate() {
        let codes = &mut codes[..values.len()];
        for (index, (code, &value)) in codes.iter_mut().zip(values).enumerate() {
            // Above the range of i64 an unsigned value is negative here, and outside all the same.
            if !(low.into()..=high.into()).contains(&value) {
                let index = piece * PIECE + index;
                let what = format!("element {index} of a cast of shape {:?} to {dtype}", tensor.shape());
                return Err(BitNetError::mismatch(what, format!("{low} to {high}"), value));
            }
            *code = value as i8;
        }
        store_codes(kernels, dtype, codes, out)?;
    }
    Ok(packed)
}
