//! The kernels of casts between element types.

use crate::scalar::casts::{self, CodeRule, Extent};

/// Casts of one tier. Contracts and shapes stand at the functions of [`scalar::casts`](crate::scalar::casts).
#[derive(Debug, Clone, Copy)]
#[expect(clippy::type_complexity, reason = "the names of the arguments say more than an alias would")]
pub struct CastKernels {
    /// [`casts::f32_to_f16`].
    pub f32_to_f16: fn(x: &[[u8; 4]], out: &mut [[u8; 2]], past: bool),
    /// [`casts::f32_to_bf16`].
    pub f32_to_bf16: fn(x: &[[u8; 4]], out: &mut [[u8; 2]], past: bool),
    /// [`casts::f16_to_f32`].
    pub f16_to_f32: fn(x: &[[u8; 2]], out: &mut [[u8; 4]], past: bool),
    /// [`casts::bf16_to_f32`].
    pub bf16_to_f32: fn(x: &[[u8; 2]], out: &mut [[u8; 4]], past: bool),
    /// [`casts::f16_to_bf16`].
    pub f16_to_bf16: fn(x: &[[u8; 2]], out: &mut [[u8; 2]], past: bool),
    /// [`casts::bf16_to_f16`].
    pub bf16_to_f16: fn(x: &[[u8; 2]], out: &mut [[u8; 2]], past: bool),
    /// [`casts::f32_to_codes`].
    pub f32_to_codes: fn(x: &[[u8; 4]], rule: CodeRule, out: &mut [i8], past: bool),
    /// [`casts::codes_to_f32`].
    pub codes_to_f32: fn(codes: &[i8], scale: f32, out: &mut [[u8; 4]], past: bool),
    /// [`casts::pack_i4`].
    pub pack_i4: fn(codes: &[i8], out: &mut [u8]),
    /// [`casts::unpack_i4`].
    pub unpack_i4: fn(packed: &[u8], out: &mut [i8]),
    /// [`casts::pack_ternary`].
    pub pack_ternary: fn(values: &[i8], out: &mut [u8]),
    /// [`casts::unpack_ternary`].
    pub unpack_ternary: fn(packed: &[u8], out: &mut [i8]),
    /// [`casts::extent`].
    pub extent: fn(x: &[[u8; 4]]) -> Extent,
    /// [`casts::moments`].
    pub moments: fn(x: &[[u8; 4]], codes: &[i8]) -> (f64, i64),
}

/// The scalar text.
pub(crate) const SCALAR: CastKernels = CastKernels {
    f32_to_f16: casts::f32_to_f16,
    f32_to_bf16: casts::f32_to_bf16,
    f16_to_f32: casts::f16_to_f32,
    bf16_to_f32: casts::bf16_to_f32,
    f16_to_bf16: casts::f16_to_bf16,
    bf16_to_f16: casts::bf16_to_f16,
    f32_to_codes: casts::f32_to_codes,
    codes_to_f32: casts::codes_to_f32,
    pack_i4: casts::pack_i4,
    unpack_i4: casts::unpack_i4,
    pack_ternary: casts::pack_ternary,
    unpack_ternary: casts::unpack_ternary,
    extent: casts::extent,
    moments: casts::moments,
};
