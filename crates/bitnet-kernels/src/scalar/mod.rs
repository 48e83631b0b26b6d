//! The scalar tier: portable, safe, and the definition of every result.
//!
//! Bodies are `#[inline(always)]`, so that a vector tier can compile the same text with its own
//! instructions enabled where the compiler's vectoriser does it justice: the order of floating-point
//! operations is in the source and Rust neither reorders nor contracts them.

pub mod affine;
pub mod attention;
pub mod casts;
pub mod dense;
pub mod dequantize;
pub mod exp;
pub mod flat;
pub mod gate;
pub mod int6;
pub mod int8;
pub mod lanes;
pub mod narrow;
pub mod norm;
pub mod quantize;
pub mod rope;
pub mod stochastic;
pub mod ternary;
