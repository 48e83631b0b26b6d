//! Shapes of published models, and small ones for tests.

use crate::model::{Activation, ModelShape, SyntheticFamily};

/// Names every shape [`by_name`] knows.
pub const NAMES: [&str; 11] = [
    "2b-4t",
    "large",
    "xl",
    "3b",
    "llama3-8b",
    "falcon3-1b",
    "falcon3-3b",
    "falcon3-7b",
    "trilm-99m",
    "tiny",
    "tiny-llama",
];

/// Returns a published model's shape and the family its checkpoint belongs to.
///
/// "2b-4t" is microsoft/bitnet-b1.58-2B-4T; "large", "xl" and "3b" are 1bitLLM/bitnet_b1_58-*;
/// "llama3-8b" is HF1BitLLM/Llama3-8B-1.58-*; "falcon3-*" are tiiuae/Falcon3-*-1.58bit; "trilm-99m" is
/// SpectraSuite/TriLM_99M_Unpacked; "tiny" and "tiny-llama" are ours.
pub fn by_name(name: &str) -> Option<(ModelShape, SyntheticFamily)> {
    Some(match name {
        "2b-4t" => (bitnet_2b_4t(), SyntheticFamily::BitNetPacked),
        "large" => (one_bit_llm(1536, 4096, 24, 16), SyntheticFamily::OneBitLlm),
        "xl" => (one_bit_llm(2048, 5460, 24, 32), SyntheticFamily::OneBitLlm),
        "3b" => (one_bit_llm(3200, 8640, 26, 32), SyntheticFamily::OneBitLlm),
        "llama3-8b" => (llama3_8b(), SyntheticFamily::LlamaBitLinear),
        "falcon3-1b" => (falcon3(2048, 8192, 18, 8), SyntheticFamily::LlamaBitLinear),
        "falcon3-3b" => (falcon3(3072, 9216, 22, 12), SyntheticFamily::LlamaBitLinear),
        "falcon3-7b" => (falcon3(3072, 23040, 28, 12), SyntheticFamily::LlamaBitLinear),
        "trilm-99m" => (trilm_99m(), SyntheticFamily::TriLm),
        "tiny" => (tiny(), SyntheticFamily::BitNetPacked),
        "tiny-llama" => (tiny_llama(), SyntheticFamily::LlamaBitLinear),
        _ => return None,
    })
}

/// Returns a small BitNet shape: grouped queries, two layers, tied head, a context of 2048.
///
/// Serves BitNetPacked, BitNetMaster and (with `activation` SiLU) OneBitLlm.
pub fn tiny() -> ModelShape {
    ModelShape {
        vocab: 320,
        hidden: 256,
        intermediate: 512,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        max_positions: 2048,
        rope_theta: 500_000.0,
        rms_eps: 1e-5,
        tied: true,
        use_rms_norm: false,
        activation: Activation::Relu2,
        sub_norms: true,
    }
}

/// Returns a small plain Llama shape whose heads are together wider than the residual stream.
///
/// Serves LlamaBitLinear and TriLm.
pub fn tiny_llama() -> ModelShape {
    ModelShape { head_dim: 128, tied: false, activation: Activation::Silu, sub_norms: false, ..tiny() }
}

fn bitnet_2b_4t() -> ModelShape {
    ModelShape {
        vocab: 128_256,
        hidden: 2560,
        intermediate: 6912,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        max_positions: 4096,
        ..tiny()
    }
}

fn one_bit_llm(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelShape {
    ModelShape {
        vocab: 32_002,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        rope_theta: 10_000.0,
        activation: Activation::Silu,
        ..tiny()
    }
}

fn falcon3(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelShape {
    ModelShape {
        vocab: 131_072,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads: 4,
        head_dim: 256,
        max_positions: 8192,
        rope_theta: 1_000_042.0,
        rms_eps: 1e-6,
        ..tiny_llama()
    }
}

fn llama3_8b() -> ModelShape {
    ModelShape {
        vocab: 128_256,
        hidden: 4096,
        intermediate: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        max_positions: 8192,
        ..tiny_llama()
    }
}

fn trilm_99m() -> ModelShape {
    ModelShape {
        vocab: 50_304,
        hidden: 512,
        intermediate: 1280,
        layers: 16,
        heads: 8,
        kv_heads: 8,
        head_dim: 64,
        rope_theta: 10_000.0,
        ..tiny_llama()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SyntheticModel;

    #[test]
    fn every_name_gives_a_shape_its_family_accepts() {
        for name in NAMES {
            let (shape, family) = by_name(name).unwrap();
            SyntheticModel::new(shape, family, 0);
        }
        assert!(by_name("4t").is_none());
    }

    /// The published parameter count of the 2B model.
    #[test]
    fn the_2b_model_has_its_parameters() {
        let (s, _) = by_name("2b-4t").unwrap();
        let kv = s.kv_heads * s.head_dim;
        let layer =
            2 * s.hidden * (s.hidden + kv) + 3 * s.hidden * s.intermediate + 3 * s.hidden + s.intermediate;
        assert_eq!(s.vocab * s.hidden + s.layers * layer + s.hidden, 2_412_820_480);
    }
}
