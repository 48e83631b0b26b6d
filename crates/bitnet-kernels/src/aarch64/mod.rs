//! AArch64 tiers.

pub mod neon;
