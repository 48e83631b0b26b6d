//! AMX with int8: ternary products of several tokens by 16 x 16 x 64 tiles; everything else is the AVX-512
//! VBMI tier's.
//!
//! What it needs beyond the processor: the operating system keeps the tiles of a thread (XCR0), and Linux lets
//! the process use them ([`permission`]). Every product sets the tiles up and releases them, so that nothing of
//! them outlives a call. Stable Rust has no intrinsics of tiles: [`tiles`] is all of the assembly, behind a trait
//! whose emulation in the tests runs everything else on any AVX-512 VBMI machine.

#![allow(unsafe_code)]

mod panel;
mod permission;
mod ternary;
mod tiles;

pub use permission::missing;
pub use tiles::multiply_in_registers;

use super::avx512_vbmi;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after [`missing`] found nothing,
/// besides what the AVX-512 VBMI tier asks for.
pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Amx,
    row_quarters: TernaryKernels {
        // SAFETY: AMX and its permission, AVX-512 F, BW and VBMI were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..avx512_vbmi::ENTRIES.row_quarters
    },
    row_fifths: TernaryKernels {
        // SAFETY: as above.
        i8: |codes, x, sums, out| unsafe { ternary::row_fifths_i8(codes, x, sums, out) },
        ..avx512_vbmi::ENTRIES.row_fifths
    },
    ..avx512_vbmi::ENTRIES
};
