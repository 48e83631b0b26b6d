//! Six-bit rows: what was packed comes back, and what six bits do not hold is refused.

use bitnet_kernels::layout::int6_rows::{
    BIAS, BLOCK, BLOCK_BYTES, MAX_CODE, biased_codes, pack_row, padded, row_bytes,
};

#[test]
fn every_code_comes_back_from_every_column() {
    for cols in [1, 2, 63, 64, 65, 191, 192, 193, 255, 256, 257, 511, 512, 513, 2560] {
        // Each column takes every code in some round.
        for round in 0..63 {
            let codes: Vec<i8> = (0..cols).map(|col| ((col * 5 + round) % 63) as i8 - 31).collect();
            let mut bytes = vec![0xa5; row_bytes(cols)];
            pack_row(&codes, &mut bytes);
            assert_eq!(bytes.len() * 4, padded(cols) * 3);
            let unpacked: Vec<i32> = bytes
                .as_chunks::<BLOCK_BYTES>()
                .0
                .iter()
                .flat_map(biased_codes)
                .map(|c| i32::from(c) - BIAS)
                .collect();
            assert!(unpacked.iter().zip(&codes).all(|(&a, &b)| a == i32::from(b)), "{cols} columns");
            assert!(unpacked[cols..].iter().all(|&code| code == 0), "{cols} columns");
        }
    }
}

#[test]
fn a_block_has_its_documented_places() {
    let mut codes = [0i8; BLOCK];
    (codes[3], codes[64 + 3], codes[128 + 3], codes[192 + 3]) = (1 - 32 + 16, 2, -1, 31);
    let mut bytes = [0; BLOCK_BYTES];
    pack_row(&codes, &mut bytes);
    // Kept as 17, 34, 31 and 63.
    assert_eq!((bytes[3], bytes[64 + 3], bytes[128 + 3]), (0xf1, 0xf2, 0b11_01_10_01));
    // The others as 32.
    assert_eq!((bytes[4], bytes[64 + 4], bytes[128 + 4]), (0, 0, 0b10_10_10_10));
}

#[test]
fn codes_beyond_six_bits_and_wrong_lengths_are_refused() {
    for code in [MAX_CODE as i8 + 1, -32, i8::MIN] {
        let packed = std::panic::catch_unwind(|| pack_row(&[0, code], &mut [0; BLOCK_BYTES]));
        assert!(packed.is_err(), "{code}");
    }
    assert!(std::panic::catch_unwind(|| pack_row(&[0; 257], &mut [0; BLOCK_BYTES])).is_err());
}
