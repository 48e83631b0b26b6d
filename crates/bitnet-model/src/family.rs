//! The families of checkpoints, and how they are told apart.
//!
//! In this order: (1) the BitNet class by config; (2) the 1bitLLM layout by its class, its config fields or
//! its norm names; (3) a llama with a bitnet `quantization_config`; (4) a llama with packed weights beside
//! scales; (5) a plain llama, which the values of its weights divide into ternary and dense. Where
//! tensors and config disagree, the tensors are believed and the disagreement is recorded.

use std::fmt;

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_quant::ggml::GgmlType;

use crate::checkpoint::{Checkpoint, StoredDType};
use crate::config::{LinearClass, ModelClass, ModelConfig, QuantisationMode};
use crate::names::Naming;

/// What a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// BitNet b1.58 with sub-norms, quantised when it was saved (microsoft/bitnet-b1.58-2B-4T).
    BitNetB158Packed,
    /// BitNet b1.58 with sub-norms, float master weights (microsoft/bitnet-b1.58-2B-4T-bf16).
    BitNetB158Master,
    /// A llama whose projections are BitLinear (HF1BitLLM, Falcon3-1.58bit, Falcon-E).
    LlamaBitLinear,
    /// The layout of 1bitLLM/bitnet_b1_58: sub-norms by other names, master weights.
    OneBitLlm,
    /// A llama with ternary values stored as floats, and float activations (SpectraSuite/TriLM).
    TriLm,
    /// A llama with ordinary weights.
    LlamaDense,
}

/// How activations enter a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationMode {
    /// Quantised to int8 with one scale a token; matrices that stay float take float activations.
    Int8PerToken,
    /// As floats.
    Float,
}

impl Family {
    /// Returns the name that reports print.
    pub fn name(self) -> &'static str {
        match self {
            Family::BitNetB158Packed => "bitnet-b1.58 packed",
            Family::BitNetB158Master => "bitnet-b1.58 master",
            Family::LlamaBitLinear => "llama bitlinear",
            Family::OneBitLlm => "1bitllm",
            Family::TriLm => "trilm",
            Family::LlamaDense => "llama dense",
        }
    }

    /// Returns how activations enter the products of this family.
    pub fn activations(self) -> ActivationMode {
        match self {
            Family::TriLm | Family::LlamaDense => ActivationMode::Float,
            _ => ActivationMode::Int8PerToken,
        }
    }

    /// Reports whether attention output and gated activations pass a norm of their own.
    pub fn has_sub_norms(self) -> bool {
        matches!(self, Family::BitNetB158Packed | Family::BitNetB158Master | Family::OneBitLlm)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What config and tensor names tell, before any value is read.
pub(crate) struct Detection {
    /// The family; [`Family::LlamaDense`] stands for both plain llamas until values are inspected.
    pub(crate) family: Family,
    /// Scales stand beside weights: the checkpoint was quantised when it was saved.
    pub(crate) has_scales: bool,
    /// What was assumed or disagreed.
    pub(crate) assumptions: Vec<String>,
}

/// Tells the family of a checkpoint.
pub(crate) fn detect(config: &ModelConfig, checkpoint: &Checkpoint) -> Detection {
    if checkpoint.naming() == Naming::Gguf {
        return detect_gguf(config, checkpoint);
    }
    let facts = Facts::of(checkpoint);
    let mut assumptions = Vec::new();
    let family = if config.class == ModelClass::BitNet {
        match facts.scales {
            true => Family::BitNetB158Packed,
            false => Family::BitNetB158Master,
        }
    } else if config.architecture == "BitnetForCausalLM" || config.one_bit_fields || facts.inner_attn_ln {
        if config.architecture != "BitnetForCausalLM" {
            assumptions.push("taken as 1bitLLM layout by its config fields or norm names".into());
        }
        Family::OneBitLlm
    } else if config.quantisation.as_ref().is_some_and(|q| q.float_activations) {
        Family::TriLm
    } else if config.quantisation.is_some() {
        Family::LlamaBitLinear
    } else if facts.packed {
        assumptions.push("no quantization_config: taken as BitLinear, as packed weights have scales".into());
        Family::LlamaBitLinear
    } else {
        Family::LlamaDense
    };
    let detection = Detection { family, has_scales: facts.scales, assumptions };
    detection.record(config)
}

/// Tells the family of a GGUF file by its architecture, and of a llama by the types of its matrices.
///
/// I2_S is the format of a kernel that quantises activations. TQ types only say what the weights are; llama.cpp
/// multiplies them by blocks of activations in 8 bits, which is nearer to floats than to one scale a token.
fn detect_gguf(config: &ModelConfig, checkpoint: &Checkpoint) -> Detection {
    let stored = |wanted: &[GgmlType]| {
        let mut layers = checkpoint.tensors().filter(|(name, _)| name.starts_with("blk."));
        layers.any(|(_, tensor)| matches!(&tensor.dtype, StoredDType::Ggml(ty) if wanted.contains(ty)))
    };
    let mut assumptions = Vec::new();
    let family = match config.architecture.as_str() {
        "llama" if config.quantisation.is_some() => Family::LlamaBitLinear,
        "llama" if stored(&[GgmlType::I2_S]) => {
            assumptions.push("I2_S weights in a llama: activations are quantised to int8".into());
            Family::LlamaBitLinear
        }
        "llama" => {
            if stored(&[GgmlType::TQ1_0, GgmlType::TQ2_0]) {
                assumptions.push("TQ weights in a llama: activations stay floats".into());
            }
            Family::LlamaDense
        }
        "bitnet" => Family::OneBitLlm,
        _ if stored(&[GgmlType::I2_S, GgmlType::TQ1_0, GgmlType::TQ2_0]) => Family::BitNetB158Packed,
        _ => Family::BitNetB158Master,
    };
    Detection { family, has_scales: false, assumptions }
}

impl Detection {
    fn record(mut self, config: &ModelConfig) -> Self {
        if self.family.activations() == ActivationMode::Float {
            return self;
        }
        let mode = config.quantisation.as_ref().and_then(|q| q.mode);
        let class = config.quantisation.as_ref().and_then(|q| q.linear_class);
        let notes = &mut self.assumptions;
        if self.has_scales && class.is_none() {
            notes.push("no linear_class: results are divided by weight_scale".into());
        }
        match (self.has_scales, mode) {
            (true, Some(QuantisationMode::Online)) => {
                notes.push("quantization_mode is online, but weights have scales: taken as quantised".into());
            }
            (false, Some(QuantisationMode::Offline)) => {
                notes.push("quantization_mode is offline, but no weight has a scale".into());
            }
            (false, None) if self.family != Family::OneBitLlm => {
                notes.push("no quantization_mode and no scales: weights are quantised by absmean".into());
            }
            _ => {}
        }
        self
    }

    /// Returns a stored scale with its meaning.
    pub(crate) fn scale(&self, config: &ModelConfig, stored: f32) -> WeightScale {
        match config.quantisation.as_ref().and_then(|q| q.linear_class) {
            Some(LinearClass::AutoBitLinear) => WeightScale::Multiply(stored),
            Some(LinearClass::BitLinear) | None => WeightScale::Divide(stored),
        }
    }
}

/// What the tensors show.
struct Facts {
    /// A weight has a sibling scale.
    scales: bool,
    /// A U8 weight has a sibling scale.
    packed: bool,
    /// Norms by the names of 1bitLLM.
    inner_attn_ln: bool,
}

impl Facts {
    fn of(checkpoint: &Checkpoint) -> Self {
        let mut facts = Facts { scales: false, packed: false, inner_attn_ln: false };
        for (name, tensor) in checkpoint.tensors() {
            facts.inner_attn_ln |= name.ends_with(".inner_attn_ln.weight");
            if name.ends_with("_proj.weight") && checkpoint.get(&format!("{name}_scale")).is_some() {
                facts.scales = true;
                facts.packed |= tensor.dtype == StoredDType::Known(BitNetDType::U8);
            }
        }
        facts
    }
}
