//! Asking for what the next stages read first, while this one still waits for others or computes.
//!
//! A step of one token reads every weight once: at the start of each product nothing is on its way yet, and the
//! prefetches of a kernel reach no further than its own rows.

use bitnet_backend::{KV_BLOCK_TOKENS, Op};
use bitnet_kernels::prefetch;

use super::Pass;
use crate::cpu::kv::Part;
use crate::cpu::plan::Stage;
use crate::cpu::team::Worker;
use crate::cpu::weights::{Elements, Matrix};

/// Bytes asked for at each place where a kernel starts to read.
const BYTES: usize = 4096;

impl Pass<'_> {
    /// Asks for the start of this worker's part of the next product of `rest`, and for the cache that comes before.
    pub fn ask_ahead(&self, rest: &[Stage], worker: Worker<'_>) {
        for stage in rest {
            match *stage {
                Stage::RopeAttention { layer, .. } => {
                    let first = worker.share(self.tokens() * self.attention.kv_heads, 1).start;
                    self.ask_for_block(layer as usize, first, 0);
                }
                Stage::Op(Op::Linear { weights, .. }) | Stage::HeadProduct { weights } => {
                    return ask_for_matrix(self.matrix(weights), worker);
                }
                _ => {}
            }
        }
    }

    /// Asks for the keys and values of a block that a token's key head sees, `unit` being the number of both; for
    /// nothing past the last.
    pub fn ask_for_block(&self, layer: usize, unit: usize, index: usize) {
        let (token, head) = (unit / self.attention.kv_heads, unit % self.attention.kv_heads);
        let Some(&position) = self.step.positions.get(token) else { return };
        let seen = (position as usize + 1).saturating_sub(index * KV_BLOCK_TOKENS).min(KV_BLOCK_TOKENS);
        if seen > 0 {
            let block = self.step.block_tables[self.step.seq_of_token[token] as usize][index];
            for part in [Part::Keys, Part::Values] {
                self.kv.prefetch(block, layer, part, head, seen);
            }
        }
    }
}

/// Asks for the bytes with which a worker starts to multiply one token.
fn ask_for_matrix(matrix: &Matrix, worker: Worker<'_>) {
    let (bytes, width): (&[u8], usize) = match &matrix.elements {
        Elements::Ternary(_, codes, _) => (codes, matrix.cols),
        Elements::Dense(dtype, bytes) => (bytes, dtype.size_bytes(matrix.cols).unwrap_or_default()),
        Elements::Narrow(rows) => (&rows.codes, rows.width.row_bytes(matrix.cols)),
    };
    let lines = worker.first(matrix.lines(), matrix.cost_of_line(1), 1);
    // Kernels read one line after the other, or the second half of the lines beside the first.
    for line in [lines.start, lines.start + lines.len() / 2] {
        let rest = bytes.get(line * width..lines.end * width).unwrap_or_default();
        prefetch(rest.as_ptr(), rest.len().min(BYTES));
    }
}
