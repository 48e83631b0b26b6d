//! The parts of a layer with their names in folders and in GGUF files.

use crate::weights::{Layer, NormWeights, Projection};

/// A part of a layer.
pub(super) enum Item<'a> {
    /// A norm's weight.
    Norm(&'a NormWeights),
    /// A matrix with what belongs to it.
    Projection(&'a Projection),
}

/// A part with its names.
pub(super) struct Named<'a> {
    /// The name behind `model.layers.N.`, without `.weight`.
    pub(super) folder: &'static str,
    /// The name behind `blk.N.`, without `.weight`.
    pub(super) gguf: &'static str,
    pub(super) item: Item<'a>,
}

/// Lists the parts of a layer in the order in which they are written.
pub(super) fn items(layer: &Layer) -> Vec<Named<'_>> {
    let norm = |folder, gguf, norm| Named { folder, gguf, item: Item::Norm(norm) };
    let matrix = |folder, gguf, projection| Named { folder, gguf, item: Item::Projection(projection) };
    let mut items = vec![
        norm("input_layernorm", "attn_norm", &layer.input_norm),
        matrix("self_attn.q_proj", "attn_q", &layer.q),
        matrix("self_attn.k_proj", "attn_k", &layer.k),
        matrix("self_attn.v_proj", "attn_v", &layer.v),
    ];
    items.extend(layer.attn_sub_norm.iter().map(|n| norm("self_attn.attn_sub_norm", "attn_sub_norm", n)));
    items.push(matrix("self_attn.o_proj", "attn_output", &layer.o));
    items.push(norm("post_attention_layernorm", "ffn_norm", &layer.post_norm));
    items.push(matrix("mlp.gate_proj", "ffn_gate", &layer.gate));
    items.push(matrix("mlp.up_proj", "ffn_up", &layer.up));
    items.extend(layer.ffn_sub_norm.iter().map(|n| norm("mlp.ffn_sub_norm", "ffn_sub_norm", n)));
    items.push(matrix("mlp.down_proj", "ffn_down", &layer.down));
    items
}

/// Returns the name of a part in a folder, without `.weight`.
pub(super) fn folder_name(layer: usize, named: &Named<'_>) -> String {
    format!("model.layers.{layer}.{}", named.folder)
}

/// Returns the names of the vectors of a layer in a folder, in the order of writing.
pub(super) fn vector_names(index: usize, layer: &Layer) -> Vec<String> {
    let mut names = Vec::new();
    for named in items(layer) {
        let name = folder_name(index, &named);
        match named.item {
            Item::Norm(_) => names.push(format!("{name}.weight")),
            Item::Projection(projection) => {
                names.extend(projection.weights.bias.iter().map(|_| format!("{name}.bias")));
                names.extend(projection.norm.iter().map(|_| format!("{name}.rms_norm.weight")));
            }
        }
    }
    names
}
