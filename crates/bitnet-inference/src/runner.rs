//! Sequences over a backend: KV block allocation and the building of steps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_core::backend::{Backend, BlockId, KV_BLOCK_TOKENS, LogitsWanted, MemoryPart, Step, StepLimits};

use bitnet_core::memory::{CleanupStrategy, HybridMemoryPool, MemoryPressureLevel};

use crate::EngineError;

/// A sequence of a [`Runner`]. An id is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// Tokens to append to one sequence in one pass.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Tokens that follow what the sequence holds.
    pub tokens: &'a [u32],
    /// Whose logits are wanted.
    pub logits: LogitsWanted,
}

/// The KV blocks of one sequence.
#[derive(Debug, Default)]
struct Sequence {
    len: usize,
    blocks: Vec<BlockId>,
}

/// Hands out KV blocks: freed ones first, lowest id first, else new ones.
#[derive(Debug, Default)]
struct BlockAllocator {
    /// The greatest id first.
    free: Vec<BlockId>,
    created: usize,
}

/// Most KV blocks that are made at once.
const MOST_GROWTH: usize = 64;

impl BlockAllocator {
    fn take(
        &mut self,
        backend: &mut dyn Backend,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<BlockId, EngineError> {
        loop {
            match self.free.pop() {
                Some(block) => return Ok(block),
                // Adds one at least, or fails.
                None => self.grow(backend, pool)?,
            }
        }
    }

    /// Makes blocks: an eighth of those there are and one more, or that one alone where memory is getting short.
    fn grow(
        &mut self,
        backend: &mut dyn Backend,
        pool: Option<&HybridMemoryPool>,
    ) -> Result<(), EngineError> {
        let level = pool.map_or(MemoryPressureLevel::None, relieve);
        let calm = level < MemoryPressureLevel::Medium;
        let more = if calm { (1 + self.created / 8).min(MOST_GROWTH) } else { 1 };
        let grown = match backend.reserve_kv_blocks(self.created + more) {
            Ok(()) => more,
            Err(_) if more > 1 => {
                backend.release_kv_blocks(self.created);
                backend.reserve_kv_blocks(self.created + 1)?;
                1
            }
            Err(error) => return Err(error.into()),
        };
        let new = self.created..self.created + grown;
        self.created = new.end;
        self.give_back(new.map(|id| BlockId(id as u32)));
        Ok(())
    }

    fn give_back(&mut self, blocks: impl Iterator<Item = BlockId>) {
        self.free.extend(blocks);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Gives the memory of free blocks back, of those above every block in use.
    fn shrink(&mut self, backend: &mut dyn Backend) {
        let above = |&(index, block): &(usize, &BlockId)| block.0 as usize + index + 1 == self.created;
        let count = self.free.iter().enumerate().take_while(above).count();
        if count > 0 {
            self.free.drain(..count);
            self.created -= count;
            backend.release_kv_blocks(self.created);
        }
    }
}

/// Looks at the memory and, where it is short, gives the system back what nobody uses; returns how short it is then.
fn relieve(pool: &HybridMemoryPool) -> MemoryPressureLevel {
    let level = pool.check_pressure();
    if level < MemoryPressureLevel::High {
        return level;
    }
    pool.cleanup(CleanupStrategy::Pressure);
    pool.check_pressure()
}

/// A loaded graph with its sequences. One sequence is the special case of many.
pub struct Runner {
    backend: Box<dyn Backend>,
    limits: StepLimits,
    vocab: usize,
    context: usize,
    sequences: BTreeMap<SequenceId, Sequence>,
    blocks: BlockAllocator,
    step: Step,
    pool: Option<HybridMemoryPool>,
}

impl Runner {
    /// Wraps a backend that has its graph loaded with `limits`.
    pub fn new(backend: Box<dyn Backend>, limits: StepLimits, vocab: usize, context: usize) -> Self {
        let (sequences, blocks, step) = Default::default();
        Runner { backend, limits, vocab, context, sequences, blocks, step, pool: None }
    }

    /// Watches the memory of `pool`, from which the backend takes its own.
    #[must_use]
    pub fn with_pool(mut self, pool: HybridMemoryPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Returns the pool whose memory is watched.
    pub fn pool(&self) -> Option<&HybridMemoryPool> {
        self.pool.as_ref()
    }

    /// Starts an empty sequence, unless memory is too short for one.
    ///
    /// Under high pressure, KV blocks that no sequence has and whatever else of the pool nobody uses go back to the
    /// system first.
    ///
    /// # Errors
    /// [`EngineError::MemoryPressure`] while the pressure is critical.
    pub fn admit(&mut self) -> Result<SequenceId, EngineError> {
        if let Some(pool) = &self.pool {
            if pool.check_pressure() >= MemoryPressureLevel::High {
                self.blocks.shrink(&mut *self.backend);
            }
            if relieve(pool) == MemoryPressureLevel::Critical {
                return Err(EngineError::MemoryPressure { running: self.sequences.len() });
            }
        }
        Ok(self.start())
    }

    /// Returns the limits of one pass.
    pub fn limits(&self) -> StepLimits {
        self.limits
    }

    /// Returns the greatest length of a sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Returns the logits of a row.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Returns the backend.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Reports the memory held on the device, by part.
    pub fn memory(&self) -> Vec<MemoryPart> {
        self.backend.memory()
    }

    /// Starts an empty sequence.
    pub fn start(&mut self) -> SequenceId {
        // One counter for all engines of the program: an id of another engine is unknown here.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = SequenceId(NEXT.fetch_add(1, Ordering::Relaxed));
        // Room for a long conversation at once: decoding then allocates nothing a token.
        let blocks = Vec::with_capacity(self.context.div_ceil(KV_BLOCK_TOKENS).min(1024));
        self.sequences.insert(id, Sequence { len: 0, blocks });
        id
    }

    /// Ends a sequence and frees its blocks.
    pub fn release(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.blocks.give_back(sequence.blocks.into_iter());
            self.shrink_under_pressure();
        }
    }

    /// Returns the tokens that a sequence holds.
    ///
    /// # Errors
    /// [`EngineError::UnknownSequence`].
    pub fn len(&self, id: SequenceId) -> Result<usize, EngineError> {
        self.sequences.get(&id).map(|sequence| sequence.len).ok_or(EngineError::UnknownSequence(id.0))
    }

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// [`EngineError::UnknownSequence`].
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<(), EngineError> {
        let sequence = self.sequences.get_mut(&id).ok_or(EngineError::UnknownSequence(id.0))?;
        sequence.len = sequence.len.min(len);
        let kept = sequence.len.div_ceil(KV_BLOCK_TOKENS);
        self.blocks.give_back(sequence.blocks.drain(kept..));
        self.shrink_under_pressure();
        Ok(())
    }

    /// Gives KV blocks that have just become free back to the system, if memory was short at the last look.
    fn shrink_under_pressure(&mut self) {
        if let Some(pool) = &self.pool
            && pool.pressure_level() >= MemoryPressureLevel::High
        {
            self.blocks.shrink(&mut *self.backend);
            relieve(pool);
        }
    }

    /// Appends tokens to sequences in one pass.
    ///
    /// The feeds name distinct sequences and stay within [`limits`](Self::limits) together.
    ///
    /// # Errors
    /// A sequence that would pass the context, exhausted memory, or what the backend met; the sequences
    /// then hold what they held before.
    pub fn forward(&mut self, feeds: &[Feed<'_>]) -> Result<(), EngineError> {
        self.forward_each(feeds.iter().copied())
    }

    /// Appends tokens to sequences in one pass, as [`forward`](Self::forward), without a list of them.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_each<'f>(
        &mut self,
        feeds: impl Iterator<Item = Feed<'f>> + Clone,
    ) -> Result<(), EngineError> {
        self.step.clear();
        for feed in feeds.clone() {
            let past = self.len(feed.sequence)?;
            let end = past + feed.tokens.len();
            if end > self.context {
                return Err(EngineError::ContextExceeded { limit: self.context, found: end });
            }
            let sequence = self
                .sequences
                .get_mut(&feed.sequence)
                .ok_or(EngineError::UnknownSequence(feed.sequence.0))?;
            while sequence.blocks.len() < end.div_ceil(KV_BLOCK_TOKENS) {
                sequence.blocks.push(self.blocks.take(&mut *self.backend, self.pool.as_ref())?);
            }
            self.step.push_sequence(feed.tokens, past, &sequence.blocks, feed.logits);
        }
        self.backend.forward(&self.step)?;
        for feed in feeds {
            if let Some(sequence) = self.sequences.get_mut(&feed.sequence) {
                sequence.len += feed.tokens.len();
            }
        }
        Ok(())
    }

    /// Returns the wanted logits of the last pass, `[rows, vocab]`.
    ///
    /// # Errors
    /// What the backend met.
    pub fn logits(&mut self) -> Result<&[f32], EngineError> {
        Ok(self.backend.logits()?)
    }

    /// Appends the id of the greatest logit of each wanted row of the last pass.
    ///
    /// # Errors
    /// A logit that is not a number or is infinite, or a row of minus infinities alone.
    pub fn argmax(&mut self, out: &mut Vec<u32>) -> Result<(), EngineError> {
        Ok(self.backend.argmax(out)?)
    }

    /// Appends any number of tokens to one sequence, in as many passes as the limits need, and hands the
    /// logits of every token to `each` (its index in `tokens`, its row).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_all(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let (vocab, chunk) = (self.vocab, self.limits.max_tokens.min(self.limits.max_logits_rows));
        for (index, tokens) in tokens.chunks(chunk).enumerate() {
            self.forward(&[Feed { sequence, tokens, logits: LogitsWanted::All }])?;
            for (row, logits) in self.logits()?.chunks_exact(vocab).enumerate() {
                each(index * chunk + row, logits);
            }
        }
        Ok(())
    }
}
