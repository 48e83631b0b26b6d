//! SSSE3: ternary int8 products by `pmaddubsw` on 128 bits; everything else is the SSE2 tier's.

#![allow(unsafe_code)]

pub(super) mod flat;
mod ternary;

use super::sse2;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of SSSE3.
pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Ssse3,
    row_quarters: TernaryKernels {
        // SAFETY: SSSE3 was detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..sse2::ENTRIES.row_quarters
    },
    flat: flat::ENTRIES,
    ..sse2::ENTRIES
};
