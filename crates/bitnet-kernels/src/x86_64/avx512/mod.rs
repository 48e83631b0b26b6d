//! AVX-512 with VNNI: ternary products, rows of six and eight bits, dense rows and attention on 512 bits;
//! everything else is the AVX2 tier's.

#![allow(unsafe_code)]

mod casts;
mod flat;
mod float;
mod int6;
mod int8;
mod ternary;

use super::avx2;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of
/// AVX-512 F, BW and VNNI besides what the AVX2 tier asks for.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tiers above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Avx512,
    row_quarters: TernaryKernels {
        // SAFETY: AVX-512 F, BW and VNNI were detected (see above).
        i8: |codes, x, sums, out| unsafe { ternary::row_quarters_i8(codes, x, sums, out) },
        // SAFETY: as above.
        f32: |codes, cols, x, out| unsafe { float::row_quarters_f32(codes, cols, x, out) },
    },
    row_fifths: TernaryKernels {
        // SAFETY: as above.
        f32: |codes, cols, x, out| unsafe { float::row_fifths_f32(codes, cols, x, out) },
        ..avx2::ENTRIES.row_fifths
    },
    flat: flat::ENTRIES,
    casts: casts::ENTRIES,
    // SAFETY: as above.
    int6_planes: |rows, planes, sums, out| unsafe { int6::int6_planes(rows, planes, sums, out) },
    // SAFETY: as above.
    int8_i16: |rows, cols, x, out| unsafe { int8::int8_i16(rows, cols, x, out) },
    // SAFETY: as above.
    dense: |row, x, out| unsafe { float::dense(row, x, out) },
    // SAFETY: as above.
    dense_rows: |rows, cols, x, out| unsafe { float::dense_rows(rows, cols, x, out) },
    // SAFETY: as above.
    attend: |block, counts, queries, states, out, scratch| unsafe {
        float::attend(block, counts, queries, states, out, scratch)
    },
    ..avx2::ENTRIES
};
