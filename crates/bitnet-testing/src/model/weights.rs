//! The tensors of a synthetic checkpoint: their list and their content.
//!
//! Sizes are chosen so that every projection's output has a standard deviation near 1, attention is
//! neither flat nor saturated and logits spread over a few units, as in trained models.

use std::io::{self, Write};

use super::{SyntheticFamily, SyntheticModel};
use crate::floats::{f32_to_bf16, f32_to_f16};
use crate::rng::Rng;
use crate::safetensors::{Dtype, TensorSpec};

/// Says how a tensor's bytes come about.
#[derive(Clone, Debug)]
enum Content {
    /// Normal values of this standard deviation.
    Normal(f32),
    /// Norm weights: 1 plus a fifth of a normal value, times this factor.
    Norm(f32),
    /// Uniform ternary codes, four a byte, code 3 never.
    Packed,
    /// One number near this one (up to a fifth above or below).
    Near(f32),
    /// f16 values -s, 0 and s for s near this one.
    Ternary(f32),
    /// Rows of -1, 0 and 1 with a quarter zero.
    TieEmbedding,
    /// Multiples of 2^-7 up to 127 × 2^-6.
    TieNorm,
}

/// Plans one tensor.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) spec: TensorSpec,
    content: Content,
}

/// Lists the tensors of `model`.
pub(super) fn plan(model: &SyntheticModel) -> Vec<Plan> {
    let shape = &model.shape;
    let float = match model.family {
        SyntheticFamily::OneBitLlm | SyntheticFamily::TriLm => Dtype::F16,
        _ => Dtype::BF16,
    };
    let mut list = Planner { model, float, plans: Vec::new() };
    let logit_std = 4.0 / (shape.hidden as f32).sqrt();
    let embedding = match (model.exact_ties, shape.tied) {
        (true, _) => Content::TieEmbedding,
        (false, true) => Content::Normal(logit_std),
        (false, false) => Content::Normal(1.0),
    };
    list.push("model.embed_tokens.weight", float, &[shape.vocab, shape.hidden], embedding);
    if !shape.tied {
        list.push("lm_head.weight", float, &[shape.vocab, shape.hidden], Content::Normal(logit_std));
    }
    // A tied head of ±1 rows would spread logits by sqrt(hidden).
    let last = if model.exact_ties && shape.tied { logit_std } else { 1.0 };
    list.push("model.norm.weight", float, &[shape.hidden], Content::Norm(last));
    (0..shape.layers).for_each(|layer| list.layer(layer));
    list.plans
}

/// Cuts the plans into `files` runs of similar size, none empty.
pub(super) fn split(plans: Vec<Plan>, files: usize) -> Vec<Vec<Plan>> {
    assert!(files <= plans.len(), "{files} shards of {} tensors", plans.len());
    let total: usize = plans.iter().map(|p| p.spec.bytes()).sum();
    let mut shards: Vec<Vec<Plan>> = vec![Vec::new()];
    let (mut done, mut left) = (0, plans.len());
    for plan in plans {
        let full = done >= total * shards.len() / files || left <= files - shards.len();
        if shards.len() < files && full && shards.last().is_some_and(|s| !s.is_empty()) {
            shards.push(Vec::new());
        }
        done += plan.spec.bytes();
        left -= 1;
        shards.last_mut().expect("there is a first shard").push(plan);
    }
    shards
}

struct Planner<'a> {
    model: &'a SyntheticModel,
    float: Dtype,
    plans: Vec<Plan>,
}

impl Planner<'_> {
    fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], content: Content) {
        self.plans.push(Plan { spec: TensorSpec::new(name, dtype, shape), content });
    }

    fn layer(&mut self, layer: usize) {
        let shape = self.model.shape.clone();
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let first = if self.model.exact_ties && layer == 0 { Content::TieNorm } else { Content::Norm(1.0) };
        self.push(&at("input_layernorm.weight"), self.float, &[shape.hidden], first);
        self.push(&at("post_attention_layernorm.weight"), self.float, &[shape.hidden], Content::Norm(1.0));
        if shape.sub_norms {
            let (attention, ffn) = match self.model.family {
                SyntheticFamily::OneBitLlm => ("self_attn.inner_attn_ln.weight", "mlp.ffn_layernorm.weight"),
                _ => ("self_attn.attn_sub_norm.weight", "mlp.ffn_sub_norm.weight"),
            };
            self.push(&at(attention), self.float, &[q], Content::Norm(1.0));
            self.push(&at(ffn), self.float, &[shape.intermediate], Content::Norm(1.0));
        }
        for (name, rows, cols) in [
            ("self_attn.q_proj", q, shape.hidden),
            ("self_attn.k_proj", kv, shape.hidden),
            ("self_attn.v_proj", kv, shape.hidden),
            ("self_attn.o_proj", shape.hidden, q),
            ("mlp.gate_proj", shape.intermediate, shape.hidden),
            ("mlp.up_proj", shape.intermediate, shape.hidden),
            ("mlp.down_proj", shape.hidden, shape.intermediate),
        ] {
            self.projection(&at(name), rows, cols);
        }
    }

    fn projection(&mut self, name: &str, rows: usize, cols: usize) {
        let weight = format!("{name}.weight");
        // Two thirds of the values are not zero, inputs are of size 1.
        let mean_abs = 1.0 / (cols as f32 * (2.0 / 3.0)).sqrt();
        let scale = match self.model.family {
            SyntheticFamily::BitNetPacked => Some(mean_abs),
            SyntheticFamily::LlamaBitLinear => Some(1.0 / mean_abs),
            // A normal value's mean magnitude is 0.8 of its standard deviation.
            SyntheticFamily::BitNetMaster | SyntheticFamily::OneBitLlm => {
                self.push(&weight, self.float, &[rows, cols], Content::Normal(mean_abs / 0.8));
                None
            }
            SyntheticFamily::TriLm => {
                self.push(&weight, self.float, &[rows, cols], Content::Ternary(mean_abs));
                None
            }
        };
        if let Some(scale) = scale {
            assert!(rows.is_multiple_of(4), "{name}: rows of a packed matrix are a multiple of 4");
            self.push(&weight, Dtype::U8, &[rows / 4, cols], Content::Packed);
            self.push(&format!("{name}.weight_scale"), Dtype::BF16, &[1], Content::Near(scale));
        }
        if self.model.shape.use_rms_norm {
            self.push(&format!("{name}.rms_norm.weight"), self.float, &[cols], Content::Norm(1.0));
        }
    }
}

/// Writes the content of one tensor.
pub(super) fn fill(seed: u64, plan: &Plan, sink: &mut dyn Write) -> io::Result<()> {
    let spec = &plan.spec;
    let mut rng = Rng::named(seed, &spec.name);
    let n: usize = spec.shape.iter().product();
    match plan.content {
        Content::Normal(std) => bulk_normal(&mut rng, n, std, spec.dtype, sink),
        Content::Norm(factor) => small(n, spec.dtype, sink, |_| factor * (1.0 + 0.2 * rng.normal())),
        Content::Near(value) => small(n, spec.dtype, sink, |_| value * rng.uniform(0.8, 1.2)),
        Content::Packed => bulk(&mut rng, n, &packed_table(), sink),
        Content::Ternary(s) => {
            let s = s * rng.uniform(0.8, 1.2);
            let table: Vec<[u8; 2]> = (0..4096).map(|i| narrow(spec.dtype, s * (i % 3 - 1) as f32)).collect();
            bulk_pairs(&mut rng, n, &table, sink)
        }
        Content::TieEmbedding => {
            let cols = spec.shape[1];
            small(n, spec.dtype, sink, |i| match (i / cols + i % cols) % 4 {
                0 => 0.0,
                _ if rng.next_u64() >> 63 == 0 => -1.0,
                _ => 1.0,
            })
        }
        // Channels 0 and 1 hold the maximum: no row of the embedding is zero in both.
        Content::TieNorm => small(n, spec.dtype, sink, |i| {
            let halves = if i < 2 { 254 } else { 1 + rng.below(253) };
            halves as f32 / 128.0
        }),
    }
}

fn narrow(dtype: Dtype, value: f32) -> [u8; 2] {
    match dtype {
        Dtype::BF16 => f32_to_bf16(value).to_le_bytes(),
        Dtype::F16 => f32_to_f16(value).to_le_bytes(),
        other => panic!("no 16-bit form of {}", other.name()),
    }
}

fn small(
    n: usize,
    dtype: Dtype,
    sink: &mut dyn Write,
    mut value: impl FnMut(usize) -> f32,
) -> io::Result<()> {
    let bytes: Vec<u8> = (0..n).flat_map(|i| narrow(dtype, value(i))).collect();
    sink.write_all(&bytes)
}

/// Maps a random byte to four ternary codes: the base-3 digits of byte × 81 / 256. Code 3 cannot
/// occur and each value is about a third.
fn packed_table() -> [u8; 256] {
    std::array::from_fn(|byte| {
        let digits = byte * 81 / 256;
        ((digits % 3) | ((digits / 3 % 3) << 2) | ((digits / 9 % 3) << 4) | ((digits / 27) << 6)) as u8
    })
}

const CHUNK: usize = 1 << 16;

fn bulk(rng: &mut Rng, n: usize, table: &[u8; 256], sink: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    for start in (0..n).step_by(CHUNK) {
        for eight in buffer.chunks_exact_mut(8) {
            eight.copy_from_slice(&rng.next_u64().to_le_bytes().map(|byte| table[usize::from(byte)]));
        }
        sink.write_all(&buffer[..CHUNK.min(n - start)])?;
    }
    Ok(())
}

/// Draws normal values from a table of 4096 seeded ones: an embedding of real size in well under a
/// second instead of many.
fn bulk_normal(rng: &mut Rng, n: usize, std: f32, dtype: Dtype, sink: &mut dyn Write) -> io::Result<()> {
    let table: Vec<[u8; 2]> = (0..4096).map(|_| narrow(dtype, rng.normal() * std)).collect();
    bulk_pairs(rng, n, &table, sink)
}

fn bulk_pairs(rng: &mut Rng, n: usize, table: &[[u8; 2]], sink: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    for start in (0..2 * n).step_by(CHUNK) {
        for eight in buffer.chunks_exact_mut(8) {
            let bits = rng.next_u64();
            for (i, pair) in eight.chunks_exact_mut(2).enumerate() {
                pair.copy_from_slice(&table[(bits >> (16 * i)) as usize & 4095]);
            }
        }
        sink.write_all(&buffer[..CHUNK.min(2 * n - start)])?;
    }
    Ok(())
}
