//! Views of tensors: they share the memory, copy nothing, and count as owners of it.
//!
//! Packed types (`i4`, `bitnet158`) have no strides: of them only views exist that are row-major from a whole byte
//! to a whole byte (or to the end of the tensor), and others are `Unsupported`.

use std::sync::Arc;

use bitnet_backend::{BitNetError, ErrorKind, Result};

use super::{BitNetTensor, Layout};
use crate::memory::HybridMemoryPool;

impl BitNetTensor {
    /// Gives the elements another shape, in row-major order: a view where strides can say it, which is always so for
    /// a contiguous tensor, and a copy otherwise.
    ///
    /// # Errors
    /// `Mismatch` when the number of elements differs; for a copy as [`contiguous`](Self::contiguous).
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match self.layout().reshape(shape)? {
            Some(layout) => self.view("reshape", layout),
            None => {
                let copy = self.contiguous()?;
                let layout = Layout::row_major(shape.to_vec());
                copy.view("reshape", layout)
            }
        }
    }

    /// Merges the dimensions `first` to `last` into one; as [`reshape`](Self::reshape).
    ///
    /// # Errors
    /// `Mismatch` for dimensions that the tensor lacks or in the wrong order; otherwise as `reshape`.
    pub fn flatten(&self, first: isize, last: isize) -> Result<Self> {
        let (from, to) = (self.layout().dim("flatten", first)?, self.layout().dim("flatten", last)?);
        if from > to {
            let what = format!("flatten of a tensor of shape {:?}", self.shape());
            return Err(BitNetError::mismatch(what, "dimensions in order", format!("{first} to {last}")));
        }
        let merged = self.shape()[from..=to].iter().product();
        let shape = [&self.shape()[..from], &[merged], &self.shape()[to + 1..]].concat();
        self.reshape(&shape)
    }

    /// Exchanges two dimensions.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks; `Unsupported` for packed types, unless nothing moves.
    pub fn transpose(&self, first: isize, second: isize) -> Result<Self> {
        self.view("transpose", self.layout().transpose(first, second)?)
    }

    /// Puts dimension `dims[i]` at place `i`.
    ///
    /// # Errors
    /// `Mismatch` when `dims` is not a permutation; `Unsupported` for packed types, unless nothing moves.
    pub fn permute(&self, dims: &[isize]) -> Result<Self> {
        self.view("permute", self.layout().permute(dims)?)
    }

    /// Takes out a dimension of length 1; one of another length stays.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks.
    pub fn squeeze(&self, dim: isize) -> Result<Self> {
        self.view("squeeze", self.layout().squeeze(dim)?)
    }

    /// Puts in a dimension of length 1 at place `dim`; -1 puts it last.
    ///
    /// # Errors
    /// `Mismatch` for a place that the result would lack.
    pub fn unsqueeze(&self, dim: isize) -> Result<Self> {
        self.view("unsqueeze", self.layout().unsqueeze(dim)?)
    }

    /// Repeats dimensions of length 1, and the whole as new outer dimensions, until the shape is `shape`.
    ///
    /// # Errors
    /// `Mismatch` when that does not lead to `shape`; `Unsupported` for packed types that would repeat.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        self.view("broadcast_to", self.layout().broadcast_to(shape)?)
    }

    /// Is [`broadcast_to`](Self::broadcast_to) by PyTorch's name.
    ///
    /// # Errors
    /// As `broadcast_to`.
    pub fn expand(&self, shape: &[usize]) -> Result<Self> {
        self.view("expand", self.layout().repeated("expand", shape)?)
    }

    /// Keeps `length` indices of a dimension, from `start` on.
    ///
    /// # Errors
    /// `Mismatch` when they are not all there; `Unsupported` for packed types cut inside a byte.
    pub fn narrow(&self, dim: isize, start: usize, length: usize) -> Result<Self> {
        self.view("narrow", self.layout().narrow(dim, start, length)?)
    }

    /// Keeps one index of a dimension and takes the dimension out.
    ///
    /// # Errors
    /// As [`narrow`](Self::narrow).
    pub fn select(&self, dim: isize, index: usize) -> Result<Self> {
        let narrow = self.layout().narrow(dim, index, 1).map_err(|error| error.context("select"))?;
        self.view("select", narrow.squeeze(dim)?)
    }

    /// Keeps every `step`th index of a dimension, from `start` to before `end`, with the meaning of
    /// `[start:end:step]` in Python; a `step` below 0 walks backwards.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks or a step of 0; `Unsupported` for packed types cut inside
    /// a byte or stepped through.
    pub fn slice(&self, dim: isize, start: Option<isize>, end: Option<isize>, step: isize) -> Result<Self> {
        self.view("slice", self.layout().slice(dim, start, end, step)?)
    }

    /// Turns dimensions around.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks or that is named twice; `Unsupported` for packed types.
    pub fn flip(&self, dims: &[isize]) -> Result<Self> {
        self.view("flip", self.layout().flip(dims)?)
    }

    /// Returns the tensor with its elements row-major and without gaps: a clone that shares the memory where they
    /// are so already, and a copy in the same pool otherwise.
    ///
    /// # Errors
    /// `Unsupported` when a copy is needed and the memory belongs to no pool; otherwise as
    /// [`HybridMemoryPool::allocate`].
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        self.copy_to(self.own_pool("contiguous")?)
    }

    /// Is [`contiguous`](Self::contiguous) with the copy, where one is needed, in `pool`.
    pub(crate) fn contiguous_in(&self, pool: &HybridMemoryPool) -> Result<Self> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy_to(pool) }
    }

    /// Copies the elements, row-major, into memory of `pool`.
    ///
    /// # Errors
    /// As [`HybridMemoryPool::allocate`].
    pub fn copy_to(&self, pool: &HybridMemoryPool) -> Result<Self> {
        let mut copy = crate::tensor::copy(self, pool)?;
        copy.metadata = copy.metadata.with_scale(self.scale())?;
        Ok(copy)
    }

    /// Returns the pool for what `operation` computes from the stored numbers of this tensor: that of its memory.
    ///
    /// # Errors
    /// `Unsupported` when the numbers stand for others by a scale, or when the memory belongs to no pool, as that of a
    /// mapped file.
    pub(crate) fn result_pool(&self, operation: &str) -> Result<&HybridMemoryPool> {
        self.check_unscaled(operation)?;
        self.own_pool(operation)
    }

    /// Refuses a tensor whose values are not its stored numbers.
    pub(crate) fn check_unscaled(&self, operation: &str) -> Result<()> {
        let Some(scale) = self.scale() else { return Ok(()) };
        Err(BitNetError::new(ErrorKind::Unsupported {
            backend: "cpu",
            operation: format!(
                "{operation} of a {} tensor of shape {:?} with the scale {scale:e}",
                self.dtype(),
                self.shape()
            ),
            reason: "operations compute with stored numbers; convert the tensor to a float type first".into(),
        }))
    }

    fn own_pool(&self, operation: &str) -> Result<&HybridMemoryPool> {
        self.memory().pool().ok_or_else(|| {
            BitNetError::new(ErrorKind::Unsupported {
                backend: "cpu",
                operation: format!(
                    "{operation} of a tensor of shape {:?} in a {}",
                    self.shape(),
                    self.memory().kind()
                ),
                reason: "the memory belongs to no pool that the result could come from; copy_to gives it one"
                    .into(),
            })
        })
    }

    /// Makes a view of a layout that reaches no position beyond those of this tensor.
    pub(crate) fn view(&self, operation: &str, layout: Layout) -> Result<Self> {
        if self.dtype().is_packed() && !self.is_whole_bytes(&layout) {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "cpu",
                operation: format!("{operation} of a {} tensor of shape {:?}", self.dtype(), self.shape()),
                reason: format!(
                    "elements are packed, {} a byte, and a view of shape {:?} would not be row-major from byte to \
                     byte",
                    self.dtype().block().0,
                    layout.shape()
                ),
            }));
        }
        BitNetTensor::in_memory(self.metadata().relaid(layout), Arc::clone(self.memory()))
    }

    /// Reports whether a part of a packed tensor begins and ends with a byte, or ends where the tensor does.
    fn is_whole_bytes(&self, layout: &Layout) -> bool {
        let (Some(count), (per_block, _)) = (layout.element_count(), self.dtype().block()) else {
            return false;
        };
        let end = layout.offset() + count;
        let whole = |element: usize| element.is_multiple_of(per_block);
        layout.is_contiguous()
            && (count == 0
                || whole(layout.offset())
                    && (whole(end) || end == self.layout().offset() + self.element_count()))
    }
}

#[cfg(test)]
mod tests {
    use bitnet_backend::{BitNetDType, Device};

    use super::*;
    use crate::memory::tensor::TensorMetadata;

    fn counting(shape: &[usize]) -> (HybridMemoryPool, BitNetTensor) {
        let pool = HybridMemoryPool::new().unwrap();
        let values: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
        let tensor = BitNetTensor::from_slice(&values, shape, &Device::Cpu, &pool).unwrap();
        (pool, tensor)
    }

    #[test]
    fn views_share_the_memory() {
        let (pool, base) = counting(&[2, 3, 4]);
        let view = base.permute(&[2, 0, 1]).unwrap().slice(0, None, None, -2).unwrap();
        assert_eq!(view.shape(), [2, 2, 3]);
        assert_eq!(pool.get_metrics().active_allocations(), 1);
        let copy = view.contiguous().unwrap();
        assert_eq!(copy.as_slice::<i32>().unwrap(), [3, 7, 11, 15, 19, 23, 1, 5, 9, 13, 17, 21]);
        assert_eq!(pool.get_metrics().active_allocations(), 2);
        let flat = view.reshape(&[12]).unwrap();
        assert_eq!(flat.as_slice::<i32>().unwrap(), copy.as_slice::<i32>().unwrap());
        assert_eq!(base.flatten(0, 1).unwrap().shape(), [6, 4]);
        assert_eq!(base.select(1, 2).unwrap().contiguous().unwrap().as_slice::<i32>().unwrap()[..2], [8, 9]);
    }

    #[test]
    fn packed_types_are_cut_between_bytes_only() {
        let pool = HybridMemoryPool::new().unwrap();
        let ones = BitNetTensor::ones(&[3, 6], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        assert_eq!(ones.narrow(0, 2, 1).unwrap().as_bytes().unwrap(), [0b1010_1010, 0b0101_1010]);
        assert_eq!(ones.narrow(0, 0, 2).unwrap().as_bytes().unwrap(), [0b1010_1010; 3]);
        assert_eq!(ones.reshape(&[18]).unwrap().narrow(0, 4, 8).unwrap().size_bytes(), 2);
        let error = ones.narrow(0, 0, 1).unwrap_err().to_string();
        assert!(
            error.contains("narrow of a bitnet158 tensor of shape [3, 6]: elements are packed, 4 a byte"),
            "{error}"
        );
        assert!(ones.transpose(0, 1).is_err());
        assert!(ones.flip(&[0]).is_err());
        assert!(ones.broadcast_to(&[2, 3, 6]).is_err());
        assert_eq!(ones.broadcast_to(&[1, 3, 6]).unwrap().shape(), [1, 3, 6]);
    }

    #[test]
    fn a_copy_needs_a_pool() {
        #[derive(Debug)]
        struct Fixed([u8; 4]);
        impl super::super::TensorMemory for Fixed {
            fn kind(&self) -> &'static str {
                "fixed array"
            }
            fn bytes(&self) -> &[u8] {
                &self.0
            }
        }
        let metadata = TensorMetadata::new(vec![2, 2], BitNetDType::U8, Device::Cpu);
        let tensor = BitNetTensor::from_memory(metadata, Arc::new(Fixed([1, 2, 3, 4]))).unwrap();
        let turned = tensor.transpose(0, 1).unwrap();
        let error = turned.contiguous().unwrap_err().to_string();
        assert!(error.contains("contiguous of a tensor of shape [2, 2] in a fixed array"), "{error}");
        let pool = HybridMemoryPool::new().unwrap();
        assert_eq!(turned.copy_to(&pool).unwrap().as_slice::<u8>().unwrap(), [1, 3, 2, 4]);
    }
}
