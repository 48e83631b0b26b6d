//! NEON and the dot products of int8 (`sdot`): ternary int8 products and six-bit rows; everything else is the NEON tier's.

#![allow(unsafe_code)]

mod int6;
pub(super) mod ternary;

use super::neon;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of the dot
/// products besides what the NEON tier asks for.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tier above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Dotprod,
    row_quarters: TernaryKernels {
        // SAFETY: NEON and the dot products were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..neon::ENTRIES.row_quarters
    },
    // SAFETY: as above.
    int6_planes: |rows, planes, sums, out| unsafe { int6::int6_planes(rows, planes, sums, out) },
    ..neon::ENTRIES
};
