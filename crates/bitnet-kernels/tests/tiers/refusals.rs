//! Arguments from which an offset would wrap: every tier refuses them before it reads or writes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bitnet_kernels::layout::row_fifths;
use bitnet_kernels::scalar::attention::{MAX_HEAD_DIM, ROWS, scratch_len, stride};
use bitnet_kernels::{AttentionBlock, AttentionState, KvRows};

use crate::inputs::tiers;

/// Runs what has to panic and returns what it says.
fn refusal(call: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(call)).expect_err("a refusal");
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[test]
fn lines_whose_distance_wraps_are_refused() {
    // Seven times this is five past the end of the address space.
    const WRAPS: usize = usize::MAX / 7 + 1;
    for kernels in tiers() {
        for (step, len) in [(WRAPS, 8), (usize::MAX, 8), (usize::MAX / 2 + 1, 3), (2, 4), (1, 7)] {
            let mut rows = [[0.0f32; 8]; 4];
            let mut out = rows.each_mut().map(|row| &mut row[..len]);
            let text = refusal(|| (kernels.dequantize)(&[[1; 4]; 6], step, (1.0, 1.0), false, &mut out));
            assert_eq!(text, format!("{len} lines {step} apart"), "{}", kernels.isa);
        }
    }
}

/// Calls `attend` on every tier with 64 elements of keys and of values, and returns what each says.
fn attend(head_dim: usize, rows: usize, count: usize, queried: usize) -> Vec<String> {
    let (kv, queries) = ([0.0f32; 64], vec![0.0f32; queried]);
    let block = AttentionBlock { keys: KvRows::F32(&kv), values: KvRows::F32(&kv), head_dim, scale: 1.0 };
    let (mut states, mut out) = (vec![AttentionState::EMPTY; rows], queries.clone());
    let mut scratch = vec![0.0; 1 << 20];
    let attend = |kernels: &bitnet_kernels::Kernels| {
        let call =
            || (kernels.attend)(block, &vec![count; rows], &queries, &mut states, &mut out, &mut scratch);
        format!("{} {}", kernels.isa, refusal(call))
    };
    tiers().into_iter().map(attend).collect()
}

#[test]
fn heads_and_rows_beyond_their_limits_are_refused() {
    // Five times this is 64 past the end of the address space, and 65 times is 832 past it: with five rows all slices
    // seem to fit.
    let fifth = (usize::MAX / 5).next_multiple_of(32);
    for (head_dim, rows, count) in
        [(fifth, 5, 5), (usize::MAX, 1, 1), (MAX_HEAD_DIM + 1, 1, 1), (0, 1, 1), (64, ROWS + 1, 1)]
    {
        for text in attend(head_dim, rows, count, 64) {
            assert!(text.ends_with(&format!("{rows} rows of heads of {head_dim}")), "{text}");
        }
    }
}

#[test]
fn counts_and_slices_that_do_not_fit_are_refused() {
    let (head_dim, rows) = (64, 2);
    assert!(scratch_len(rows, head_dim) < 1 << 20);
    for (count, queried, expected) in [
        (0, rows * stride(head_dim), "positions of a block"),
        (65, rows * stride(head_dim), "positions of a block"),
        (1, rows * stride(head_dim) + 1, "rows of a call"),
        (2, rows * stride(head_dim), "keys and values of a block"),
    ] {
        for text in attend(head_dim, rows, count, queried) {
            assert!(text.ends_with(expected), "{text}");
        }
    }
}

#[test]
fn lines_past_the_last_are_not_repacked() {
    for first in [2, usize::MAX] {
        let text = refusal(|| row_fifths::repack(&[0; 6], 9, 2, first, &mut [0; 2]));
        assert_eq!(text, "lines of 9");
    }
}
