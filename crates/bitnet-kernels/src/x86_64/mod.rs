//! x86-64 tiers.

pub mod amx;
pub mod avx2;
pub mod avx512;
pub mod avx512_vbmi;
pub mod avx_vnni;
mod casts;
mod float;
pub mod sse2;
pub mod ssse3;
mod streams;
