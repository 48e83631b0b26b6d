//! Ternary products of int8 activations against their definition in 64 bits.

use crate::inputs::{
    BLOCK_COLS, COLS, EVERY_TOKENS, FIFTHS, LINES, Layout, QUARTERS, TOKENS, codes, int8, tiers,
};

/// `[lines, tokens]` of the rows of a line, by definition.
fn products<const N: usize>(codes: &[[u8; N]], cols: usize, x: &[i8]) -> Vec<[i32; N]> {
    let product = |line: &[[u8; N]], x: &[i8]| {
        let mut sums = [0i64; N];
        for (codes, &x) in line.iter().zip(x) {
            for (sum, &code) in sums.iter_mut().zip(codes) {
                *sum += (i64::from(code) - 1) * i64::from(x);
            }
        }
        sums.map(|sum| i32::try_from(sum).unwrap())
    };
    let of_line = |line| x.chunks_exact(cols).map(move |x| product(line, x));
    codes.chunks_exact(cols).flat_map(of_line).collect()
}

fn check<const N: usize>(layout: &Layout<N>, lines: usize, tokens: usize, cols: usize) {
    let (codes, x) = (codes::<N>(lines * cols), int8(tokens * cols));
    let packed = layout.pack(&codes);
    let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum::<i32>()).collect();
    let expected = products(&codes, cols, &x);
    for kernels in tiers() {
        // What was there before must not come through.
        let mut out = vec![[i32::MIN + 7; N]; lines * tokens];
        ((layout.of)(kernels).i8)(&packed, &x, &sums, &mut out);
        let wrong = out.iter().zip(&expected).position(|(a, b)| a != b);
        let at = wrong.map(|at| (at / tokens, at % tokens, out[at], expected[at]));
        let (isa, name) = (kernels.isa, layout.name);
        assert_eq!(at, None, "{isa} {name}: {lines} lines, {tokens} tokens, {cols} columns");
    }
}

fn every_count<const N: usize>(layout: &Layout<N>) {
    for lines in LINES {
        for tokens in TOKENS {
            for cols in [1, 15, 33, 97, 1030] {
                check(layout, lines, tokens, cols);
            }
        }
    }
    for tokens in EVERY_TOKENS {
        check(layout, 2, tokens, 97);
    }
}

fn every_length<const N: usize>(layout: &Layout<N>) {
    for cols in (1..=130).chain(COLS).chain(BLOCK_COLS) {
        // One token of two lines and more, as it is decoded, takes ways of its own.
        for (lines, tokens) in [(1, 1), (2, 1), (3, 1), (2, 2), (3, 5), (2, 16), (3, 17)] {
            check(layout, lines, tokens, cols);
        }
    }
    // Many tokens take other ways through a long row.
    for cols in [2047, 2048, 2049, 2560, 4097, 6912] {
        check(layout, 3, 65, cols);
    }
}

#[test]
fn any_count_of_lines_and_tokens_is_exact_in_row_quarters() {
    every_count(&QUARTERS);
}

#[test]
fn any_count_of_lines_and_tokens_is_exact_in_row_fifths() {
    every_count(&FIFTHS);
}

#[test]
fn any_length_of_a_line_is_exact_in_row_quarters() {
    every_length(&QUARTERS);
}

#[test]
fn any_length_of_a_line_is_exact_in_row_fifths() {
    every_length(&FIFTHS);
}

#[test]
fn empty_calls_write_zeros_or_nothing() {
    for kernels in tiers() {
        (kernels.row_quarters.i8)(&[0; 6], &[], &[], &mut []);
        (kernels.row_fifths.i8)(&[0; 6], &[], &[], &mut []);
        let (mut quarters, mut fifths) = ([[7; 4]; 6], [[7; 5]; 6]);
        (kernels.row_quarters.i8)(&[], &[], &[0; 3], &mut quarters);
        (kernels.row_fifths.i8)(&[], &[], &[0; 3], &mut fifths);
        assert_eq!((quarters, fifths), ([[0; 4]; 6], [[0; 5]; 6]), "{}", kernels.isa);
    }
}

/// Rows of every line but the first that are there; the bits of others are all ones.
///
/// Loaders refuse code 3 in a row that is there; absent rows may hold it, and so may what a backend is given unseen: it
/// must reach neither other rows nor memory that is not there.
fn absent<const N: usize>(layout: &Layout<N>, rows: usize, x: &[i8], tokens: usize) {
    const LINES: usize = 3;
    let cols = x.len() / tokens;
    let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
    let codes = codes::<N>(LINES * cols);
    let expected = products(&codes, cols, x);
    let mut packed = layout.pack(&codes);
    // In base 3 no bit belongs to a row.
    let ones = if N == 4 { 0xff_u8.checked_shl(2 * rows as u32).unwrap_or(0) } else { 0xff };
    packed[cols..].iter_mut().for_each(|byte| *byte |= ones);
    let there = |of: &[[i32; N]]| -> Vec<i32> {
        let (first, others) = of.split_at(tokens);
        let others = others.iter().flat_map(|products| &products[..if N == 4 { rows } else { 0 }]);
        first.as_flattened().iter().chain(others).copied().collect()
    };
    for kernels in tiers() {
        let text = format!("{} {}: {rows} rows, {tokens} tokens, {cols} columns", kernels.isa, layout.name);
        let mut out = vec![[7; N]; LINES * tokens];
        ((layout.of)(kernels).i8)(&packed, x, &sums, &mut out);
        assert_eq!(there(&out), there(&expected), "{text}");
        let x: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let mut floats = vec![[7.0; N]; LINES * tokens];
        ((layout.of)(kernels).f32)(&packed, cols, &x, &mut floats);
        // Sums of these integers are exact in f32 too.
        let floats: Vec<[i32; N]> = floats.iter().map(|of| of.map(|product| product as i32)).collect();
        assert_eq!(there(&floats), there(&expected), "{text}");
    }
}

#[test]
fn what_stands_in_absent_rows_changes_no_other_on_any_tier() {
    for (tokens, cols) in [1, 2, 5, 16, 65].into_iter().flat_map(|t| [1, 31, 97, 512, 2560].map(|c| (t, c))) {
        for x in [int8(tokens * cols), vec![-128; tokens * cols], vec![127; tokens * cols]] {
            for rows in 1..4 {
                absent(&QUARTERS, rows, &x, tokens);
            }
            absent(&FIFTHS, 0, &x, tokens);
        }
    }
}
