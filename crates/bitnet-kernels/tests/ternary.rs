//! Ternary products of every available tier and layout against their definition.
//!
//! Sizes stand at the boundaries of vectors, tiles, blocks and deferred sums, plus and minus one; inputs have
//! the prime period 251, so that exchanged blocks cannot cancel.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_kernels::layout::row_quarters::MAX_COLS;
use bitnet_kernels::layout::{row_fifths, row_quarters};
use bitnet_kernels::{Isa, Kernels, TernaryKernels};

fn tiers() -> Vec<&'static Kernels> {
    Isa::available().map(|isa| Kernels::for_isa(isa).unwrap()).collect()
}

fn period(i: usize) -> i32 {
    (i % 251 * 7919 % 251) as i32
}

fn int8(n: usize) -> Vec<i8> {
    (0..n).map(|i| (period(i) - 125).clamp(-128, 127) as i8).collect()
}

/// Row-major values of `lines * N` rows.
fn values(rows: usize, cols: usize) -> Vec<i8> {
    (0..rows * cols).map(|i| (period(i + i / cols * 61) % 3 - 1) as i8).collect()
}

fn sums(x: &[i8], cols: usize) -> Vec<i32> {
    x.chunks_exact(cols).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect()
}

/// Checks all lines and tokens against the definition, in 64 bits; `out` is `[lines, tokens]`.
fn check<const N: usize>(values: &[i8], x: &[i8], cols: usize, out: &[[i32; N]], what: &str) {
    let (lines, tokens) = (values.len() / cols / N, x.len() / cols);
    assert_eq!(out.len(), lines * tokens);
    for (line, out) in out.chunks_exact(tokens).enumerate() {
        for (token, out) in out.iter().enumerate() {
            let x = &x[token * cols..][..cols];
            for (part, &found) in out.iter().enumerate() {
                let row = &values[(part * lines + line) * cols..][..cols];
                let expected: i64 = row.iter().zip(x).map(|(&w, &x)| i64::from(w) * i64::from(x)).sum();
                assert_eq!(i64::from(found), expected, "{what}: line {line}, part {part}, token {token}");
            }
        }
    }
}

fn run<const N: usize>(
    kernels: &TernaryKernels<N>,
    pack: impl Fn(&[i8], usize, usize) -> Vec<u8>,
    (lines, tokens, cols): (usize, usize, usize),
    what: &str,
) {
    let (values, x) = (values(lines * N, cols), int8(tokens * cols));
    let mut out = vec![[i32::MAX; N]; lines * tokens];
    (kernels.i8)(&pack(&values, lines * N, cols), &x, &sums(&x, cols), &mut out);
    check(&values, &x, cols, &out, what);
}

fn quarters(values: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut out = vec![0; row_quarters::packed_len(rows, cols).unwrap()];
    row_quarters::pack(values, rows, cols, &mut out);
    out
}

fn fifths(values: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut out = vec![0; row_fifths::packed_len(rows, cols).unwrap()];
    row_fifths::pack(values, rows, cols, &mut out);
    out
}

#[test]
fn products_are_exact_on_every_tier_for_all_lines_and_tokens() {
    let mut sizes = Vec::new();
    for cols in [1, 31, 32, 33, 63, 64, 65, 127, 255, 257, 511, 512, 513, 1024, 2047, 2048, 2049, 4097] {
        sizes.extend([(1, 1, cols), (3, 2, cols), (2, 5, cols), (3, 25, cols)]);
    }
    for tokens in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 23, 24, 33, 130] {
        sizes.extend([(1, tokens, 300), (5, tokens, 96), (17, tokens, 33)]);
    }
    sizes.push((2, 24, 6912));
    for kernels in tiers() {
        for &size in &sizes {
            let what = format!("{} {size:?}", kernels.isa);
            run(&kernels.row_quarters, quarters, size, &format!("quarters {what}"));
            run(&kernels.row_fifths, fifths, size, &format!("fifths {what}"));
        }
    }
}

#[test]
fn products_are_exact_at_the_edge_of_deferred_sums() {
    // All weights equal and activations at their ends: the case in which partial sums are greatest.
    for kernels in tiers() {
        for (cols, tokens) in
            [(512, 1), (2048, 24), (2049, 4), (65_536, 1), (65_536, 24), (MAX_COLS, 1), (MAX_COLS, 4)]
        {
            for weight in [-1i8, 0, 1] {
                for value in [-128i8, -127, 127] {
                    let x = vec![value; tokens * cols];
                    let totals = vec![i32::from(value) * cols as i32; tokens];
                    let expected = i32::from(weight) * i32::from(value) * cols as i32;
                    let what = format!("{} {cols} x {tokens}, {weight} by {value}", kernels.isa);
                    let mut out = vec![[0; 4]; tokens];
                    let code = (weight + 1) as u8;
                    (kernels.row_quarters.i8)(&vec![code * 0b01_01_01_01; cols], &x, &totals, &mut out);
                    assert!(out.iter().flatten().all(|&found| found == expected), "quarters {what}");
                    let mut out = vec![[0; 5]; tokens];
                    (kernels.row_fifths.i8)(&vec![code * 121; cols], &x, &totals, &mut out);
                    assert!(out.iter().flatten().all(|&found| found == expected), "fifths {what}");
                }
            }
        }
    }
}

#[test]
fn nothing_in_gives_nothing_or_zeros() {
    for kernels in tiers() {
        (kernels.row_quarters.i8)(&[], &[], &[], &mut []);
        let mut out = [[7; 4]; 2];
        (kernels.row_quarters.i8)(&[], &[], &[0, 0], &mut out);
        assert_eq!(out, [[0; 4]; 2], "{}", kernels.isa);
        let mut out = [[7; 5]; 2];
        (kernels.row_fifths.i8)(&[], &[], &[0, 0], &mut out);
        assert_eq!(out, [[0; 5]; 2], "{}", kernels.isa);
    }
}

#[test]
fn float_products_give_the_same_bits_on_every_tier_and_in_both_layouts() {
    let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
    let (lines, tokens) = (4, 3);
    for cols in [1, 31, 32, 33, 65, 300, 2560] {
        // Twenty rows are five lines of quarters and four of fifths.
        let values = values(lines * 5, cols);
        let x: Vec<f32> = (0..tokens * cols).map(|i| (period(i) - 125) as f32 * 0.037).collect();
        let (a, b) = (quarters(&values, 20, cols), fifths(&values, 20, cols));
        let run = |k: &Kernels| {
            let (mut q, mut f) = (vec![[0.0; 4]; 5 * tokens], vec![[0.0; 5]; 4 * tokens]);
            (k.row_quarters.f32)(&a, cols, &x, &mut q);
            (k.row_fifths.f32)(&b, cols, &x, &mut f);
            (q, f)
        };
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let (q, f) = run(scalar);
        for row in 0..20 {
            for token in 0..tokens {
                let (quarter, fifth) =
                    (q[row % 5 * tokens + token][row / 5], f[row % 4 * tokens + token][row / 4]);
                assert_eq!(quarter.to_bits(), fifth.to_bits(), "row {row}, {cols} columns");
                let x = &x[token * cols..][..cols];
                let exact: f64 = values[row * cols..][..cols]
                    .iter()
                    .zip(x)
                    .map(|(&w, &x)| f64::from(w) * f64::from(x))
                    .sum();
                assert!((f64::from(quarter) - exact).abs() <= 1e-4, "{quarter} against {exact}");
            }
        }
        for kernels in tiers() {
            let (a, b) = run(kernels);
            assert_eq!(bits(a.as_flattened()), bits(q.as_flattened()), "quarters {} {cols}", kernels.isa);
            assert_eq!(bits(b.as_flattened()), bits(f.as_flattened()), "fifths {} {cols}", kernels.isa);
        }
    }
}
