//! The inputs that drive narrow and deferred sums of ternary products to their ends.

use bitnet_kernels::layout::row_quarters::MAX_COLS;

use crate::inputs::{FIFTHS, Layout, QUARTERS, tiers};

/// Activations at their ends.
const ENDS: [i8; 3] = [-128, -127, 127];
/// Lines: one, a pair as one token takes them, and a pair with one left over.
const LINES: [usize; 3] = [1, 2, 3];
const COLS: [usize; 10] = [511, 512, 513, 1024, 2048, 2049, 4097, 65_536, MAX_COLS - 1, MAX_COLS];

/// Lines whose row `i` holds `codes[line][i]` everywhere, and tokens that hold `value(t)` everywhere.
fn check<const N: usize>(
    layout: &Layout<N>,
    codes: &[[u8; N]],
    cols: usize,
    tokens: usize,
    value: impl Fn(usize) -> i8,
) {
    let packed: Vec<u8> =
        layout.pack(codes).into_iter().flat_map(|byte| std::iter::repeat_n(byte, cols)).collect();
    let x: Vec<i8> = (0..tokens).flat_map(|t| std::iter::repeat_n(value(t), cols)).collect();
    let sums: Vec<i32> = (0..tokens).map(|t| i32::from(value(t)) * cols as i32).collect();
    let products = |codes: &[u8; N], sum: i32| codes.map(|code| (i32::from(code) - 1) * sum);
    let expected: Vec<[i32; N]> =
        codes.iter().flat_map(|codes| sums.iter().map(|&sum| products(codes, sum))).collect();
    for kernels in tiers() {
        let mut out = vec![[7; N]; codes.len() * tokens];
        ((layout.of)(kernels).i8)(&packed, &x, &sums, &mut out);
        let (isa, name) = (kernels.isa, layout.name);
        assert_eq!(out, expected, "{isa} {name}: {cols} columns of {codes:?}, {tokens} tokens");
    }
}

fn equal_codes<const N: usize>(layout: &Layout<N>) {
    for cols in COLS {
        for code in [0, 1, 2] {
            for end in ENDS {
                for lines in LINES {
                    check(layout, &vec![[code; N]; lines], cols, 1, |_| end);
                }
                check(layout, &[[code; N]], cols, 2, |_| end);
            }
        }
        for end in ENDS {
            let tokens: &[usize] = if cols <= 65_536 { &[16, 65] } else { &[16] };
            for &tokens in tokens {
                check(layout, &[[2; N]], cols, tokens, |_| end);
            }
        }
    }
}

fn unequal_codes<const N: usize>(layout: &Layout<N>) {
    for cols in COLS {
        for shift in 0..3 {
            // Rows, lines and tokens at different ends side by side: sums that spill meet others of another sign.
            let line = |line: usize| std::array::from_fn(|row| ((row + shift + line) % 3) as u8);
            let value = |t: usize| ENDS[(t + shift) % 3];
            for lines in LINES {
                let codes: Vec<[u8; N]> = (0..lines).map(line).collect();
                check(layout, &codes, cols, 1, value);
                if cols <= 65_536 {
                    check(layout, &codes, cols, 2, value);
                }
            }
            for tokens in [2, 16] {
                check(layout, &[line(0)], cols, tokens, value);
            }
            if cols <= 65_536 {
                for tokens in [3, 4, 5, 65] {
                    check(layout, &[line(0)], cols, tokens, value);
                }
            }
        }
    }
}

#[test]
fn row_quarters_are_exact_when_all_codes_are_equal() {
    equal_codes(&QUARTERS);
}

#[test]
fn row_fifths_are_exact_when_all_codes_are_equal() {
    equal_codes(&FIFTHS);
}

#[test]
fn row_quarters_are_exact_when_rows_and_tokens_pull_apart() {
    unequal_codes(&QUARTERS);
}

#[test]
fn row_fifths_are_exact_when_rows_and_tokens_pull_apart() {
    unequal_codes(&FIFTHS);
}

#[test]
fn alternating_ends_are_exact() {
    // Pairs, groups of four and blocks that cancel in whole or in part, so that an intermediate clamp shows.
    fn run<const N: usize>(layout: &Layout<N>, period: usize, cols: usize, lines: usize, tokens: usize) {
        let x: Vec<i8> = (0..tokens * cols).map(|i| [-128, 127][i / (period / 2) % 2]).collect();
        let codes: Vec<[u8; N]> =
            (0..lines * cols).map(|i| std::array::from_fn(|row| [2, 0][(i + row) % 3 / 2])).collect();
        let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
        let product = |line: &[[u8; N]], x: &[i8]| {
            std::array::from_fn(|row| {
                let term = |(c, &x): (&[u8; N], &i8)| (i32::from(c[row]) - 1) * i32::from(x);
                line.iter().zip(x).map(term).sum()
            })
        };
        let of_line = |line| x.chunks_exact(cols).map(move |x| product(line, x));
        let expected: Vec<[i32; N]> = codes.chunks_exact(cols).flat_map(of_line).collect();
        for kernels in tiers() {
            let mut out = vec![[7; N]; lines * tokens];
            ((layout.of)(kernels).i8)(&layout.pack(&codes), &x, &sums, &mut out);
            let (isa, name) = (kernels.isa, layout.name);
            assert_eq!(out, expected, "{isa} {name}: {lines} lines, {tokens} tokens, {cols} by {period}");
        }
    }
    for period in [2, 4, 8, 16, 32, 64, 512, 1024] {
        for cols in [512, 513, 2048, 4097] {
            for (lines, tokens) in [(1, 1), (2, 1), (3, 1), (1, 2)] {
                run(&QUARTERS, period, cols, lines, tokens);
                run(&FIFTHS, period, cols, lines, tokens);
            }
        }
    }
}
