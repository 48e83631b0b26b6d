//! The KV cache: blocks of 64 positions, `[layer][key, value][kv_head][64][head_dim]` each.

#![allow(unsafe_code)]

use bitnet_backend::{AttentionShape, BitNetDType, BitNetError, BlockId, Device, KV_BLOCK_TOKENS, Result};
use bitnet_kernels::KvRows;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::shared::SharedSlice;
use crate::memory::{Element, HybridMemoryPool, PoolBuffer};

/// Keys or values.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Rotated keys.
    Keys,
    /// Values.
    Values,
}

/// A number that the cache's type does not hold, and where it belongs.
#[derive(Debug, Clone, Copy)]
pub struct Unheld {
    /// Layer.
    pub layer: usize,
    /// Token of the step.
    pub token: usize,
    /// Key/value head.
    pub head: usize,
    /// Key or value.
    pub part: Part,
    /// The number.
    pub found: f32,
}

impl Unheld {
    /// Returns the place, in the order in which one worker alone would come to it.
    pub fn place(&self) -> (usize, usize, usize, usize) {
        (self.layer, self.token, self.head, self.part as usize)
    }

    /// Returns the error that says so, of the token at `position` of sequence `seq` of the step.
    pub fn error(&self, dtype: BitNetDType, seq: u32, position: u32) -> BitNetError {
        let Unheld { layer, head, part, found, .. } = self;
        let part = match part {
            Part::Keys => "key",
            Part::Values => "value",
        };
        let what = format!(
            "{part} of head {head} in layer {layer}, sequence {seq} of the step, position {position}"
        );
        let expected = match dtype {
            BitNetDType::F16 => "numbers of at most 65504, the greatest of an f16 KV cache (f32 holds more)",
            _ => "finite numbers",
        };
        BitNetError::mismatch(what, expected, found)
    }
}

/// Sizes from which offsets follow.
#[derive(Debug, Clone, Copy)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Heads and head size.
    pub attention: AttentionShape,
}

impl KvShape {
    /// Returns the elements of one block, or `None` when they do not fit.
    pub fn block_len(&self) -> Option<usize> {
        let head = self.attention.head_dim.checked_mul(KV_BLOCK_TOKENS)?;
        head.checked_mul(self.attention.kv_heads)?.checked_mul(2)?.checked_mul(self.layers)
    }

    /// Returns the offset, in a block, of one head's rows.
    fn head_at(&self, layer: usize, part: Part, head: usize) -> usize {
        let half = layer * 2 + part as usize;
        (half * self.attention.kv_heads + head) * KV_BLOCK_TOKENS * self.attention.head_dim
    }
}

/// The cache of one backend.
pub struct KvCache {
    shape: KvShape,
    blocks: Blocks,
}

enum Blocks {
    F32(BlockStore<f32>),
    F16(BlockStore<f16>),
}

/// Blocks and, for the workers of a pass, the same memory as shared slices.
struct BlockStore<T: Element> {
    lent: Vec<SharedSlice<'static, T>>,
    // Declared after `lent`, which points into it: never touched directly once it is lent.
    owned: Vec<PoolBuffer<T>>,
}

impl<T: Element> BlockStore<T> {
    fn new() -> Self {
        BlockStore { lent: Vec::new(), owned: Vec::new() }
    }

    fn reserve(&mut self, pool: &HybridMemoryPool, len: usize, count: usize) -> Result<()> {
        while self.owned.len() < count {
            let mut block = PoolBuffer::<T>::zeroed(pool, len, &Device::Cpu, "a KV block")?;
            // SAFETY: pool memory does not move while the buffer lives; `owned` keeps it as long as
            // `lent` and nothing else refers to its elements.
            self.lent.push(unsafe { SharedSlice::new(&mut block).erase() });
            self.owned.push(block);
        }
        Ok(())
    }

    /// Gives all blocks but the first `count` back: first what is lent, then what it points into.
    fn truncate(&mut self, count: usize) {
        self.lent.truncate(count);
        self.owned.truncate(count);
    }
}

impl KvCache {
    /// Makes an empty cache of `F16` elements, or else of `F32`.
    pub fn new(shape: KvShape, dtype: BitNetDType) -> Self {
        let blocks = match dtype {
            BitNetDType::F16 => Blocks::F16(BlockStore::new()),
            _ => Blocks::F32(BlockStore::new()),
        };
        KvCache { shape, blocks }
    }

    /// Returns the number of blocks.
    pub fn len(&self) -> usize {
        match &self.blocks {
            Blocks::F32(store) => store.owned.len(),
            Blocks::F16(store) => store.owned.len(),
        }
    }

    /// Returns the bytes of all blocks.
    pub fn bytes(&self) -> usize {
        let width = if matches!(self.blocks, Blocks::F32(_)) { 4 } else { 2 };
        self.len() * self.shape.block_len().unwrap_or(0) * width
    }

    /// Adds blocks until there are `count`.
    pub fn reserve(&mut self, pool: &HybridMemoryPool, count: usize) -> Result<()> {
        // An overflowing length is refused by the pool, which names its purpose.
        let len = self.shape.block_len().unwrap_or(usize::MAX);
        match &mut self.blocks {
            Blocks::F32(store) => store.reserve(pool, len, count),
            Blocks::F16(store) => store.reserve(pool, len, count),
        }
    }

    /// Gives all blocks but the first `count` back to the pool.
    pub fn truncate(&mut self, count: usize) {
        match &mut self.blocks {
            Blocks::F32(store) => store.truncate(count),
            Blocks::F16(store) => store.truncate(count),
        }
    }

    /// Lends the blocks to the workers of a pass.
    pub fn lend(&mut self) -> KvView<'_> {
        let blocks = match &self.blocks {
            Blocks::F32(store) => LentBlocks::F32(&store.lent),
            Blocks::F16(store) => LentBlocks::F16(&store.lent),
        };
        KvView { shape: self.shape, blocks }
    }
}

/// The cache as the workers of one pass see it.
#[derive(Clone, Copy)]
pub struct KvView<'a> {
    shape: KvShape,
    blocks: LentBlocks<'a>,
}

#[derive(Clone, Copy)]
enum LentBlocks<'a> {
    F32(&'a [SharedSlice<'static, f32>]),
    F16(&'a [SharedSlice<'static, f16>]),
}

impl<'a> KvView<'a> {
    /// Asks for the first `count` rows of one head in one block.
    pub fn prefetch(&self, block: BlockId, layer: usize, part: Part, head: usize, count: usize) {
        let start = self.shape.head_at(layer, part, head);
        let range = start..start + count * self.shape.attention.head_dim;
        match self.blocks {
            LentBlocks::F32(blocks) => blocks[block.0 as usize].prefetch(range),
            LentBlocks::F16(blocks) => blocks[block.0 as usize].prefetch(range),
        }
    }

    /// Returns the rows of one head in one block, `[64, head_dim]`.
    ///
    /// # Safety
    /// While the result lives, no worker appends to this head of this block.
    pub unsafe fn rows(&self, block: BlockId, layer: usize, part: Part, head: usize) -> KvRows<'a> {
        let start = self.shape.head_at(layer, part, head);
        let range = start..start + KV_BLOCK_TOKENS * self.shape.attention.head_dim;
        // SAFETY: not written meanwhile, by this function's contract.
        unsafe {
            match self.blocks {
                LentBlocks::F32(blocks) => KvRows::F32(blocks[block.0 as usize].get(range)),
                LentBlocks::F16(blocks) => KvRows::F16(blocks[block.0 as usize].get(range)),
            }
        }
    }

    /// Stores one position's `row` of one head, rounding to the cache's type (half to even).
    ///
    /// # Errors
    /// The first number that the type does not hold: an infinite key takes its position out of the softmax, or
    /// everything else, according to the query's sign.
    ///
    /// # Safety
    /// No other worker reads or writes this head at this position of this block meanwhile.
    pub unsafe fn append(
        &self,
        block: BlockId,
        position: usize,
        layer: usize,
        part: Part,
        head: usize,
        row: &[f32],
    ) -> Result<(), f32> {
        let head_dim = self.shape.attention.head_dim;
        let start = self.shape.head_at(layer, part, head) + position % KV_BLOCK_TOKENS * head_dim;
        let range = start..start + head_dim;
        // SAFETY: exclusive by this function's contract.
        unsafe {
            match self.blocks {
                LentBlocks::F32(blocks) => blocks[block.0 as usize].get_mut(range).copy_from_slice(row),
                LentBlocks::F16(blocks) => {
                    blocks[block.0 as usize].get_mut(range).convert_from_f32_slice(row);
                }
            }
        }
        let limit = self.limit();
        let fits = |value: f32| value.abs() < limit;
        // Without an early exit, so that the compiler looks at many at once.
        if row.iter().fold(true, |fit, &value| fit & fits(value)) {
            return Ok(());
        }
        Err(row.iter().copied().find(|&value| !fits(value)).unwrap_or(f32::NAN))
    }

    /// Returns the magnitude from which on a number is infinite in the cache.
    fn limit(&self) -> f32 {
        match self.blocks {
            LentBlocks::F32(_) => f32::INFINITY,
            // Half way from the greatest number to the next power of two.
            LentBlocks::F16(_) => 65_520.0,
        }
    }
}
