//! Int8 rows with 16-bit activations against their definition in 64 bits.

use bitnet_kernels::scalar::int8::limit;

use crate::inputs::{BLOCK_COLS, COLS, EVERY_TOKENS, LINES, TOKENS, period, tiers};

/// Rows and tokens that meet at the ends of their ranges: one row, pairs of them and what is left, tiles of tokens.
const ENDS: [(usize, usize); 4] = [(1, 1), (2, 1), (3, 1), (2, 5)];

fn check(rows: &[i8], cols: usize, x: &[i16], text: &str) {
    let tokens = x.len() / cols;
    let product = |row: &[i8], x: &[i16]| -> i32 {
        let sum: i64 = row.iter().zip(x).map(|(&w, &x)| i64::from(w) * i64::from(x)).sum();
        i32::try_from(sum).unwrap()
    };
    let expected: Vec<i32> =
        rows.chunks_exact(cols).flat_map(|row| x.chunks_exact(cols).map(move |x| product(row, x))).collect();
    for kernels in tiers() {
        let mut out = vec![i32::MIN + 7; expected.len()];
        (kernels.int8_i16)(rows, cols, x, &mut out);
        let wrong = out.iter().zip(&expected).position(|(a, b)| a != b);
        let at = wrong.map(|at| (at / tokens, at % tokens, out[at], expected[at]));
        assert_eq!(at, None, "{} {text}: {cols} columns, {tokens} tokens", kernels.isa);
    }
}

/// Weights in -127..=127.
fn weights(n: usize) -> Vec<i8> {
    (0..n).map(|i| (period(i) - 125 + (i % 5) as i32 - 2) as i8).collect()
}

/// Activations over the whole range of `cols` columns, both ends included.
fn activations(n: usize, cols: usize) -> Vec<i16> {
    let limit = limit(cols);
    let value = |i: usize| ((period(i + 17) - 125) * limit / 124).clamp(-limit, limit) as i16;
    (0..n).map(value).collect()
}

#[test]
fn any_count_of_rows_and_tokens_is_exact() {
    for rows in LINES {
        for tokens in TOKENS {
            for cols in [1, 15, 33, 97, 1030] {
                check(&weights(rows * cols), cols, &activations(tokens * cols, cols), "counts");
            }
        }
    }
    for tokens in EVERY_TOKENS {
        check(&weights(2 * 97), 97, &activations(tokens * 97, 97), "counts");
    }
}

#[test]
fn any_length_of_a_row_is_exact() {
    for cols in (1..=130).chain(COLS).chain(BLOCK_COLS).chain([65_535, 65_536]) {
        for (rows, tokens) in [(1, 1), (2, 1), (3, 1), (2, 2), (3, 5)] {
            check(&weights(rows * cols), cols, &activations(tokens * cols, cols), "lengths");
        }
    }
}

#[test]
fn the_greatest_sums_are_exact() {
    for cols in [1, 2, 7, 16, 515, 516, 517, 2048, 2049, 2560, 6912, 65_535, 65_536] {
        let limit = limit(cols) as i16;
        for weight in [-127i8, 127] {
            for value in [-limit, limit] {
                for (rows, tokens) in ENDS {
                    check(&vec![weight; rows * cols], cols, &vec![value; tokens * cols], "ends");
                }
            }
            // Signs that alternate with their activations give the same sums by other partial ones.
            let rows: Vec<i8> = (0..cols).map(|i| if i % 3 == 0 { weight } else { -weight }).collect();
            let x: Vec<i16> = (0..cols).map(|i| if i % 3 == 0 { limit } else { -limit }).collect();
            check(&rows.repeat(3), cols, &x, "matching signs");
            let half: Vec<i16> = (0..cols).map(|i| if i < cols / 2 { limit } else { -limit }).collect();
            check(&vec![weight; 3 * cols], cols, &half, "two halves");
        }
    }
}

#[test]
fn empty_calls_write_zeros_or_nothing() {
    for kernels in tiers() {
        (kernels.int8_i16)(&[1; 6], 3, &[], &mut []);
        let mut out = [7; 4];
        (kernels.int8_i16)(&[], 0, &[], &mut out);
        assert_eq!(out, [0; 4], "{}", kernels.isa);
    }
}

#[test]
fn the_limit_is_the_greatest_that_cannot_overflow() {
    for cols in [1, 2, 515, 516, 517, 2560, 65_536, 1 << 20] {
        let greatest = i64::from(limit(cols)) * 127 * cols as i64;
        let next = i64::from(limit(cols) + 1) * 127 * cols as i64;
        assert!(greatest <= i64::from(i32::MAX), "{cols}");
        assert!(next > i64::from(i32::MAX) || limit(cols) == i32::from(i16::MAX), "{cols}");
    }
    assert!(limit(bitnet_kernels::scalar::narrow::MAX_COLS) >= 255);
}
