//! AArch64 tiers.

pub mod dotprod;
pub mod i8mm;
pub mod neon;
