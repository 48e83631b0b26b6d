//! Builds the reference from a checkpoint folder. Panics, naming what is missing: the folders are ours.

use std::path::Path;

use super::linear::{Linear, Weight, absmean_ternary};
use super::{Layer, Norm, ReferenceModel};
use crate::json::Json;
use crate::model::Activation;
use crate::pack::unpack_rows;
use crate::safetensors::SafeTensors;

/// Says how `weight_scale` and float weights are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// `weight_scale` multiplies; float weights are master weights.
    Multiply,
    /// `weight_scale` divides; float weights are master weights.
    Divide,
    /// Float weights are used as they are, with float activations.
    Float,
}

struct Loader<'a> {
    config: &'a Json,
    tensors: &'a SafeTensors,
    scheme: Scheme,
    eps: f64,
    own_norm_eps: f64,
}

impl ReferenceModel {
    /// Reads config.json and the weights of `dir`.
    ///
    /// Panics when a file, field or tensor is missing or does not fit.
    pub fn from_folder(dir: &Path) -> Self {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let config = Json::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = SafeTensors::read_folder(dir);
        let quantization = config.get("quantization_config");
        let own_norm_eps = quantization.and_then(|q| q.get("rms_norm_eps")).and_then(Json::as_f64);
        Loader {
            config: &config,
            tensors: &tensors,
            scheme: scheme(&config),
            eps: number(&config, "rms_norm_eps"),
            own_norm_eps: own_norm_eps.unwrap_or(1e-6),
        }
        .model()
    }
}

/// Tells the families apart as the formats' description does: architecture first, then the marks of
/// 1bitLLM, then the quantisation method.
fn scheme(config: &Json) -> Scheme {
    let text = |j: &Json, key: &str| j.get(key).and_then(Json::as_str).unwrap_or("").to_owned();
    let architecture = config.get("architectures").and_then(|a| a.items().first()).and_then(Json::as_str);
    let quantization = config.get("quantization_config");
    let bitnet = architecture == Some("BitNetForCausalLM") || text(config, "model_type") == "bitnet";
    let one_bit = architecture == Some("BitnetForCausalLM") || config.get("weight_bits").is_some();
    let quantized = quantization.is_some_and(|q| text(q, "quant_method") == "bitnet");
    if !(bitnet || one_bit || quantized) {
        return Scheme::Float;
    }
    match quantization.map(|q| text(q, "linear_class")).as_deref() {
        Some("autobitlinear") => Scheme::Multiply,
        _ => Scheme::Divide,
    }
}

fn size(config: &Json, key: &str) -> usize {
    config.get(key).and_then(Json::as_usize).unwrap_or_else(|| panic!("config.json: no size {key}"))
}

fn number(config: &Json, key: &str) -> f64 {
    config.get(key).and_then(Json::as_f64).unwrap_or_else(|| panic!("config.json: no number {key}"))
}

impl Loader<'_> {
    fn model(&self) -> ReferenceModel {
        let config = self.config;
        let (hidden, heads) = (size(config, "hidden_size"), size(config, "num_attention_heads"));
        let head_dim = config.get("head_dim").and_then(Json::as_usize).unwrap_or(hidden / heads);
        let kv_heads = config.get("num_key_value_heads").and_then(Json::as_usize).unwrap_or(heads);
        let activation = match config.get("hidden_act").and_then(Json::as_str) {
            Some("relu2") => Activation::Relu2,
            Some("silu") => Activation::Silu,
            other => panic!("config.json: hidden_act {other:?}"),
        };
        let tied = config.get("tie_word_embeddings").and_then(Json::as_bool).expect("tie_word_embeddings");
        let intermediate = size(config, "intermediate_size");
        let widths = Widths { hidden, q: heads * head_dim, kv: kv_heads * head_dim, intermediate };
        ReferenceModel {
            vocab: size(config, "vocab_size"),
            hidden,
            heads,
            kv_heads,
            head_dim,
            rope_theta: number(config.get("rope_parameters").unwrap_or(config), "rope_theta"),
            activation,
            embedding: self.matrix("model.embed_tokens.weight", size(config, "vocab_size"), hidden),
            layers: (0..size(config, "num_hidden_layers")).map(|i| self.layer(i, &widths)).collect(),
            norm: self.norm("model.norm.weight", hidden),
            head: (!tied).then(|| self.matrix("lm_head.weight", size(config, "vocab_size"), hidden)),
        }
    }

    fn layer(&self, index: usize, w: &Widths) -> Layer {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let norm = |name: &str, width| self.norm(&at(name), width);
        let either = |names: [&str; 2], width| {
            let name = names.iter().find(|name| self.tensors.contains(&at(name)))?;
            Some(norm(name, width))
        };
        let linear = |name: &str, rows, cols| self.linear(&at(name), rows, cols);
        Layer {
            input_norm: norm("input_layernorm.weight", w.hidden),
            q: linear("self_attn.q_proj", w.q, w.hidden),
            k: linear("self_attn.k_proj", w.kv, w.hidden),
            v: linear("self_attn.v_proj", w.kv, w.hidden),
            attention_sub_norm: either(
                ["self_attn.attn_sub_norm.weight", "self_attn.inner_attn_ln.weight"],
                w.q,
            ),
            o: linear("self_attn.o_proj", w.hidden, w.q),
            post_attention_norm: norm("post_attention_layernorm.weight", w.hidden),
            gate: linear("mlp.gate_proj", w.intermediate, w.hidden),
            up: linear("mlp.up_proj", w.intermediate, w.hidden),
            ffn_sub_norm: either(["mlp.ffn_sub_norm.weight", "mlp.ffn_layernorm.weight"], w.intermediate),
            down: linear("mlp.down_proj", w.hidden, w.intermediate),
        }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Vec<f32> {
        assert_eq!(self.tensors.shape(name), [rows, cols], "shape of {name}");
        self.tensors.f32s(name)
    }

    fn norm(&self, name: &str, width: usize) -> Norm {
        assert_eq!(self.tensors.shape(name), [width], "shape of {name}");
        Norm { weight: self.tensors.f32s(name), eps: self.eps }
    }

    fn linear(&self, name: &str, rows: usize, cols: usize) -> Linear {
        let own = format!("{name}.rms_norm.weight");
        let norm =
            self.tensors.contains(&own).then(|| Norm { eps: self.own_norm_eps, ..self.norm(&own, cols) });
        let weight_name = format!("{name}.weight");
        let scale_name = format!("{name}.weight_scale");
        let scale = self.tensors.contains(&scale_name).then(|| f64::from(self.tensors.f32s(&scale_name)[0]));
        let packed = self.tensors.get(&weight_name).dtype == "U8";
        let weight = match (packed, scale, self.scheme) {
            (true, None, _) => panic!("{weight_name} is packed and has no weight_scale"),
            (true, Some(scale), scheme) => Weight::Ternary {
                values: unpack_rows(&self.tensors.u8s(&weight_name), rows, cols),
                multiplier: multiplier(scheme, scale),
            },
            // Offline form that was not packed: the values are -1, 0 and 1 already.
            (false, Some(scale), scheme) => Weight::Ternary {
                values: self.matrix(&weight_name, rows, cols).iter().map(|v| *v as i8).collect(),
                multiplier: multiplier(scheme, scale),
            },
            (false, None, Scheme::Float) => Weight::Dense(self.matrix(&weight_name, rows, cols)),
            (false, None, _) => {
                let (values, s) = absmean_ternary(&self.matrix(&weight_name, rows, cols));
                Weight::Ternary { values, multiplier: 1.0 / f64::from(s) }
            }
        };
        Linear { rows, cols, weight, norm }
    }
}

fn multiplier(scheme: Scheme, scale: f64) -> f64 {
    match scheme {
        Scheme::Multiply => scale,
        Scheme::Divide | Scheme::Float => 1.0 / scale,
    }
}

/// Gives the widths of a layer's vectors.
struct Widths {
    hidden: usize,
    q: usize,
    kv: usize,
    intermediate: usize,
}
