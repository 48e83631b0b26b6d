//! The packing of Hugging Face checkpoints: four rows of a ternary matrix in one row of bytes.
//!
//! A matrix of N rows has R = ceil(N/4) packed rows. Element (i·R + r, c) has the code value + 1 in
//! bits 2i..2i+1 of byte (r, c). Rows past N are code 0; code 3 never occurs.

/// Packs a ternary matrix `[rows, cols]` into `[ceil(rows/4), cols]` bytes.
///
/// Panics when the length or a value does not fit.
pub fn pack_rows(values: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    assert_eq!(values.len(), rows * cols, "values of a {rows} x {cols} matrix");
    let packed_rows = rows.div_ceil(4);
    let mut packed = vec![0u8; packed_rows * cols];
    for row in 0..rows {
        let (quarter, r) = (row / packed_rows, row % packed_rows);
        for col in 0..cols {
            let value = values[row * cols + col];
            assert!((-1..=1).contains(&value), "ternary value {value} at row {row}, column {col}");
            packed[r * cols + col] |= ((value + 1) as u8) << (2 * quarter);
        }
    }
    packed
}

/// Unpacks `[ceil(rows/4), cols]` bytes into a ternary matrix `[rows, cols]`.
///
/// Panics when the length does not fit or a used field holds code 3.
pub fn unpack_rows(packed: &[u8], rows: usize, cols: usize) -> Vec<i8> {
    let packed_rows = rows.div_ceil(4);
    assert_eq!(packed.len(), packed_rows * cols, "bytes of a packed {rows} x {cols} matrix");
    let mut values = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        let (quarter, r) = (row / packed_rows, row % packed_rows);
        for byte in &packed[r * cols..(r + 1) * cols] {
            let code = (byte >> (2 * quarter)) & 3;
            assert!(code < 3, "code 3 in packed row {r}");
            values.push(code as i8 - 1);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden_dir;
    use crate::rng::{Rng, periodic_ternary};
    use crate::safetensors::SafeTensors;

    #[test]
    fn round_trip() {
        for (rows, cols) in [(1, 1), (4, 1), (5, 3), (7, 251), (64, 130), (12, 0)] {
            let random = Rng::new(5).ternary_vec(rows * cols, 0.4);
            for values in [random, periodic_ternary(rows * cols)] {
                assert_eq!(unpack_rows(&pack_rows(&values, rows, cols), rows, cols), values);
            }
        }
    }

    #[test]
    fn matches_the_golden_vectors() {
        let st = SafeTensors::read(&golden_dir("units").join("hf_pack.safetensors"));
        for i in 0..4 {
            let (t, p) = (format!("t{i}"), format!("p{i}"));
            let (rows, cols) = (st.shape(&t)[0], st.shape(&t)[1]);
            assert_eq!(pack_rows(&st.i8s(&t), rows, cols), st.u8s(&p), "{p}");
            assert_eq!(unpack_rows(&st.u8s(&p), rows, cols), st.i8s(&t), "{t}");
        }
    }

    #[test]
    #[should_panic(expected = "code 3")]
    fn code_three_is_refused() {
        unpack_rows(&[0b11], 4, 1);
    }
}
