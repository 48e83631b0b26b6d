//! Casts, written once over the width of a register.
//!
//! As in [`float`](super::float), the bodies are `inline(always)` and a tier makes them its own by calling them from
//! functions that carry its target features. A step gives one register of output, whatever it reads for it.

#![allow(unsafe_code)]

use crate::scalar::casts::CodeRule;

/// A register of output bytes, and the casts that fill one.
///
/// # Safety
/// Every method asks for the instruction set of its type. What is read are the elements of one register of output, at any
/// address; `store` asks for [`BYTES`](Self::BYTES) accessible bytes at any address, `stream` for as many at a multiple of
/// their number.
pub trait Register: Copy {
    /// Bytes in it.
    const BYTES: usize;

    unsafe fn store(self, at: *mut u8);
    unsafe fn stream(self, at: *mut u8);
    unsafe fn f32_to_f16(at: *const u8) -> Self;
    unsafe fn f32_to_bf16(at: *const u8) -> Self;
    unsafe fn f16_to_f32(at: *const u8) -> Self;
    unsafe fn bf16_to_f32(at: *const u8) -> Self;
    unsafe fn f16_to_bf16(at: *const u8) -> Self;
    unsafe fn bf16_to_f16(at: *const u8) -> Self;
    unsafe fn f32_to_codes(at: *const u8, rule: CodeRule) -> Self;
    unsafe fn codes_to_f32(at: *const u8, scale: f32) -> Self;
    unsafe fn pack_i4(at: *const u8) -> Self;
    unsafe fn pack_ternary(at: *const u8) -> Self;
}

/// Casts whole registers with `step` and what is left at either end with `rest`.
///
/// # Safety
/// `step` reads the elements of one register of output from where it is told to; the features of `V` are there.
#[inline(always)]
pub unsafe fn cast<V: Register, const I: usize, const O: usize>(
    x: &[[u8; I]],
    out: &mut [[u8; O]],
    past: bool,
    step: impl Fn(*const u8) -> V,
    rest: impl Fn(&[[u8; I]], &mut [[u8; O]]),
) {
    assert_eq!(x.len(), out.len(), "elements and their casts");
    let per_step = V::BYTES / O;
    // A place that elements never meet answers with more than there are.
    let gap = out.as_ptr().cast::<u8>().align_offset(V::BYTES);
    let past = past && gap.is_multiple_of(O) && gap / O <= out.len();
    let head = if past { gap / O } else { 0 };
    let steps = (out.len() - head) / per_step;
    rest(&x[..head], &mut out[..head]);
    let (from, to) = (x[head..].as_ptr().cast::<u8>(), out[head..].as_mut_ptr().cast::<u8>());
    for index in 0..steps {
        // SAFETY: `steps` registers of output and what they are made of lie in the slices; with `past` the first
        // begins at a multiple of its size, and so do all.
        unsafe {
            let register = step(from.add(index * per_step * I));
            let to = to.add(index * V::BYTES);
            match past {
                true => register.stream(to),
                false => register.store(to),
            }
        }
    }
    if past {
        // SAFETY: SSE is part of x86-64. It orders streamed writes before what follows, as plain ones are.
        unsafe { std::arch::x86_64::_mm_sfence() };
    }
    let done = head + steps * per_step;
    rest(&x[done..], &mut out[done..]);
}

/// Packs `K` codes a byte, whole registers with `step`; returns what is left.
///
/// # Safety
/// As [`cast`].
#[inline(always)]
pub unsafe fn pack<'a, V: Register, const K: usize>(
    codes: &'a [i8],
    out: &'a mut [u8],
    step: impl Fn(*const u8) -> V,
) -> (&'a [i8], &'a mut [u8]) {
    assert_eq!(out.len(), codes.len().div_ceil(K), "bytes of {} codes", codes.len());
    let steps = codes.len() / (K * V::BYTES);
    let (whole, rest) = codes.split_at(steps * K * V::BYTES);
    let (packed, rest_out) = out.split_at_mut(steps * V::BYTES);
    for index in 0..steps {
        // SAFETY: `K` registers of codes from there on lie in `whole`, one of bytes in `packed`.
        unsafe {
            let register = step(whole.as_ptr().add(index * K * V::BYTES).cast());
            register.store(packed.as_mut_ptr().add(index * V::BYTES));
        }
    }
    (rest, rest_out)
}

/// Sees bytes as elements of one byte.
#[inline(always)]
pub fn bytes_of(codes: &[i8]) -> &[[u8; 1]] {
    // SAFETY: both elements are one byte of any value, at any address.
    unsafe { std::slice::from_raw_parts(codes.as_ptr().cast(), codes.len()) }
}

/// As [`bytes_of`], for writing.
#[inline(always)]
pub fn bytes_of_mut(codes: &mut [i8]) -> &mut [[u8; 1]] {
    // SAFETY: as in `bytes_of`; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast(), codes.len()) }
}

/// As [`bytes_of`], the other way.
#[inline(always)]
pub fn codes_of(bytes: &[[u8; 1]]) -> &[i8] {
    // SAFETY: as in `bytes_of`.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

/// As [`codes_of`], for writing.
#[inline(always)]
pub fn codes_of_mut(bytes: &mut [[u8; 1]]) -> &mut [i8] {
    // SAFETY: as in `bytes_of`; the borrow passes on.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// The entries of a tier that [`Register`] gives, as functions with its target features.
macro_rules! entries {
    ($register:ty, $features:literal) => {
        #[target_feature(enable = $features)]
        fn f32_to_f16(x: &[[u8; 4]], out: &mut [[u8; 2]], past: bool) {
            // SAFETY: for each function here, the features are its own.
            let step = |at| unsafe { <$register>::f32_to_f16(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::f32_to_f16(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn f32_to_bf16(x: &[[u8; 4]], out: &mut [[u8; 2]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::f32_to_bf16(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::f32_to_bf16(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn f16_to_f32(x: &[[u8; 2]], out: &mut [[u8; 4]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::f16_to_f32(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::f16_to_f32(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn bf16_to_f32(x: &[[u8; 2]], out: &mut [[u8; 4]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::bf16_to_f32(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::bf16_to_f32(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn f16_to_bf16(x: &[[u8; 2]], out: &mut [[u8; 2]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::f16_to_bf16(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::f16_to_bf16(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn bf16_to_f16(x: &[[u8; 2]], out: &mut [[u8; 2]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::bf16_to_f16(at) };
            // SAFETY: as above.
            unsafe { cast(x, out, past, step, |x, out| scalar::bf16_to_f16(x, out, false)) }
        }

        #[target_feature(enable = $features)]
        fn f32_to_codes(x: &[[u8; 4]], rule: CodeRule, out: &mut [i8], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::f32_to_codes(at, rule) };
            let rest = |x: &[[u8; 4]], out: &mut [[u8; 1]]| {
                scalar::f32_to_codes(x, rule, codes_of_mut(out), false);
            };
            // SAFETY: as above.
            unsafe { cast(x, bytes_of_mut(out), past, step, rest) }
        }

        #[target_feature(enable = $features)]
        fn codes_to_f32(codes: &[i8], scale: f32, out: &mut [[u8; 4]], past: bool) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::codes_to_f32(at, scale) };
            let rest = |codes: &[[u8; 1]], out: &mut [[u8; 4]]| {
                scalar::codes_to_f32(codes_of(codes), scale, out, false);
            };
            // SAFETY: as above.
            unsafe { cast(bytes_of(codes), out, past, step, rest) }
        }

        #[target_feature(enable = $features)]
        fn pack_i4(codes: &[i8], out: &mut [u8]) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::pack_i4(at) };
            // SAFETY: as above.
            let (codes, out) = unsafe { pack::<$register, 2>(codes, out, step) };
            scalar::pack_i4(codes, out);
        }

        #[target_feature(enable = $features)]
        fn unpack_i4(packed: &[u8], out: &mut [i8]) {
            scalar::unpack_i4(packed, out);
        }

        #[target_feature(enable = $features)]
        fn pack_ternary(values: &[i8], out: &mut [u8]) {
            // SAFETY: as above.
            let step = |at| unsafe { <$register>::pack_ternary(at) };
            // SAFETY: as above.
            let (values, out) = unsafe { pack::<$register, 4>(values, out, step) };
            scalar::pack_ternary(values, out);
        }

        #[target_feature(enable = $features)]
        fn unpack_ternary(packed: &[u8], out: &mut [i8]) {
            scalar::unpack_ternary(packed, out);
        }

        #[target_feature(enable = $features)]
        fn extent(x: &[[u8; 4]]) -> Extent {
            scalar::extent(x)
        }

        #[target_feature(enable = $features)]
        fn moments(x: &[[u8; 4]], codes: &[i8]) -> (f64, i64) {
            scalar::moments(x, codes)
        }

        /// The entries of this tier.
        pub const ENTRIES: CastKernels = CastKernels {
            // SAFETY: for each entry, the features of the tier were detected before the table left the crate.
            f32_to_f16: |x, out, past| unsafe { f32_to_f16(x, out, past) },
            // SAFETY: as above.
            f32_to_bf16: |x, out, past| unsafe { f32_to_bf16(x, out, past) },
            // SAFETY: as above.
            f16_to_f32: |x, out, past| unsafe { f16_to_f32(x, out, past) },
            // SAFETY: as above.
            bf16_to_f32: |x, out, past| unsafe { bf16_to_f32(x, out, past) },
            // SAFETY: as above.
            f16_to_bf16: |x, out, past| unsafe { f16_to_bf16(x, out, past) },
            // SAFETY: as above.
            bf16_to_f16: |x, out, past| unsafe { bf16_to_f16(x, out, past) },
            // SAFETY: as above.
            f32_to_codes: |x, rule, out, past| unsafe { f32_to_codes(x, rule, out, past) },
            // SAFETY: as above.
            codes_to_f32: |codes, scale, out, past| unsafe { codes_to_f32(codes, scale, out, past) },
            // SAFETY: as above.
            pack_i4: |codes, out| unsafe { pack_i4(codes, out) },
            // SAFETY: as above.
            unpack_i4: |packed, out| unsafe { unpack_i4(packed, out) },
            // SAFETY: as above.
            pack_ternary: |values, out| unsafe { pack_ternary(values, out) },
            // SAFETY: as above.
            unpack_ternary: |packed, out| unsafe { unpack_ternary(packed, out) },
            // SAFETY: as above.
            extent: |x| unsafe { extent(x) },
            // SAFETY: as above.
            moments: |x, codes| unsafe { moments(x, codes) },
        };
    };
}
pub(super) use entries;
