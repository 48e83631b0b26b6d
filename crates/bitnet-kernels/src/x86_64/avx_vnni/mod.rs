//! AVX-VNNI (256 bits): ternary int8 products and six-bit rows by `vpdpbusd`; everything else is the AVX2 tier's.

#![allow(unsafe_code)]

mod int6;
mod ternary;

use super::avx2;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of
/// AVX-VNNI besides what the AVX2 tier asks for.
pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::AvxVnni,
    row_quarters: TernaryKernels {
        // SAFETY: AVX2 and AVX-VNNI were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..avx2::ENTRIES.row_quarters
    },
    // SAFETY: as above.
    int6_planes: |rows, planes, sums, out| unsafe { int6::int6_planes(rows, planes, sums, out) },
    ..avx2::ENTRIES
};
