//! x86-64 tiers.

pub mod avx2;
