//! AVX-512 with VBMI: row fifths by table look-up; everything else is the AVX-512 tier's.

#![allow(unsafe_code)]

pub(super) mod row_fifths;

use super::avx512;
use crate::{Isa, Kernels, TernaryKernels};

/// The table of this tier. It leaves the crate only through [`Kernels::for_isa`], after detection of
/// AVX-512 VBMI besides what the AVX-512 tier asks for.
pub(crate) static KERNELS: Kernels = ENTRIES;

/// The entries, for the tiers above to take over.
pub(crate) const ENTRIES: Kernels = Kernels {
    isa: Isa::Avx512Vbmi,
    row_fifths: TernaryKernels {
        // SAFETY: AVX-512 VBMI was detected (see above).
        i8: |codes, x, sums, out| unsafe { row_fifths::row_fifths_i8(codes, x, sums, out) },
        ..avx512::ENTRIES.row_fifths
    },
    ..avx512::ENTRIES
};
