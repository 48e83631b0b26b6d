//! The layouts of ternary codes: round trip, agreement with its definition, validation.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_kernels::layout::row_fifths;
use bitnet_kernels::layout::row_quarters::{count_codes, find_invalid, pack, packed_len, unpack};
use proptest::prelude::*;

proptest! {
    #[test]
    fn packing_round_trips(rows in 1usize..19, cols in 1usize..70, seed in any::<u64>()) {
        let mut state = seed | 1;
        let values: Vec<i8> = (0..rows * cols)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as i8 % 3 % 2
            })
            .collect();
        let mut packed = vec![0; packed_len(rows, cols).unwrap()];
        pack(&values, rows, cols, &mut packed);
        prop_assert_eq!(find_invalid(&packed), None);
        let quads = rows.div_ceil(4);
        for row in 0..rows {
            for col in 0..cols {
                let code = packed[row % quads * cols + col] >> (2 * (row / quads)) & 3;
                prop_assert_eq!(code as i8 - 1, values[row * cols + col]);
            }
        }
        let mut back = vec![0; values.len()];
        unpack(&packed, rows, cols, &mut back);
        let of = |value: i8| values.iter().filter(|&&v| v == value).count() as u64;
        prop_assert_eq!(count_codes(&packed, rows, cols), [of(-1), of(0), of(1)]);
        prop_assert_eq!(back, values);
    }
}

#[test]
fn code_three_is_found_wherever_it_stands() {
    for at in [0, 1, 4095, 4096, 9999] {
        for quarter in 0..4 {
            let mut packed = vec![0b10_01_00_10; 10_000];
            packed[at] |= 3 << (2 * quarter);
            assert_eq!(find_invalid(&packed), Some(at), "quarter {quarter}");
        }
    }
    // Neighbouring bits of different codes are not a code 3.
    assert_eq!(find_invalid(&[0b01_10_01_10, 0b10_01_10_01]), None);
}

#[test]
fn sizes_that_do_not_fit_are_none() {
    assert_eq!(packed_len(5, 3), Some(6));
    assert_eq!(packed_len(usize::MAX, 16), None);
}

#[test]
fn rows_that_do_not_exist_are_not_counted() {
    for rows in 1..=9usize {
        let (cols, quarter) = (3, rows.div_ceil(4));
        let value = |row: usize, col: usize| (row * 7 + col * 5) % 3;
        let mut bytes = vec![0u8; quarter * cols];
        let mut expected = [0; 3];
        for row in 0..rows {
            for col in 0..cols {
                bytes[row % quarter * cols + col] |= (value(row, col) as u8) << (2 * (row / quarter));
                expected[value(row, col)] += 1;
            }
        }
        assert_eq!(count_codes(&bytes, rows, cols), expected, "{rows} rows");
    }
}

#[test]
fn row_fifths_round_trip_and_repack_from_quarters() {
    for rows in 1..=23usize {
        for cols in [1usize, 2, 9] {
            let values: Vec<i8> = (0..rows * cols).map(|i| (i * 7919 % 251 % 3) as i8 - 1).collect();
            let mut packed = vec![0xff; row_fifths::packed_len(rows, cols).unwrap()];
            row_fifths::pack(&values, rows, cols, &mut packed);
            assert!(packed.iter().all(|&byte| usize::from(byte) < row_fifths::BYTES));
            let mut back = vec![7; values.len()];
            row_fifths::unpack(&packed, rows, cols, &mut back);
            assert_eq!(back, values, "{rows} x {cols}");
            let mut quarters = vec![0; packed_len(rows, cols).unwrap()];
            pack(&values, rows, cols, &mut quarters);
            for part in 1..=row_fifths::lines(rows) {
                let mut whole = vec![0xff; packed.len()];
                for (index, out) in whole.chunks_mut(part * cols).enumerate() {
                    row_fifths::repack(&quarters, rows, cols, index * part, out);
                }
                assert_eq!(whole, packed, "{rows} x {cols} by {part} lines");
            }
        }
    }
}
