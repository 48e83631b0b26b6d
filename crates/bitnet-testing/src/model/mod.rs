//! Synthetic checkpoints: Hugging Face folders of a given shape and family with seeded weights.
//!
//! A tensor's content depends only on the seed and its name, so single files and shards hold the same
//! model. Tensors are produced and written one at a time: a folder of real size needs little memory.

mod config;
mod weights;

use std::io;
use std::path::Path;

use crate::json::Json;
use crate::safetensors::write_streaming;
use crate::tokenizer::special_ids;

/// Names the gate activation of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Squared ReLU.
    Relu2,
    /// SiLU (x times its logistic function).
    Silu,
}

/// Gives a decoder's dimensions and switches, as config.json states them.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelShape {
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; written to config.json when it differs from `hidden / heads`.
    pub head_dim: usize,
    /// Longest context.
    pub max_positions: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of every RMSNorm.
    pub rms_eps: f64,
    /// Whether the head is the embedding matrix.
    pub tied: bool,
    /// Whether each projection has an RMSNorm of its own (LlamaBitLinear only).
    pub use_rms_norm: bool,
    /// Gate activation.
    pub activation: Activation,
    /// Whether norms precede the output and down projections (the BitNet families).
    pub sub_norms: bool,
}

/// Names a family of checkpoints: what config.json says and how weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntheticFamily {
    /// BitNetForCausalLM, U8 packed, `weight_scale` = mean|W| multiplies.
    BitNetPacked,
    /// BitNetForCausalLM, bf16 master weights, absmean at load.
    BitNetMaster,
    /// LlamaForCausalLM with BitLinear, U8 packed, `weight_scale` = 1/mean|W| divides.
    LlamaBitLinear,
    /// BitnetForCausalLM of the 1bitLLM layout, f16 master weights, other norm names.
    OneBitLlm,
    /// Plain LlamaForCausalLM, f16 values in {-s, 0, s}, float activations.
    TriLm,
}

/// Spells `eos_token_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eos {
    /// One integer.
    Int(u32),
    /// A list.
    List(Vec<u32>),
}

/// Describes a synthetic checkpoint; [`SyntheticModel::write_folder`] writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntheticModel {
    /// Dimensions and switches.
    pub shape: ModelShape,
    /// Family.
    pub family: SyntheticFamily,
    /// Seed of every weight.
    pub seed: u64,
    /// Weight files: 1 writes model.safetensors, more writes shards and their index.
    pub sharded: usize,
    /// Whether config.json has the spelling of transformers 5 (`rope_parameters`, `dtype`).
    pub transformers5: bool,
    /// End-of-text ids.
    pub eos: Eos,
    /// Whether the first layer's inputs are made of exact rounding ties; see
    /// [`SyntheticModel::with_exact_ties`].
    pub exact_ties: bool,
}

impl SyntheticModel {
    /// Describes a single-file checkpoint in the spelling of transformers 4.
    ///
    /// Panics when the shape's switches contradict the family or its dimensions do not fit.
    pub fn new(shape: ModelShape, family: SyntheticFamily, seed: u64) -> Self {
        let sub_norms = !matches!(family, SyntheticFamily::LlamaBitLinear | SyntheticFamily::TriLm);
        assert_eq!(shape.sub_norms, sub_norms, "sub_norms of {family:?}");
        assert!(
            !shape.use_rms_norm || family == SyntheticFamily::LlamaBitLinear,
            "use_rms_norm of {family:?}"
        );
        assert!(shape.heads.is_multiple_of(shape.kv_heads), "kv_heads divides heads");
        assert!(shape.head_dim.is_multiple_of(2), "head_dim is even");
        let eos = Eos::Int(special_ids(shape.vocab).end_of_text);
        Self { shape, family, seed, sharded: 1, transformers5: false, eos, exact_ties: false }
    }

    /// Splits the weights over `files` shards.
    pub fn with_shards(mut self, files: usize) -> Self {
        assert!(files > 0, "at least one weight file");
        self.sharded = files;
        self
    }

    /// Spells config.json as transformers 5 does.
    pub fn with_transformers5(mut self) -> Self {
        self.transformers5 = true;
        self
    }

    /// Sets the end-of-text ids.
    pub fn with_eos(mut self, eos: Eos) -> Self {
        self.eos = eos;
        self
    }

    /// Makes half of the first layer's quantised inputs exact ties (n + 0.5 after scaling).
    ///
    /// Embedding values are -1, 0 or 1 with exactly a quarter zero, and `rms_eps` becomes 0.25, so the
    /// norm divides by exactly 1; the input norm's weights are multiples of 2^-7 whose maximum, 127 ×
    /// 2^-6, is met in every row, so the activation scale is exactly 64. All of it is exact in f32.
    ///
    /// Panics when `hidden` is no multiple of 4 or projections have norms of their own.
    pub fn with_exact_ties(mut self) -> Self {
        assert!(
            self.shape.hidden.is_multiple_of(4) && !self.shape.use_rms_norm,
            "a shape that allows exact ties"
        );
        self.shape.rms_eps = 0.25;
        self.exact_ties = true;
        self
    }

    /// Returns the content of config.json.
    pub fn config(&self) -> Json {
        config::config(self)
    }

    /// Writes config.json and the weights (no tokenizer: see [`crate::tokenizer::write_tokenizer`]).
    ///
    /// Errors: what the file system reports.
    pub fn write_folder(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("config.json"), self.config().to_string())?;
        let plans = weights::plan(self);
        if self.sharded == 1 {
            return self.write_file(&dir.join("model.safetensors"), plans);
        }
        let total: usize = plans.iter().map(|p| p.spec.bytes()).sum();
        let mut map = Vec::new();
        for (i, shard) in weights::split(plans, self.sharded).into_iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, self.sharded);
            map.extend(shard.iter().map(|p| (p.spec.name.clone(), Json::str(&file))));
            self.write_file(&dir.join(&file), shard)?;
        }
        map.sort_by(|a, b| a.0.cmp(&b.0));
        let index = Json::object([
            ("metadata", Json::object([("total_size", Json::Int(total as i64))])),
            ("weight_map", Json::Object(map)),
        ]);
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string())
    }

    fn write_file(&self, path: &Path, mut plans: Vec<weights::Plan>) -> io::Result<()> {
        // Widest elements first, as published files do: every tensor is aligned to its element.
        plans.sort_by(|a, b| {
            b.spec.dtype.size().cmp(&a.spec.dtype.size()).then_with(|| a.spec.name.cmp(&b.spec.name))
        });
        let specs: Vec<_> = plans.iter().map(|p| p.spec.clone()).collect();
        write_streaming(path, &specs, |i, sink| weights::fill(self.seed, &plans[i], sink))
    }
}

#[cfg(test)]
mod tests;
