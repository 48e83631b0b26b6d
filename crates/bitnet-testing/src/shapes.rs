//! Shapes of published models, and small ones for tests.

use crate::model::{Activation, ModelShape, SyntheticFamily};

/// Names every shape [`by_name`] knows.
pub const NAMES: [&str; 22] = [
    "2b-4t",
    "large",
    "xl",
    "3b",
    "llama3-8b",
    "falcon3-1b",
    "falcon3-3b",
    "falcon3-7b",
    "falcon3-10b",
    "falcon-e-1b",
    "falcon-e-3b",
    "trilm-99m",
    "trilm-190m",
    "trilm-390m",
    "trilm-560m",
    "trilm-830m",
    "trilm-1.1b",
    "trilm-1.5b",
    "trilm-2.4b",
    "trilm-3.9b",
    "tiny",
    "tiny-llama",
];

/// Returns a published model's shape and the family its checkpoint belongs to.
///
/// "2b-4t" is microsoft/bitnet-b1.58-2B-4T; "large", "xl" and "3b" are 1bitLLM/bitnet_b1_58-*;
/// "llama3-8b" is HF1BitLLM/Llama3-8B-1.58-*; "falcon3-*" are tiiuae/Falcon3-*-1.58bit, "falcon-e-*" are
/// tiiuae/Falcon-E-*; "trilm-*" are SpectraSuite/TriLM_*_Unpacked; "tiny" and "tiny-llama" are ours.
pub fn by_name(name: &str) -> Option<(ModelShape, SyntheticFamily)> {
    Some(match name {
        "2b-4t" => (bitnet_2b_4t(), SyntheticFamily::BitNetPacked),
        "large" => (one_bit_llm(1536, 4096, 24, 16), SyntheticFamily::OneBitLlm),
        "xl" => (one_bit_llm(2048, 5460, 24, 32), SyntheticFamily::OneBitLlm),
        "3b" => (one_bit_llm(3200, 8640, 26, 32), SyntheticFamily::OneBitLlm),
        "llama3-8b" => (llama3_8b(), SyntheticFamily::LlamaBitLinear),
        "falcon3-1b" => (falcon3(2048, 8192, 18, 8), SyntheticFamily::LlamaBitLinear),
        "falcon3-3b" => (
            ModelShape { max_positions: 4096, ..falcon3(3072, 9216, 22, 12) },
            SyntheticFamily::LlamaBitLinear,
        ),
        "falcon3-7b" => (falcon3(3072, 23040, 28, 12), SyntheticFamily::LlamaBitLinear),
        "falcon3-10b" => (
            ModelShape { max_positions: 32_768, ..falcon3(3072, 23040, 40, 12) },
            SyntheticFamily::LlamaBitLinear,
        ),
        "falcon-e-1b" => (falcon_e(9216, 24), SyntheticFamily::LlamaBitLinear),
        "falcon-e-3b" => (falcon_e(13_312, 32), SyntheticFamily::LlamaBitLinear),
        "trilm-99m" => (trilm(50_304, 512, 1280, 16, 8), SyntheticFamily::TriLm),
        "trilm-190m" => (trilm(50_304, 768, 2048, 16, 12), SyntheticFamily::TriLm),
        "trilm-390m" => (trilm(50_304, 1024, 2560, 24, 16), SyntheticFamily::TriLm),
        "trilm-560m" => (trilm(50_304, 1280, 3072, 24, 20), SyntheticFamily::TriLm),
        "trilm-830m" => (trilm(50_304, 1536, 4096, 24, 24), SyntheticFamily::TriLm),
        "trilm-1.1b" => (trilm(50_432, 1792, 5120, 24, 28), SyntheticFamily::TriLm),
        "trilm-1.5b" => (trilm(50_432, 2048, 6144, 24, 32), SyntheticFamily::TriLm),
        "trilm-2.4b" => (trilm(50_304, 2304, 7680, 30, 36), SyntheticFamily::TriLm),
        "trilm-3.9b" => (trilm(50_688, 3072, 9216, 30, 24), SyntheticFamily::TriLm),
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

/// Width, heads and vocabulary follow from the tensors and bytes of the published files; the rotary base, the
/// epsilon and the context are those of Falcon3, since no configuration of Falcon-E was at hand.
fn falcon_e(intermediate: usize, layers: usize) -> ModelShape {
    ModelShape { vocab: 32_768, kv_heads: 2, head_dim: 128, ..falcon3(2048, intermediate, layers, 16) }
}

fn trilm(vocab: usize, hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelShape {
    ModelShape {
        vocab,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
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

    /// Returns the elements of the projections of all layers, and of everything else.
    fn elements(name: &str) -> (usize, usize) {
        let (s, _) = by_name(name).unwrap();
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let projections = 2 * s.hidden * (q + kv) + 3 * s.hidden * s.intermediate;
        let norms = 2 * s.hidden + if s.sub_norms { q + s.intermediate } else { 0 };
        let embeddings = if s.tied { 1 } else { 2 } * s.vocab * s.hidden;
        (s.layers * projections, embeddings + s.layers * norms + s.hidden)
    }

    /// The published parameter count of the 2B model.
    #[test]
    fn the_2b_model_has_its_parameters() {
        let (projections, others) = elements("2b-4t");
        assert_eq!(projections + others, 2_412_820_480);
    }

    /// The sizes that the hub shows for the weight files, in units of their last digit.
    #[test]
    fn files_have_their_published_sizes() {
        // Two bytes an element.
        for (name, bytes, unit) in [
            ("trilm-99m", 200, 1_000_000),
            ("trilm-390m", 785, 1_000_000),
            ("trilm-830m", 167, 10_000_000),
            ("trilm-1.5b", 303, 10_000_000),
            ("trilm-3.9b", 798, 10_000_000),
        ] {
            let (projections, others) = elements(name);
            let found = 2 * (projections + others);
            assert_eq!((found + unit / 2) / unit, bytes, "{name}: {found}");
        }
        // Four projection elements a byte.
        for (name, megabytes) in [("falcon-e-1b", 665), ("falcon-e-3b", 999)] {
            let (projections, others) = elements(name);
            assert_eq!((projections / 4 + 2 * others + 500_000) / 1_000_000, megabytes, "{name}");
        }
    }
}
