//! config.json, or the metadata of a GGUF file: read once into [`ModelConfig`], every number checked against a range.
//!
//! The ranges are a few times what any published decoder has, and small enough that no product of two
//! of them overflows 64 bits or stands for an allocation beyond reason. Memory is taken for tensors only,
//! whose sizes are those of bytes in a file.

mod fields;
mod gguf;
mod quantisation;
mod rope;

use std::ops::RangeInclusive;
use std::path::Path;

use bitnet_core::backend::Activation;
use bitnet_kernels::scalar::attention::MAX_HEAD_DIM;
use serde_json::Value;

use crate::error::{Item, LoadError, LoadErrorKind};
use crate::source::ModelFiles;
use fields::{Fields, shorten};
pub(crate) use gguf::ACTIVATIONS;
pub use quantisation::{LinearClass, QuantisationConfig, QuantisationMode};

/// Layers, heads: at most this many.
const MAX_COUNT: u64 = 1024;
/// Widths: at most this many, which is also what exact 32-bit accumulation of int8 products allows.
const MAX_WIDTH: u64 = 1 << 20;
/// Query heads of the greatest count and width together still are a width.
const _: () = assert!(MAX_COUNT * MAX_HEAD_DIM as u64 <= MAX_WIDTH);
/// Vocabulary and positions: at most this many.
const MAX_TOKENS: u64 = 1 << 24;
/// Epsilons of norms.
const EPS_RANGE: RangeInclusive<f64> = 1e-12..=0.1;

/// Which class of the reference implementation a configuration names; its defaults fill absent fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelClass {
    /// `BitNetForCausalLM`, model_type `bitnet`.
    BitNet,
    /// `LlamaForCausalLM` and `BitnetForCausalLM`, model_type `llama`.
    Llama,
}

/// A normalised configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `model_type`, as the file has it; empty when absent, as in GGUF files.
    pub model_type: String,
    /// `architectures[0]` or `general.architecture`, as the file has it; empty when absent.
    pub architecture: String,
    /// The class whose defaults hold.
    pub class: ModelClass,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements a head, even, up to [`MAX_HEAD_DIM`]; `heads * head_dim` need not be `hidden`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub max_positions: usize,
    /// Epsilon of all norms but the projections' own.
    pub rms_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// The gate's function.
    pub activation: Activation,
    /// The head is the embedding matrix. `None` when the file does not say.
    pub tied: Option<bool>,
    /// The attention projections have biases.
    pub attention_bias: bool,
    /// The feed-forward projections have biases.
    pub mlp_bias: bool,
    /// First token of a text.
    pub bos: Option<u32>,
    /// Tokens that end a text: those of config.json, then further ones of generation_config.json.
    pub eos: Vec<u32>,
    /// `weight_bits` or `input_bits` stand there: the configuration of the 1bitLLM family.
    pub one_bit_fields: bool,
    /// `quantization_config`, where there is one.
    pub quantisation: Option<QuantisationConfig>,
    /// What the file leaves open, and which answer was taken.
    pub assumptions: Vec<String>,
}

impl ModelConfig {
    /// Reads config.json, and the end tokens of generation_config.json; or the metadata of a GGUF file.
    ///
    /// # Errors
    /// `Io` and `Format` for the files; `Config` for a field that is absent, of the wrong type or out of
    /// range; `UnsupportedArchitecture` for a field that asks for arithmetic this version does not have.
    pub fn read(files: &ModelFiles) -> Result<Self, LoadError> {
        if let Some(gguf) = files.gguf() {
            return Self::from_gguf(gguf);
        }
        let path = files.path("config.json");
        let mut config = Self::parse(&path, &files.config_json()?)?;
        if let Some(bytes) = files.generation_config_json()? {
            config.merge_generation(&files.path("generation_config.json"), &bytes)?;
        }
        Ok(config)
    }

    /// Parses the bytes of a config.json; `path` names it in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, LoadError> {
        let json = parse_json(path, bytes)?;
        let fields = Fields::root(path, &json)?;
        let mut assumptions = Vec::new();
        let (model_type, architecture, class) = class(&fields)?;
        check_unsupported(&fields)?;
        let shape = Shape::parse(&fields, class, &mut assumptions)?;
        let (theta, eps, positions, act) = class.defaults();
        let max_positions = fields.integer("max_position_embeddings", 1..=MAX_TOKENS)?;
        let max_positions = assume(max_positions, positions, "max_position_embeddings", &mut assumptions);
        let rms_eps = fields.float("rms_norm_eps", EPS_RANGE)?;
        let rms_eps = assume(rms_eps, eps, "rms_norm_eps", &mut assumptions) as f32;
        let rope_theta = rope::theta(&fields, &mut assumptions)?;
        let rope_theta = assume(rope_theta, theta, "rope_theta", &mut assumptions);
        let activation = activation(&fields, act, &mut assumptions)?;
        let quantisation = quantisation(&fields, class)?;
        let Shape { hidden, intermediate, layers, heads, kv_heads, head_dim, vocab } = shape;
        Ok(ModelConfig {
            model_type,
            architecture,
            class,
            hidden,
            intermediate,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab,
            max_positions: max_positions as usize,
            rms_eps,
            rope_theta,
            activation,
            tied: fields.boolean("tie_word_embeddings")?,
            attention_bias: fields.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
            bos: fields.token_ids("bos_token_id", vocab)?.and_then(|ids| ids.first().copied()),
            eos: unique(fields.token_ids("eos_token_id", vocab)?.unwrap_or_default()),
            one_bit_fields: one_bit_fields(&fields)?,
            quantisation,
            assumptions,
        })
    }

    /// Adds the end tokens of generation_config.json, and its first token where config.json names none.
    ///
    /// # Errors
    /// `Format` for no JSON, `Config` for ids that are none or lie outside the vocabulary.
    pub fn merge_generation(&mut self, path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
        let json = parse_json(path, bytes)?;
        let fields = Fields::root(path, &json)?;
        self.eos.extend(fields.token_ids("eos_token_id", self.vocab)?.unwrap_or_default());
        self.eos = unique(std::mem::take(&mut self.eos));
        let bos = fields.token_ids("bos_token_id", self.vocab)?.and_then(|ids| ids.first().copied());
        self.bos = self.bos.or(bos);
        Ok(())
    }

    /// Returns the width of all query heads together.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns the width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl ModelClass {
    /// Returns theta, epsilon, positions and activation that the class takes when a file omits them.
    fn defaults(self) -> (f32, f64, u64, &'static str) {
        match self {
            ModelClass::BitNet => (500_000.0, 1e-5, 2048, "relu2"),
            ModelClass::Llama => (10_000.0, 1e-6, 2048, "silu"),
        }
    }
}

struct Shape {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

impl Shape {
    fn parse(
        fields: &Fields<'_>,
        class: ModelClass,
        assumptions: &mut Vec<String>,
    ) -> Result<Self, LoadError> {
        let required = |name, max| fields.required(name, 1..=max).map(|value| value as usize);
        let hidden = required("hidden_size", MAX_WIDTH)?;
        let heads = required("num_attention_heads", MAX_COUNT)?;
        let kv_heads = match fields.integer("num_key_value_heads", 1..=heads as u64)? {
            Some(kv_heads) => kv_heads as usize,
            // The class default is 5 key/value heads; null means as many as query heads.
            None if class == ModelClass::BitNet && !fields.contains("num_key_value_heads") => {
                assumptions.push("num_key_value_heads is absent: 5, the class default, is taken".into());
                5
            }
            None => heads,
        };
        if !heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of num_attention_heads {heads}");
            return Err(fields.refuse("num_key_value_heads", expected, kv_heads));
        }
        let head_dim = match fields.integer("head_dim", 2..=MAX_HEAD_DIM as u64)? {
            Some(head_dim) => head_dim as usize,
            None if !hidden.is_multiple_of(heads) => {
                let expected = format!("a number, as hidden_size {hidden} is no multiple of {heads} heads");
                return Err(fields.refuse("head_dim", expected, "nothing"));
            }
            None => hidden / heads,
        };
        if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
            let expected =
                format!("an even number up to {MAX_HEAD_DIM}, stated or hidden_size / num_attention_heads");
            return Err(fields.refuse("head_dim", expected, head_dim));
        }
        Ok(Shape {
            hidden,
            intermediate: required("intermediate_size", MAX_WIDTH)?,
            layers: required("num_hidden_layers", MAX_COUNT)?,
            heads,
            kv_heads,
            head_dim,
            vocab: required("vocab_size", MAX_TOKENS)?,
        })
    }
}

fn parse_json(path: &Path, bytes: &[u8]) -> Result<Value, LoadError> {
    serde_json::from_slice(bytes)
        .map_err(|error| LoadError::mismatch(LoadErrorKind::Format, path, Item::File, "valid JSON", error))
}

/// Tells the class from `model_type` and `architectures`, refusing every other one by name.
fn class(fields: &Fields<'_>) -> Result<(String, String, ModelClass), LoadError> {
    let model_type = fields.string("model_type")?;
    let architecture = fields.strings("architectures")?.and_then(|all| all.into_iter().next());
    let by_type = match model_type {
        None => None,
        Some("bitnet") => Some(ModelClass::BitNet),
        Some("llama") => Some(ModelClass::Llama),
        Some(other) => return Err(fields.unsupported("model_type", "bitnet or llama", other)),
    };
    let by_architecture = match architecture.as_deref() {
        None => None,
        Some("BitNetForCausalLM") => Some(ModelClass::BitNet),
        // The 1bitLLM files name a class of their own over the llama model type.
        Some("BitnetForCausalLM" | "LlamaForCausalLM") => by_type.or(Some(ModelClass::Llama)),
        Some(other) => {
            let expected = "BitNetForCausalLM, BitnetForCausalLM or LlamaForCausalLM";
            return Err(fields.unsupported("architectures", expected, other));
        }
    };
    let class = by_architecture
        .or(by_type)
        .ok_or_else(|| fields.refuse("model_type", "bitnet or llama", "nothing"))?;
    Ok((model_type.unwrap_or_default().to_owned(), architecture.unwrap_or_default(), class))
}

/// Refuses fields by which other decoders change the arithmetic.
fn check_unsupported(fields: &Fields<'_>) -> Result<(), LoadError> {
    // Neutral: absent, null, false, or the number given.
    const FACTORS: [(&str, f64); 9] = [
        ("embedding_multiplier", 1.0),
        ("residual_multiplier", 1.0),
        ("logits_scaling", 1.0),
        ("logit_scale", 1.0),
        ("attention_multiplier", f64::NAN),
        ("attn_logit_softcapping", f64::NAN),
        ("final_logit_softcapping", f64::NAN),
        ("query_pre_attn_scalar", f64::NAN),
        ("clip_qkv", f64::NAN),
    ];
    for (name, neutral) in FACTORS {
        match fields.raw(name) {
            None | Some(Value::Bool(false)) => {}
            Some(value) if value.as_f64() == Some(neutral) => {}
            Some(value) => return Err(fields.unsupported(name, "no such factor", shorten(value))),
        }
    }
    for name in ["qk_layernorm", "use_qk_norm", "qk_norm", "parallel_attn"] {
        if fields.boolean(name)? == Some(true) {
            return Err(fields.unsupported(name, "false", "true"));
        }
    }
    for name in ["num_experts", "num_local_experts"] {
        if let Some(value) = fields.raw(name).filter(|value| !matches!(value.as_u64(), Some(0 | 1))) {
            return Err(fields.unsupported(name, "no mixture of experts", shorten(value)));
        }
    }
    let windowed = fields.boolean("use_sliding_window")?;
    match fields.raw("sliding_window") {
        Some(value) if windowed != Some(false) => {
            return Err(fields.unsupported("sliding_window", "no sliding window", shorten(value)));
        }
        None if windowed == Some(true) => {
            return Err(fields.unsupported("use_sliding_window", "false", "true"));
        }
        _ => {}
    }
    let kinds = fields.strings("layer_types")?.unwrap_or_default();
    match kinds.into_iter().find(|kind| kind != "full_attention") {
        Some(kind) => Err(fields.unsupported("layer_types", "full_attention in every layer", kind)),
        None => Ok(()),
    }
}

/// Reads `quantization_config`, which must not ask for what a model of the class does not do.
fn quantisation(fields: &Fields<'_>, class: ModelClass) -> Result<Option<QuantisationConfig>, LoadError> {
    let Some(fields) = fields.object("quantization_config")? else { return Ok(None) };
    let quantisation = QuantisationConfig::parse(&fields)?;
    match class {
        ModelClass::BitNet if quantisation.float_activations => {
            Err(fields.unsupported("activations", "int8 in a model of this class", "float"))
        }
        _ => Ok(Some(quantisation)),
    }
}

fn activation(
    fields: &Fields<'_>,
    default: &'static str,
    assumptions: &mut Vec<String>,
) -> Result<Activation, LoadError> {
    match assume(fields.string("hidden_act")?, default, "hidden_act", assumptions) {
        "relu2" => Ok(Activation::SquaredRelu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(fields.unsupported("hidden_act", "relu2 or silu", other)),
    }
}

/// Recognises the fields of the 1bitLLM family, which may say only what that family is.
fn one_bit_fields(fields: &Fields<'_>) -> Result<bool, LoadError> {
    let mut there = false;
    for (name, wanted) in [("weight_bits", 1), ("input_bits", 8)] {
        if let Some(value) = fields.raw(name) {
            there = true;
            if value.as_u64() != Some(wanted) {
                return Err(fields.unsupported(name, wanted, shorten(value)));
            }
        }
    }
    Ok(there)
}

fn assume<T: std::fmt::Display>(
    value: Option<T>,
    default: T,
    name: &str,
    assumptions: &mut Vec<String>,
) -> T {
    value.unwrap_or_else(|| {
        assumptions.push(format!("{name} is absent: {default}, the class default, is taken"));
        default
    })
}

fn unique(ids: Vec<u32>) -> Vec<u32> {
    let mut seen = std::collections::HashSet::new();
    ids.into_iter().filter(|&id| seen.insert(id)).collect()
}

#[cfg(test)]
mod tests;
