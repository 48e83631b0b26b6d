//! A tensor in host memory.

use std::ops::Range;
use std::sync::Arc;

use bitnet_backend::{BitNetDType, BitNetError, Device, ErrorKind, Result};
use half::{bf16, f16};

use super::packed::{self, Digits};
use super::{Layout, TensorMemory, TensorMetadata};
use crate::memory::{Element, HybridMemoryPool, PoolBuffer};

/// A tensor: memory that it may share with others, and what lies in it.
///
/// A clone, and every view (a transposed, sliced or broadcast tensor), shares the memory and copies nothing.
/// Writing through one of them never changes another: [`as_mut_slice`](Self::as_mut_slice) gives the tensor
/// memory of its own first when it is shared. Elements that fill up the last byte of a packed tensor are zeros.
#[derive(Clone)]
pub struct BitNetTensor {
    pub(in crate::memory) metadata: TensorMetadata,
    pub(in crate::memory) memory: Arc<dyn TensorMemory>,
}

impl BitNetTensor {
    /// Allocates a tensor of zeros; strides that `metadata` states are not kept, elements are row-major.
    ///
    /// # Errors
    /// `TensorTooLarge`; otherwise as [`HybridMemoryPool::allocate`].
    pub fn new(metadata: TensorMetadata, pool: &HybridMemoryPool) -> Result<Self> {
        let dtype = metadata.dtype();
        let purpose = format!("{dtype} tensor of shape {:?}", metadata.shape());
        let mut data = PoolBuffer::zeroed(pool, metadata.size_bytes()?, &metadata.device(), &purpose)?;
        // Zero bytes are zeros of every other type.
        if let Some(digits) = Digits::of(dtype).filter(|_| dtype.is_ternary()) {
            data.fill(digits.filled(0));
        }
        let metadata = metadata.relaid(Layout::row_major(metadata.shape().to_vec()));
        Ok(BitNetTensor { metadata, memory: Arc::new(data) })
    }

    /// Makes a tensor of memory that holds its elements already, in the byte order of the machine.
    ///
    /// Elements of types that leave bytes without a meaning, `bool` and the ternary ones, are read once to check them.
    ///
    /// # Errors
    /// `TensorTooLarge`; `Mismatch` when an index reaches beyond the memory, when its start is not aligned for
    /// the element type, when a packed tensor is not row-major from a whole byte on, or for bytes that are no elements.
    pub fn from_memory(metadata: TensorMetadata, memory: Arc<dyn TensorMemory>) -> Result<Self> {
        let tensor = Self::in_memory(metadata, memory)?;
        if tensor.dtype() == BitNetDType::Bool || tensor.dtype().is_ternary() {
            let (memory, metadata) = (tensor.memory(), tensor.metadata());
            let what = || format!("memory ({}) of a tensor of shape {:?}", memory.kind(), metadata.shape());
            let mut first = 0;
            super::file::each_element_once(metadata, memory.bytes(), &mut |bytes| {
                packed::check(metadata.dtype(), bytes, first)?;
                first += bytes.len();
                Ok(())
            })
            .map_err(|error| error.context(what()))?;
        }
        Ok(tensor)
    }

    /// Makes a tensor of memory whose bytes are known to be elements.
    ///
    /// # Errors
    /// As [`from_memory`](Self::from_memory), but for what the bytes say.
    pub(crate) fn in_memory(metadata: TensorMetadata, memory: Arc<dyn TensorMemory>) -> Result<Self> {
        let (dtype, layout) = (metadata.dtype(), metadata.layout());
        let what =
            || format!("memory ({}) of a {dtype} tensor of shape {:?}", memory.kind(), metadata.shape());
        let elements = match (metadata.element_count()?, layout.last_element()) {
            (0, _) => 0,
            (_, Some(last)) => last + 1,
            (_, None) => {
                return Err(BitNetError::mismatch(what(), "positions from 0 on", "a position before it"));
            }
        };
        let Some(bytes) = dtype.size_bytes(elements) else {
            return Err(BitNetError::mismatch(what(), "positions in the address space", "more"));
        };
        if bytes > memory.bytes().len() {
            let found = format!("{} bytes", memory.bytes().len());
            return Err(BitNetError::mismatch(what(), format!("{bytes} bytes or more"), found));
        }
        if dtype.is_packed() && !(layout.is_contiguous() && dtype.byte_offset(layout.offset()).is_some()) {
            return Err(BitNetError::mismatch(what(), "row-major from a whole byte on", "other strides"));
        }
        let align = dtype.align();
        let address = memory.bytes().as_ptr().addr();
        if elements > 0 && !address.is_multiple_of(align) {
            let found = format!("an address {} beyond one", address % align);
            return Err(BitNetError::mismatch(what(), format!("alignment to {align} bytes"), found));
        }
        Ok(BitNetTensor { metadata, memory })
    }

    /// Allocates a tensor of zeros.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn zeros(
        shape: &[usize],
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Self::new(TensorMetadata::new(shape.to_vec(), dtype, *device), pool)
    }

    /// Allocates a tensor of ones.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Unsupported` for an element type without a one.
    pub fn ones(
        shape: &[usize],
        dtype: BitNetDType,
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let mut tensor = Self::zeros(shape, dtype, device, pool)?;
        tensor.fill_with_ones()?;
        Ok(tensor)
    }

    /// Allocates a tensor of the given elements, row-major.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Mismatch` when the number of values is not that of the shape.
    pub fn from_slice<T: Element>(
        values: &[T],
        shape: &[usize],
        device: &Device,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let metadata = TensorMetadata::new(shape.to_vec(), T::DTYPE, *device);
        let expected = metadata.element_count()?;
        if values.len() != expected {
            return Err(BitNetError::mismatch(
                format!("values for a tensor of shape {shape:?}"),
                expected,
                values.len(),
            ));
        }
        let mut tensor = Self::new(metadata, pool)?;
        tensor.as_mut_slice::<T>()?.copy_from_slice(values);
        Ok(tensor)
    }

    /// Returns the length of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.metadata.shape()
    }

    /// Returns the device that the elements are on.
    pub fn device(&self) -> Device {
        self.metadata.device()
    }

    /// Returns the element type.
    pub fn dtype(&self) -> BitNetDType {
        self.metadata.dtype()
    }

    /// Returns what stored numbers are multiplied by to give values, where that is stated: the scale of a quantised
    /// tensor.
    pub fn scale(&self) -> Option<f32> {
        self.metadata.scale()
    }

    /// Returns the number of elements.
    pub fn element_count(&self) -> usize {
        // Checked when the tensor was made.
        self.metadata.element_count().unwrap_or_default()
    }

    /// Returns the bytes that the elements occupy when packed without gaps.
    pub fn size_bytes(&self) -> usize {
        self.metadata.size_bytes().unwrap_or_default()
    }

    /// Returns shape, strides, element type and device.
    pub fn metadata(&self) -> &TensorMetadata {
        &self.metadata
    }

    /// Returns shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        self.metadata.layout()
    }

    /// Reports whether the elements follow one another without gaps, the last index fastest.
    pub fn is_contiguous(&self) -> bool {
        self.layout().is_contiguous()
    }

    /// Returns the memory, which other tensors may share.
    pub fn memory(&self) -> &Arc<dyn TensorMemory> {
        &self.memory
    }

    /// Returns the stored bytes: elements in the byte order of the machine, or packed codes.
    ///
    /// # Errors
    /// `Mismatch` when the tensor is not contiguous.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        let range = self.byte_range()?;
        Ok(&self.memory.bytes()[range])
    }

    /// Returns the stored bytes for writing. What is written has to be elements: those of a `bool` are 0 and 1, those
    /// of packed types the codes that the type has.
    ///
    /// # Errors
    /// As [`as_mut_slice`](Self::as_mut_slice).
    pub fn as_mut_bytes(&mut self) -> Result<&mut [u8]> {
        let range = self.byte_range()?;
        if Arc::get_mut(&mut self.memory).is_none() {
            return self.copy_for_writing();
        }
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => Ok(&mut memory.bytes_mut()?[range]),
            None => unreachable!("nobody else can have cloned the tensor meanwhile"),
        }
    }

    /// Returns the elements, row-major.
    ///
    /// # Errors
    /// `Mismatch` when `T` is not the element type (packed types have none and are read as bytes), or when the
    /// tensor is not contiguous.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.check_element::<T>()?;
        let bytes = self.as_bytes()?;
        // The bytes of an empty tensor stand nowhere, and so at no alignment.
        Ok(if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) })
    }

    /// Returns the elements, row-major, for writing; copies them first when another tensor shares the memory.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice); `Unsupported` when the memory is read-only, or is shared and belongs to
    /// no pool that a copy could come from; otherwise as [`HybridMemoryPool::allocate`].
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_element::<T>()?;
        let bytes = self.as_mut_bytes()?;
        Ok(if bytes.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(bytes) })
    }

    fn byte_range(&self) -> Result<Range<usize>> {
        let layout = self.layout();
        if !layout.is_contiguous() {
            let found = format!("strides {:?}", layout.strides());
            let what = format!("layout of a tensor of shape {:?} read as a slice", layout.shape());
            return Err(BitNetError::mismatch(what, "contiguous", found));
        }
        let size = self.size_bytes();
        // Checked when the tensor was made.
        let start = if size == 0 { 0 } else { self.dtype().byte_offset(layout.offset()).unwrap_or_default() };
        Ok(start..start + size)
    }

    /// Gives a contiguous tensor memory of its own.
    fn copy_for_writing(&mut self) -> Result<&mut [u8]> {
        let Some(pool) = self.memory.pool() else {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "cpu",
                operation: format!("writing to a tensor in a {}", self.memory.kind()),
                reason: "other tensors share the memory, and it belongs to no pool".into(),
            }));
        };
        *self = self.copy_to(pool)?;
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => memory.bytes_mut(),
            None => unreachable!("the memory was made here"),
        }
    }

    pub(super) fn check_element<T: Element>(&self) -> Result<()> {
        if T::DTYPE == self.dtype() {
            return Ok(());
        }
        Err(BitNetError::mismatch("element type of the view", self.dtype(), T::DTYPE))
    }

    fn fill_with_ones(&mut self) -> Result<()> {
        match self.dtype() {
            BitNetDType::F64 => self.fill(f64::ONE),
            BitNetDType::F32 => self.fill(f32::ONE),
            BitNetDType::F16 => self.fill(f16::ONE),
            BitNetDType::BF16 => self.fill(bf16::ONE),
            BitNetDType::I64 => self.fill(i64::ONE),
            BitNetDType::I32 => self.fill(i32::ONE),
            BitNetDType::I16 => self.fill(i16::ONE),
            BitNetDType::I8 => self.fill(i8::ONE),
            BitNetDType::U64 => self.fill(u64::ONE),
            BitNetDType::U32 => self.fill(u32::ONE),
            BitNetDType::U16 => self.fill(u16::ONE),
            BitNetDType::U8 => self.fill(u8::ONE),
            BitNetDType::Bool => {
                self.as_mut_bytes()?.fill(1);
                Ok(())
            }
            other => match Digits::of(other) {
                Some(digits) => self.fill_packed(digits),
                None => Err(BitNetError::new(ErrorKind::Unsupported {
                    backend: "cpu",
                    operation: format!("a tensor of ones of type {other}"),
                    reason: "the type has no one".into(),
                })),
            },
        }
    }

    fn fill<T: Element>(&mut self, value: T) -> Result<()> {
        self.as_mut_slice()?.fill(value);
        Ok(())
    }

    /// Writes ones, and zeros into what the last byte has beyond the tensor.
    fn fill_packed(&mut self, digits: Digits) -> Result<()> {
        let used = self.element_count() % self.dtype().block().0;
        let (bytes, ones) = (self.as_mut_bytes()?, digits.filled(1));
        bytes.fill(ones);
        if let (Some(last), 1..) = (bytes.last_mut(), used) {
            *last = digits.cut(ones, used);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ones(shape: &[usize], dtype: BitNetDType) -> BitNetTensor {
        let pool = HybridMemoryPool::new().unwrap();
        BitNetTensor::ones(shape, dtype, &Device::Cpu, &pool).unwrap()
    }

    #[test]
    fn empty_tensors_have_empty_views() {
        for shape in [&[0][..], &[4, 0, 3]] {
            assert!(ones(shape, BitNetDType::F64).as_mut_slice::<f64>().unwrap().is_empty());
            assert!(ones(shape, BitNetDType::F32).as_slice::<f32>().unwrap().is_empty());
            assert!(ones(shape, BitNetDType::BF16).as_slice::<bf16>().unwrap().is_empty());
            assert!(ones(shape, BitNetDType::U8).as_slice::<u8>().unwrap().is_empty());
        }
    }

    #[test]
    fn ones_are_ones_in_every_type() {
        assert_eq!(ones(&[2, 2], BitNetDType::F64).as_slice::<f64>().unwrap(), [1.0; 4]);
        assert_eq!(ones(&[2, 2], BitNetDType::F32).as_slice::<f32>().unwrap(), [1.0; 4]);
        assert_eq!(ones(&[3], BitNetDType::F16).as_slice::<f16>().unwrap(), [f16::from_f32(1.0); 3]);
        assert_eq!(ones(&[3], BitNetDType::BF16).as_slice::<bf16>().unwrap(), [bf16::from_f32(1.0); 3]);
        assert_eq!(ones(&[3], BitNetDType::I64).as_slice::<i64>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::I32).as_slice::<i32>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::I16).as_slice::<i16>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::I8).as_slice::<i8>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::U64).as_slice::<u64>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::U32).as_slice::<u32>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::U16).as_slice::<u16>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::U8).as_slice::<u8>().unwrap(), [1; 3]);
        assert_eq!(ones(&[3], BitNetDType::Bool).as_bytes().unwrap(), [1; 3]);
        for dtype in BitNetDType::ALL {
            assert_eq!(ones(&[7], dtype).size_bytes(), dtype.size_bytes(7).unwrap(), "{dtype}");
        }
    }

    #[test]
    fn packed_ones_are_padded_with_zeros() {
        assert_eq!(ones(&[5], BitNetDType::I4).as_bytes().unwrap(), [0x11, 0x11, 0x01]);
        assert_eq!(ones(&[4], BitNetDType::BitNet158).as_bytes().unwrap(), [0b1010_1010]);
        assert_eq!(ones(&[5], BitNetDType::BitNet158).as_bytes().unwrap(), [0b1010_1010, 0b0101_0110]);
        assert!(ones(&[0], BitNetDType::BitNet158).as_bytes().unwrap().is_empty());
        assert_eq!(ones(&[5], BitNetDType::TernaryBase3).as_bytes().unwrap(), [242]);
        assert_eq!(ones(&[7], BitNetDType::TernaryBase3).as_bytes().unwrap(), [242, 2 + 2 * 3 + 9 + 27 + 81]);
        assert!(ones(&[0], BitNetDType::TernaryBase3).as_bytes().unwrap().is_empty());
    }

    #[test]
    fn ternary_zeros_have_code_one() {
        let pool = HybridMemoryPool::new().unwrap();
        let zeros = BitNetTensor::zeros(&[2, 3], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        for index in 0..6 {
            let code = (zeros.as_bytes().unwrap()[index / 4] >> (index % 4 * 2)) & 3;
            assert_eq!(i32::from(code) - 1, 0);
        }
    }

    #[test]
    fn values_keep_their_order_and_views_their_type() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut tensor =
            BitNetTensor::from_slice(&[1.0f32, -2.0, 3.0], &[3, 1], &Device::Cpu, &pool).unwrap();
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, -2.0, 3.0]);
        tensor.as_mut_slice::<f32>().unwrap()[1] = 5.0;
        assert_eq!(&tensor.as_bytes().unwrap()[4..8], 5.0f32.to_ne_bytes());
        let error = tensor.as_slice::<i32>().unwrap_err().to_string();
        assert_eq!(error, "element type of the view: expected f32, found i32");
        let error = BitNetTensor::from_slice(&[1u8; 5], &[2, 3], &Device::Cpu, &pool).unwrap_err();
        assert!(error.to_string().contains("shape [2, 3]: expected 6, found 5"), "{error}");
    }

    #[test]
    fn tensors_on_absent_devices_and_of_absurd_sizes_are_refused() {
        let pool = HybridMemoryPool::new().unwrap();
        for shape in [[0], [4]] {
            let error = BitNetTensor::zeros(&shape, BitNetDType::F32, &Device::Cuda(7), &pool).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::DeviceUnavailable { .. }), "{error}");
        }
        let error = BitNetTensor::zeros(&[usize::MAX, 2], BitNetDType::I8, &Device::Cpu, &pool).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TensorTooLarge { .. }), "{error}");
        assert_eq!(pool.get_metrics().allocation_count, 0);
    }

    #[test]
    fn writing_to_shared_memory_changes_one_tensor() {
        let pool = HybridMemoryPool::new().unwrap();
        let first = BitNetTensor::from_slice(&[1i32, 2, 3, 4], &[4], &Device::Cpu, &pool).unwrap();
        let mut second = first.clone();
        assert_eq!(pool.get_metrics().active_allocations(), 1);
        second.as_mut_slice::<i32>().unwrap()[0] = 9;
        assert_eq!(first.as_slice::<i32>().unwrap(), [1, 2, 3, 4]);
        assert_eq!(second.as_slice::<i32>().unwrap(), [9, 2, 3, 4]);
        drop(first);
        let place = second.as_bytes().unwrap().as_ptr();
        second.as_mut_slice::<i32>().unwrap()[1] = 8;
        assert_eq!(second.as_bytes().unwrap().as_ptr(), place);
        assert_eq!(pool.get_metrics().active_allocations(), 1);
        // What a packed tensor does not use of its last byte stays with the others.
        let ones = BitNetTensor::ones(&[8], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        let metadata =
            TensorMetadata::new(vec![5], BitNetDType::BitNet158, Device::Cpu).with_scale(Some(0.5));
        let mut part = BitNetTensor::from_memory(metadata.unwrap(), Arc::clone(ones.memory())).unwrap();
        assert_eq!(part.as_mut_bytes().unwrap(), [0b1010_1010, 0b0101_0110]);
        assert_eq!((ones.as_bytes().unwrap(), part.scale()), (&[0b1010_1010; 2][..], Some(0.5)));
    }

    #[test]
    fn memory_has_to_hold_what_the_layout_reaches() {
        let pool = HybridMemoryPool::new().unwrap();
        let memory = || -> Arc<dyn TensorMemory> {
            Arc::new(PoolBuffer::<u8>::zeroed(&pool, 24, &Device::Cpu, "test").unwrap())
        };
        let of = |layout: Layout, dtype| {
            let metadata = TensorMetadata::with_layout(layout, dtype, Device::Cpu);
            BitNetTensor::from_memory(metadata, memory())
        };
        let column = of(Layout::strided(vec![3], vec![2], 1), BitNetDType::F32).unwrap();
        let error = column.as_slice::<f32>().unwrap_err().to_string();
        assert!(
            error.contains("shape [3] read as a slice: expected contiguous, found strides [2]"),
            "{error}"
        );
        let error = of(Layout::strided(vec![3], vec![2], 2), BitNetDType::F32).unwrap_err().to_string();
        assert!(error.contains("expected 28 bytes or more, found 24 bytes"), "{error}");
        assert!(of(Layout::strided(vec![3], vec![-2], 2), BitNetDType::F32).is_err());
        assert!(of(Layout::strided(vec![3], vec![1], 2), BitNetDType::BitNet158).is_err());
        assert!(of(Layout::strided(vec![3], vec![1], 4), BitNetDType::BitNet158).is_ok());
    }
}
