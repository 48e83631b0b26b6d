//! Activation buffers: one row a token, owned by the pool, lent to the workers of a pass.

#![allow(unsafe_code)]

use bitnet_backend::{BitNetError, BufferId, BufferKind, BufferSpec, Device, Graph, Result};
use bitnet_kernels::layout::int6_rows;

use super::plan::{self, Stage};
use super::shared::SharedSlice;
use super::weights::{Matrix, NarrowWidth};
use crate::memory::{BUFFER_ALIGN, Element, HybridMemoryPool, LifetimePlan, PlanItem, PoolBuffer};

/// A pool buffer that a pass lends to its workers.
pub struct Lent<T: Element>(PoolBuffer<T>);

impl<T: Element> Lent<T> {
    /// Allocates `len` zeroed elements.
    pub fn zeroed(pool: &HybridMemoryPool, len: usize, purpose: &str) -> Result<Self> {
        Ok(Lent(PoolBuffer::zeroed(pool, len, &Device::Cpu, purpose)?))
    }

    /// Lends the elements.
    pub fn lend(&mut self) -> SharedSlice<'_, T> {
        SharedSlice::new(&mut self.0)
    }

    /// Returns the elements, between passes.
    pub fn values(&self) -> &[T] {
        &self.0
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<T>()
    }
}

/// A lent buffer.
#[derive(Clone, Copy)]
pub enum BufferView<'a> {
    /// Width and values.
    F32(usize, SharedSlice<'a, f32>),
    /// Width, values, scales and sums.
    Int8(usize, SharedSlice<'a, i8>, SharedSlice<'a, f32>, SharedSlice<'a, i32>),
}

/// The buffers of a graph, in one block: those that are never needed at once share bytes.
pub struct Activations {
    lent: Vec<BufferView<'static>>,
    // Declared after `lent`, which points into it: never touched directly once it is lent.
    block: PoolBuffer<u8>,
    /// Most bytes that are needed at once.
    lower_bound: usize,
}

/// Bytes of the parts of a buffer for `tokens` rows, and where each begins.
fn parts(spec: BufferSpec, tokens: usize) -> Option<([usize; 3], usize)> {
    let values = spec.width.checked_mul(tokens)?;
    match spec.kind {
        BufferKind::F32 => Some(([0; 3], values.checked_mul(4)?)),
        BufferKind::Int8PerToken => {
            let scales = values.checked_next_multiple_of(BUFFER_ALIGN)?;
            let row = tokens.checked_mul(4)?.checked_next_multiple_of(BUFFER_ALIGN)?;
            let sums = scales.checked_add(row)?;
            Some(([0, scales, sums], sums.checked_add(row)?))
        }
    }
}

impl Activations {
    /// Allocates the buffers of `graph` for `tokens` rows; `stages` is the order in which they are used.
    pub fn new(pool: &HybridMemoryPool, graph: &Graph, stages: &[Stage], tokens: usize) -> Result<Self> {
        let mut items = Vec::with_capacity(graph.buffers.len());
        for (&spec, live) in graph.buffers.iter().zip(plan::lifetimes(stages, graph.buffers.len())) {
            let (_, size) = parts(spec, tokens).ok_or_else(|| {
                BitNetError::mismatch(format!("buffer {}", spec.name), "a size that fits memory", spec.width)
            })?;
            items.push(PlanItem { size, live });
        }
        let plan = LifetimePlan::new(&items, BUFFER_ALIGN)?;
        let mut block = PoolBuffer::<u8>::zeroed(pool, plan.size, &Device::Cpu, "activations")?;
        let bytes = SharedSlice::new(&mut block);
        let lent = graph.buffers.iter().zip(&plan.offsets).map(|(&spec, &offset)| {
            let (starts, _) = parts(spec, tokens).unwrap_or_default();
            let [values, scales, sums] = starts.map(|start| offset + start);
            // SAFETY:
            // - pool memory does not move while the buffer lives; `block` keeps it as long as `lent` and nothing
            //   else refers to it;
            // - parts that share bytes are not used in the same stretch between two barriers, by the plan.
            unsafe {
                match spec.kind {
                    BufferKind::F32 => BufferView::F32(spec.width, bytes.part(values, spec.width * tokens)),
                    BufferKind::Int8PerToken => BufferView::Int8(
                        spec.width,
                        bytes.part(values, spec.width * tokens),
                        bytes.part(scales, tokens),
                        bytes.part(sums, tokens),
                    ),
                }
            }
        });
        Ok(Activations { lent: lent.collect(), block, lower_bound: plan.lower_bound })
    }

    /// Lends the buffers to the workers of a pass.
    pub fn lend(&mut self) -> &[BufferView<'_>] {
        &self.lent
    }

    /// Returns the first `rows` rows of an F32 buffer, between passes; `None` of an int8 one.
    pub fn rows(&mut self, id: BufferId, rows: usize) -> Option<&[f32]> {
        match self.lent.get(id.0 as usize)? {
            // SAFETY: no pass runs, as `self` is borrowed for writing.
            BufferView::F32(width, values) => Some(unsafe { values.get(0..rows * width) }),
            BufferView::Int8(..) => None,
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.block.len()
    }

    /// Returns the most bytes that are needed at once, below which no plan gets.
    pub fn lower_bound(&self) -> usize {
        self.lower_bound
    }
}

/// The normed rows that the head multiplies, and what a narrow head needs besides.
pub struct HeadRows {
    normed: Lent<f32>,
    fine: Lent<i16>,
    planes: Lent<i8>,
    sums: Lent<i32>,
    row: Lent<f32>,
    greatest: Lent<f32>,
    greatest_rows: Lent<i32>,
}

/// Lent [`HeadRows`].
#[derive(Clone, Copy)]
pub struct HeadView<'a> {
    /// `[logits_rows, width]`.
    pub normed: SharedSlice<'a, f32>,
    /// `[logits_rows, width]`: the rows as a narrow head takes them.
    pub fine: SharedSlice<'a, i16>,
    /// `[logits_rows, 2, padded width]`: the same in two planes, for a head of six bits.
    pub planes: SharedSlice<'a, i8>,
    /// `[logits_rows]`: sums of the rows of `planes`.
    pub sums: SharedSlice<'a, i32>,
    /// `[logits_rows, 3]`: of the quantised row its step, its norm and its error, both rounded up.
    pub row: SharedSlice<'a, f32>,
    /// `[workers, logits_rows]`: the greatest logit of a worker's part.
    pub greatest: SharedSlice<'a, f32>,
    /// `[workers, logits_rows]`: the row of the matrix that it belongs to, the first of equals.
    pub greatest_rows: SharedSlice<'a, i32>,
}

impl HeadRows {
    /// Allocates `rows` rows that `workers` workers multiply by the head's matrix; none without one.
    pub fn new(
        pool: &HybridMemoryPool,
        rows: usize,
        matrix: Option<&Matrix>,
        workers: usize,
    ) -> Result<Self> {
        let size = |a: usize, b: usize| {
            a.checked_mul(b).ok_or_else(|| {
                BitNetError::mismatch("head rows", "a size that fits memory", format_args!("{a} x {b}"))
            })
        };
        let cols = matrix.map_or(0, |matrix| matrix.cols);
        let narrow = matrix.and_then(Matrix::narrow).map(|rows| rows.width);
        let narrow_rows = if narrow.is_some() { rows } else { 0 };
        let six_bit_rows = if narrow == Some(NarrowWidth::Six) { rows } else { 0 };
        let purpose = "rows of a narrow head";
        Ok(HeadRows {
            normed: Lent::zeroed(pool, size(rows, cols)?, "rows of the head")?,
            fine: Lent::zeroed(pool, size(narrow_rows, cols)?, purpose)?,
            planes: Lent::zeroed(pool, size(six_bit_rows, 2 * int6_rows::padded(cols))?, purpose)?,
            sums: Lent::zeroed(pool, six_bit_rows, purpose)?,
            row: Lent::zeroed(pool, size(narrow_rows, 3)?, purpose)?,
            greatest: Lent::zeroed(pool, size(workers, narrow_rows)?, purpose)?,
            greatest_rows: Lent::zeroed(pool, size(workers, narrow_rows)?, purpose)?,
        })
    }

    /// Lends the rows.
    pub fn lend(&mut self) -> HeadView<'_> {
        HeadView {
            normed: self.normed.lend(),
            fine: self.fine.lend(),
            planes: self.planes.lend(),
            sums: self.sums.lend(),
            row: self.row.lend(),
            greatest: self.greatest.lend(),
            greatest_rows: self.greatest_rows.lend(),
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.normed.bytes()
            + self.fine.bytes()
            + self.planes.bytes()
            + self.sums.bytes()
            + self.row.bytes()
            + self.greatest.bytes()
            + self.greatest_rows.bytes()
    }
}
