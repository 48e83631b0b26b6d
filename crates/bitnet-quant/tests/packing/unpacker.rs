//! What unpackers say of themselves, where they write, and what they refuse.

use bitnet_kernels::Isa;
use bitnet_quant::packing::entropy;
use bitnet_quant::prelude::*;

use crate::{pack, sparse};

#[test]
fn capabilities_are_those_of_the_tier_and_the_machine() {
    let available: Vec<Isa> = Isa::available().collect();
    for &isa in &available {
        let found = SimdUnpacker::with_isa(isa).unwrap().capabilities();
        let (alignment, past) = match isa {
            Isa::Scalar | Isa::Neon | Isa::Dotprod | Isa::I8mm => (Alignment::Bytes16, false),
            Isa::Sse2 | Isa::Ssse3 => (Alignment::Bytes16, true),
            Isa::Avx2 | Isa::AvxVnni => (Alignment::Bytes32, true),
            _ => (Alignment::Bytes64, true),
        };
        assert_eq!((found.tier, found.alignment, found.non_temporal_stores), (Some(isa), alignment, past));
        assert_eq!(found.available, available);
        let flags = [found.sse2, found.ssse3, found.avx2, found.avx512, found.avx512_vbmi, found.neon];
        let tiers = [Isa::Sse2, Isa::Ssse3, Isa::Avx2, Isa::Avx512, Isa::Avx512Vbmi, Isa::Neon];
        assert_eq!(flags, tiers.map(|tier| tier.missing().is_none()), "{isa}");
        let stores = if past { "non-temporal stores" } else { "plain stores" };
        assert_eq!(found.to_string(), format!("{isa}, {} byte alignment, {stores}", alignment.bytes()));
    }
}

#[test]
fn streams_reach_any_place_and_nothing_beside_it() {
    // Chunks of every packing, and a last one that is short.
    let weights = sparse(entropy::CHUNK + 777, 0.6, 5);
    let n = weights.len();
    let mut memory = vec![7; n + 192];
    for strategy in TernaryPackingStrategy::ALL {
        let packed = pack(strategy, &weights);
        for isa in Isa::available() {
            let unpacker = SimdUnpacker::with_isa(isa).unwrap().with_streaming_from(1);
            for offset in [0, 1, 8, 16, 33, 48] {
                let start = memory.as_ptr().align_offset(64) + offset;
                memory.fill(7);
                unpacker.unpack_into(&packed, &mut memory[start..start + n]).unwrap();
                assert!(memory[start..start + n] == weights, "{strategy} {isa} {offset}");
                let beside = memory[..start].iter().chain(&memory[start + n..]);
                assert!(beside.into_iter().all(|&value| value == 7), "{strategy} {isa} {offset}");
            }
        }
    }
}

#[test]
fn destinations_and_ranges_that_do_not_fit_are_named() {
    for strategy in TernaryPackingStrategy::ALL {
        let packed = pack(strategy, &sparse(1000, 0.5, 3));
        for unpacker in [SimdUnpacker::new(), SimdUnpacker::new().with_streaming_from(1)] {
            for found in [999, 1001] {
                let error = unpacker.unpack_into(&packed, &mut vec![0; found]).unwrap_err();
                assert_eq!(error, UnpackError::Pack(PackError::Destination { expected: 1000, found }));
            }
        }
        let unpacker = SimdUnpacker::new();
        let mut out = [0; 10];
        let error = unpacker.unpack_range(&packed, 5..25, &mut out).unwrap_err();
        assert_eq!(error, UnpackError::Pack(PackError::Destination { expected: 20, found: 10 }));
        #[expect(clippy::reversed_empty_ranges, reason = "such a range is what is refused")]
        for (range, message) in [
            (991..1001, "range 991..1001: expected one within 1000 weights"),
            (10..0, "range 10..0: expected one within 1000 weights"),
        ] {
            let error = unpacker.unpack_range(&packed, range, &mut out).unwrap_err();
            assert_eq!(error.to_string(), message, "{strategy}");
        }
        let error = unpacker.unpack_row(&packed, usize::MAX, &mut out).unwrap_err();
        assert!(error.to_string().contains("within 1000 weights"), "{error}");
    }
}

/// Cuts and ranges around the ends of the longest chunks, which random lengths hardly reach.
#[test]
fn cuts_and_ranges_across_the_longest_chunks_are_those_of_the_whole() {
    let weights = sparse(2 * entropy::CHUNK + 5000, 0.8, 7);
    for strategy in [TernaryPackingStrategy::EntropyCoded, TernaryPackingStrategy::Hybrid] {
        let packed = pack(strategy, &weights);
        for cut in [100_003, entropy::CHUNK - 1, entropy::CHUNK, entropy::CHUNK + 1] {
            let mut writer = TernaryPackWriter::new(strategy, &TernaryPackingConfig::default()).unwrap();
            weights.chunks(cut).for_each(|part| writer.push(part).unwrap());
            assert!(writer.finish() == packed, "{strategy} {cut}");
        }
        let edges =
            [0, entropy::CHUNK - 1, entropy::CHUNK, entropy::CHUNK + 1, 2 * entropy::CHUNK, weights.len()];
        for (start, end) in edges.iter().flat_map(|&a| edges.map(|b| (a, b))).filter(|(a, b)| a <= b) {
            let mut out = vec![7; end - start];
            SimdUnpacker::new().unpack_range(&packed, start..end, &mut out).unwrap();
            assert!(out == weights[start..end], "{strategy} {start}..{end}");
        }
    }
}
