//! Conversion in the memory of the source.

use std::ops::Range;
use std::sync::Arc;

use bitnet_backend::{BitNetDType, Result};

use super::cast::Cast;
use super::config::ConversionConfig;
use super::engine::{ConversionEngine, done};
use super::fill::{Job, chunk_elements};
use super::scale::decide;
use super::source::Plain;
use super::statistics::{Done, ErrorSums};
use crate::memory::PoolBuffer;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};

/// Where the result of an in-place conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In the memory of the source, which gave back what it had beyond the result where it can give back a part.
    Same {
        /// Bytes given back.
        freed: usize,
    },
    /// In new memory: the result is larger, or the tensor shares its memory, is a view, or lies outside of a pool.
    New,
}

/// Converts in place; `None` where that cannot be.
///
/// Chunks pass through a small buffer, front to back. The result of a chunk ends before its source does, so what is
/// written was read before.
pub(super) fn convert(
    engine: &ConversionEngine,
    tensor: &mut BitNetTensor,
    dtype: BitNetDType,
) -> Result<Option<(Placement, Done)>> {
    let (from, len) = (tensor.dtype(), tensor.element_count());
    let scale = tensor.scale().filter(|_| engine.config.preserve_metadata);
    let Some(size) = dtype.size_bytes(len).filter(|&size| size <= tensor.size_bytes()) else {
        return Ok(None);
    };
    let place = tensor.is_contiguous() && tensor.layout().offset() == 0 && tensor.device().is_cpu();
    let (shape, device) = (tensor.shape().to_vec(), tensor.device());
    let Some(memory) = Arc::get_mut(&mut tensor.memory).filter(|memory| place && memory.pool().is_some())
    else {
        return Ok(None);
    };
    let held = memory.bytes().len();
    let bytes = &mut memory.bytes_mut()?[..from.size_bytes(len).unwrap_or_default()];
    // What was compared once is not compared again while it is written.
    let writing = ConversionConfig { validate_results: false, ..engine.config.clone() };
    let run = Run { engine, from, scale, len };
    let (cast, result_scale) = decide(&engine.config, engine.kernels, &run.source(bytes), dtype)?;
    let chunk = chunk_elements(&engine.config, from).saturating_mul(threads(engine.config.parallel));
    let width = |elements| dtype.size_bytes(elements).unwrap_or_default();
    let purpose = "in-place conversion buffer";
    let mut room = PoolBuffer::for_overwrite(&engine.pool, width(chunk.min(len)), &device, purpose)?;
    let ranges = || (0..len).step_by(chunk).map(|start| start..len.min(start + chunk));
    let mut errors = ErrorSums::default();
    let checked = engine.config.validate_results || from.is_ternary();
    if checked {
        // What is refused is refused before anything is written.
        for range in ranges() {
            let out = width(range.len());
            errors.add(run.fill(&engine.config, bytes, (cast, result_scale), range, &mut room[..out])?);
        }
    }
    let metadata = TensorMetadata::with_layout(Layout::row_major(shape), dtype, device);
    let metadata = metadata.with_scale(result_scale.filter(|_| engine.config.preserve_metadata))?;
    for range in ranges() {
        let (start, out) = (width(range.start), width(range.len()));
        run.fill(&writing, bytes, (cast, result_scale), range, &mut room[..out])?;
        bytes[start..start + out].copy_from_slice(&room[..out]);
    }
    let counted = done(&run.source(bytes), dtype, errors);
    // Memory that stays as large as it was holds the result all the same.
    let freed = memory.shrink(size).map_or(0, |()| held - size);
    tensor.metadata = metadata;
    let counted = Done { in_place: true, bytes_freed: freed, extra_bytes: room.len(), ..counted };
    Ok(Some((Placement::Same { freed }, counted)))
}

/// What does not change from chunk to chunk.
struct Run<'a> {
    engine: &'a ConversionEngine,
    from: BitNetDType,
    scale: Option<f32>,
    len: usize,
}

impl Run<'_> {
    fn source<'b>(&self, bytes: &'b [u8]) -> Plain<'b> {
        Plain { bytes, dtype: self.from, scale: self.scale, len: self.len }
    }

    /// Converts a range of what the memory holds now.
    fn fill(
        &self,
        config: &ConversionConfig,
        bytes: &[u8],
        (cast, scale): (Cast, Option<f32>),
        range: Range<usize>,
        out: &mut [u8],
    ) -> Result<ErrorSums> {
        let source = self.source(bytes);
        let kernels = self.engine.kernels;
        Job { config, kernels, source: &source, cast, scale }.fill_span(range, out)
    }
}

fn threads(parallel: bool) -> usize {
    #[cfg(feature = "parallel")]
    if parallel {
        return rayon::current_num_threads();
    }
    let _ = parallel;
    1
}
