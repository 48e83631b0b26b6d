//! The trait that a backend implements.

use crate::{BitNetError, BufferId, Device, Graph, LinearId, LinearWeights, Op, Result, Step, VectorId};

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
    /// As [`logits`](Self::logits); a mismatch when a row holds a NaN.
    fn argmax(&mut self, out: &mut Vec<u32>) -> Result<()> {
        let vocab = self.vocab()?;
        for row in self.logits()?.chunks_exact(vocab) {
            match greatest(row) {
                Ok(best) => out.push(best as u32),
                Err(id) => {
                    return Err(BitNetError::mismatch(format!("logit of token {id}"), "a number", row[id]));
                }
            }
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

/// Returns the first index of the greatest value, or else the index of a NaN.
fn greatest(row: &[f32]) -> std::result::Result<usize, usize> {
    // As many values side by side as two of the narrowest registers hold, so that the compiler uses them.
    const LANES: usize = 8;
    let (whole, rest) = row.as_chunks::<LANES>();
    let (mut lanes, mut unordered) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    for values in whole {
        for l in 0..LANES {
            lanes[l] = if values[l] > lanes[l] { values[l] } else { lanes[l] };
            unordered[l] |= u32::from(values[l].is_nan());
        }
    }
    let max = rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |max, &value| max.max(value));
    if unordered != [0; LANES] || rest.iter().any(|value| value.is_nan()) {
        return Err(row.iter().position(|value| value.is_nan()).unwrap_or(0));
    }
    let holds = |values: &[f32; LANES]| values.iter().fold(false, |found, &value| found | (value == max));
    let start = whole.iter().position(holds).unwrap_or(whole.len()) * LANES;
    Ok(start + row[start..].iter().position(|&value| value == max).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_greatest_is_found() {
        for len in 1..40 {
            for at in 0..len {
                let mut row: Vec<f32> = (0..len).map(|i| (i * 31 % 7) as f32).collect();
                row[at] = 9.0;
                row[len - 1] = 9.0;
                assert_eq!(greatest(&row), Ok(at));
                row[at] = f32::NAN;
                assert_eq!(greatest(&row), Err(at));
            }
            assert_eq!(greatest(&vec![f32::NEG_INFINITY; len]), Ok(0));
        }
        assert_eq!(greatest(&[-0.0, 0.0, -0.0]), Ok(0));
    }
}
