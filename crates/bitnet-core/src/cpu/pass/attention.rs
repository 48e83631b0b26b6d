//! Attention: rows of queries against the cached blocks of their sequence.
//!
//! A call of the kernel covers up to 64 rows that share a key/value head: the query heads of the group, of as
//! many neighbouring tokens as fit. With too few such tiles to go round, as in decoding, blocks are computed
//! apart by whoever is free and merged in order afterwards; the bits are the same.

use std::ops::Range;

use bitnet_backend::{AttentionShape, BitNetError, BufferId, KV_BLOCK_TOKENS, Result};
use bitnet_kernels::scalar::attention::{ROWS, scratch_len, stride};
use bitnet_kernels::{AttentionBlock, AttentionState};

use super::Pass;
use crate::cpu::buffers::Lent;
use crate::cpu::kv::Part;
use crate::cpu::shared::SharedSlice;
use crate::cpu::turn::Turn;
use crate::memory::HybridMemoryPool;

/// Blocks of one step that can be computed apart; a longer context is not cut.
const PARTS: usize = 256;
/// Tiles a worker below which blocks are computed apart.
const FEW_TILES: usize = 4;
/// Blocks a token from which cutting pays for the barrier.
const MANY_BLOCKS: usize = 4;

/// Returns the floats of scratch that a worker needs: queries, outputs, and the kernel's own.
pub const fn scratch(head_dim: usize) -> usize {
    2 * ROWS * stride(head_dim) + scratch_len(ROWS, head_dim)
}

/// Sums and states of blocks that were computed apart.
pub struct Parts {
    sums: Lent<f32>,
    states: Lent<f32>,
}

/// Lent [`Parts`].
#[derive(Clone, Copy)]
pub struct PartsView<'a> {
    /// `[blocks, heads, stride]`.
    sums: SharedSlice<'a, f32>,
    /// `[blocks, heads, 2]`: maximum and sum.
    states: SharedSlice<'a, f32>,
    /// Blocks that fit.
    blocks: usize,
}

impl Parts {
    /// Allocates what a team of `workers` needs.
    pub fn new(pool: &HybridMemoryPool, shape: AttentionShape, workers: usize) -> Result<Self> {
        let blocks = if workers > 1 { PARTS } else { 0 };
        let rows = blocks.checked_mul(shape.heads);
        let sums = rows.and_then(|rows| rows.checked_mul(stride(shape.head_dim))).ok_or_else(|| {
            BitNetError::mismatch("parts of attention", "a size that fits memory", format_args!("{shape:?}"))
        })?;
        Ok(Parts {
            sums: Lent::zeroed(pool, sums, "parts of attention")?,
            states: Lent::zeroed(pool, 2 * blocks * shape.heads, "parts of attention")?,
        })
    }

    /// Lends them.
    pub fn lend(&mut self) -> PartsView<'_> {
        let blocks = if self.sums.values().is_empty() { 0 } else { PARTS };
        PartsView { sums: self.sums.lend(), states: self.states.lend(), blocks }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> usize {
        self.sums.bytes() + self.states.bytes()
    }
}

/// Query rows of one call: `heads` of a group, of neighbouring tokens of one sequence.
struct Tile {
    tokens: Range<usize>,
    kv_head: usize,
    /// Query heads, counted over the model.
    heads: Range<usize>,
}

impl Tile {
    fn rows(&self) -> usize {
        self.tokens.len() * self.heads.len()
    }

    fn token(&self, row: usize) -> usize {
        self.tokens.start + row / self.heads.len()
    }
}

/// What a call works on, in a worker's scratch.
struct Frame<'s> {
    queries: &'s mut [f32],
    out: &'s mut [f32],
    rest: &'s mut [f32],
}

impl Pass<'_> {
    /// Attends with every head of every token.
    pub fn attention(&self, q: BufferId, layer: usize, out: BufferId, turn: Turn<'_>) {
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        if self.cuts_sequences(turn.worker.count()) {
            return self.attention_apart(q, layer, out, turn, scratch);
        }
        let mut mine = turn.next();
        self.each_tile(|unit, tile| {
            if unit == mine {
                self.attend(q, layer, out, tile, scratch);
                mine = turn.next();
            }
        });
    }

    /// Rotates and appends one token of each sequence, and attends with it, head by head.
    pub fn rope_attention(&self, [q, k, v, out]: [BufferId; 4], layer: usize, turn: Turn<'_>) {
        // SAFETY: taken once in this stage.
        let scratch = unsafe { self.scratch(turn.worker) };
        let kv_heads = self.attention.kv_heads;
        let group = self.attention.heads / kv_heads;
        if self.cuts_sequences(turn.worker.count()) {
            for unit in turn.worker.share(self.tokens() * kv_heads, 1) {
                // SAFETY: units are shared out disjointly.
                unsafe { self.rope_append_head([q, k, v], layer, unit / kv_heads, unit % kv_heads) };
            }
            turn.worker.barrier();
            return self.attention_apart(q, layer, out, turn, scratch);
        }
        for unit in turn.worker.share(self.tokens() * kv_heads, 1) {
            let (token, kv_head) = (unit / kv_heads, unit % kv_heads);
            self.ask_for_block(layer, unit + 1, 0);
            // SAFETY: units are shared out disjointly, and no other token reads this one's place.
            unsafe { self.rope_append_head([q, k, v], layer, token, kv_head) };
            for first in (0..group).step_by(ROWS) {
                let heads = kv_head * group + first..kv_head * group + group.min(first + ROWS);
                self.attend(q, layer, out, Tile { tokens: token..token + 1, kv_head, heads }, scratch);
            }
        }
    }

    /// Hands the tiles of the step to `each`, with their numbers.
    fn each_tile(&self, mut each: impl FnMut(usize, Tile)) {
        let AttentionShape { heads, kv_heads, .. } = self.attention;
        let group = heads / kv_heads;
        let (head_tile, mut unit) = (group.min(ROWS), 0);
        for bounds in self.step.cu_seqlens.windows(2) {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            for first in (start..end).step_by(ROWS / head_tile) {
                let tokens = first..end.min(first + ROWS / head_tile);
                for kv_head in 0..kv_heads {
                    for first in (0..group).step_by(head_tile) {
                        let heads = kv_head * group + first..kv_head * group + group.min(first + head_tile);
                        each(unit, Tile { tokens: tokens.clone(), kv_head, heads });
                        unit += 1;
                    }
                }
            }
        }
    }

    /// Returns the positions that a token sees.
    fn visible(&self, token: usize) -> usize {
        self.step.positions[token] as usize + 1
    }

    /// Attends with the rows of one tile, over all blocks in order.
    fn attend(&self, q: BufferId, layer: usize, out: BufferId, tile: Tile, scratch: &mut [f32]) {
        let frame = self.gather(q, &tile, scratch);
        let mut states = [AttentionState::EMPTY; ROWS];
        frame.out.fill(0.0);
        let last = self.visible(tile.tokens.end - 1);
        let last_unit = (tile.tokens.end - 1) * self.attention.kv_heads + tile.kv_head;
        for index in 0..last.div_ceil(KV_BLOCK_TOKENS) {
            self.ask_for_block(layer, last_unit, index + 1);
            self.attend_block(layer, &tile, index, frame.queries, &mut states, frame.out, frame.rest);
        }
        self.scatter(out, &tile, &states, frame.out);
    }

    /// Copies the queries of a tile to whole lanes.
    fn gather<'s>(&self, q: BufferId, tile: &Tile, scratch: &'s mut [f32]) -> Frame<'s> {
        let (head_dim, stride) = (self.attention.head_dim, stride(self.attention.head_dim));
        let (width, q) = self.f32_buffer(q);
        let (queries, rest) = scratch.split_at_mut(tile.rows() * stride);
        let (out, rest) = rest.split_at_mut(tile.rows() * stride);
        for (row, query) in queries.chunks_exact_mut(stride).enumerate() {
            let at = tile.token(row) * width + (tile.heads.start + row % tile.heads.len()) * head_dim;
            let (query, between) = query.split_at_mut(head_dim);
            // SAFETY: no worker writes these heads of `q` while another reads them: a barrier stands between,
            // or this worker itself has rotated them.
            query.copy_from_slice(unsafe { q.get(at..at + head_dim) });
            between.fill(0.0);
        }
        Frame { queries, out, rest }
    }

    /// Divides by the sums and writes the outputs of a tile.
    fn scatter(&self, out: BufferId, tile: &Tile, states: &[AttentionState], rows: &mut [f32]) {
        let (head_dim, stride) = (self.attention.head_dim, stride(self.attention.head_dim));
        let (width, out) = self.f32_buffer(out);
        (self.kernels.finish)(&states[..tile.rows()], rows);
        for (row, values) in rows.chunks_exact(stride).enumerate() {
            let at = tile.token(row) * width + (tile.heads.start + row % tile.heads.len()) * head_dim;
            // SAFETY: tiles are shared out disjointly.
            unsafe { out.get_mut(at..at + head_dim) }.copy_from_slice(&values[..head_dim]);
        }
    }

    /// Merges block `index` of the sequence into the rows of a tile that see some of it.
    #[expect(clippy::too_many_arguments, reason = "the parts of a frame are borrowed one by one")]
    fn attend_block(
        &self,
        layer: usize,
        tile: &Tile,
        index: usize,
        queries: &[f32],
        states: &mut [AttentionState],
        out: &mut [f32],
        scratch: &mut [f32],
    ) {
        let AttentionShape { head_dim, scale, .. } = self.attention;
        let (stride, start, heads) = (stride(head_dim), index * KV_BLOCK_TOKENS, tile.heads.len());
        let block = self.step.block_tables[self.step.seq_of_token[tile.tokens.start] as usize][index];
        // SAFETY: a barrier separates this stage from every append to the layer that the rows see, but for
        // those that this worker made itself.
        let (keys, values) = unsafe {
            let rows = |part| self.kv.rows(block, layer, part, tile.kv_head);
            (rows(Part::Keys), rows(Part::Values))
        };
        let seen = |token: usize| self.visible(token).saturating_sub(start).min(KV_BLOCK_TOKENS);
        // Later tokens see more: those that see nothing of the block come first.
        let hidden = tile.tokens.clone().take_while(|&token| seen(token) == 0).count() * heads;
        let mut counts = [0; ROWS];
        for (row, count) in counts.iter_mut().enumerate().take(tile.rows()) {
            *count = seen(tile.token(row));
        }
        let rows = hidden..tile.rows();
        let block = AttentionBlock { keys, values, head_dim, scale };
        (self.kernels.attend)(
            block,
            &counts[rows.clone()],
            &queries[rows.start * stride..rows.end * stride],
            &mut states[rows.clone()],
            &mut out[rows.start * stride..rows.end * stride],
            scratch,
        );
    }

    /// Reports whether blocks are computed apart, the same for every worker.
    fn cuts_sequences(&self, workers: usize) -> bool {
        let AttentionShape { heads, kv_heads, .. } = self.attention;
        let tokens = self.tokens();
        // A tile of several tokens has blocks that its first one does not see. A sequence may have none.
        let one_each = self.step.cu_seqlens.windows(2).all(|bounds| bounds[1] - bounds[0] <= 1);
        if !one_each || tokens * kv_heads > FEW_TILES * workers || heads / kv_heads > ROWS {
            return false;
        }
        let blocks: usize = (0..tokens).map(|token| self.visible(token).div_ceil(KV_BLOCK_TOKENS)).sum();
        blocks >= MANY_BLOCKS * tokens && blocks <= self.parts.blocks
    }

    /// As [`attention`](Self::attention), a block of a tile at a time.
    fn attention_apart(&self, q: BufferId, layer: usize, out: BufferId, turn: Turn<'_>, scratch: &mut [f32]) {
        let (heads, stride) = (self.attention.heads, stride(self.attention.head_dim));
        let (mut mine, mut unit) = (turn.next(), 0);
        self.each_part(|first, blocks, tile| {
            if !(unit..unit + blocks).contains(&mine) {
                unit += blocks;
                return;
            }
            let frame = self.gather(q, &tile, scratch);
            while (unit..unit + blocks).contains(&mine) {
                let index = mine - unit;
                let row = (first + index) * heads + tile.heads.start;
                // SAFETY: blocks of tiles are shared out disjointly.
                let (sums, facts) = unsafe {
                    let rows = row..row + tile.rows();
                    let sums = self.parts.sums.get_mut(rows.start * stride..rows.end * stride);
                    (sums, self.parts.states.get_mut(2 * rows.start..2 * rows.end))
                };
                let mut states = [AttentionState::EMPTY; ROWS];
                sums.fill(0.0);
                self.attend_block(layer, &tile, index, frame.queries, &mut states, sums, frame.rest);
                for (facts, state) in facts.chunks_exact_mut(2).zip(&states) {
                    facts.copy_from_slice(&[state.max, state.sum]);
                }
                mine = turn.next();
            }
            unit += blocks;
        });
        turn.worker.barrier();
        let mut tiles = 0;
        self.each_part(|_, _, _| tiles += 1);
        let (share, mut index) = (turn.worker.share(tiles, 1), 0);
        self.each_part(|first, blocks, tile| {
            if share.contains(&index) {
                self.merge(out, first..first + blocks, &tile, scratch);
            }
            index += 1;
        });
    }

    /// Hands each tile to `each`, with the number of its first block in the step and the count of its blocks.
    fn each_part(&self, mut each: impl FnMut(usize, usize, Tile)) {
        let (mut first, mut token) = (0, 0);
        self.each_tile(|_, tile| {
            while token < tile.tokens.start {
                first += self.visible(token).div_ceil(KV_BLOCK_TOKENS);
                token += 1;
            }
            each(first, self.visible(token).div_ceil(KV_BLOCK_TOKENS), tile);
        });
    }

    /// Merges the blocks of a tile in order.
    fn merge(&self, out: BufferId, blocks: Range<usize>, tile: &Tile, scratch: &mut [f32]) {
        let (heads, stride) = (self.attention.heads, stride(self.attention.head_dim));
        let rows = &mut scratch[..tile.rows() * stride];
        rows.fill(0.0);
        let mut states = [AttentionState::EMPTY; ROWS];
        for block in blocks {
            let first = block * heads + tile.heads.start;
            // SAFETY: a barrier separates this from the parts' writers.
            let (sums, facts) = unsafe {
                let sums = self.parts.sums.get(first * stride..(first + tile.rows()) * stride);
                (sums, self.parts.states.get(2 * first..2 * (first + tile.rows())))
            };
            let mut own = [AttentionState::EMPTY; ROWS];
            for (own, facts) in own.iter_mut().zip(facts.chunks_exact(2)) {
                *own = AttentionState { max: facts[0], sum: facts[1] };
            }
            let states = &mut states[..tile.rows()];
            (self.kernels.merge)(&own[..tile.rows()], sums, states, rows);
        }
        self.scatter(out, tile, &states, rows);
    }
}
