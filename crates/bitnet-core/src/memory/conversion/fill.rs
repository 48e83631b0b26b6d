//! Writing what a conversion makes of a range of elements, on all cores.

use std::ops::Range;

use bitnet_backend::{BitNetDType, BitNetError, NumericRange, Result};
use bitnet_kernels::Kernels;

use super::cast::{Cast, Rounding};
use super::config::ConversionConfig;
use super::number::{BLOCK, Kind, kind_of, load_integers, round_half_even};
use super::source::{BLOCK_BYTES, Source};
use super::statistics::ErrorSums;

/// Elements of a part of a sum: the order of additions does not depend on chunks and threads.
pub const PART: usize = 64 * BLOCK;

/// Runs `part` over ranges of `size` elements, on all cores where the configuration says so, and returns what it
/// returned in order.
///
/// # Errors
/// The first one in that order.
pub fn parts<T: Send>(
    config: &ConversionConfig,
    len: usize,
    size: usize,
    part: impl Fn(Range<usize>) -> Result<T> + Sync + Send,
) -> Result<Vec<T>> {
    let range = |index: usize| index * size..len.min((index + 1) * size);
    let count = len.div_ceil(size);
    #[cfg(feature = "parallel")]
    if config.parallel && count > 1 {
        use rayon::prelude::*;
        let done: Vec<Result<T>> = (0..count).into_par_iter().map(|index| part(range(index))).collect();
        return done.into_iter().collect();
    }
    let _ = config.parallel;
    (0..count).map(|index| part(range(index))).collect()
}

/// Elements of `dtype` that a thread takes at a time.
pub fn chunk_elements(config: &ConversionConfig, dtype: BitNetDType) -> usize {
    elements_in(config.chunk_bytes, dtype)
}

/// Whole blocks in `bytes` bytes, at least one.
pub fn elements_in(bytes: usize, dtype: BitNetDType) -> usize {
    let block = dtype.size_bytes(BLOCK).unwrap_or(BLOCK_BYTES);
    // No tensor has more elements than half of these.
    (bytes / block).clamp(1, usize::MAX / (16 * BLOCK)) * BLOCK
}

/// A conversion of a source, ready to run.
pub struct Job<'a> {
    pub config: &'a ConversionConfig,
    pub kernels: &'a Kernels,
    pub source: &'a dyn Source,
    pub cast: Cast,
    /// Scale of the result.
    pub scale: Option<f32>,
}

impl Job<'_> {
    /// Fills `out` with all elements.
    ///
    /// # Errors
    /// Those of the source; with `validate_results` values that the target cannot hold.
    pub fn fill(&self, out: &mut [u8]) -> Result<ErrorSums> {
        self.fill_span(0..self.source.len(), out)
    }

    /// Fills `out` with a range that begins at a multiple of [`BLOCK`], on all cores where that is configured.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn fill_span(&self, span: Range<usize>, out: &mut [u8]) -> Result<ErrorSums> {
        let size = chunk_elements(self.config, self.cast.from);
        let width = self.cast.to.size_bytes(size).unwrap_or(usize::MAX).max(1);
        let range = |index: usize| span.start + index * size..span.end.min(span.start + (index + 1) * size);
        let mut sums = ErrorSums::default();
        #[cfg(feature = "parallel")]
        if self.config.parallel && span.len() > size {
            use rayon::prelude::*;
            let chunks = out.par_chunks_mut(width).enumerate();
            let done: Vec<Result<ErrorSums>> =
                chunks.map(|(index, out)| self.fill_range(range(index), out)).collect();
            for part in done {
                sums.add(part?);
            }
            return Ok(sums);
        }
        for (index, out) in out.chunks_mut(width).enumerate() {
            sums.add(self.fill_range(range(index), out)?);
        }
        Ok(sums)
    }

    /// Fills `out` with a range that begins at a multiple of [`BLOCK`], on this thread.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn fill_range(&self, range: Range<usize>, out: &mut [u8]) -> Result<ErrorSums> {
        let mut sums = ErrorSums::default();
        let validate = self.config.validate_results;
        if let (Some(_), false) = (self.source.whole(), validate) {
            // All at once: nothing is read into a room.
            let bytes = self.source.read(self.kernels, range.clone(), &mut [])?;
            self.cast.run(self.kernels, range.start, range.len(), bytes, out)?;
            return Ok(sums);
        }
        let mut room = [0; BLOCK_BYTES];
        let width = self.cast.to.size_bytes(BLOCK).unwrap_or(BLOCK_BYTES);
        for (first, out) in range.clone().step_by(BLOCK).zip(out.chunks_mut(width)) {
            let block = first..range.end.min(first + BLOCK);
            let count = block.len();
            let bytes = self.source.read(self.kernels, block, &mut room)?;
            self.cast.run(self.kernels, first, count, bytes, out)?;
            if validate {
                sums.add(self.compare(first, count, bytes, out)?);
            }
        }
        Ok(sums)
    }

    /// Measures the error of a block, and refuses what the target cannot hold.
    fn compare(&self, first: usize, count: usize, source: &[u8], out: &[u8]) -> Result<ErrorSums> {
        let (mut values, mut results) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (values, results) = (&mut values[..count], &mut results[..count]);
        let codes = self.cast.rounding == Rounding::Codes;
        let scale = if codes { 1.0 } else { self.scale.unwrap_or(1.0) };
        self.cast.read_double(self.kernels, source, values)?;
        let back = Cast { from_scale: scale, ..Cast::nearest(self.cast.to, BitNetDType::F64) };
        back.read_double(self.kernels, out, results)?;
        let (to, range) = (self.cast.to, self.cast.to.range());
        // Integers of 64 bits are compared as such: the nearest f64 may lie beyond a range that holds them.
        let mut integers = [0; BLOCK];
        let exact = kind_of(self.cast.from) == Kind::Integer && self.cast.from_scale == 1.0;
        if exact {
            load_integers(self.cast.from, source, &mut integers[..count]);
        }
        for (index, (&value, &result)) in values.iter().zip(&*results).enumerate() {
            let fits = match range {
                _ if codes || to == BitNetDType::Bool => true,
                NumericRange::Float { .. } => !value.is_finite() || result.is_finite(),
                _ if self.scale.is_some() => value.is_finite(),
                NumericRange::Integer { min, max } if exact => (min..=max).contains(&integers[index]),
                NumericRange::Integer { .. } => range.contains(round_half_even(value)),
            };
            if !fits {
                let what = format!("element {} of a {} tensor as {to}", first + index, self.cast.from);
                return Err(BitNetError::mismatch(what, "a value that the type can hold", value));
            }
        }
        Ok(ErrorSums::of(values, results))
    }
}
