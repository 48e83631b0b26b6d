//! Helpers of the whole-model tests.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)]

use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::{Engine, EngineBuilder};
use std::path::Path;

/// An engine with F32 keys and values.
pub fn engine(folder: &Path) -> Engine {
    load(folder, |builder| builder)
}

/// An engine with F32 keys and values and further settings.
pub fn load(folder: &Path, set: impl FnOnce(EngineBuilder<'static>) -> EngineBuilder<'static>) -> Engine {
    set(Engine::builder().kv(BitNetDType::F32)).load(folder).unwrap()
}

/// The logits of every position, `[n, vocab]`.
pub fn all_logits(engine: &mut Engine, ids: &[u32]) -> Vec<f32> {
    let runner = engine.runner();
    let mut out = vec![0.0; ids.len() * runner.vocab()];
    let (vocab, sequence) = (runner.vocab(), runner.start());
    let store = |index: usize, row: &[f32]| out[index * vocab..][..vocab].copy_from_slice(row);
    runner.forward_all(sequence, ids, store).unwrap();
    runner.release(sequence);
    out
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
