//! The row-quarters layout: round trip, agreement with its definition, validation.

use bitnet_kernels::layout::row_quarters::{
    count_codes, find_invalid, find_odd_code, pack, packed_len, unpack,
};
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
fn an_odd_code_is_named_by_row_and_absent_rows_may_hold_it() {
    for rows in 1..=9usize {
        let (cols, quads) = (3, rows.div_ceil(4));
        let mut absent = vec![0b01_10_00_01u8; quads * cols];
        for at in (rows..4 * quads).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            absent[at.0 % quads * cols + at.1] |= 3 << (2 * (at.0 / quads));
        }
        assert_eq!(find_odd_code(&absent, rows, cols), None, "{rows} rows");
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let mut packed = absent.clone();
            packed[row % quads * cols + col] |= 3 << (2 * (row / quads));
            assert_eq!(find_odd_code(&packed, rows, cols), Some([row, col]), "{rows} rows");
        }
    }
}
