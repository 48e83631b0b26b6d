//! What is packed comes back, whole, in parts and by rows, on every tier.

use bitnet_kernels::Isa;
use bitnet_quant::packing::{CHUNK, entropy, hybrid};
use bitnet_quant::prelude::*;
use proptest::prelude::*;

use crate::{pack, sparse};

/// Around the ends of blocks and chunks.
const LENGTHS: [usize; 14] =
    [0, 1, 4, 5, 127, 129, 161, 511, 513, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 777, entropy::CHUNK + 3];

fn unpackers() -> Vec<SimdUnpacker> {
    Isa::available().map(|isa| SimdUnpacker::with_isa(isa).unwrap()).collect()
}

fn check(weights: &[i8]) {
    for strategy in TernaryPackingStrategy::ALL {
        let packed = pack(strategy, weights);
        assert_eq!((packed.len(), packed.strategy()), (weights.len(), strategy));
        let read = TernaryPackedWeights::from_bytes(&packed.to_bytes()).unwrap();
        assert_eq!(read, packed, "{strategy}");
        for unpacker in unpackers() {
            assert!(unpacker.unpack(&packed).unwrap() == weights, "{strategy} {unpacker:?}");
        }
    }
}

#[test]
fn every_length_and_share_of_zeros_comes_back_on_every_tier() {
    for (seed, &len) in LENGTHS.iter().enumerate() {
        for zeros in [0.0, 1.0 / 3.0, 0.9, 1.0] {
            check(&sparse(len, zeros, seed as u64 + 1));
        }
    }
    for value in [-1, 0, 1] {
        check(&vec![value; 3 * CHUNK + 5]);
    }
}

/// Stretches of one value, of zeros, and of anything: what runs and hybrid blocks are made for.
fn stretches() -> impl Strategy<Value = Vec<i8>> {
    let part = (0..6u8, 1..2000usize, any::<u64>()).prop_map(|(kind, len, seed)| match kind {
        0..=2 => vec![kind as i8 - 1; len],
        3 => sparse(len, 0.5, seed),
        4 => sparse(len, 0.97, seed),
        _ => sparse(len, 0.2, seed),
    });
    proptest::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_weights_come_back(weights in stretches()) {
        check(&weights);
    }

    #[test]
    fn parts_pack_as_the_whole_does(weights in stretches(), cut in 1..5000usize) {
        for strategy in TernaryPackingStrategy::ALL {
            let mut writer = TernaryPackWriter::new(strategy, &TernaryPackingConfig::default()).unwrap();
            weights.chunks(cut).for_each(|part| writer.push(part).unwrap());
            prop_assert_eq!(writer.finish(), pack(strategy, &weights));
        }
    }

    #[test]
    fn any_range_is_that_of_the_whole(weights in stretches(), a in any::<usize>(), b in any::<usize>()) {
        let (a, b) = (a % (weights.len() + 1), b % (weights.len() + 1));
        let (start, end) = (a.min(b), a.max(b));
        for strategy in TernaryPackingStrategy::ALL {
            let mut out = vec![7; end - start];
            SimdUnpacker::new().unpack_range(&pack(strategy, &weights), start..end, &mut out).unwrap();
            prop_assert_eq!(&out, &weights[start..end]);
        }
    }
}

#[test]
fn rows_chunks_and_streamed_outputs_are_those_of_the_whole() {
    let weights = sparse(7 * 9001, 0.6, 9);
    for strategy in TernaryPackingStrategy::ALL {
        let packed = pack(strategy, &weights);
        for unpacker in unpackers() {
            let mut row = vec![0; 9001];
            for (index, expected) in weights.chunks(9001).enumerate() {
                unpacker.unpack_row(&packed, index, &mut row).unwrap();
                assert!(row == expected, "{strategy} row {index}");
            }
            let mut chunks = unpacker.chunks(&packed).unwrap();
            let mut read = Vec::new();
            while let Some(values) = chunks.advance().unwrap() {
                read.extend_from_slice(values);
            }
            assert!(read == weights, "{strategy} chunks");
            for alignment in [Alignment::Bytes16, Alignment::Bytes32, Alignment::Bytes64] {
                let streaming = unpacker.clone().with_streaming_from(1);
                let aligned = streaming.unpack_aligned(&packed, alignment).unwrap();
                assert!(aligned[..] == weights[..], "{strategy} {alignment:?}");
                assert_eq!(aligned.as_ptr() as usize % alignment.bytes(), 0);
            }
        }
    }
}

#[test]
fn every_hybrid_block_size_comes_back() {
    let weights = [sparse(20_000, 0.98, 1), vec![1; 9000], sparse(20_000, 0.3, 2)].concat();
    for block in hybrid::BLOCKS {
        let config = TernaryPackingConfig { hybrid_block: Some(block), ..TernaryPackingConfig::default() };
        let packed =
            TernaryPackerFactory::create_packer(TernaryPackingStrategy::Hybrid).pack(&weights, &config);
        assert!(simd_unpack_weights(&packed.unwrap()).unwrap() == weights);
    }
    let config = TernaryPackingConfig { hybrid_block: Some(100), ..TernaryPackingConfig::default() };
    let error = TernaryPackWriter::new(TernaryPackingStrategy::Hybrid, &config).unwrap_err();
    assert!(error.to_string().contains("found 100"), "{error}");
}
