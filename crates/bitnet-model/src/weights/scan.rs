//! Searches through whole tensors at load: invalid codes in packed weights, and floats that are no numbers.

use bitnet_core::backend::BitNetDType;
use bitnet_quant::packing::row_quarters;

/// Bytes that one thread searches at a time, and below which one thread searches all. A multiple of every
/// element's size.
const CHUNK: usize = 1 << 18;

/// Returns row and column of the first code 3 of a matrix in row quarters; absent rows may hold anything.
///
/// # Panics
/// When `packed` is not that of `rows` x `cols`.
pub(super) fn find_odd_code(packed: &[u8], rows: usize, cols: usize) -> Option<[usize; 2]> {
    let lines = (CHUNK / cols.max(1)).max(1);
    find_first(packed, lines * cols.max(1), |index, run| {
        row_quarters::find_odd_code_from(index * lines, run, rows, cols)
    })
}

/// Returns the index of the first NaN or infinity among the little-endian floats of `bytes`.
///
/// `dtype` is F32, F16 or BF16: the types that [`Reader::float_dtype`](super::reader::Reader) admits.
pub(super) fn find_non_finite(dtype: BitNetDType, bytes: &[u8]) -> Option<usize> {
    // NaN and infinity are those whose exponent bits are all ones: one integer comparison an element.
    match dtype {
        BitNetDType::F16 => find_element(bytes, |element| u16::from_le_bytes(element) & 0x7c00 == 0x7c00),
        BitNetDType::BF16 => find_element(bytes, |element| u16::from_le_bytes(element) & 0x7f80 == 0x7f80),
        _ => find_element(bytes, |element| u32::from_le_bytes(element) & 0x7f80_0000 == 0x7f80_0000),
    }
}

/// Returns the first finding of `find`, which searches runs of `len` bytes and is told the index of each.
fn find_first<T: Send>(
    bytes: &[u8],
    len: usize,
    find: impl Fn(usize, &[u8]) -> Option<T> + Sync + Send,
) -> Option<T> {
    #[cfg(feature = "parallel")]
    if bytes.len() > CHUNK {
        use rayon::prelude::*;
        return bytes.par_chunks(len).enumerate().find_map_first(|(index, run)| find(index, run));
    }
    bytes.chunks(len).enumerate().find_map(|(index, run)| find(index, run))
}

/// Returns the index of the first element for which `wanted` holds.
fn find_element<const N: usize>(
    bytes: &[u8],
    wanted: impl Fn([u8; N]) -> bool + Sync + Send,
) -> Option<usize> {
    // Whole blocks without an early exit vectorise; the exact element is looked for only when one is there.
    const BLOCK: usize = 4096;
    find_first(bytes, CHUNK, |index, run| {
        run.as_chunks::<N>().0.chunks(BLOCK).enumerate().find_map(|(block, elements)| {
            if !elements.iter().fold(false, |seen, &element| seen | wanted(element)) {
                return None;
            }
            let at = elements.iter().position(|&element| wanted(element))?;
            Some(index * (CHUNK / N) + block * BLOCK + at)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn the_first_code_3_of_a_row_that_is_there_is_found() {
        // Chunks of many lines, and lines longer than a chunk.
        for (rows, cols) in [(2054usize, 1029), (13, CHUNK + 5)] {
            let quads = rows.div_ceil(4);
            let mut packed = vec![0b10_01_00_10u8; quads * cols];
            assert_eq!(find_odd_code(&packed, rows, cols), None);
            // Rows of the last packed row that are not there.
            let absent = quads * cols - 1;
            packed[absent] = 0b11_01_00_10;
            assert!(4 * quads > rows && find_odd_code(&packed, rows, cols).is_none());
            packed[absent] = 0b11_01_11_10;
            assert_eq!(find_odd_code(&packed, rows, cols), Some([2 * quads - 1, cols - 1]));
            (packed[3], packed[4]) = (0b11_00_00_00, 0b00_00_00_11);
            assert_eq!(find_odd_code(&packed, rows, cols), Some([3 * quads, 3]));
        }
    }

    #[test]
    fn every_pattern_of_sixteen_bits_is_judged_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let cases = [
                (BitNetDType::F16, f16::from_bits(bits).is_finite()),
                (BitNetDType::BF16, bf16::from_bits(bits).is_finite()),
            ];
            for (dtype, finite) in cases {
                assert_eq!(find_non_finite(dtype, &bytes).is_none(), finite, "{dtype} {bits:#06x}");
            }
        }
        for value in [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::from_bits(1)] {
            assert_eq!(find_non_finite(BitNetDType::F32, &value.to_le_bytes()), None, "{value}");
        }
        for bits in [0x7f80_0000u32, 0xff80_0000, 0x7f80_0001, 0xffc0_0000, 0x7fff_ffff] {
            assert_eq!(find_non_finite(BitNetDType::F32, &bits.to_le_bytes()), Some(0), "{bits:#010x}");
        }
    }

    #[test]
    fn the_first_float_that_is_no_number_is_found_wherever_it_lies() {
        const ELEMENTS: usize = 300_007;
        let types = [
            (BitNetDType::F32, 1.5f32.to_le_bytes().to_vec(), f32::NAN.to_le_bytes().to_vec()),
            (BitNetDType::F16, f16::MAX.to_le_bytes().to_vec(), f16::NEG_INFINITY.to_le_bytes().to_vec()),
            (BitNetDType::BF16, bf16::MIN.to_le_bytes().to_vec(), bf16::INFINITY.to_le_bytes().to_vec()),
        ];
        for (dtype, fine, odd) in types {
            let mut bytes = fine.repeat(ELEMENTS);
            assert_eq!(find_non_finite(dtype, &bytes), None, "{dtype}");
            // From the last to the first: each is found before those behind it.
            for at in [ELEMENTS - 1, 262_144, 131_072, 131_071, 65_537, 65_535, 4097, 4095, 3, 0] {
                bytes[at * odd.len()..][..odd.len()].copy_from_slice(&odd);
                assert_eq!(find_non_finite(dtype, &bytes), Some(at), "{dtype}");
            }
        }
        assert_eq!(find_non_finite(BitNetDType::F32, &[]), None);
    }
}
