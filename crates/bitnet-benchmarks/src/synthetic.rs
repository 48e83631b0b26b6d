//! Models of published shapes with random weights, made in memory.

use std::sync::Arc;

use bitnet_core::backend::{
    BitNetDType, Device, LinearWeights, TernaryWire, WeightBytes, WeightScale, WeightStorage,
};
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_inference::model::config::ModelClass;
use bitnet_inference::model::{
    ActivationMode, Family, Head, Layer, Model, ModelConfig, NormWeights, Projection,
};
use half::bf16;

use crate::BenchError;
use crate::shape::Shape;

/// Longest sequence of a synthetic model.
const MAX_POSITIONS: usize = 4096;
const RMS_EPS: f32 = 1e-5;

/// A generator of 64 random bits (splitmix64: Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Four codes a byte, each 0, 1 or 2 alike often.
    fn codes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let bits = self.next();
            for lane in 0..4u32 {
                // 16 bits scaled to 0..81: the four base-3 digits.
                let number = ((bits >> (16 * lane) & 0xffff) * 81) >> 16;
                let digit = |place: u64| (number / place % 3) as u8;
                out.push(digit(1) | digit(3) << 2 | digit(9) << 4 | digit(27) << 6);
            }
        }
        out.truncate(len);
        out
    }

    /// The sum of four uniform numbers, of standard deviation `scale`.
    fn normal(&mut self, scale: f32) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|lane| bits >> (16 * lane) & 0xffff).sum();
        (sum as f32 / 65_536.0 - 2.0) * 1.732_050_8 * scale
    }
}

/// Makes a model with `layers` layers of `shape`; the same seed gives the same weights.
pub fn model(shape: &Shape, layers: usize, seed: u64) -> Model {
    let mut random = Random(seed);
    let config = config(shape, layers);
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (hidden, wide) = (shape.hidden, shape.intermediate);
    let layers = (0..layers)
        .map(|index| {
            let norm = |part: &str, width| norm(&format!("layer {index} {part}"), width);
            let mut linear = |part: &str, rows, cols| ternary(&mut random, index, part, rows, cols);
            Layer {
                input_norm: norm("input norm", hidden),
                q: linear("q", q, hidden),
                k: linear("k", kv, hidden),
                v: linear("v", kv, hidden),
                attn_sub_norm: Some(norm("attention norm", q)),
                o: linear("o", hidden, q),
                post_norm: norm("post norm", hidden),
                gate: linear("gate", wide, hidden),
                up: linear("up", wide, hidden),
                ffn_sub_norm: Some(norm("feed-forward norm", wide)),
                down: linear("down", hidden, wide),
            }
        })
        .collect();
    let scale = 1.0 / (hidden as f32).sqrt();
    let bytes: Vec<u8> =
        (0..shape.vocab * hidden).flat_map(|_| bf16::from_f32(random.normal(scale)).to_le_bytes()).collect();
    let storage = WeightStorage::Dense { dtype: BitNetDType::BF16, bytes: WeightBytes::from(bytes) };
    let embedding =
        LinearWeights { name: "embedding".into(), rows: shape.vocab, cols: hidden, storage, bias: None };
    Model {
        config,
        family: Family::BitNetB158Packed,
        activations: ActivationMode::Int8PerToken,
        assumptions: Vec::new(),
        layers,
        embedding,
        head: Head::Tied,
        final_norm: norm("final norm", hidden),
        tensors: Vec::new(),
    }
}

/// Weights in a pool, whose memory is on huge pages where the system has them.
struct Copied(PoolBuffer<u8>);

impl AsRef<[u8]> for Copied {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Copies all matrices to huge pages, as `--weights copy` does with files.
///
/// # Errors
/// The system refuses the memory.
pub fn copied(mut model: Model) -> Result<Model, BenchError> {
    let pool = HybridMemoryPool::new()?;
    let copy = |weights: &mut LinearWeights| -> Result<(), BenchError> {
        if let WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } =
            &mut weights.storage
        {
            let mut copy = PoolBuffer::zeroed(&pool, bytes.len(), &Device::Cpu, &weights.name)?;
            copy.copy_from_slice(bytes);
            *bytes = WeightBytes::new(Arc::new(Copied(copy)));
        }
        Ok(())
    };
    copy(&mut model.embedding)?;
    if let Head::Separate(head) = &mut model.head {
        copy(head)?;
    }
    for Layer { q, k, v, o, gate, up, down, .. } in &mut model.layers {
        for projection in [q, k, v, o, gate, up, down] {
            copy(&mut projection.weights)?;
        }
    }
    Ok(model)
}

fn config(shape: &Shape, layers: usize) -> ModelConfig {
    ModelConfig {
        model_type: "bitnet".into(),
        architecture: "BitNetForCausalLM".into(),
        class: ModelClass::BitNet,
        hidden: shape.hidden,
        intermediate: shape.intermediate,
        layers,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim(),
        vocab: shape.vocab,
        max_positions: MAX_POSITIONS,
        rms_eps: RMS_EPS,
        rope_theta: shape.rope_theta,
        activation: shape.activation,
        tied: Some(true),
        attention_bias: false,
        mlp_bias: false,
        bos: None,
        eos: Vec::new(),
        one_bit_fields: false,
        quantisation: None,
        assumptions: Vec::new(),
    }
}

fn norm(name: &str, width: usize) -> NormWeights {
    NormWeights { name: name.into(), values: vec![1.0; width], eps: RMS_EPS }
}

fn ternary(random: &mut Random, layer: usize, part: &str, rows: usize, cols: usize) -> Projection {
    let bytes = WeightBytes::from(random.codes(rows.div_ceil(4) * cols));
    // A unit gain for inputs of unit size: two of three weights are not zero.
    let scale = WeightScale::Multiply(1.0 / (cols as f32 * 2.0 / 3.0).sqrt());
    let storage = WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes, scale };
    let weights = LinearWeights { name: format!("layer {layer} {part}"), rows, cols, storage, bias: None };
    Projection { weights, norm: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ternary_and_balanced() {
        let codes = Random(1).codes(30_001);
        let mut counts = [0usize; 4];
        for byte in &codes {
            (0..4).for_each(|lane| counts[usize::from(byte >> (2 * lane) & 3)] += 1);
        }
        assert_eq!((codes.len(), counts[3]), (30_001, 0));
        assert!(counts[..3].iter().all(|&count| (38_000..42_000).contains(&count)), "{counts:?}");
    }

    #[test]
    fn copied_weights_are_the_same_bytes_elsewhere() {
        let shape = Shape { vocab: 40, hidden: 64, intermediate: 96, ..crate::shape::SHAPES[3] };
        let before = model(&shape, 2, 3);
        let after = copied(before.clone()).unwrap();
        assert_eq!(before.matrices().count(), after.matrices().count());
        for (before, after) in before.matrices().zip(after.matrices()) {
            let stored = |weights: &LinearWeights| match &weights.storage {
                WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } => bytes.clone(),
                other => panic!("{other:?}"),
            };
            let (before, after) = (stored(before), stored(after));
            assert!(*before == *after && before.as_ptr() != after.as_ptr());
        }
    }

    #[test]
    fn a_seed_gives_one_model() {
        let shape = Shape {
            vocab: 40,
            hidden: 64,
            intermediate: 96,
            heads: 4,
            kv_heads: 2,
            ..crate::shape::SHAPES[3]
        };
        let bytes = |seed| model(&shape, 1, seed).matrices().map(LinearWeights::stored_bytes).sum::<usize>();
        assert_eq!(bytes(1), bytes(2));
        let first = |seed| match &model(&shape, 1, seed).layers[0].q.weights.storage {
            WeightStorage::Ternary { bytes, .. } => bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
