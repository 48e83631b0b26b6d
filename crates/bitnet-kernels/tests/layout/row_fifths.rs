//! The row-fifths layout: round trips, agreement with its definition, repacking from row quarters.

use bitnet_kernels::layout::row_fifths::{BYTES, codes, lines, pack, packed_len, repack, separate, unpack};
use bitnet_kernels::layout::row_quarters;

const COLS: [usize; 4] = [1, 2, 33, 70];

/// Ternary values of prime period.
fn values(n: usize) -> Vec<i8> {
    (0..n).map(|i| (i % 251 * 7919 % 251 % 3) as i8 - 1).collect()
}

fn packed(values: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    // What was there before must not come through.
    let mut packed = vec![0xa5; packed_len(rows, cols).unwrap()];
    pack(values, rows, cols, &mut packed);
    packed
}

fn quarters(values: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0xa5; row_quarters::packed_len(rows, cols).unwrap()];
    row_quarters::pack(values, rows, cols, &mut packed);
    packed
}

#[test]
fn bytes_are_those_of_the_definition_and_round_trip() {
    for rows in 1..=23 {
        for cols in COLS {
            let values = values(rows * cols);
            let packed = packed(&values, rows, cols);
            let lines = rows.div_ceil(5);
            assert_eq!(packed.len(), lines * cols);
            for (at, &byte) in packed.iter().enumerate() {
                // Absent rows hold code 1.
                let code = |row: usize| values.get(row * cols + at % cols).map_or(1, |&v| (v + 1) as u32);
                let expected: u32 = (0..5).map(|i| code(at / cols + i * lines) * 3u32.pow(i as u32)).sum();
                assert_eq!(u32::from(byte), expected, "byte {at} of {rows} x {cols}");
            }
            let mut back = vec![7; values.len()];
            unpack(&packed, rows, cols, &mut back);
            assert_eq!(back, values, "{rows} x {cols}");
        }
    }
}

#[test]
fn every_byte_is_packed_again_from_what_it_unpacks_to() {
    let every: Vec<u8> = (0..BYTES as u8).collect();
    let mut values = vec![7; 5 * BYTES];
    unpack(&every, 5, BYTES, &mut values);
    assert!(values.iter().all(|value| (-1..=1).contains(value)));
    assert_eq!(packed(&values, 5, BYTES), every);
}

#[test]
fn codes_are_digits_of_base_three() {
    for byte in 0..=u8::MAX {
        let codes = codes(byte);
        assert!(codes.iter().all(|&code| code < 3), "{byte}");
        let value = codes.iter().rev().fold(0, |value, &code| 3 * value + u32::from(code));
        assert_eq!(value, u32::from(byte).min(BYTES as u32 - 1));
    }
}

#[test]
fn repacking_row_quarters_gives_the_packed_matrix() {
    for rows in 1..=23 {
        for cols in COLS {
            let values = values(rows * cols);
            let mut out = vec![0xa5; packed_len(rows, cols).unwrap()];
            repack(&quarters(&values, rows, cols), rows, cols, 0, &mut out);
            assert_eq!(out, packed(&values, rows, cols), "{rows} x {cols}");
        }
    }
}

#[test]
fn parts_repacked_alone_make_up_the_whole() {
    for rows in 1..=23 {
        for cols in COLS {
            let values = values(rows * cols);
            let (quarters, whole) = (quarters(&values, rows, cols), packed(&values, rows, cols));
            for first in 0..=lines(rows) {
                for end in first..=lines(rows) {
                    let mut part = vec![0xa5; (end - first) * cols];
                    repack(&quarters, rows, cols, first, &mut part);
                    assert_eq!(part, whole[first * cols..end * cols], "lines {first}..{end} of {rows}");
                }
            }
        }
    }
}

#[test]
fn absent_rows_hold_code_one_whatever_stood_in_the_quarters() {
    for rows in (1..=23).filter(|rows| rows % 4 != 0) {
        let (cols, quads) = (3, row_quarters::quads(rows));
        let values = values(rows * cols);
        let mut quarters = quarters(&values, rows, cols);
        for absent in rows..4 * quads {
            for byte in &mut quarters[absent % quads * cols..][..cols] {
                *byte |= 3 << (2 * (absent / quads));
            }
        }
        let mut out = vec![0xa5; packed_len(rows, cols).unwrap()];
        repack(&quarters, rows, cols, 0, &mut out);
        assert_eq!(out, packed(&values, rows, cols), "{rows} rows");
    }
}

#[test]
fn a_matrix_without_columns_or_rows_is_empty() {
    for (rows, cols) in [(0, 7), (7, 0), (0, 0)] {
        let mut out = vec![0; packed_len(rows, cols).unwrap()];
        assert!(out.is_empty());
        pack(&[], rows, cols, &mut out);
        repack(&[], rows, cols, 0, &mut out);
        unpack(&out, rows, cols, &mut []);
    }
}

#[test]
fn sizes_that_do_not_fit_are_none() {
    assert_eq!(packed_len(6, 3), Some(6));
    assert_eq!(packed_len(usize::MAX, 16), None);
}

#[test]
#[should_panic(expected = "lines of 11")]
fn lines_past_the_last_are_refused() {
    repack(&[0; 3 * 2], 11, 2, 2, &mut [0; 4]);
}

#[test]
fn every_byte_is_separated_into_its_codes() {
    let bytes: Vec<u8> = (0..=255).collect();
    let (mut lower, mut fifth) = ([99; 256], [99; 256]);
    separate(&bytes, &mut lower, &mut fifth);
    for byte in 0..BYTES {
        let [a, b, c, d, e] = codes(byte as u8);
        assert_eq!((lower[byte], fifth[byte]), (a | b << 2 | c << 4 | d << 6, e), "{byte}");
    }
}
