//! NEON, the dot products and the matrix products of int8 (`usmmla`): ternary int8 products of two tokens and
//! more; everything else is the tier's below.

#![allow(unsafe_code)]

mod ternary;

use super::dotprod;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of the
/// matrix products besides what the dot-product tier asks for.
pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::I8mm,
    row_quarters: TernaryKernels {
        // SAFETY: NEON, the dot products and the matrix products were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..dotprod::ENTRIES.row_quarters
    },
    ..dotprod::ENTRIES
};
