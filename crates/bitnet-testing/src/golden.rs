//! Golden data: tiny models with random weights and unit vectors, with outputs computed by an
//! independent implementation.
//!
//! A model folder holds config.json, model.safetensors and expected.safetensors with `input_ids` i32
//! `[T]`, `logits_int8_exact` f32 `[T, V]` (exact integer accumulation, f64 elsewhere), `logits_f32` f32
//! `[T, V]` (plain f32), `greedy_ids_int8_exact` i32 `[T + 32]` and `greedy_margin_f32` f32 `[32]` (top-1
//! minus top-2 logit at each greedy step). `units` holds bitlinear, hf_pack and ops.

use std::path::PathBuf;

/// Names the golden model folders.
pub const GOLDEN_MODELS: [&str; 5] =
    ["bitnet_packed", "bitnet_master", "llama_bitlinear", "llama_rmsnorm_bitlinear", "bitnet_1bitllm"];

/// Returns the folder of golden data `name`: one of [`GOLDEN_MODELS`], or `units`.
///
/// Panics when there is no such folder.
pub fn golden_dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data").join("golden").join(name);
    assert!(dir.is_dir(), "no golden folder {}", dir.display());
    dir
}
