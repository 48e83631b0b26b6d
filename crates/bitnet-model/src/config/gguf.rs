//! The configuration that a GGUF file holds in its metadata.
//!
//! | architecture | gate | sub-norms | query and key rows | head |
//! |---|---|---|---|---|
//! | `bitnet` | SiLU | yes | as they are | the embedding |
//! | `bitnet-25`, `bitnet-b1.58` | squared ReLU | yes | as they are | the embedding |
//! | `llama` | SiLU | no | permuted by the writer | `output.weight`, or the embedding |
//!
//! The gate goes by the architecture's name and by nothing else. Source: `src/models/bitnet.cpp` and
//! `src/models/llama.cpp` of llama.cpp, and `build_bitnet_158` of the fork in bitnet.cpp.

use std::ops::RangeInclusive;

use bitnet_core::backend::Activation;
use bitnet_kernels::scalar::attention::MAX_HEAD_DIM;

use super::quantisation::{QuantisationConfig, QuantisationMode};
use super::{EPS_RANGE, MAX_COUNT, MAX_TOKENS, MAX_WIDTH, ModelClass, ModelConfig, assume, rope, unique};
use crate::error::LoadError;
use crate::gguf::{Gguf, Metadata, Value};
use crate::names::Naming;

const ARCHITECTURE: &str = "general.architecture";
/// How activations enter products, in files of ours.
pub(crate) const ACTIVATIONS: &str = "bitnet.activations";
/// The base that readers take when a file states none.
const DEFAULT_THETA: f32 = 10_000.0;

/// The metadata under the prefix of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<usize>, LoadError> {
        let name = self.name(key);
        let Some(value) = self.metadata.get(&name) else { return Ok(None) };
        let integer = value.as_integer().and_then(|value| u64::try_from(value).ok());
        match integer.filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value as usize)),
            None => {
                let expected = format_args!("an integer from {} to {}", range.start(), range.end());
                Err(self.metadata.refuse(&name, expected))
            }
        }
    }

    fn required(&self, key: &str, max: u64) -> Result<usize, LoadError> {
        let missing = || self.metadata.refuse(&self.name(key), format_args!("an integer from 1 to {max}"));
        self.integer(key, 1..=max)?.ok_or_else(missing)
    }

    fn float(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, LoadError> {
        let name = self.name(key);
        match self.metadata.f32(&name)? {
            // A bound that f32 rounds outwards is inside.
            Some(value) if range.contains(&f64::from(value)) || range.contains(&shortest(value)) => {
                Ok(Some(value))
            }
            None => Ok(None),
            Some(_) => {
                let expected = format_args!("a number from {:e} to {:e}", range.start(), range.end());
                Err(self.metadata.refuse(&name, expected))
            }
        }
    }

    /// Refuses a key unless it is absent or has one of the neutral values.
    fn neutral(&self, key: &str, expected: &str, neutral: &[f64]) -> Result<(), LoadError> {
        let name = self.name(key);
        let number = |value: Value<'_>| value.as_float().or(value.as_integer().map(|value| value as f64));
        let truth = |value: Value<'_>| value.as_bool().map(|value| f64::from(u8::from(value)));
        match self.metadata.get(&name) {
            None => Ok(()),
            Some(value) if number(value).or(truth(value)).is_some_and(|v| neutral.contains(&v)) => Ok(()),
            Some(_) => Err(self.metadata.unsupported(&name, expected)),
        }
    }
}

/// Returns the decimal number that is written for a float.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

impl ModelConfig {
    /// Reads the configuration from the metadata of a GGUF file; the size of the vocabulary is that of its
    /// embedding.
    ///
    /// # Errors
    /// `Config` for a key that is absent, of the wrong type or out of range; `UnsupportedArchitecture` for an
    /// architecture, or a key, that asks for arithmetic this version does not have.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, LoadError> {
        let metadata = gguf.metadata();
        check_kind(metadata)?;
        let architecture = metadata.str(ARCHITECTURE)?.unwrap_or_default();
        let (class, activation, tied) = match architecture {
            "bitnet" => (ModelClass::BitNet, Activation::Silu, Some(true)),
            "bitnet-25" | "bitnet-b1.58" => (ModelClass::BitNet, Activation::SquaredRelu, Some(true)),
            "llama" => (ModelClass::Llama, Activation::Silu, None),
            _ => {
                let expected = "bitnet, bitnet-25, bitnet-b1.58 or llama";
                return Err(metadata.unsupported(ARCHITECTURE, expected));
            }
        };
        let keys = Keys { metadata, architecture };
        check_unsupported(&keys)?;
        let mut assumptions = Vec::new();
        let hidden = keys.required("embedding_length", MAX_WIDTH)?;
        let heads = keys.required("attention.head_count", MAX_COUNT)?;
        let kv_heads = keys.integer("attention.head_count_kv", 1..=heads as u64)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let expected = format_args!("a divisor of the {heads} heads");
            return Err(metadata.refuse(&keys.name("attention.head_count_kv"), expected));
        }
        let head_dim = head_dim(&keys, hidden, heads)?;
        check_rope(&keys, head_dim)?;
        let vocab = vocab(gguf, &keys, &mut assumptions)?;
        let positions = keys.integer("context_length", 1..=MAX_TOKENS)?;
        let max_positions = assume(positions, 2048, "context_length", &mut assumptions);
        let eps_key = "attention.layer_norm_rms_epsilon";
        let rms_eps = keys.float(eps_key, EPS_RANGE)?;
        let rms_eps = rms_eps.ok_or_else(|| metadata.refuse(&keys.name(eps_key), "a float"))?;
        let theta = keys.float("rope.freq_base", rope::THETA_RANGE)?;
        let rope_theta = assume(theta, DEFAULT_THETA, "rope.freq_base", &mut assumptions);
        let token = |key: &str| token(metadata, key, vocab);
        let ends = ["eos_token_id", "eot_token_id", "eom_token_id"].map(token);
        let eos = ends.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        Ok(ModelConfig {
            model_type: String::new(),
            architecture: architecture.to_owned(),
            class,
            hidden,
            intermediate: keys.required("feed_forward_length", MAX_WIDTH)?,
            layers: keys.required("block_count", MAX_COUNT)?,
            heads,
            kv_heads,
            head_dim,
            vocab,
            max_positions,
            rms_eps,
            rope_theta,
            activation,
            tied,
            attention_bias: false,
            mlp_bias: false,
            bos: token("bos_token_id")?,
            eos: unique(eos),
            one_bit_fields: false,
            quantisation: quantisation(metadata, architecture)?,
            assumptions,
        })
    }
}

/// Reads what only files of ours say: that a llama was trained with activations of 8 bits, one scale a token.
fn quantisation(metadata: &Metadata, architecture: &str) -> Result<Option<QuantisationConfig>, LoadError> {
    match metadata.str(ACTIVATIONS)? {
        Some("int8") if architecture == "llama" => {
            let mode = Some(QuantisationMode::Offline);
            Ok(Some(QuantisationConfig { mode, ..QuantisationConfig::default() }))
        }
        None | Some("int8" | "float") => Ok(None),
        Some(_) => Err(metadata.unsupported(ACTIVATIONS, "int8 or float")),
    }
}

/// Refuses files that are no whole model.
fn check_kind(metadata: &Metadata) -> Result<(), LoadError> {
    if metadata.str("general.type")?.is_some_and(|kind| kind != "model") {
        return Err(metadata.unsupported("general.type", "model"));
    }
    Ok(())
}

/// Refuses keys by which other decoders change the arithmetic.
fn check_unsupported(keys: &Keys<'_>) -> Result<(), LoadError> {
    keys.neutral("expert_count", "0: no mixture of experts", &[0.0])?;
    keys.neutral("attention.sliding_window", "0: no sliding window", &[0.0])?;
    keys.neutral("attention.causal", "true", &[1.0])?;
    keys.neutral("use_parallel_residual", "false", &[0.0])?;
    for key in ["attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale"] {
        keys.neutral(key, "0", &[0.0])?;
    }
    for key in ["logit_scale", "residual_scale", "embedding_scale"] {
        keys.neutral(key, "no such factor", &[0.0, 1.0])?;
    }
    Ok(())
}

/// Returns the width of a head, which keys and values share.
fn head_dim(keys: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, LoadError> {
    let stated = keys.integer("attention.key_length", 2..=MAX_HEAD_DIM as u64)?;
    let expected = format!("an even number up to {MAX_HEAD_DIM}, stated or embedding_length / head_count");
    let refuse = || keys.metadata.refuse(&keys.name("attention.key_length"), &expected);
    let derived = || hidden.is_multiple_of(heads).then_some(hidden / heads);
    let head_dim = stated.or_else(derived).ok_or_else(refuse)?;
    if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        return Err(refuse());
    }
    match keys.integer("attention.value_length", 1..=MAX_WIDTH)? {
        Some(value) if value != head_dim => {
            let expected = format_args!("{head_dim}, the length of a key");
            Err(keys.metadata.unsupported(&keys.name("attention.value_length"), expected))
        }
        _ => Ok(head_dim),
    }
}

/// Admits rotation of whole heads without scaling.
fn check_rope(keys: &Keys<'_>, head_dim: usize) -> Result<(), LoadError> {
    if keys.integer("rope.dimension_count", 1..=MAX_WIDTH)?.is_some_and(|count| count != head_dim) {
        let expected = format_args!("{head_dim}: all of a head is rotated");
        return Err(keys.metadata.unsupported(&keys.name("rope.dimension_count"), expected));
    }
    let kind = keys.name("rope.scaling.type");
    if keys.metadata.str(&kind)?.is_some_and(|kind| !matches!(kind, "none" | "linear")) {
        return Err(keys.metadata.unsupported(&kind, "none, or linear with factor 1"));
    }
    keys.neutral("rope.scaling.factor", "1", &[0.0, 1.0])?;
    keys.neutral("rope.scale_linear", "1", &[0.0, 1.0])?;
    keys.neutral("rope.scaling.attn_factor", "1", &[1.0])
}

/// Returns the rows of the embedding; the key stands in where there is none.
fn vocab(gguf: &Gguf, keys: &Keys<'_>, assumptions: &mut Vec<String>) -> Result<usize, LoadError> {
    let stated = keys.integer("vocab_size", 1..=MAX_TOKENS)?;
    let embedding = gguf.tensors().iter().find(|tensor| tensor.name == Naming::Gguf.embedding());
    let rows = embedding.and_then(|tensor| tensor.shape.first().copied());
    let rows = rows.filter(|&rows| rows > 0 && rows as u64 <= MAX_TOKENS);
    if let (Some(stated), Some(rows)) = (stated, rows)
        && stated != rows
    {
        assumptions.push(format!("vocab_size is {stated}, but the embedding has {rows} rows: they stand"));
    }
    let missing = || keys.metadata.refuse(&keys.name("vocab_size"), "an integer, or an embedding to count");
    rows.or(stated).ok_or_else(missing)
}

/// Reads a token id of the vocabulary.
fn token(metadata: &Metadata, key: &str, vocab: usize) -> Result<Option<u32>, LoadError> {
    let key = format!("tokenizer.ggml.{key}");
    match metadata.u32(&key)? {
        // What writers put for no token.
        None | Some(u32::MAX) => Ok(None),
        Some(id) if (id as usize) < vocab => Ok(Some(id)),
        Some(_) => Err(metadata.refuse(&key, format_args!("a token id below {vocab}"))),
    }
}
