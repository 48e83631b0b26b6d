//! SSE2, which every x86-64 processor has: ternary int8 products and int8 rows by hand; the rest is the scalar
//! text, which is compiled for SSE2 as it stands.

#![allow(unsafe_code)]

pub(super) mod flat;
mod int8;
pub(super) mod ternary;

use crate::dispatch::SCALAR;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tier above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Sse2,
    row_quarters: TernaryKernels {
        // SAFETY: SSE2 is part of x86-64.
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..SCALAR.row_quarters
    },
    flat: flat::ENTRIES,
    // SAFETY: as above.
    int8_i16: |rows, cols, x, out| unsafe { int8::int8_i16(rows, cols, x, out) },
    ..SCALAR
};
