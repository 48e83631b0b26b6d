//! The naive reference of whole models: f64 arithmetic, exact integer products, full causal attention
//! without a cache.
//!
//! Activations are rounded to f32 and quantised by the f32 formula (`s_x` and `x · s_x` are f32), the
//! integer products are exact, rotary angles are the f32 ones, and everything else is f64. What an
//! int8 × ternary engine computes differs from this by float rounding, and by the rare activation that
//! such rounding moves across a half.
//!
//! [`Fault`] makes the reference commit one known error, to show that a check would notice it.

mod linear;
mod load;
mod ops;
mod threads;

pub use linear::{absmean_ternary, integer_products, quantise_activations};
pub use ops::{relu2, rms_norm, rope, silu};

use linear::Linear;
use ops::Attention;

use crate::model::Activation;

/// Names an error to commit on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No error.
    None,
    /// Activations enter the ternary products as floats.
    NoActivationQuantisation,
    /// Scaled activations are cut off towards zero instead of rounded.
    TruncateActivations,
    /// Scaled activations round halves away from zero instead of to even.
    HalfAwayRounding,
    /// All tokens share the scale of the largest activation among them.
    PerTensorActivationScale,
    /// Weight scales are 1 % too large.
    WeightScaleOffByOnePercent,
    /// A query sees its 256 latest positions only.
    AttentionCutAt256,
    /// Positions are one too high from the middle of the sequence on. (All positions shifted alike
    /// would change nothing: rotary attention depends on differences only.)
    PositionsShifted,
}

impl Fault {
    /// Lists every fault but `None`.
    pub const ALL: [Self; 7] = [
        Self::NoActivationQuantisation,
        Self::TruncateActivations,
        Self::HalfAwayRounding,
        Self::PerTensorActivationScale,
        Self::WeightScaleOffByOnePercent,
        Self::AttentionCutAt256,
        Self::PositionsShifted,
    ];
}

/// Holds an RMSNorm's weight and epsilon.
#[derive(Clone, Debug)]
struct Norm {
    weight: Vec<f32>,
    eps: f64,
}

impl Norm {
    /// Normalises each row of `x`.
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.chunks_exact(self.weight.len()).flat_map(|row| rms_norm(row, &self.weight, self.eps)).collect()
    }
}

/// Holds one decoder layer.
#[derive(Debug)]
struct Layer {
    input_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    attention_sub_norm: Option<Norm>,
    o: Linear,
    post_attention_norm: Norm,
    gate: Linear,
    up: Linear,
    ffn_sub_norm: Option<Norm>,
    down: Linear,
}

/// Computes a model's logits slowly and exactly; see the module's documentation.
#[derive(Debug)]
pub struct ReferenceModel {
    vocab: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope_theta: f64,
    activation: Activation,
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
    /// Head matrix `[vocab, hidden]`; `None` means the embedding.
    head: Option<Vec<f32>>,
}

impl ReferenceModel {
    /// Returns the vocabulary size.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Returns the logits of all positions of one sequence.
    ///
    /// Shapes: `ids` `[n]`, result `[n, vocab]`. Panics when an id is outside the vocabulary.
    pub fn logits(&self, ids: &[u32]) -> Vec<f32> {
        self.logits_with(ids, Fault::None)
    }

    /// Returns the logits of all positions, with `fault` committed throughout.
    pub fn logits_with(&self, ids: &[u32], fault: Fault) -> Vec<f32> {
        self.head_rows(&self.hidden_states(ids, fault))
    }

    /// Returns the logits of the given positions only, for vocabularies whose full result is large.
    ///
    /// Shapes: result `[positions, vocab]`.
    pub fn logits_at(&self, ids: &[u32], positions: &[usize], fault: Fault) -> Vec<f32> {
        let hidden = self.hidden_states(ids, fault);
        let rows = positions.iter().flat_map(|p| &hidden[p * self.hidden..(p + 1) * self.hidden]);
        self.head_rows(&rows.copied().collect::<Vec<f64>>())
    }

    /// Returns `prompt` followed by `count` greedy tokens, each from a full recomputation.
    pub fn greedy(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut ids = prompt.to_vec();
        for _ in 0..count {
            let row = self.logits_at(&ids, &[ids.len() - 1], Fault::None);
            ids.push(crate::compare::top2_margin(&row).0 as u32);
        }
        ids
    }

    /// Runs the decoder; the result is the final norm's output `[n, hidden]`.
    fn hidden_states(&self, ids: &[u32], fault: Fault) -> Vec<f64> {
        let row = |id: &u32| {
            let id = *id as usize;
            assert!(id < self.vocab, "token {id} of a vocabulary of {}", self.vocab);
            &self.embedding[id * self.hidden..(id + 1) * self.hidden]
        };
        let mut x: Vec<f64> = ids.iter().flat_map(row).map(|v| f64::from(*v)).collect();
        for layer in &self.layers {
            let mixed = self.attention(layer, &x, fault);
            add(&mut x, &mixed);
            let fed = self.feed_forward(layer, &x, fault);
            add(&mut x, &fed);
        }
        self.norm.apply(&x)
    }

    fn attention(&self, layer: &Layer, x: &[f64], fault: Fault) -> Vec<f64> {
        let h = layer.input_norm.apply(x);
        let mut q = layer.q.apply(&h, fault);
        let mut k = layer.k.apply(&h, fault);
        let v = layer.v.apply(&h, fault);
        let tokens = x.len() / self.hidden;
        let shifted_from = if fault == Fault::PositionsShifted { tokens / 2 } else { tokens };
        for t in 0..tokens {
            let position = t + usize::from(t >= shifted_from);
            for (rows, heads) in [(&mut q, self.heads), (&mut k, self.kv_heads)] {
                let width = heads * self.head_dim;
                for head in rows[t * width..(t + 1) * width].chunks_exact_mut(self.head_dim) {
                    rope(head, position, self.rope_theta);
                }
            }
        }
        let window = if fault == Fault::AttentionCutAt256 { 256 } else { usize::MAX };
        let shape = Attention { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim, window };
        let mut mixed = ops::attention(&q, &k, &v, &shape);
        if let Some(norm) = &layer.attention_sub_norm {
            mixed = norm.apply(&mixed);
        }
        layer.o.apply(&mixed, fault)
    }

    fn feed_forward(&self, layer: &Layer, x: &[f64], fault: Fault) -> Vec<f64> {
        let h = layer.post_attention_norm.apply(x);
        let gate = layer.gate.apply(&h, fault);
        let up = layer.up.apply(&h, fault);
        let act = match self.activation {
            Activation::Relu2 => relu2,
            Activation::Silu => silu,
        };
        let mut m: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| act(*g) * u).collect();
        if let Some(norm) = &layer.ffn_sub_norm {
            m = norm.apply(&m);
        }
        layer.down.apply(&m, fault)
    }

    fn head_rows(&self, h: &[f64]) -> Vec<f32> {
        let matrix = self.head.as_ref().unwrap_or(&self.embedding);
        let products = linear::float_products(h, matrix, self.vocab, self.hidden);
        products.into_iter().map(|v| v as f32).collect()
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(a, b)| *a += b);
}
