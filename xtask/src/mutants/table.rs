//! The errors that are injected, and the tests that must notice them.

use super::Mutant;

/// Every mutant.
pub const MUTANTS: &[Mutant] = &[
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
