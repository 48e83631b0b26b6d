//! Six-bit rows with activations in two planes against their definition in 64 bits.

use bitnet_kernels::layout::int6_rows::{pack_row, padded, row_bytes};
use bitnet_kernels::scalar::int6::{limit, split};
use bitnet_kernels::scalar::narrow::MAX_COLS;

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
    let mut packed = vec![0; rows.len() / cols * row_bytes(cols)];
    for (row, packed) in rows.chunks_exact(cols).zip(packed.chunks_exact_mut(row_bytes(cols))) {
        pack_row(row, packed);
    }
    let mut planes = vec![99; 2 * padded(cols) * tokens];
    let each = x.chunks_exact(cols).zip(planes.chunks_exact_mut(2 * padded(cols)));
    let sums: Vec<i32> = each.map(|(x, planes)| split(x, planes)).collect();
    for kernels in tiers() {
        let mut out = vec![i32::MIN + 7; expected.len()];
        (kernels.int6_planes)(&packed, &planes, &sums, &mut out);
        let wrong = out.iter().zip(&expected).position(|(a, b)| a != b);
        let at = wrong.map(|at| (at / tokens, at % tokens, out[at], expected[at]));
        assert_eq!(at, None, "{} {text}: {cols} columns, {tokens} tokens", kernels.isa);
    }
}

/// Weights in -31..=31.
fn weights(n: usize) -> Vec<i8> {
    (0..n).map(|i| ((period(i) + (i % 5) as i32) % 63 - 31) as i8).collect()
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
            for cols in [1, 33, 257, 1030] {
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
    for cols in (1..=260).step_by(3).chain(COLS).chain(BLOCK_COLS).chain([65_535, MAX_COLS]) {
        for (rows, tokens) in [(1, 1), (2, 1), (3, 1), (2, 2), (3, 5)] {
            check(&weights(rows * cols), cols, &activations(tokens * cols, cols), "lengths");
        }
    }
}

#[test]
fn the_greatest_sums_are_exact() {
    for cols in [1, 2, 255, 256, 2048, 2560, 6912, 8523, 8524, 65_535, MAX_COLS] {
        // The greatest in magnitude, and those that make the planes' the greatest.
        let ends = [limit(cols), limit(cols) - 127, limit(cols).min(64), limit(cols).min(63)];
        for (weight, value) in ends.into_iter().flat_map(|x| [(31i8, x as i16), (-31, x as i16)]) {
            for value in [value, -value] {
                for (rows, tokens) in ENDS {
                    check(&vec![weight; rows * cols], cols, &vec![value; tokens * cols], "ends");
                }
            }
            // Signs that alternate with their activations give the same sums by other partial ones.
            let rows: Vec<i8> = (0..cols).map(|i| if i % 3 == 0 { weight } else { -weight }).collect();
            let x: Vec<i16> = (0..cols).map(|i| if i % 3 == 0 { value } else { -value }).collect();
            check(&rows.repeat(3), cols, &x, "matching signs");
            let half: Vec<i16> = (0..cols).map(|i| if i < cols / 2 { value } else { -value }).collect();
            check(&vec![weight; 3 * cols], cols, &half, "two halves");
        }
    }
}

#[test]
fn planes_are_the_activation_for_every_value_in_the_limit() {
    let most = limit(1) as i16;
    let x: Vec<i16> = (-most..=most).collect();
    let width = padded(x.len());
    let mut planes = vec![99; 2 * width];
    assert_eq!(split(&x, &mut planes), 0);
    let (high, low) = planes.split_at(width);
    for ((&x, &high), &low) in x.iter().zip(high).zip(low) {
        assert_eq!(i32::from(x), 128 * i32::from(high) + i32::from(low));
        assert!((-64..=63).contains(&high) && (-64..=63).contains(&low), "{x}");
    }
    assert!(high[x.len()..].iter().chain(&low[x.len()..]).all(|&pad| pad == 0));
}

#[test]
fn the_limit_is_the_greatest_that_cannot_overflow() {
    for cols in [1, 2, 8523, 8524, 2560, MAX_COLS, 1 << 20] {
        let greatest = i64::from(limit(cols)) * 31 * cols as i64;
        let next = i64::from(limit(cols) + 1) * 31 * cols as i64;
        assert!(greatest <= i64::from(i32::MAX), "{cols}");
        assert!(next > i64::from(i32::MAX) || limit(cols) == 63 * 128 + 63, "{cols}");
    }
    assert!(limit(MAX_COLS) >= 255);
}

#[test]
fn empty_calls_write_zeros_or_nothing() {
    for kernels in tiers() {
        (kernels.int6_planes)(&[1; 192], &[], &[], &mut []);
        let mut out = [7; 4];
        (kernels.int6_planes)(&[], &[], &[0; 2], &mut out);
        assert_eq!(out, [0; 4], "{}", kernels.isa);
    }
}
