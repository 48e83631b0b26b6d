//! A loaded model: its parts as a backend takes them, and a report on every tensor.

use std::fmt;

use bitnet_core::backend::{BitNetDType, LinearWeights};

use crate::config::ModelConfig;
use crate::family::{ActivationMode, Family};

/// A norm's weight.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Name in the checkpoint.
    pub name: String,
    /// The weight, widened to f32.
    pub values: Vec<f32>,
    /// Added to the mean square.
    pub eps: f32,
}

/// A matrix, with the norm that its input passes first where it has one of its own.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The matrix and its bias.
    pub weights: LinearWeights,
    /// `<projection>.rms_norm`.
    pub norm: Option<NormWeights>,
}

/// One decoder layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Before attention.
    pub input_norm: NormWeights,
    /// Query, `[heads * head_dim, hidden]`.
    pub q: Projection,
    /// Key, `[kv_heads * head_dim, hidden]`.
    pub k: Projection,
    /// Value, `[kv_heads * head_dim, hidden]`.
    pub v: Projection,
    /// Between attention and its output projection.
    pub attn_sub_norm: Option<NormWeights>,
    /// Attention output, `[hidden, heads * head_dim]`.
    pub o: Projection,
    /// Before the feed-forward block.
    pub post_norm: NormWeights,
    /// Gate, `[intermediate, hidden]`.
    pub gate: Projection,
    /// Up, `[intermediate, hidden]`.
    pub up: Projection,
    /// Between the gated activations and the down projection.
    pub ffn_sub_norm: Option<NormWeights>,
    /// Down, `[hidden, intermediate]`.
    pub down: Projection,
}

impl Layer {
    /// Returns the seven projections in the order of their use.
    pub fn projections(&self) -> [&Projection; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// The matrix that turns the last hidden state into logits.
#[derive(Debug, Clone)]
pub enum Head {
    /// The embedding.
    Tied,
    /// `lm_head.weight`.
    Separate(LinearWeights),
}

/// The form in which a tensor is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredAs {
    /// Two-bit codes with one scale.
    Ternary,
    /// Floats of this type.
    Dense(BitNetDType),
    /// A vector widened to f32.
    Vector,
    /// The scale of a ternary matrix.
    Scale,
    /// Not kept.
    Unused,
}

impl fmt::Display for StoredAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredAs::Ternary => f.write_str("ternary"),
            StoredAs::Dense(dtype) => dtype.fmt(f),
            StoredAs::Vector => f.write_str("f32 vector"),
            StoredAs::Scale => f.write_str("scale"),
            StoredAs::Unused => f.write_str("unused"),
        }
    }
}

/// What became of one tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type in the file.
    pub dtype: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: u64,
    /// The form in which it is kept.
    pub stored_as: StoredAs,
    /// The rule by which it is.
    pub rule: &'static str,
}

/// A checked model, ready for a backend.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its configuration.
    pub config: ModelConfig,
    /// What it is.
    pub family: Family,
    /// How activations enter its products.
    pub activations: ActivationMode,
    /// What its files leave open, and which answer was taken.
    pub assumptions: Vec<String>,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// `[vocab, hidden]`.
    pub embedding: LinearWeights,
    /// The output matrix.
    pub head: Head,
    /// The norm before the head.
    pub final_norm: NormWeights,
    /// Every tensor of the checkpoint, in the order of reading.
    pub tensors: Vec<TensorInfo>,
}

impl Model {
    /// Iterates over all matrices: embedding, projections layer by layer, head unless tied.
    pub fn matrices(&self) -> impl Iterator<Item = &LinearWeights> {
        let projections = self.layers.iter().flat_map(Layer::projections).map(|p| &p.weights);
        let head = match &self.head {
            Head::Tied => None,
            Head::Separate(weights) => Some(weights),
        };
        std::iter::once(&self.embedding).chain(projections).chain(head)
    }
}
