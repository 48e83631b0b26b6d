//! The errors that are injected, and the tests that must notice them.

use super::Mutant;

/// Quantises each row as if the greatest magnitude so far in the pass were in it.
const PER_TENSOR_SCALE: &str = "let quantized = {
                static MOST: std::sync::Mutex<f32> = std::sync::Mutex::new(0.0);
                let mut most = MOST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *most = x.iter().fold(if token == 0 { 0.0 } else { *most }, |max, v| max.max(v.abs()));
                let mut row = x.to_vec();
                row.push(*most);
                let mut q = vec![0i8; row.len()];
                let mut quantized = (self.kernels.quantize)(&row, &mut q);
                values.copy_from_slice(&q[..width]);
                quantized.sum = values.iter().map(|&v| i32::from(v)).sum();
                quantized
            };";

/// Every mutant.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no activation quantisation",
        file: "crates/bitnet-model/src/graph.rs",
        snippet: "let int8 = mode == ActivationMode::Int8PerToken;",
        replacement: "let int8 = mode != mode;",
        package: "bitnet-inference",
        target: &["--test", "golden"],
        test: "golden_logits_agree_for_every_family",
    },
    Mutant {
        name: "one activation scale for all tokens",
        file: "crates/bitnet-core/src/cpu/pass/quantize.rs",
        snippet: "let quantized = (self.kernels.quantize)(x, values);",
        replacement: PER_TENSOR_SCALE,
        package: "bitnet-inference",
        target: &["--test", "golden"],
        test: "golden_logits_agree_for_every_family",
    },
    Mutant {
        name: "weight scale off by one percent",
        file: "crates/bitnet-core/src/cpu/pass/product.rs",
        snippet: "WeightScale::Multiply(factor) => (token_scale, factor),",
        replacement: "WeightScale::Multiply(factor) => (token_scale, factor * 1.01),",
        package: "bitnet-inference",
        target: &["--test", "golden"],
        test: "golden_logits_agree_for_every_family",
    },
    Mutant {
        name: "attention cut at 256 positions",
        file: "crates/bitnet-core/src/cpu/pass/attention.rs",
        snippet: "for index in 0..last.div_ceil(KV_BLOCK_TOKENS) {",
        replacement: "for index in last.div_ceil(KV_BLOCK_TOKENS).saturating_sub(4)..last.div_ceil(KV_BLOCK_TOKENS) {",
        package: "bitnet-inference",
        target: &["--test", "shapes"],
        test: "a_context_of_1100_tokens_matches",
    },
    Mutant {
        name: "positions shifted for one sequence of a batch",
        file: "crates/bitnet-backend/src/step.rs",
        snippet: "map(|i| (past + i) as u32)",
        replacement: "map(|i| (past + i + usize::from(seq == 1)) as u32)",
        package: "bitnet-inference",
        target: &["--test", "determinism"],
        test: "a_sequence_does_not_depend_on_those_beside_it",
    },
    Mutant {
        name: "activations truncated, in a whole model",
        file: "crates/bitnet-kernels/src/scalar/quantize.rs",
        snippet: "(x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32",
        replacement: "(x + (ROUND - ROUND)) as i32",
        package: "bitnet-inference",
        target: &["--test", "golden"],
        test: "golden_logits_agree_for_every_family",
    },
    Mutant {
        name: "activations rounded half away from zero, against reference vectors",
        file: "crates/bitnet-kernels/src/scalar/quantize.rs",
        snippet: "(x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32",
        replacement: "(x + (ROUND - ROUND)).round() as i32",
        package: "bitnet-core",
        target: &["--test", "golden_units"],
        test: "quantised_activations_are_bit_equal",
    },
    Mutant {
        name: "activations truncated instead of rounded",
        file: "crates/bitnet-kernels/src/scalar/quantize.rs",
        snippet: "(x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32",
        replacement: "(x + (ROUND - ROUND)) as i32",
        package: "bitnet-kernels",
        target: &["--lib"],
        test: "scalar::quantize::tests::halves_round_to_even",
    },
    Mutant {
        name: "activations rounded half away from zero",
        file: "crates/bitnet-kernels/src/scalar/quantize.rs",
        snippet: "(x + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32",
        replacement: "(x + (ROUND - ROUND)).round() as i32",
        package: "bitnet-kernels",
        target: &["--lib"],
        test: "scalar::quantize::tests::halves_round_to_even",
    },
    Mutant {
        name: "positions of a batch ignore the cached past",
        file: "crates/bitnet-backend/src/step.rs",
        snippet: "map(|i| (past + i) as u32)",
        replacement: "map(|i| i as u32)",
        package: "bitnet-backend",
        target: &["--lib"],
        test: "step::tests::a_batch_lays_out_its_sequences",
    },
    Mutant {
        name: "a block id beyond the cache is let through",
        file: "crates/bitnet-backend/src/step.rs",
        snippet: "block.0 as usize >= kv_blocks",
        replacement: "block.0 as usize > kv_blocks",
        package: "bitnet-backend",
        target: &["--lib"],
        test: "step::tests::each_inconsistency_is_refused_by_name",
    },
];
