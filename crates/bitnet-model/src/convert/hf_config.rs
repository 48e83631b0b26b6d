//! config.json of a model that is written: every field that its arithmetic depends on, none assumed.

use bitnet_core::backend::{Activation, WeightScale, WeightStorage};
use serde_json::{Map, Value, json};

use super::Start;
use super::encode::is_ternary;
use crate::config::{ModelConfig, QuantisationConfig};
use crate::family::ActivationMode;
use crate::weights::{Head, Layer};

/// What the scales of the files mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleSense {
    Multiply,
    Divide,
}

/// Returns the sense of the first scale of a layer; that of 2B-4T where there is none.
pub(super) fn sense_of(layer: &Layer) -> ScaleSense {
    let sense = layer.projections().iter().find_map(|p| match p.weights.storage {
        WeightStorage::Ternary { scale: WeightScale::Divide(_), .. } => Some(ScaleSense::Divide),
        WeightStorage::Ternary { .. } => Some(ScaleSense::Multiply),
        _ => None,
    });
    sense.unwrap_or(ScaleSense::Multiply)
}

/// Makes config.json; `sense` is `None` for a model without quantised weights.
pub(super) fn config_json(start: &Start<'_>, sense: Option<ScaleSense>) -> String {
    let (config, layer) = (start.config, start.first);
    let sub_norms = layer.attn_sub_norm.is_some();
    let (architecture, model_type) = match sub_norms {
        true => ("BitNetForCausalLM", "bitnet"),
        false => ("LlamaForCausalLM", "llama"),
    };
    let act = match config.activation {
        Activation::SquaredRelu => "relu2",
        _ => "silu",
    };
    let fields = [
        ("architectures", json!([architecture])),
        ("model_type", model_type.into()),
        ("vocab_size", config.vocab.into()),
        ("hidden_size", config.hidden.into()),
        ("intermediate_size", config.intermediate.into()),
        ("num_hidden_layers", config.layers.into()),
        ("num_attention_heads", config.heads.into()),
        ("num_key_value_heads", config.kv_heads.into()),
        ("head_dim", config.head_dim.into()),
        ("hidden_act", act.into()),
        ("max_position_embeddings", config.max_positions.into()),
        ("rms_norm_eps", decimal(config.rms_eps)),
        ("rope_theta", decimal(config.rope_theta)),
        ("tie_word_embeddings", matches!(start.outside.head, Head::Tied).into()),
        ("attention_bias", config.attention_bias.into()),
        ("mlp_bias", config.mlp_bias.into()),
        ("torch_dtype", "bfloat16".into()),
        ("use_cache", true.into()),
    ];
    let mut out: Map<String, Value> = fields.into_iter().map(|(name, v)| (name.to_owned(), v)).collect();
    if let Some(bos) = config.bos {
        out.insert("bos_token_id".into(), bos.into());
    }
    match config.eos[..] {
        [] => {}
        [eos] => drop(out.insert("eos_token_id".into(), eos.into())),
        _ => drop(out.insert("eos_token_id".into(), config.eos.clone().into())),
    }
    if let Some(sense) = sense {
        let mut quantisation = quantisation(config, layer, sense);
        if start.activations() == ActivationMode::Float {
            quantisation["activations"] = "float".into();
        }
        out.insert("quantization_config".into(), quantisation);
    }
    format!("{:#}\n", Value::Object(out))
}

fn quantisation(config: &ModelConfig, layer: &Layer, sense: ScaleSense) -> Value {
    let source = config.quantisation.clone().unwrap_or_default();
    let class = match sense {
        ScaleSense::Multiply => "autobitlinear",
        ScaleSense::Divide => "bitlinear",
    };
    let mut out = json!({
        "quant_method": "bitnet",
        "linear_class": class,
        "quantization_mode": "offline",
    });
    if layer.projections().iter().any(|p| p.norm.is_some()) {
        let eps = layer.projections().iter().find_map(|p| p.norm.as_ref().map(|norm| norm.eps));
        out["use_rms_norm"] = true.into();
        out["rms_norm_eps"] = decimal(eps.unwrap_or(QuantisationConfig::default().rms_norm_eps));
    }
    let dense = layer.projections().iter().any(|p| !is_ternary(&p.weights));
    if dense || !source.modules_to_not_convert.is_empty() {
        out["modules_to_not_convert"] = source.modules_to_not_convert.into();
    }
    out
}

/// Returns the shortest decimal number that reads back as this f32.
fn decimal(value: f32) -> Value {
    format!("{value:e}").parse::<f64>().map_or(Value::Null, Value::from)
}
