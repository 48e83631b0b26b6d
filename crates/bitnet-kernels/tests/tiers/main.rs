//! Every available tier against the scalar truth, and the scalar truth against plain definitions.
//!
//! Sizes stand at the boundaries of vectors, lanes, blocks and deferred sums, plus and minus one; inputs have
//! the prime period 251, so that exchanged blocks cannot cancel.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod affine;
mod casts;
mod edge;
mod flat;
mod float;
mod inputs;
mod int6;
mod int8;
mod narrow_rows;
mod quantize_i16;
mod refusals;
mod ternary;
mod ternary_float;

use bitnet_kernels::Isa;

/// Tiers that have to be available, by name and separated by commas: where a processor is emulated, a tier that its
/// emulator lacks would else be left out of all tests without a word.
const EXPECTED: &str = "BITNET_EXPECT_ISA";

#[test]
fn every_expected_tier_is_available() {
    let Ok(names) = std::env::var(EXPECTED) else { return };
    for name in names.split(',') {
        let isa: Isa = name.parse().unwrap();
        assert_eq!(isa.missing(), None, "{EXPECTED} names {isa}");
    }
}
