//! What tensors are called: the names of Hugging Face folders, and those of GGUF files.

/// The names of one kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// `blk.0.attn_q.weight`.
    Gguf,
}

/// A module of a decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    InputNorm,
    Q,
    K,
    V,
    AttnSubNorm,
    O,
    PostNorm,
    Gate,
    Up,
    FfnSubNorm,
    Down,
}

impl Part {
    /// Returns the names in a folder and in a GGUF file.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Part::InputNorm => ("input_layernorm", "attn_norm"),
            Part::Q => ("self_attn.q_proj", "attn_q"),
            Part::K => ("self_attn.k_proj", "attn_k"),
            Part::V => ("self_attn.v_proj", "attn_v"),
            Part::AttnSubNorm => ("self_attn.attn_sub_norm", "attn_sub_norm"),
            Part::O => ("self_attn.o_proj", "attn_output"),
            Part::PostNorm => ("post_attention_layernorm", "ffn_norm"),
            Part::Gate => ("mlp.gate_proj", "ffn_gate"),
            Part::Up => ("mlp.up_proj", "ffn_up"),
            Part::FfnSubNorm => ("mlp.ffn_sub_norm", "ffn_sub_norm"),
            Part::Down => ("mlp.down_proj", "ffn_down"),
        }
    }

    /// Returns the name that the 1bitLLM layout has for a sub-norm.
    pub(crate) fn old_name(self) -> Option<&'static str> {
        match self {
            Part::AttnSubNorm => Some("self_attn.inner_attn_ln"),
            Part::FfnSubNorm => Some("mlp.ffn_layernorm"),
            _ => None,
        }
    }
}

impl Naming {
    /// Returns the name of a module of a layer, to which `.weight` is added.
    pub(crate) fn module(self, layer: usize, part: Part) -> String {
        let (folder, gguf) = part.names();
        match self {
            Naming::HuggingFace => format!("model.layers.{layer}.{folder}"),
            Naming::Gguf => format!("blk.{layer}.{gguf}"),
        }
    }

    /// Returns the name of the embedding.
    pub(crate) fn embedding(self) -> &'static str {
        match self {
            Naming::HuggingFace => "model.embed_tokens.weight",
            Naming::Gguf => "token_embd.weight",
        }
    }

    /// Returns the name of the norm before the head.
    pub(crate) fn final_norm(self) -> &'static str {
        match self {
            Naming::HuggingFace => "model.norm.weight",
            Naming::Gguf => "output_norm.weight",
        }
    }

    /// Returns the name of the head.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Naming::HuggingFace => "lm_head.weight",
            Naming::Gguf => "output.weight",
        }
    }
}
