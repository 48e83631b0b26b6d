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
