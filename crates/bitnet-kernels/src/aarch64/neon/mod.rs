//! NEON: ternary int8 products, rows of six and eight bits and dense rows by hand; the rest is the scalar text.
//!
//! NEON is part of every AArch64 target that has a standard library, so the scalar text is compiled for it as
//! it stands.

#![allow(unsafe_code)]

mod casts;
mod flat;
mod float;
pub(super) mod int6;
mod int8;
pub(super) mod ternary;

use crate::dispatch::SCALAR;
use crate::scalar::dense;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of NEON:
/// this is what the `unsafe` calls below rely on.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tiers above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Neon,
    row_quarters: TernaryKernels {
        // SAFETY: NEON was detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        ..SCALAR.row_quarters
    },
    flat: flat::ENTRIES,
    casts: casts::ENTRIES,
    // SAFETY: as above.
    int6_planes: |rows, planes, sums, out| unsafe { int6::int6_planes(rows, planes, sums, out) },
    // SAFETY: as above.
    int8_i16: |rows, cols, x, out| unsafe { int8::int8_i16(rows, cols, x, out) },
    // SAFETY: as above.
    dense: |row, x, out| unsafe { float::dense(row, x, out) },
    dense_rows: |rows, cols, x, out| {
        // SAFETY: as above.
        dense::each_row(rows, cols, x, out, |row, x, out| unsafe { float::dense(row, x, out) });
    },
    ..SCALAR
};
