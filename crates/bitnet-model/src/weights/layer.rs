//! The tensors of one decoder layer.

use crate::error::LoadError;
use crate::family::Family;

use super::model::Layer;
use super::reader::Reader;

/// Reads layer `index`.
pub(super) fn read(reader: &mut Reader<'_, '_>, index: usize) -> Result<Layer, LoadError> {
    let (config, sub_norms) = (reader.config, reader.detection.family.has_sub_norms());
    let (hidden, inner, eps) = (config.hidden, config.intermediate, config.rms_eps);
    let (q_width, kv_width) = (config.q_width(), config.kv_width());
    let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
    let prefix = format!("model.layers.{index}");
    let (attn, mlp) = (format!("{prefix}.self_attn"), format!("{prefix}.mlp"));
    let sub_norm = |reader: &mut Reader<'_, '_>, module: &str, names: [&str; 2], width| {
        let [name, other] = names.map(|name| format!("{module}.{name}.weight"));
        let by_other = reader.has(&other) || reader.detection.family == Family::OneBitLlm;
        let name = if by_other && !reader.has(&name) { other } else { name };
        sub_norms.then(|| reader.norm(&name, width, eps)).transpose()
    };
    Ok(Layer {
        input_norm: reader.norm(&format!("{prefix}.input_layernorm.weight"), hidden, eps)?,
        q: reader.projection(&format!("{attn}.q_proj"), q_width, hidden, attention_bias)?,
        k: reader.projection(&format!("{attn}.k_proj"), kv_width, hidden, attention_bias)?,
        v: reader.projection(&format!("{attn}.v_proj"), kv_width, hidden, attention_bias)?,
        attn_sub_norm: sub_norm(reader, &attn, ["attn_sub_norm", "inner_attn_ln"], q_width)?,
        o: reader.projection(&format!("{attn}.o_proj"), hidden, q_width, attention_bias)?,
        post_norm: reader.norm(&format!("{prefix}.post_attention_layernorm.weight"), hidden, eps)?,
        gate: reader.projection(&format!("{mlp}.gate_proj"), inner, hidden, mlp_bias)?,
        up: reader.projection(&format!("{mlp}.up_proj"), inner, hidden, mlp_bias)?,
        ffn_sub_norm: sub_norm(reader, &mlp, ["ffn_sub_norm", "ffn_layernorm"], inner)?,
        down: reader.projection(&format!("{mlp}.down_proj"), hidden, inner, mlp_bias)?,
    })
}
