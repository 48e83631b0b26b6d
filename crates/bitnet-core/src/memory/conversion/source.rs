//! Where the elements of a conversion come from.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bitnet_backend::{BitNetDType, BitNetError, ErrorKind, Result};
use bitnet_kernels::Kernels;

use super::fill::Job;
use super::number::BLOCK;
use super::statistics::ErrorSums;
use crate::memory::tensor::BitNetTensor;
use crate::tensor::{Walk, room};

/// Bytes that a block of any type has at most.
pub const BLOCK_BYTES: usize = 8 * BLOCK;

/// Elements in row-major order.
pub trait Source: Sync {
    /// Returns the number of elements.
    fn len(&self) -> usize;

    /// Returns their type.
    fn dtype(&self) -> BitNetDType;

    /// Returns what stored numbers are multiplied by.
    fn scale(&self) -> Option<f32>;

    /// Returns all bytes, when the elements lie in memory one after the other.
    fn whole(&self) -> Option<&[u8]>;

    /// Returns the bytes of up to a block of elements, which begins at a multiple of [`BLOCK`]; writes them to `room`
    /// ([`BLOCK_BYTES`]) where they do not lie in memory.
    ///
    /// # Errors
    /// Those of an earlier conversion.
    fn read<'s>(&'s self, kernels: &Kernels, range: Range<usize>, room: &'s mut [u8]) -> Result<&'s [u8]>;
}

/// Elements in memory, one after the other.
pub struct Plain<'a> {
    pub bytes: &'a [u8],
    pub dtype: BitNetDType,
    pub scale: Option<f32>,
    pub len: usize,
}

impl Source for Plain<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    fn scale(&self) -> Option<f32> {
        self.scale
    }

    fn whole(&self) -> Option<&[u8]> {
        Some(self.bytes)
    }

    fn read<'s>(&'s self, _: &Kernels, range: Range<usize>, _: &'s mut [u8]) -> Result<&'s [u8]> {
        let at = |index| self.dtype.size_bytes(index).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(&self.bytes[at(range.start)..at(range.end)])
    }
}

/// Elements of a view with strides, of a type with whole bytes.
pub struct Strided<'a> {
    bytes: &'a [u8],
    walk: Walk<1>,
    dtype: BitNetDType,
    scale: Option<f32>,
    len: usize,
}

impl Source for Strided<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn dtype(&self) -> BitNetDType {
        self.dtype
    }

    fn scale(&self) -> Option<f32> {
        self.scale
    }

    fn whole(&self) -> Option<&[u8]> {
        None
    }

    fn read<'s>(&'s self, _: &Kernels, range: Range<usize>, room: &'s mut [u8]) -> Result<&'s [u8]> {
        let room = &mut room[..self.dtype.size_bytes(range.len()).unwrap_or(0)];
        match self.dtype.element_bytes() {
            Some(8) => gather::<8>(&self.walk, self.bytes, range.start, room),
            Some(4) => gather::<4>(&self.walk, self.bytes, range.start, room),
            Some(2) => gather::<2>(&self.walk, self.bytes, range.start, room),
            _ => gather::<1>(&self.walk, self.bytes, range.start, room),
        }
        Ok(room)
    }
}

/// Copies elements from `first` on in row-major order, as many as `out` holds.
fn gather<const W: usize>(walk: &Walk<1>, bytes: &[u8], first: usize, out: &mut [u8]) {
    let (elements, mut out) = (bytes.as_chunks::<W>().0, out.as_chunks_mut::<W>().0);
    let (length, [stride]) = walk.inner();
    let (mut row, mut at) = (first / length.max(1), first % length.max(1));
    while !out.is_empty() {
        let start = walk.row(row).0[0].wrapping_add_signed(at as isize * stride);
        let (line, later) = out.split_at_mut(out.len().min(length - at));
        if stride == 1 {
            line.copy_from_slice(&elements[start..][..line.len()]);
        } else {
            for (step, out) in line.iter_mut().enumerate() {
                *out = elements[start.wrapping_add_signed(step as isize * stride)];
            }
        }
        (row, at, out) = (row + 1, 0, later);
    }
}

/// Returns the elements of a tensor; `scaled` says whether its scale counts.
///
/// # Errors
/// `Unsupported` for a tensor that is not in host memory.
pub fn of_tensor(tensor: &BitNetTensor, scaled: bool) -> Result<Box<dyn Source + '_>> {
    if !tensor.device().is_cpu() {
        return Err(BitNetError::new(ErrorKind::Unsupported {
            backend: "cpu",
            operation: format!("conversion of a {} tensor on {}", tensor.dtype(), tensor.device()),
            reason: "the elements are not in host memory".into(),
        }));
    }
    let (dtype, len) = (tensor.dtype(), tensor.element_count());
    let scale = tensor.scale().filter(|_| scaled);
    if tensor.is_contiguous() {
        return Ok(Box::new(Plain { bytes: tensor.as_bytes()?, dtype, scale, len }));
    }
    let layout = tensor.layout();
    let walk = Walk::new(layout.shape(), [layout.strides()], [layout.offset()]);
    Ok(Box::new(Strided { bytes: tensor.memory().bytes(), walk, dtype, scale, len }))
}

/// What a conversion makes of another source.
pub struct Converted<'a> {
    job: Job<'a>,
    /// Place of the conversion in its chain.
    stage: usize,
    /// The first place that refused.
    refused: &'a AtomicUsize,
    /// Errors of each block, where results are compared: a block may be read more than once, but counts once, and the
    /// sum does not depend on threads.
    errors: Mutex<Vec<ErrorSums>>,
}

impl<'a> Converted<'a> {
    /// Makes the source of the conversion after `job`, which is at place `stage` of a chain.
    ///
    /// # Errors
    /// `OutOfMemory` for the errors of blocks.
    pub fn new(job: Job<'a>, stage: usize, refused: &'a AtomicUsize) -> Result<Self> {
        let blocks = if job.config.validate_results { job.source.len().div_ceil(BLOCK) } else { 0 };
        let mut errors = room("errors of a chain of conversions", blocks)?;
        errors.resize(blocks, ErrorSums::default());
        Ok(Converted { job, stage, refused, errors: Mutex::new(errors) })
    }

    /// Returns the errors of all blocks that were read.
    pub fn errors(&self) -> ErrorSums {
        let mut sums = ErrorSums::default();
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|block| sums.add(*block));
        sums
    }
}

impl Source for Converted<'_> {
    fn len(&self) -> usize {
        self.job.source.len()
    }

    fn dtype(&self) -> BitNetDType {
        self.job.cast.to
    }

    fn scale(&self) -> Option<f32> {
        self.job.scale
    }

    fn whole(&self) -> Option<&[u8]> {
        None
    }

    fn read<'s>(&'s self, _: &Kernels, range: Range<usize>, room: &'s mut [u8]) -> Result<&'s [u8]> {
        let room = &mut room[..self.job.cast.to.size_bytes(range.len()).unwrap_or(0)];
        let block = range.start / BLOCK;
        let errors = self.job.fill_range(range, room).inspect_err(|_| {
            self.refused.fetch_min(self.stage, Ordering::Relaxed);
        })?;
        if self.job.config.validate_results {
            self.errors.lock().unwrap_or_else(PoisonError::into_inner)[block] = errors;
        }
        Ok(room)
    }
}
