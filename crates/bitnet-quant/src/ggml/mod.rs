//! Codecs of GGUF tensor types: blocks of bytes to f32 and back, ternary types to packed codes and back.
//!
//! [`dequantize`] and [`quantize`] work on whole blocks, so a caller may cut a tensor along its rows and give
//! the pieces to several threads. [`TernaryTensor`] takes the codes out of TQ1_0, TQ2_0 and I2_S tensors
//! directly into row quarters, the layout that kernels run on; [`TernaryRows`] is the way back. Values are
//! bit-equal both ways for the ternary types; scales are rounded to f16 by TQ1_0 and TQ2_0.
//!
//! To add a type: a row in the table of `types.rs`, a function in the file of its group, an arm here.

mod error;
mod k_quants;
mod legacy;
mod plain;
mod q6_k;
mod quarters;
mod ternary;
mod types;

use bitnet_kernels::Kernels;
use half::f16;

pub use error::GgmlError;
pub use quarters::{TernaryRows, TernaryTensor};
pub use types::{GgmlType, I2_S_TAIL, I2sLayout, type_name};

/// Decodes whole blocks of `ty` to as many elements as `out` holds.
///
/// I2_S is decoded a whole tensor at a time, as its scale stands behind the codes, in the x86 order; see
/// [`dequantize_i2_s`].
///
/// # Errors
/// `out` that is no whole number of blocks; bytes that are not those of `out`; a forced instruction set that is missing,
/// where the type is F16 or BF16.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), GgmlError> {
    if ty == GgmlType::I2_S {
        return dequantize_i2_s(I2sLayout::X86, bytes, out);
    }
    ty.check(bytes.len(), out.len())?;
    let decode: fn(&[u8], &mut [f32]) = match ty {
        GgmlType::F16 | GgmlType::BF16 => {
            let casts = &Kernels::select().map_err(GgmlError::Isa)?.casts;
            let widen = if ty == GgmlType::F16 { casts.f16_to_f32 } else { casts.bf16_to_f32 };
            plain::widen(widen, bytes, out);
            return Ok(());
        }
        GgmlType::F32 => plain::decode_f32,
        GgmlType::I8 => plain::decode_i8,
        GgmlType::I32 => plain::decode_i32,
        GgmlType::Q4_0 => legacy::decode_q4_0,
        GgmlType::Q4_1 => legacy::decode_q4_1,
        GgmlType::Q5_0 => legacy::decode_q5_0,
        GgmlType::Q5_1 => legacy::decode_q5_1,
        GgmlType::Q8_0 => legacy::decode_q8_0,
        GgmlType::Q2_K => k_quants::decode_q2_k,
        GgmlType::Q3_K => k_quants::decode_q3_k,
        GgmlType::Q4_K => k_quants::decode_q4_k,
        GgmlType::Q5_K => k_quants::decode_q5_k,
        GgmlType::Q6_K => q6_k::decode,
        GgmlType::TQ1_0 => |block, out| decode_ternary(GgmlType::TQ1_0, block, out),
        GgmlType::TQ2_0 | GgmlType::I2_S => |block, out| decode_ternary(GgmlType::TQ2_0, block, out),
    };
    if ty.block_len() == 1 {
        decode(bytes, out);
        return Ok(());
    }
    let blocks = bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len()));
    blocks.for_each(|(block, out)| decode(block, out));
    Ok(())
}

/// Decodes a whole I2_S tensor, its scale included, whose elements stand in the order `layout`.
///
/// # Errors
/// `out` that is no whole number of groups; bytes that are not those of `out`.
pub fn dequantize_i2_s(layout: I2sLayout, bytes: &[u8], out: &mut [f32]) -> Result<(), GgmlError> {
    let tensor = TernaryTensor::new(GgmlType::I2_S, layout, bytes, 1, out.len())?;
    let scale = tensor.stored_scale(0, 0);
    let group = layout.group_bytes();
    let mut codes = [0u8; 128];
    for (bytes, out) in bytes.chunks_exact(group).zip(out.chunks_exact_mut(4 * group)) {
        let codes = &mut codes[..4 * group];
        ternary::codes(GgmlType::I2_S, layout, bytes, codes);
        out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code as i8 - 1) * scale);
    }
    Ok(())
}

fn decode_ternary(ty: GgmlType, block: &[u8], out: &mut [f32]) {
    let mut codes = [0u8; ternary::BLOCK];
    ternary::codes(ty, I2sLayout::X86, block, &mut codes);
    let scale = ternary::scale_of(ty, block);
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(code as i8 - 1) * scale);
}

/// Encodes floats as whole blocks of F32, F16, BF16, Q8_0, Q6_K, TQ1_0 or TQ2_0.
///
/// TQ blocks are scaled by their own greatest magnitude and rounded half away from zero, as in ggml: ternary
/// values of one magnitude stay what they are. For packed codes see [`TernaryRows`].
///
/// # Errors
/// Another type; `values` that are no whole number of blocks; `out` of another length than they take; a forced instruction
/// set that is missing, where the type is F16 or BF16.
pub fn quantize(ty: GgmlType, values: &[f32], out: &mut [u8]) -> Result<(), GgmlError> {
    let encode: fn(&[f32], &mut [u8]) = match ty {
        GgmlType::F16 | GgmlType::BF16 => {
            ty.check(out.len(), values.len())?;
            let casts = &Kernels::select().map_err(GgmlError::Isa)?.casts;
            let narrow = if ty == GgmlType::F16 { casts.f32_to_f16 } else { casts.f32_to_bf16 };
            plain::narrow(narrow, values, out);
            return Ok(());
        }
        GgmlType::F32 => plain::encode_f32,
        GgmlType::Q8_0 => legacy::encode_q8_0,
        GgmlType::Q6_K => q6_k::encode,
        GgmlType::TQ1_0 => |values, out| encode_ternary(GgmlType::TQ1_0, values, out),
        GgmlType::TQ2_0 => |values, out| encode_ternary(GgmlType::TQ2_0, values, out),
        _ => return Err(GgmlError::Type { expected: "F32, F16, BF16, Q8_0, Q6_K, TQ1_0 or TQ2_0", ty }),
    };
    ty.check(out.len(), values.len())?;
    if ty.block_len() == 1 {
        encode(values, out);
        return Ok(());
    }
    let blocks = values.chunks_exact(ty.block_len()).zip(out.chunks_exact_mut(ty.block_bytes()));
    blocks.for_each(|(values, out)| encode(values, out));
    Ok(())
}

fn encode_ternary(ty: GgmlType, values: &[f32], out: &mut [u8]) {
    let greatest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
    let inverse = if greatest == 0.0 { 0.0 } else { 1.0 / greatest };
    let mut codes = [0u8; ternary::BLOCK];
    let code = |value: f32| ((value * inverse).round() as i8 + 1) as u8;
    codes.iter_mut().zip(values).for_each(|(out, &value)| *out = code(value));
    ternary::put_codes(ty, I2sLayout::X86, &codes, out);
    ternary::put_scale(ty, f16::from_f32(greatest), out);
}
