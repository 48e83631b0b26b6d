//! Numbers of one type as blocks, and blocks as numbers of another.
//!
//! Values pass through the narrowest of three kinds that holds all of the source exactly: f32, f64 or i128. Each is
//! rounded once, to the target. Elements are bytes in the order of the machine, at any address.

use bitnet_backend::{BitNetDType, Result};
use bitnet_kernels::{CodeRule, Kernels};

pub(super) use crate::memory::tensor::packed::{codes_of, load_codes, store_codes};

/// Elements that pass together: whole bytes of every packed type, whole registers of every tier.
pub const BLOCK: usize = 1280;

/// The kind of number that holds every value of a type exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32.
    Single,
    /// f64.
    Double,
    /// i128.
    Integer,
}

/// Returns the kind of a type.
pub fn kind_of(dtype: BitNetDType) -> Kind {
    match dtype {
        BitNetDType::F64 | BitNetDType::I32 | BitNetDType::U32 => Kind::Double,
        BitNetDType::I64 | BitNetDType::U64 => Kind::Integer,
        _ => Kind::Single,
    }
}

/// Reads up to a block of a type of kind [`Kind::Single`].
pub fn load_single(kernels: &Kernels, dtype: BitNetDType, bytes: &[u8], out: &mut [[u8; 4]]) -> Result<()> {
    let pairs = || bytes.as_chunks::<2>().0;
    let mut put = |values: &mut dyn Iterator<Item = f32>| {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_ne_bytes());
    };
    match dtype {
        BitNetDType::F32 => out.copy_from_slice(bytes.as_chunks::<4>().0),
        BitNetDType::F16 => (kernels.casts.f16_to_f32)(pairs(), out, false),
        BitNetDType::BF16 => (kernels.casts.bf16_to_f32)(pairs(), out, false),
        BitNetDType::I16 => put(&mut pairs().iter().map(|&b| f32::from(i16::from_ne_bytes(b)))),
        BitNetDType::U16 => put(&mut pairs().iter().map(|&b| f32::from(u16::from_ne_bytes(b)))),
        BitNetDType::U8 => put(&mut bytes.iter().map(|&b| f32::from(b))),
        BitNetDType::Bool => put(&mut bytes.iter().map(|&b| f32::from(u8::from(b != 0)))),
        _ => {
            let mut codes = [0; BLOCK];
            let codes = &mut codes[..out.len()];
            load_codes(kernels, dtype, bytes, codes)?;
            (kernels.casts.codes_to_f32)(codes, 1.0, out, false);
        }
    }
    Ok(())
}

/// Reads up to a block of a type of kind [`Kind::Double`].
pub fn load_double(dtype: BitNetDType, bytes: &[u8], out: &mut [f64]) {
    let words = bytes.as_chunks::<4>().0;
    let mut put = |values: &mut dyn Iterator<Item = f64>| {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
    };
    match dtype {
        BitNetDType::I32 => put(&mut words.iter().map(|&b| f64::from(i32::from_ne_bytes(b)))),
        BitNetDType::U32 => put(&mut words.iter().map(|&b| f64::from(u32::from_ne_bytes(b)))),
        _ => put(&mut bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_ne_bytes(b))),
    }
}

/// Reads up to a block of a type of kind [`Kind::Integer`].
pub fn load_integers(dtype: BitNetDType, bytes: &[u8], out: &mut [i128]) {
    let signed = dtype == BitNetDType::I64;
    for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *out = if signed { i64::from_ne_bytes(bytes).into() } else { u64::from_ne_bytes(bytes).into() };
    }
}

/// Writes the nearest elements.
pub fn store_single(kernels: &Kernels, dtype: BitNetDType, x: &[[u8; 4]], out: &mut [u8]) -> Result<()> {
    match dtype {
        BitNetDType::F32 => out.as_chunks_mut::<4>().0.copy_from_slice(x),
        BitNetDType::F16 => (kernels.casts.f32_to_f16)(x, out.as_chunks_mut().0, false),
        BitNetDType::BF16 => (kernels.casts.f32_to_bf16)(x, out.as_chunks_mut().0, false),
        _ => match codes_of(dtype) {
            Some((least, greatest)) => {
                let rule = CodeRule { inverse: 1.0, least, greatest };
                return store_rounded(kernels, dtype, x, rule, out);
            }
            None => {
                let mut wide = [0.0; BLOCK];
                let wide = &mut wide[..x.len()];
                wide.iter_mut().zip(x).for_each(|(out, &x)| *out = f32::from_ne_bytes(x).into());
                return store_double(kernels, dtype, wide, out);
            }
        },
    }
    Ok(())
}

/// Writes codes by a rule.
pub fn store_rounded(
    kernels: &Kernels,
    dtype: BitNetDType,
    x: &[[u8; 4]],
    rule: CodeRule,
    out: &mut [u8],
) -> Result<()> {
    if dtype == BitNetDType::I8 {
        (kernels.casts.f32_to_codes)(x, rule, bytemuck::cast_slice_mut(out), false);
        return Ok(());
    }
    let mut codes = [0; BLOCK];
    let codes = &mut codes[..x.len()];
    (kernels.casts.f32_to_codes)(x, rule, codes, false);
    store_codes(kernels, dtype, codes, out)
}

/// Rounds to the nearest integer, ties to even; infinities and NaN stay.
pub fn round_half_even(x: f64) -> f64 {
    // In 1.5 * 2^52 + x the integer sits in the low bits of the sum, rounded by the addition itself; a greater number
    // is an integer already.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    if x.abs() < 2_251_799_813_685_248.0 { ((x + ROUND) - ROUND).copysign(x) } else { x }
}

/// Narrows to f32 so that rounding the result to f16 or bf16 is rounding `x` once.
///
/// The last bit of an inexact result is set ("round to odd"): it stands for what was cut off, and no tie of the
/// narrower types has it.
pub fn narrow_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() {
        return near;
    }
    let beyond = back.abs() > x.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

/// [`narrow_odd`] of an integer of 64 bits or fewer.
pub fn narrow_odd_integer(x: i128) -> f32 {
    // At most 64 bits: both kinds hold every power of two up to there.
    let near = x as f32;
    let back = near as i128;
    if back == x {
        return near;
    }
    f32::from_bits((near.to_bits() - u32::from(back.unsigned_abs() > x.unsigned_abs())) | 1)
}

macro_rules! store_as {
    ($out:expr, $values:expr, $type:ty) => {
        for (out, value) in $out.as_chunks_mut::<{ size_of::<$type>() }>().0.iter_mut().zip($values) {
            *out = (value as $type).to_ne_bytes();
        }
    };
}

/// Writes the nearest elements.
pub fn store_double(kernels: &Kernels, dtype: BitNetDType, x: &[f64], out: &mut [u8]) -> Result<()> {
    let rounded = || x.iter().map(|&x| round_half_even(x));
    // `as` saturates, and takes NaN for 0.
    match dtype {
        BitNetDType::F64 => store_as!(out, x.iter().copied(), f64),
        BitNetDType::F32 => store_as!(out, x.iter().copied(), f32),
        BitNetDType::F16 | BitNetDType::BF16 => {
            return store_halves(kernels, dtype, x.iter().map(|&x| narrow_odd(x)), out);
        }
        BitNetDType::I64 => store_as!(out, rounded(), i64),
        BitNetDType::I32 => store_as!(out, rounded(), i32),
        BitNetDType::I16 => store_as!(out, rounded(), i16),
        BitNetDType::U64 => store_as!(out, rounded(), u64),
        BitNetDType::U32 => store_as!(out, rounded(), u32),
        BitNetDType::U16 => store_as!(out, rounded(), u16),
        BitNetDType::U8 => store_as!(out, rounded(), u8),
        BitNetDType::Bool => out.iter_mut().zip(x).for_each(|(out, &x)| *out = (x != 0.0).into()),
        _ => {
            let (least, greatest) = codes_of(dtype).unwrap_or((i8::MIN, i8::MAX));
            let mut codes = [0; BLOCK];
            let codes = &mut codes[..x.len()];
            for (code, x) in codes.iter_mut().zip(rounded()) {
                *code = (x as i8).clamp(least, greatest);
            }
            return store_codes(kernels, dtype, codes, out);
        }
    }
    Ok(())
}

/// Writes the nearest elements.
pub fn store_integers(kernels: &Kernels, dtype: BitNetDType, x: &[i128], out: &mut [u8]) -> Result<()> {
    macro_rules! clamped {
        ($type:ty) => {
            store_as!(out, x.iter().map(|&x| x.clamp(<$type>::MIN.into(), <$type>::MAX.into())), $type)
        };
    }
    match dtype {
        BitNetDType::F64 => store_as!(out, x.iter().copied(), f64),
        BitNetDType::F32 => store_as!(out, x.iter().copied(), f32),
        BitNetDType::F16 | BitNetDType::BF16 => {
            return store_halves(kernels, dtype, x.iter().map(|&x| narrow_odd_integer(x)), out);
        }
        BitNetDType::I64 => clamped!(i64),
        BitNetDType::I32 => clamped!(i32),
        BitNetDType::I16 => clamped!(i16),
        BitNetDType::U64 => clamped!(u64),
        BitNetDType::U32 => clamped!(u32),
        BitNetDType::U16 => clamped!(u16),
        BitNetDType::U8 => clamped!(u8),
        BitNetDType::Bool => out.iter_mut().zip(x).for_each(|(out, &x)| *out = (x != 0).into()),
        _ => {
            let (least, greatest) = codes_of(dtype).unwrap_or((i8::MIN, i8::MAX));
            let mut codes = [0; BLOCK];
            let codes = &mut codes[..x.len()];
            codes.iter_mut().zip(x).for_each(|(code, &x)| {
                *code = x.clamp(least.into(), greatest.into()) as i8;
            });
            return store_codes(kernels, dtype, codes, out);
        }
    }
    Ok(())
}

fn store_halves(
    kernels: &Kernels,
    dtype: BitNetDType,
    x: impl Iterator<Item = f32>,
    out: &mut [u8],
) -> Result<()> {
    let mut narrow = [[0; 4]; BLOCK];
    let narrow = &mut narrow[..out.len() / 2];
    narrow.iter_mut().zip(x).for_each(|(narrow, x)| *narrow = x.to_ne_bytes());
    store_single(kernels, dtype, narrow, out)
}
