//! config.json of each family.

use super::{Activation, Eos, SyntheticFamily, SyntheticModel};
use crate::json::Json;
use crate::tokenizer::special_ids;

/// Builds config.json.
pub(super) fn config(model: &SyntheticModel) -> Json {
    let shape = &model.shape;
    let int = |v: usize| Json::Int(v as i64);
    let (architecture, model_type, dtype) = match model.family {
        SyntheticFamily::BitNetPacked | SyntheticFamily::BitNetMaster => {
            ("BitNetForCausalLM", "bitnet", "bfloat16")
        }
        SyntheticFamily::LlamaBitLinear => ("LlamaForCausalLM", "llama", "bfloat16"),
        SyntheticFamily::OneBitLlm => ("BitnetForCausalLM", "llama", "float16"),
        SyntheticFamily::TriLm => ("LlamaForCausalLM", "llama", "float16"),
    };
    let eos = match &model.eos {
        Eos::Int(id) => Json::Int(i64::from(*id)),
        Eos::List(ids) => Json::Array(ids.iter().map(|id| Json::Int(i64::from(*id))).collect()),
    };
    let act = match shape.activation {
        Activation::Relu2 => "relu2",
        Activation::Silu => "silu",
    };
    let mut members = vec![
        ("architectures", Json::Array(vec![Json::str(architecture)])),
        ("model_type", Json::str(model_type)),
        ("vocab_size", int(shape.vocab)),
        ("hidden_size", int(shape.hidden)),
        ("intermediate_size", int(shape.intermediate)),
        ("num_hidden_layers", int(shape.layers)),
        ("num_attention_heads", int(shape.heads)),
        ("num_key_value_heads", int(shape.kv_heads)),
        ("hidden_act", Json::str(act)),
        ("max_position_embeddings", int(shape.max_positions)),
        ("rms_norm_eps", Json::Float(shape.rms_eps)),
        ("tie_word_embeddings", Json::Bool(shape.tied)),
        ("bos_token_id", Json::Int(i64::from(special_ids(shape.vocab).begin_of_text))),
        ("eos_token_id", eos),
        ("initializer_range", Json::Float(0.02)),
        ("use_cache", Json::Bool(true)),
    ];
    if shape.head_dim * shape.heads != shape.hidden {
        members.push(("head_dim", int(shape.head_dim)));
    }
    if model.transformers5 {
        let rope = [("rope_theta", Json::Float(shape.rope_theta)), ("rope_type", Json::str("default"))];
        members.push(("rope_parameters", Json::object(rope)));
        members.push(("dtype", Json::str(dtype)));
    } else {
        members.push(("rope_theta", Json::Float(shape.rope_theta)));
        members.push(("torch_dtype", Json::str(dtype)));
    }
    members.extend(family_members(model));
    Json::object(members)
}

fn family_members(model: &SyntheticModel) -> Vec<(&'static str, Json)> {
    let quantization = match model.family {
        SyntheticFamily::TriLm => return Vec::new(),
        SyntheticFamily::OneBitLlm => {
            return vec![("weight_bits", Json::Int(1)), ("input_bits", Json::Int(8))];
        }
        SyntheticFamily::BitNetPacked => auto("offline"),
        SyntheticFamily::BitNetMaster => auto("online"),
        SyntheticFamily::LlamaBitLinear => {
            let mut members = vec![
                ("modules_to_not_convert", Json::Array(vec![Json::str("lm_head")])),
                ("quant_method", Json::str("bitnet")),
            ];
            if model.shape.use_rms_norm {
                members.push(("use_rms_norm", Json::Bool(true)));
                members.push(("rms_norm_eps", Json::Float(1e-5)));
            }
            Json::object(members)
        }
    };
    vec![("quantization_config", quantization)]
}

fn auto(mode: &str) -> Json {
    Json::object([
        ("quant_method", Json::str("bitnet")),
        ("linear_class", Json::str("autobitlinear")),
        ("quantization_mode", Json::str(mode)),
    ])
}
