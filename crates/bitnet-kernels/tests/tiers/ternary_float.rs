//! Ternary products of float activations: one definition, one text of bits.

use crate::inputs::{
    BLOCK_COLS, COLS, EVERY_TOKENS, FIFTHS, Layout, QUARTERS, bits, codes, floats, period, scalar, tiers,
};

fn check<const N: usize>(layout: &Layout<N>, lines: usize, tokens: usize, cols: usize) {
    let (codes, x) = (codes::<N>(lines * cols), floats(tokens * cols));
    let packed = layout.pack(&codes);
    let mut expected = vec![[7.0; N]; lines * tokens];
    ((layout.of)(scalar()).f32)(&packed, cols, &x, &mut expected);
    for (line, expected) in codes.chunks_exact(cols).zip(expected.chunks_exact(tokens)) {
        for (x, expected) in x.chunks_exact(cols).zip(expected) {
            let size: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
            for (row, &value) in expected.iter().enumerate() {
                let term = |(c, &x): (&[u8; N], &f32)| (f64::from(c[row]) - 1.0) * f64::from(x);
                let exact: f64 = line.iter().zip(x).map(term).sum();
                assert!((f64::from(value) - exact).abs() <= 1e-6 * size, "{cols}: {value} against {exact}");
            }
        }
    }
    for kernels in tiers() {
        let (isa, name) = (kernels.isa, layout.name);
        let mut out = vec![[7.0; N]; lines * tokens];
        ((layout.of)(kernels).f32)(&packed, cols, &x, &mut out);
        let text = format!("{isa} {name}: {lines} lines, {tokens} tokens, {cols} columns");
        assert_eq!(bits(out.as_flattened()), bits(expected.as_flattened()), "{text}");
        // Whatever lines and tokens stand beside it.
        let mut alone = [[7.0; N]];
        let (line, token) = (lines - 1, tokens - 1);
        ((layout.of)(kernels).f32)(&packed[line * cols..], cols, &x[token * cols..], &mut alone);
        assert_eq!(bits(&alone[0]), bits(&out[line * tokens + token]), "alone, {text}");
    }
}

fn run<const N: usize>(layout: &Layout<N>) {
    for cols in COLS.into_iter().chain(BLOCK_COLS) {
        for (lines, tokens) in [(1, 1), (2, 1), (3, 1), (2, 3), (3, 2)] {
            check(layout, lines, tokens, cols);
        }
    }
    for tokens in EVERY_TOKENS {
        check(layout, 2, tokens, 97);
    }
    for (lines, tokens) in [(5, 9), (3, 13), (1, 65)] {
        for cols in [255, 256, 257, 600] {
            check(layout, lines, tokens, cols);
        }
    }
}

#[test]
fn row_quarters_give_the_same_bits_on_every_tier() {
    run(&QUARTERS);
}

#[test]
fn row_fifths_give_the_same_bits_on_every_tier() {
    run(&FIFTHS);
}

#[test]
fn a_row_gives_the_same_bits_in_both_layouts() {
    for kernels in tiers() {
        for cols in [1, 33, 300, 2560] {
            // The same twenty rows are five lines of quarters and four of fifths.
            let (x, code) = (floats(cols), |row: usize, col: usize| (period(col + 61 * row) % 3) as u8);
            let (mut quarters, mut fifths) = (vec![[7.0; 4]; 5], vec![[7.0; 5]; 4]);
            let at = |lines: usize, i: usize| move |part: usize| code(part * lines + i / cols, i % cols);
            let codes: Vec<[u8; 4]> = (0..5 * cols).map(|i| std::array::from_fn(at(5, i))).collect();
            (kernels.row_quarters.f32)(&QUARTERS.pack(&codes), cols, &x, &mut quarters);
            let codes: Vec<[u8; 5]> = (0..4 * cols).map(|i| std::array::from_fn(at(4, i))).collect();
            (kernels.row_fifths.f32)(&FIFTHS.pack(&codes), cols, &x, &mut fifths);
            for row in 0..20 {
                let (quarter, fifth) = (quarters[row % 5][row / 5], fifths[row % 4][row / 4]);
                assert_eq!(quarter.to_bits(), fifth.to_bits(), "{} row {row}, {cols}", kernels.isa);
            }
        }
    }
}

#[test]
fn a_nan_reaches_every_row_of_its_token_and_no_other() {
    for kernels in tiers() {
        let (packed, cols) = (FIFTHS.pack(&codes::<5>(2 * 70)), 70);
        let mut x = floats(3 * cols);
        x[cols + 41] = f32::NAN;
        let mut out = [[0.0; 5]; 6];
        (kernels.row_fifths.f32)(&packed, cols, &x, &mut out);
        let mut quarters = [[0.0; 4]; 6];
        (kernels.row_quarters.f32)(&QUARTERS.pack(&codes::<4>(2 * 70)), cols, &x, &mut quarters);
        for at in 0..6 {
            let nan = at % 3 == 1;
            assert!(out[at].iter().all(|v| v.is_nan() == nan), "{} {at}", kernels.isa);
            assert!(quarters[at].iter().all(|v| v.is_nan() == nan), "{} {at}", kernels.isa);
        }
    }
}
