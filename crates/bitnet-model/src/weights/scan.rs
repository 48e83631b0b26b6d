//! The search for invalid codes in packed weights.

use bitnet_quant::packing::row_quarters;

/// Bytes that one thread searches at a time, and below which one thread searches all.
#[cfg(feature = "parallel")]
const CHUNK: usize = 1 << 18;

/// Returns the offset of the first byte that holds code 3.
pub(super) fn find_invalid(packed: &[u8]) -> Option<usize> {
    #[cfg(feature = "parallel")]
    if packed.len() > CHUNK {
        use rayon::prelude::*;
        return packed
            .par_chunks(CHUNK)
            .enumerate()
            .find_map_first(|(index, chunk)| row_quarters::find_invalid(chunk).map(|at| index * CHUNK + at));
    }
    row_quarters::find_invalid(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
