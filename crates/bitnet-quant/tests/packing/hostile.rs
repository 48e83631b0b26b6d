//! Bytes that packing did not write, weights that are not ternary.

use bitnet_quant::prelude::*;
use proptest::prelude::*;

use crate::{pack, sparse};

fn error(bytes: &[u8]) -> String {
    TernaryPackedWeights::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn a_weight_that_is_not_ternary_is_named() {
    for strategy in TernaryPackingStrategy::ALL {
        let mut writer = TernaryPackWriter::new(strategy, &TernaryPackingConfig::default()).unwrap();
        writer.push(&[0, 1]).unwrap();
        let error = writer.push(&[1, -2]).unwrap_err();
        assert_eq!(error, PackError::NotTernary { index: 3, value: -2 });
        assert_eq!(writer.finish().len(), 2);
    }
}

#[test]
fn every_field_of_the_header_is_checked() {
    let bytes = pack(TernaryPackingStrategy::RunLengthEncoded, &sparse(40_000, 0.9, 1)).to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        error(&bytes)
    };
    assert!(with(0, b'X').contains("offset 0"));
    assert!(with(4, 99).contains("strategy"));
    assert!(with(6, 1).contains("three zeros"));
    assert!(with(15, 0xff).contains("bytes"), "more weights than any memory");
    assert!(with(16, !bytes[16]).contains("bytes"));
    assert!(with(24, !bytes[24]).contains("offset 16"), "{}", with(24, !bytes[24]));
    for cut in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        assert!(error(&bytes[..cut]).contains(&format!("found {cut}")), "{cut}");
    }
    assert!(error(&[&bytes[..], &[0]].concat()).contains("expected"));
}

#[test]
fn codes_that_packing_does_not_write_are_named_by_offset() {
    let bytes = |strategy, len| pack(strategy, &sparse(len, 0.5, 1)).to_bytes();
    let damage = |strategy, len: usize, at: usize, byte: u8| {
        let mut bytes = bytes(strategy, len);
        bytes[at] = byte;
        error(&bytes)
    };
    use TernaryPackingStrategy as S;
    let header = 24;
    assert!(damage(S::Uncompressed, 100, header + 7, 2).contains("offset 7"));
    assert!(damage(S::BitPacked2Bit, 1000, header + 9, 0b11).contains("offset 9"));
    assert!(damage(S::Base3Packed, 1000, header + 9, 1).contains("offset 9"));
    assert!(damage(S::ByteAligned, 1000, header + 130, 17).contains("non-zero"));
    // Chunk lengths stand before the packed bytes.
    assert!(damage(S::Hybrid, 1000, header + 4, 9).contains("block size"));
    assert!(damage(S::Hybrid, 1000, header + 5, 9).contains("tag"));
    assert!(damage(S::RunLengthEncoded, 1000, header + 4, 0xe0).contains("value 0, 1 or 2"));
    assert!(damage(S::CompressedSparse, 1001, header + 4 + 125, 0xff).contains("clear bits"));
    assert!(damage(S::EntropyCoded, 1000, header + 4 + 4, 17).contains("scale bits"));
    assert!(damage(S::EntropyCoded, 1000, header + 4 + 7, 0).contains("2^16"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Damage is refused, or gives other weights that are ternary and pack; never a panic.
    #[test]
    fn damaged_bytes_are_refused_or_are_weights(
        tag in 0..8usize, seed in any::<u64>(), at in any::<usize>(), byte in any::<u8>(), len in 1..20_000usize,
    ) {
        let strategy = TernaryPackingStrategy::ALL[tag];
        let mut bytes = pack(strategy, &sparse(len, 0.8, seed)).to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(packed) = TernaryPackedWeights::from_bytes(&bytes) {
            let weights = simd_unpack_weights(&packed).unwrap();
            prop_assert!(weights.iter().all(|weight| (-1..=1).contains(weight)));
            prop_assert_eq!(pack(packed.strategy(), &weights).counts(), packed.counts());
        }
    }

    #[test]
    fn noise_is_refused_or_is_weights(noise in proptest::collection::vec(any::<u8>(), 0..400), tag in 0..8u8, len in 0..3000u64) {
        let mut bytes = b"BTP1".to_vec();
        bytes.extend([tag, 0, 0, 0]);
        bytes.extend(len.to_le_bytes());
        let lengths = usize::from(tag >= 4 && len > 0);
        bytes.extend((noise.len() as u64).to_le_bytes());
        (0..lengths).for_each(|_| bytes.extend((noise.len() as u32).to_le_bytes()));
        bytes.extend(&noise);
        if let Ok(packed) = TernaryPackedWeights::from_bytes(&bytes) {
            prop_assert_eq!(simd_unpack_weights(&packed).unwrap().len() as u64, len);
        }
    }
}
