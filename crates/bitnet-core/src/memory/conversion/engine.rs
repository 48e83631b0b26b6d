//! The door to conversion.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bitnet_backend::{BitNetDType, BitNetError, Result};
use bitnet_kernels::Kernels;

use super::config::{ConversionConfig, ConversionStrategy};
use super::fill::{Job, elements_in};
use super::pipeline::ConversionPipeline;
use super::scale::decide;
use super::source::{Plain, Source, of_tensor};
use super::statistics::{ConversionStats, Done, ErrorSums, Stage};
use super::streaming::Streaming;
use super::{Placement, in_place, reinterpret};
use crate::cpu::select_kernels;
use crate::memory::tensor::file::{exchange, is_native};
use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};
use crate::memory::{HybridMemoryPool, PoolBuffer};

/// Converts tensors by one configuration and counts what it does.
///
/// Results come from the engine's pool. A result depends on the source, the target and the configuration's strategy,
/// arithmetic and seed alone: not on threads, on chunks, or on the way it was asked for. An engine is shared by threads.
#[derive(Debug)]
pub struct ConversionEngine {
    pub(super) config: ConversionConfig,
    pub(super) pool: HybridMemoryPool,
    pub(super) kernels: &'static Kernels,
    stats: Mutex<ConversionStats>,
}

impl ConversionEngine {
    /// Makes an engine whose results come from `pool`.
    ///
    /// # Errors
    /// `Mismatch` for chunks of no bytes; `IsaUnavailable` when `BITNET_ISA` names a tier that is not here.
    pub fn new(config: ConversionConfig, pool: HybridMemoryPool) -> Result<Self> {
        check_chunk(config.chunk_bytes)?;
        Ok(ConversionEngine { config, pool, kernels: select_kernels()?, stats: Mutex::default() })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ConversionConfig {
        &self.config
    }

    /// Returns the pool that results come from.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Converts to a new tensor, row-major, of the shape of `tensor`.
    ///
    /// # Errors
    /// `Unsupported` for a tensor that is not in host memory; `Mismatch` for packed bytes that are no codes, for values
    /// without a finite scale, and with `validate_results` for the first value that the target cannot hold; otherwise as
    /// [`HybridMemoryPool::allocate`].
    pub fn convert(&self, tensor: &BitNetTensor, dtype: BitNetDType) -> Result<BitNetTensor> {
        self.counted(|| self.convert_to(tensor, dtype))
    }

    /// Converts a tensor that is given up: in its memory where `prefer_in_place` says so, else as
    /// [`convert`](Self::convert).
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    pub fn convert_owned(&self, mut tensor: BitNetTensor, dtype: BitNetDType) -> Result<BitNetTensor> {
        if self.config.prefer_in_place {
            self.in_place_convert(&mut tensor, dtype)?;
            return Ok(tensor);
        }
        self.convert(&tensor, dtype)
    }

    /// Sees the same memory as a tensor of another type; copies nothing.
    ///
    /// The type may be the same; an integer type of the same size, for integers, `bool` and floats; or a float type of
    /// the same size, for integers: the bits are what they are.
    ///
    /// # Errors
    /// `Mismatch` for any other pair, such as `f16` and `bf16`, whose numbers would be others; for a type other than its
    /// own when the tensor states a scale.
    pub fn zero_copy_convert(&self, tensor: &BitNetTensor, dtype: BitNetDType) -> Result<BitNetTensor> {
        self.counted(|| {
            let view = reinterpret::view(tensor, dtype)?;
            Ok((view, Done { elements: tensor.element_count(), zero_copy: true, ..Done::default() }))
        })
    }

    /// Converts in the memory of `tensor`, which shrinks to the result: the rest goes back to its pool.
    ///
    /// That takes a row-major tensor that alone has a buffer of a pool, and a result that is not larger. Any other tensor
    /// becomes what [`convert`](Self::convert) gives; the answer says which it was. An error leaves the tensor as it was.
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    pub fn in_place_convert(&self, tensor: &mut BitNetTensor, dtype: BitNetDType) -> Result<Placement> {
        self.counted(|| {
            if let Some(done) = in_place::convert(self, tensor, dtype)? {
                return Ok(done);
            }
            let (converted, done) = self.convert_to(tensor, dtype)?;
            *tensor = converted;
            Ok((Placement::New, done))
        })
    }

    /// Converts through a buffer of `chunk_bytes` of source, in order: all that is held beside source and result.
    ///
    /// # Errors
    /// `Mismatch` for chunks of no bytes; otherwise as [`convert`](Self::convert).
    pub fn streaming_convert(
        &self,
        tensor: &BitNetTensor,
        dtype: BitNetDType,
        chunk_bytes: usize,
    ) -> Result<BitNetTensor> {
        check_chunk(chunk_bytes)?;
        self.counted(|| {
            let source = of_tensor(tensor, self.config.preserve_metadata)?;
            let mut result = self.room_for(tensor, dtype)?;
            let mut at = 0;
            let (scale, mut done) = self.stream(&*source, dtype, chunk_bytes, |piece| {
                result[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
                Ok(())
            })?;
            done.extra_bytes += result.len();
            Ok((self.tensor_of(result, tensor, dtype, scale)?, done))
        })
    }

    /// Converts several tensors, on all cores where that is configured; in their order.
    ///
    /// # Errors
    /// That of the first tensor that has one, with its index; otherwise as [`convert`](Self::convert).
    pub fn batch_convert(&self, tensors: &[BitNetTensor], dtype: BitNetDType) -> Result<Vec<BitNetTensor>> {
        super::fill::parts(&self.config, tensors.len(), 1, |range| {
            let index = range.start;
            self.convert(&tensors[index], dtype).map_err(|error| error.context(format!("tensor {index}")))
        })
    }

    /// Begins a chain of conversions that run chunk by chunk, without whole tensors in between.
    pub fn pipeline(&self) -> ConversionPipeline<'_> {
        ConversionPipeline::new(self)
    }

    /// Converts `count` elements, as those of a checkpoint, from bytes in the order of the machine at any address (see
    /// [`machine_order`]) to bytes; returns the scale of the result.
    ///
    /// # Errors
    /// `Mismatch` when bytes or `out` are not those of as many elements; otherwise as [`convert`](Self::convert).
    pub fn convert_elements(
        &self,
        count: usize,
        (from, bytes): (BitNetDType, &[u8]),
        (to, out): (BitNetDType, &mut [u8]),
    ) -> Result<Option<f32>> {
        self.counted(|| {
            for (dtype, found) in [(from, bytes.len()), (to, out.len())] {
                let expected = dtype.size_bytes(count);
                if expected != Some(found) {
                    let expected = expected.map_or("fewer".into(), |bytes| bytes.to_string());
                    return Err(BitNetError::mismatch(format!("bytes of {count} {dtype}"), expected, found));
                }
            }
            let source = Plain { bytes, dtype: from, scale: None, len: count };
            self.fill(&source, to, out)
        })
    }

    /// Returns what the engine did so far.
    pub fn get_stats(&self) -> ConversionStats {
        self.stats().clone()
    }

    fn stats(&self) -> MutexGuard<'_, ConversionStats> {
        // Counters are whole after a panic elsewhere.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs and counts one conversion.
    pub(super) fn counted<T>(&self, convert: impl FnOnce() -> Result<(T, Done)>) -> Result<T> {
        let strategy = self.config.strategy;
        self.counted_stages(|| convert().map(|(value, done)| (value, vec![(strategy, done)])), || strategy)
    }

    /// Runs and counts a chain of conversions of one tensor; `refused` tells the strategy that an error is of.
    pub(super) fn counted_stages<T>(
        &self,
        convert: impl FnOnce() -> Result<(T, Vec<Stage>)>,
        refused: impl FnOnce() -> ConversionStrategy,
    ) -> Result<T> {
        let start = Instant::now();
        let result = convert();
        let time = start.elapsed();
        let outcome = result.as_ref().map(|(_, stages)| &stages[..]).map_err(|_| refused());
        self.stats().count(outcome, time);
        result.map(|(value, _)| value)
    }

    fn convert_to(&self, tensor: &BitNetTensor, dtype: BitNetDType) -> Result<(BitNetTensor, Done)> {
        let source = of_tensor(tensor, self.config.preserve_metadata)?;
        let mut result = self.room_for(tensor, dtype)?;
        let (scale, done) = self.fill(&*source, dtype, &mut result)?;
        let done = Done { extra_bytes: result.len(), ..done };
        Ok((self.tensor_of(result, tensor, dtype, scale)?, done))
    }

    /// Allocates the bytes of a result.
    pub(super) fn room_for(&self, tensor: &BitNetTensor, dtype: BitNetDType) -> Result<PoolBuffer<u8>> {
        let metadata = TensorMetadata::new(tensor.shape().to_vec(), dtype, tensor.device());
        let purpose = format!("{dtype} tensor of shape {:?}", tensor.shape());
        PoolBuffer::for_overwrite(&self.pool, metadata.size_bytes()?, &tensor.device(), &purpose)
    }

    /// Makes a tensor of the elements of a result.
    pub(super) fn tensor_of(
        &self,
        result: PoolBuffer<u8>,
        tensor: &BitNetTensor,
        dtype: BitNetDType,
        scale: Option<f32>,
    ) -> Result<BitNetTensor> {
        let layout = Layout::row_major(tensor.shape().to_vec());
        let metadata = TensorMetadata::with_layout(layout, dtype, tensor.device());
        let scale = scale.filter(|_| self.config.preserve_metadata);
        BitNetTensor::in_memory(metadata.with_scale(scale)?, Arc::new(result))
    }

    pub(super) fn job<'a>(&'a self, source: &'a dyn Source, dtype: BitNetDType) -> Result<Job<'a>> {
        let (cast, scale) = decide(&self.config, self.kernels, source, dtype)?;
        Ok(Job { config: &self.config, kernels: self.kernels, source, cast, scale })
    }

    /// Converts all elements of a source into `out`.
    pub(super) fn fill(
        &self,
        source: &dyn Source,
        dtype: BitNetDType,
        out: &mut [u8],
    ) -> Result<(Option<f32>, Done)> {
        let mut job = self.job(source, dtype)?;
        job.cast.past = out.len() >= self.config.past_caches_from;
        let errors = job.fill(out)?;
        Ok((job.scale, done(source, dtype, errors)))
    }

    fn stream(
        &self,
        source: &dyn Source,
        dtype: BitNetDType,
        chunk_bytes: usize,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(Option<f32>, Done)> {
        let job = self.job(source, dtype)?;
        let (len, chunk) = (source.len(), elements_in(chunk_bytes, source.dtype()));
        // A chunk is what passes at a time; its units are what threads take.
        let unit = elements_in(chunk_bytes.min(self.config.chunk_bytes) / 4, source.dtype());
        let bytes_of = |elements: usize| dtype.size_bytes(elements).unwrap_or(usize::MAX);
        let buffer = bytes_of(chunk.min(len).max(1));
        let mut streaming = Streaming::with_piece_bytes(&self.pool, buffer)?;
        if !self.config.parallel {
            streaming = streaming.on_one_thread();
        }
        let parts = Mutex::new(Vec::new());
        let mut errors = ErrorSums::default();
        let whole = len / unit;
        for (first, units, size) in [(0, whole, unit), (whole * unit, 1, len - whole * unit)] {
            let fill = |index: usize, out: &mut [u8]| {
                let start = first + index * size;
                let part = job.fill_range(start..start + size, out);
                parts.lock().unwrap_or_else(PoisonError::into_inner).push((start, part));
            };
            streaming.run(units, bytes_of(size), fill, |piece| {
                let mut parts = std::mem::take(&mut *parts.lock().unwrap_or_else(PoisonError::into_inner));
                parts.sort_unstable_by_key(|(start, _)| *start);
                for (_, part) in parts {
                    errors.add(part?);
                }
                sink(piece)
            })?;
        }
        Ok((job.scale, Done { extra_bytes: buffer, ..done(source, dtype, errors) }))
    }
}

/// Counts the conversion of a whole source.
pub(super) fn done(source: &dyn Source, dtype: BitNetDType, errors: ErrorSums) -> Done {
    let elements = source.len();
    let bytes = |dtype: BitNetDType| dtype.size_bytes(elements).unwrap_or_default();
    Done {
        elements,
        bytes_read: bytes(source.dtype()),
        bytes_written: bytes(dtype),
        errors,
        ..Done::default()
    }
}

fn check_chunk(bytes: usize) -> Result<()> {
    match bytes {
        0 => Err(BitNetError::mismatch("bytes of a conversion's chunks", "1 or more", 0)),
        _ => Ok(()),
    }
}

/// Turns elements in the order of the machine into those of a file, little-endian: nothing, where that is the same.
pub fn to_file_order(dtype: BitNetDType, bytes: &mut [u8]) {
    exchange(dtype, bytes);
}

/// Returns little-endian elements of a file in the order of the machine: as they are, where that is the same.
pub fn machine_order(dtype: BitNetDType, bytes: &[u8]) -> Cow<'_, [u8]> {
    if is_native(dtype) {
        return Cow::Borrowed(bytes);
    }
    let mut turned = bytes.to_vec();
    exchange(dtype, &mut turned);
    Cow::Owned(turned)
}
