//! Searches through whole tensors at load: invalid codes in packed weights, and floats that are no numbers.

use bitnet_core::backend::BitNetDType;
use bitnet_quant::packing::row_quarters;

/// Bytes that one thread searches at a time, and below which one thread searches all. A multiple of every
/// element's size.
#[cfg(feature = "parallel")]
const CHUNK: usize = 1 << 18;

/// Returns the offset of the first byte that holds code 3.
pub(super) fn find_invalid(packed: &[u8]) -> Option<usize> {
    find_first(packed, 1, row_quarters::find_invalid)
}

/// Returns the index of the first NaN or infinity among the little-endian floats of `bytes`.
///
/// `dtype` is F32, F16 or BF16: the types that [`Reader::float_dtype`](super::reader::Reader) admits.
pub(super) fn find_non_finite(dtype: BitNetDType, bytes: &[u8]) -> Option<usize> {
    // NaN and infinity are those whose exponent bits are all ones: one integer comparison an element.
    match dtype {
        BitNetDType::F16 => find_first(bytes, 2, |run| {
            find_element(run, |element| u16::from_le_bytes(element) & 0x7c00 == 0x7c00)
        }),
        BitNetDType::BF16 => find_first(bytes, 2, |run| {
            find_element(run, |element| u16::from_le_bytes(element) & 0x7f80 == 0x7f80)
        }),
        _ => find_first(bytes, 4, |run| {
            find_element(run, |element| u32::from_le_bytes(element) & 0x7f80_0000 == 0x7f80_0000)
        }),
    }
}

/// Returns the first finding of `find`, which searches a run of elements of `size` bytes and answers with
/// an index of elements.
fn find_first(
    bytes: &[u8],
    size: usize,
    find: impl Fn(&[u8]) -> Option<usize> + Sync + Send,
) -> Option<usize> {
    #[cfg(feature = "parallel")]
    if bytes.len() > CHUNK {
        use rayon::prelude::*;
        return bytes
            .par_chunks(CHUNK)
            .enumerate()
            .find_map_first(|(index, chunk)| find(chunk).map(|at| index * (CHUNK / size) + at));
    }
    let _ = size;
    find(bytes)
}

/// Returns the index of the first element for which `wanted` holds.
fn find_element<const N: usize>(run: &[u8], wanted: impl Fn([u8; N]) -> bool) -> Option<usize> {
    // Whole blocks without an early exit vectorise; the exact element is looked for only when one is there.
    const BLOCK: usize = 4096;
    run.as_chunks::<N>().0.chunks(BLOCK).enumerate().find_map(|(index, block)| {
        if !block.iter().fold(false, |seen, &element| seen | wanted(element)) {
            return None;
        }
        block.iter().position(|&element| wanted(element)).map(|at| index * BLOCK + at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn the_first_invalid_code_of_a_large_run_is_found() {
        let mut packed = vec![0b10_01_00_10u8; (1 << 20) + 17];
        assert_eq!(find_invalid(&packed), None);
        packed[(1 << 20) + 16] = 0b00_11_00_00;
        assert_eq!(find_invalid(&packed), Some((1 << 20) + 16));
        packed[700_001] = 0b11_00_00_00;
        packed[700_003] = 0b00_00_00_11;
        assert_eq!(find_invalid(&packed), Some(700_001));
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
