//! The trait that a backend implements.

use crate::logits::greatest_logit;
use crate::{BufferId, Device, Graph, LinearId, LinearWeights, Op, Result, Step, VectorId};

/// What a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Short name, as logs print it.
    pub name: &'static str,
    /// Where it runs.
    pub device: Device,
    /// The kernels it chose, as benches and logs name them.
    pub kernels: String,
    /// Threads or streams it uses.
    pub threads: usize,
}

/// Upper bounds of a [`Step`], for which a backend sizes its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Tokens in one step.
    pub max_tokens: usize,
    /// Logits rows in one step.
    pub max_logits_rows: usize,
}

/// Bytes that one part of a model occupies on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPart {
    /// `weights`, `kv`, `activations` or `scratch`.
    pub part: &'static str,
    /// Bytes held now.
    pub bytes: usize,
}

/// Executes graphs on one device.
///
/// Operations are enqueued: no host value is needed between two ops of a pass, and an execution error may
/// surface as late as [`sync`](Self::sync). What a backend cannot do is a typed
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), never a silent substitute.
///
/// The order of calls: `prepare_*`, then [`load_graph`](Self::load_graph), then any number of
/// [`reserve_kv_blocks`](Self::reserve_kv_blocks), [`forward`](Self::forward) and readings.
pub trait Backend: Send {
    /// Describes the backend.
    fn info(&self) -> BackendInfo;

    /// Adopts a matrix, turning its wire layout into the backend's own, or using it in place.
    ///
    /// # Errors
    /// `Unsupported` layouts; a mismatch when bytes and shape disagree or the scale is not a positive number.
    /// Ternary codes are taken as valid: the loader has looked at them (`bitnet_model::load` refuses code 3),
    /// and a backend that has to read them all would do it twice. An invalid code gives a wrong product.
    fn prepare_linear(&mut self, weights: LinearWeights) -> Result<LinearId>;

    /// Adopts a vector.
    ///
    /// # Errors
    /// Exhausted device memory.
    fn prepare_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId>;

    /// Adopts the graph and allocates its buffers for steps within `limits`. Another call replaces graph,
    /// buffers and KV blocks; what was prepared stays.
    ///
    /// # Errors
    /// `Unsupported` ops; mismatches between ops, buffers and matrices; exhausted memory.
    fn load_graph(&mut self, graph: Graph, limits: StepLimits) -> Result<()>;

    /// Makes KV blocks `0..count` exist in every layer. Takes none away.
    ///
    /// # Errors
    /// Exhausted memory; the blocks there before remain.
    fn reserve_kv_blocks(&mut self, count: usize) -> Result<()>;

    /// Gives the memory of the KV blocks from `count` on back. They exist no more, and no step names them before
    /// they are reserved again.
    fn release_kv_blocks(&mut self, count: usize);

    /// Lends the weights that a pass of the loaded graph reads whole, the head's only where it computes `logits`: the
    /// very bytes, for measurements of the memory that they are in. Empty where that is not the host's.
    fn weights(&self, logits: bool) -> Vec<&[u8]> {
        let _ = logits;
        Vec::new()
    }

    /// Enqueues one op of the loaded graph for the tokens of `step`.
    ///
    /// # Errors
    /// `Unsupported`, or a step outside the limits.
    fn execute(&mut self, op: &Op, step: &Step) -> Result<()>;

    /// Enqueues a whole pass of the loaded graph.
    ///
    /// # Errors
    /// A step that is inconsistent or outside the limits.
    fn forward(&mut self, step: &Step) -> Result<()>;

    /// Waits for all enqueued work and reports its errors.
    ///
    /// # Errors
    /// Whatever the device met since the last call.
    fn sync(&mut self) -> Result<()>;

    /// Returns the number of logits in a row.
    ///
    /// # Errors
    /// No graph is loaded.
    fn vocab(&self) -> Result<usize>;

    /// Returns the logits of the last pass, `[logits_rows, vocab]`, after waiting for it.
    ///
    /// # Errors
    /// As [`sync`](Self::sync); a mismatch when the last pass computed none.
    fn logits(&mut self) -> Result<&[f32]>;

    /// Appends the id of the greatest logit of each row of the last pass (the lowest id among equals).
    ///
    /// A device that samples on its own side overrides this, so that greedy decoding moves one id a
    /// token instead of a row of logits.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); a mismatch when a row holds a NaN or +inf, or -inf alone: what a sampler
    /// refuses as well.
    fn argmax(&mut self, out: &mut Vec<u32>) -> Result<()> {
        let vocab = self.vocab()?;
        for row in self.logits()?.chunks_exact(vocab) {
            let best = greatest_logit(row).map_err(|unusable| unusable.error(row))?;
            out.push(best as u32);
        }
        Ok(())
    }

    /// Copies an F32 buffer as the last pass left it, `[tokens, width]`: for calibration and tests.
    ///
    /// Buffers are reused between layers, so this is what the last op that wrote there produced; run a
    /// pass op by op with [`execute`](Self::execute) to see the ones before.
    ///
    /// # Errors
    /// No such buffer, or not an F32 one; as [`sync`](Self::sync).
    fn read_buffer(&mut self, buffer: BufferId) -> Result<Vec<f32>>;

    /// Reports the device memory held, by part.
    fn memory(&self) -> Vec<MemoryPart>;
}
