//! Tensors made of rules.

use bitnet_backend::{BitNetDType, BitNetError, Device, ErrorKind, Result};

use super::{BitNetTensor, random};
use crate::memory::{Element, HybridMemoryPool};
use crate::tensor::cast_slice_from_f64;

/// Elements that are made at a time in f64 before they are converted.
const PIECE: usize = 256;

impl BitNetTensor {
    /// Allocates a tensor whose elements are all `value`, converted as [`cast`](Self::cast) converts.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Mismatch` when `value` is no integer of the range of an integer type.
    pub fn full(
        shape: &[usize],
        value: f64,
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Self::by_index(shape, dtype, device, pool, "full", &|_| value)
    }

    /// Allocates a tensor without dimensions that holds `value`.
    ///
    /// # Errors
    /// As [`full`](Self::full).
    pub fn scalar(value: f64, dtype: BitNetDType, device: &Device, pool: &HybridMemoryPool) -> Result<Self> {
        Self::full(&[], value, dtype, device, pool)
    }

    /// Allocates `start`, `start + step`, ... up to before `end`.
    ///
    /// # Errors
    /// As [`full`](Self::full); `Mismatch` for bounds or a step that give no finite sequence.
    pub fn arange(
        start: f64,
        end: f64,
        step: f64,
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let count = ((end - start) / step).ceil();
        let is_finite = [start, end, step, count].iter().all(|number| number.is_finite());
        if !is_finite || step == 0.0 || count > (1u64 << 53) as f64 {
            let found = format!("{start} to {end} by {step}");
            return Err(BitNetError::mismatch("bounds of arange", "a finite sequence", found));
        }
        let count = count.max(0.0) as usize;
        Self::by_index(&[count], dtype, device, pool, "arange", &|index| start + index as f64 * step)
    }

    /// Allocates the matrix `[rows, cols]` with ones on its diagonal and zeros elsewhere.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Unsupported` for packed types.
    pub fn eye(
        rows: usize,
        cols: usize,
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let on_diagonal = |index: usize| if index / cols == index % cols { 1.0 } else { 0.0 };
        Self::by_index(&[rows, cols], dtype, device, pool, "eye", &on_diagonal)
    }

    /// Allocates random numbers of a floating-point type, uniform in [0, 1). Element `i` depends on `seed` and `i`
    /// alone.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Unsupported` for other types.
    pub fn rand(
        shape: &[usize],
        seed: u64,
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Self::check_float("rand", dtype)?;
        // Narrow types would round the greatest values to 1, which is not of the interval.
        let below_one = 1.0 - dtype.range().epsilon() / 2.0;
        let value = |index: usize| random::uniform(seed, index as u64).min(below_one);
        Self::by_index(shape, dtype, device, pool, "rand", &value)
    }

    /// Allocates random numbers of a floating-point type, of the normal distribution of mean 0 and variance 1.
    /// Element `i` depends on `seed` and `i` alone.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Unsupported` for other types.
    pub fn randn(
        shape: &[usize],
        seed: u64,
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Self::check_float("randn", dtype)?;
        Self::by_index(shape, dtype, device, pool, "randn", &|index| random::normal(seed, index as u64))
    }

    /// Allocates a tensor of one dimension with the elements of an iterator.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_iter<T: Element>(
        values: impl IntoIterator<Item = T>,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let values: Vec<T> = values.into_iter().collect();
        Self::from_slice(&values, &[values.len()], device, pool)
    }

    fn check_float(operation: &str, dtype: BitNetDType) -> Result<()> {
        if dtype.is_float() {
            return Ok(());
        }
        Err(BitNetError::new(ErrorKind::Unsupported {
            backend: "cpu",
            operation: format!("{operation} of type {dtype}"),
            reason: "random numbers are floats; cast them to another type".into(),
        }))
    }

    /// Makes the element of each row-major index.
    fn by_index(
        shape: &[usize],
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
        operation: &str,
        value: &dyn Fn(usize) -> f64,
    ) -> Result<Self> {
        let mut tensor = Self::zeros(shape, dtype, device, pool)?;
        let Some(width) = dtype.element_bytes() else {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "cpu",
                operation: format!("{operation} of type {dtype}"),
                reason: "elements are packed; make an i8 tensor and cast it".into(),
            }));
        };
        let count = tensor.element_count();
        let bytes = tensor.as_mut_bytes()?;
        let mut piece = [0.0; PIECE];
        for start in (0..count).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(count - start)];
            piece.iter_mut().enumerate().for_each(|(index, out)| *out = value(start + index));
            let out = &mut bytes[start * width..][..piece.len() * width];
            if let Some(at) = cast_slice_from_f64(piece, dtype, out) {
                let what = format!("element {} of {operation}", start + at);
                return Err(BitNetError::mismatch(what, format!("a value of type {dtype}"), piece[at]));
            }
        }
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn rules_make_their_elements() {
        let pool = HybridMemoryPool::new().unwrap();
        let device = Device::Cpu;
        let of = |start, end, step| {
            let tensor = BitNetTensor::arange(start, end, step, BitNetDType::F32, &device, &pool).unwrap();
            tensor.as_slice::<f32>().unwrap().to_vec()
        };
        assert_eq!(of(1.0, 2.0, 0.25), [1.0, 1.25, 1.5, 1.75]);
        assert_eq!(of(3.0, 0.0, -2.0), [3.0, 1.0]);
        assert_eq!(of(3.0, 0.0, 1.0), [0.0; 0]);
        assert!(BitNetTensor::arange(0.0, 1.0, 0.0, BitNetDType::F32, &device, &pool).is_err());
        let eye = BitNetTensor::eye(2, 3, BitNetDType::I8, &device, &pool).unwrap();
        assert_eq!(eye.as_slice::<i8>().unwrap(), [1, 0, 0, 0, 1, 0]);
        let full = BitNetTensor::full(&[300], -2.5, BitNetDType::F16, &device, &pool).unwrap();
        assert_eq!(full.as_slice::<f16>().unwrap(), [f16::from_f32(-2.5); 300]);
        let error = BitNetTensor::full(&[3], 256.0, BitNetDType::U8, &device, &pool).unwrap_err().to_string();
        assert_eq!(error, "element 0 of full: expected a value of type u8, found 256");
        assert!(BitNetTensor::full(&[3], 0.5, BitNetDType::I64, &device, &pool).is_err());
        for (dtype, beyond) in
            [(BitNetDType::I64, 2.0 * (1u64 << 62) as f64), (BitNetDType::U64, 2.0 * (1u64 << 63) as f64)]
        {
            let of = |value| BitNetTensor::full(&[1], value, dtype, &device, &pool);
            assert!(of(beyond).is_err() && of(-beyond).is_ok() == (dtype == BitNetDType::I64), "{dtype}");
            assert_eq!(of(beyond.next_down()).unwrap().item().unwrap(), beyond.next_down());
        }
        assert!(BitNetTensor::full(&[3], 1.0, BitNetDType::BitNet158, &device, &pool).is_err());
        let squares = BitNetTensor::from_iter((0..4u16).map(|i| i * i), &device, &pool).unwrap();
        assert_eq!(squares.as_slice::<u16>().unwrap(), [0, 1, 4, 9]);
    }

    #[test]
    fn random_numbers_depend_on_seed_and_place() {
        let pool = HybridMemoryPool::new().unwrap();
        let of = |seed, count| {
            let tensor = BitNetTensor::rand(&[count], seed, BitNetDType::F32, &Device::Cpu, &pool).unwrap();
            tensor.as_slice::<f32>().unwrap().to_vec()
        };
        assert_eq!(of(5, 100), of(5, 1000)[..100]);
        assert_ne!(of(5, 100), of(6, 100));
        assert!(of(5, 1000).iter().all(|value| (0.0..1.0).contains(value)));
        assert!(BitNetTensor::randn(&[2], 1, BitNetDType::I32, &Device::Cpu, &pool).is_err());
    }
}
