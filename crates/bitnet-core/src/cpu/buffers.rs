//! Activation buffers: one row a token, owned by the pool, lent to the workers of a pass.

#![allow(unsafe_code)]

use bitnet_backend::{BitNetError, BufferKind, BufferSpec, Device, Result};

use super::shared::SharedSlice;
use crate::memory::{Element, HybridMemoryPool, PoolBuffer};

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

/// One buffer of the graph.
pub enum Buffer {
    /// `[tokens, width]`.
    F32(usize, Lent<f32>),
    /// `[tokens, width]` with a scale and a sum each.
    Int8(usize, Lent<i8>, Lent<f32>, Lent<i32>),
}

/// A lent buffer.
#[derive(Clone, Copy)]
pub enum BufferView<'a> {
    /// Width and values.
    F32(usize, SharedSlice<'a, f32>),
    /// Width, values, scales and sums.
    Int8(usize, SharedSlice<'a, i8>, SharedSlice<'a, f32>, SharedSlice<'a, i32>),
}

impl Buffer {
    /// Allocates a buffer for `tokens` rows.
    pub fn new(pool: &HybridMemoryPool, spec: BufferSpec, tokens: usize) -> Result<Self> {
        let len = spec.width.checked_mul(tokens).ok_or_else(|| {
            BitNetError::mismatch(format!("buffer {}", spec.name), "a size that fits memory", spec.width)
        })?;
        Ok(match spec.kind {
            BufferKind::F32 => Buffer::F32(spec.width, Lent::zeroed(pool, len, spec.name)?),
            BufferKind::Int8PerToken => Buffer::Int8(
                spec.width,
                Lent::zeroed(pool, len, spec.name)?,
                Lent::zeroed(pool, tokens, spec.name)?,
                Lent::zeroed(pool, tokens, spec.name)?,
            ),
        })
    }

    /// Lends the buffer.
    pub fn lend(&mut self) -> BufferView<'_> {
        match self {
            Buffer::F32(width, values) => BufferView::F32(*width, values.lend()),
            Buffer::Int8(width, values, scales, sums) => {
                BufferView::Int8(*width, values.lend(), scales.lend(), sums.lend())
            }
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Buffer::F32(_, values) => values.bytes(),
            Buffer::Int8(_, values, scales, sums) => values.bytes() + scales.bytes() + sums.bytes(),
        }
    }
}

impl BufferView<'_> {
    /// Forgets the lifetime.
    ///
    /// # Safety
    /// As [`SharedSlice::erase`], of every part.
    pub unsafe fn erase(self) -> BufferView<'static> {
        // SAFETY: by this function's contract.
        unsafe {
            match self {
                BufferView::F32(width, values) => BufferView::F32(width, values.erase()),
                BufferView::Int8(width, values, scales, sums) => {
                    BufferView::Int8(width, values.erase(), scales.erase(), sums.erase())
                }
            }
        }
    }
}

/// The normed rows that the head multiplies, and what an int8 head needs besides.
pub struct HeadRows {
    normed: Lent<f32>,
    fine: Lent<i16>,
    row: Lent<f32>,
    floors: Lent<f32>,
}

/// Lent [`HeadRows`].
#[derive(Clone, Copy)]
pub struct HeadView<'a> {
    /// `[logits_rows, width]`.
    pub normed: SharedSlice<'a, f32>,
    /// `[logits_rows, width]`: the rows as an int8 head takes them.
    pub fine: SharedSlice<'a, i16>,
    /// `[logits_rows, 3]`: of the quantised row its step, its norm and its error, both rounded up.
    pub row: SharedSlice<'a, f32>,
    /// `[workers, logits_rows]`: the greatest logit that a worker's part is sure to reach.
    pub floors: SharedSlice<'a, f32>,
}

impl HeadRows {
    /// Allocates `rows` rows for `workers` workers.
    pub fn new(pool: &HybridMemoryPool, rows: usize, width: usize, workers: usize) -> Result<Self> {
        let size = |a: usize, b: usize| {
            a.checked_mul(b).ok_or_else(|| {
                BitNetError::mismatch("head rows", "a size that fits memory", format_args!("{a} x {b}"))
            })
        };
        Ok(HeadRows {
            normed: Lent::zeroed(pool, size(rows, width)?, "rows of the head")?,
            fine: Lent::zeroed(pool, size(rows, width)?, "rows of an int8 head")?,
            row: Lent::zeroed(pool, size(rows, 3)?, "rows of an int8 head")?,
            floors: Lent::zeroed(pool, size(workers, rows)?, "rows of an int8 head")?,
        })
    }

    /// Lends the rows.
    pub fn lend(&mut self) -> HeadView<'_> {
        HeadView {
            normed: self.normed.lend(),
            fine: self.fine.lend(),
            row: self.row.lend(),
            floors: self.floors.lend(),
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.normed.bytes() + self.fine.bytes() + self.row.bytes() + self.floors.bytes()
    }
}
