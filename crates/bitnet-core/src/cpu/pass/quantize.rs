//! Int8 rows, from floats or straight from the gate.

use std::ops::Range;

use bitnet_backend::{Activation, BufferId, Norm};

use super::Pass;
use crate::cpu::buffers::BufferView;
use crate::cpu::team::Worker;

impl Pass<'_> {
    /// Quantises rows, past a norm where there is one.
    pub fn quantize(&self, x: BufferId, norm: Option<Norm>, out: BufferId, worker: Worker<'_>) {
        let (width, rows) = self.f32_buffer(x);
        // SAFETY: taken once in this stage.
        let normed = &mut unsafe { self.scratch(worker) }[..width];
        for token in self.int8_share(worker) {
            // SAFETY: the input is not written in this stage; the row of `out` is this worker's alone.
            unsafe {
                let x = rows.get(token * width..(token + 1) * width);
                self.quantize_row(x, norm, normed, (out, token), worker);
            }
        }
    }

    /// Quantises the gated rows, which go no further than this worker's scratch.
    pub fn gate_quantize(
        &self,
        [gate, up, out]: [BufferId; 3],
        activation: Activation,
        norm: Option<Norm>,
        worker: Worker<'_>,
    ) {
        let kernel = self.gate_kernel(activation);
        let ((width, gate), (_, up)) = (self.f32_buffer(gate), self.f32_buffer(up));
        // SAFETY: taken once in this stage.
        let (gated, rest) = unsafe { self.scratch(worker) }.split_at_mut(width);
        for token in self.int8_share(worker) {
            let row = token * width..(token + 1) * width;
            // SAFETY: the inputs are not written in this stage; the row of `out` is this worker's alone.
            unsafe {
                kernel(gate.get(row.clone()), up.get(row), gated);
                self.quantize_row(gated, norm, &mut rest[..width], (out, token), worker);
            }
        }
    }

    /// Returns the tokens whose int8 rows a worker computes.
    fn int8_share(&self, worker: Worker<'_>) -> Range<usize> {
        if self.alone { 0..1 } else { worker.share(self.tokens(), 1) }
    }

    /// Quantises `x` into a token's row, using `normed` where there is a norm.
    ///
    /// # Safety
    /// The token is of this worker's [`int8_share`](Self::int8_share), and no other access to its row in this stage.
    unsafe fn quantize_row<'x>(
        &self,
        mut x: &'x [f32],
        norm: Option<Norm>,
        normed: &'x mut [f32],
        (out, token): (BufferId, usize),
        worker: Worker<'_>,
    ) {
        let BufferView::Int8(width, values, scales, sums) = self.buffers[out.0 as usize] else {
            unreachable!("Graph::validate checks the kinds of buffers")
        };
        let own = if self.alone { worker.index } else { token };
        // SAFETY: tokens are shared out disjointly, or each worker has a row of its own for the only one.
        let (values, scale, sum) = unsafe {
            let (scale, sum) = (scales.get_mut(own..own + 1), sums.get_mut(own..own + 1));
            (values.get_mut(own * width..(own + 1) * width), &mut scale[0], &mut sum[0])
        };
        if let Some(norm) = norm {
            (self.kernels.rms_norm)(x, self.vector(norm.weight), norm.eps, normed);
            x = normed;
        }
        let quantized = (self.kernels.quantize)(x, values);
        (*scale, *sum) = (quantized.scale, quantized.sum);
    }
}
