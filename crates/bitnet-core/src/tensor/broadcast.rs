//! What two operands have in common: the shape that both repeat to, and the type that holds both.
//!
//! Shapes are aligned at their last dimensions; a dimension of length 1, or one that is missing, repeats.
//!
//! Types, as in PyTorch: floats win over integers, integers over `bool`. Of two floats the wider wins, and f16 with
//! bf16 gives f32. Of two integers of one sign the wider wins; an unsigned one with a signed one gives the narrowest
//! signed type that holds both, and u64 has none: one of the operands has to be cast. Packed types count as i8.

use bitnet_backend::{BitNetDType, Result};

use super::output::{shapes, unsupported};
use super::walk::Walk;
use crate::memory::tensor::{BitNetTensor, Layout};

/// Returns the shape that all operands repeat to.
///
/// # Errors
/// `Mismatch` with all shapes, also when the elements are more than an address space holds.
pub(crate) fn common_shape(operation: &str, operands: &[&BitNetTensor]) -> Result<Vec<usize>> {
    let joined = operands.iter().try_fold(Vec::new(), |shape, tensor| broadcast(&shape, tensor.shape()));
    let shape = joined.ok_or_else(|| shapes(operation, "shapes that repeat to one another", operands))?;
    if Layout::row_major(shape.clone()).element_count().is_none() {
        return Err(shapes(operation, "a common shape that fits the address space", operands));
    }
    Ok(shape)
}

/// Returns the shape that both shapes repeat to.
pub(crate) fn broadcast(left: &[usize], right: &[usize]) -> Option<Vec<usize>> {
    let rank = left.len().max(right.len());
    let at = |shape: &[usize], dim: usize| (dim + shape.len()).checked_sub(rank).map_or(1, |dim| shape[dim]);
    (0..rank)
        .map(|dim| match (at(left, dim), at(right, dim)) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        })
        .collect()
}

/// Returns the walk of `operation` over operands repeated to one shape.
///
/// # Errors
/// `Mismatch` when one does not repeat to it.
pub(crate) fn walk<const N: usize>(
    operation: &str,
    shape: &[usize],
    operands: [&BitNetTensor; N],
) -> Result<Walk<N>> {
    let layouts: Vec<Layout> =
        operands.iter().map(|tensor| tensor.layout().repeated(operation, shape)).collect::<Result<_>>()?;
    let strides = std::array::from_fn(|i| layouts[i].strides());
    Ok(Walk::new(shape, strides, std::array::from_fn(|i| layouts[i].offset())))
}

/// Returns the type in which both operands are computed.
///
/// # Errors
/// `Unsupported` when no type holds both.
pub(crate) fn common_type(operation: &str, left: &BitNetTensor, right: &BitNetTensor) -> Result<BitNetDType> {
    promote(left.dtype(), right.dtype())
        .ok_or_else(|| unsupported(operation, &[left, right], "no type holds both; cast one of them"))
}

/// Returns the type that holds the values of both types.
pub(crate) fn promote(left: BitNetDType, right: BitNetDType) -> Option<BitNetDType> {
    use BitNetDType::{BF16, Bool, F16, F32, F64, I8, I16, I32, I64};
    let plain = |dtype: BitNetDType| if dtype.is_packed() { I8 } else { dtype };
    let (left, right) = (plain(left), plain(right));
    let signed = |dtype| matches!(dtype, I8 | I16 | I32 | I64);
    Some(match (left, right) {
        (a, b) if a == b => a,
        (Bool, other) | (other, Bool) => other,
        (a, b) if a.is_float() && b.is_float() => match (a, b) {
            (F16 | BF16, F16 | BF16) => F32,
            (F64, _) | (_, F64) => F64,
            _ => F32,
        },
        (float, _) | (_, float) if float.is_float() => float,
        (a, b) if signed(a) == signed(b) => {
            if a.element_bytes() > b.element_bytes() {
                a
            } else {
                b
            }
        }
        (a, b) => {
            let (signed, unsigned) = if signed(a) { (a, b) } else { (b, a) };
            let holds_unsigned = unsigned.element_bytes()? * 2;
            match signed.element_bytes()?.max(holds_unsigned) {
                2 => I16,
                4 => I32,
                8 => I64,
                _ => return None,
            }
        }
    })
}

/// Returns the floating-point type in which functions of reals are computed: that of a float, f32 for others.
pub(crate) fn float_type(dtype: BitNetDType) -> BitNetDType {
    if dtype.is_float() { dtype } else { BitNetDType::F32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_hold_both_operands() {
        use BitNetDType::{BF16, BitNet158, Bool, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        for (left, right, expected) in [
            (F32, F32, Some(F32)),
            (F16, BF16, Some(F32)),
            (F16, F64, Some(F64)),
            (I64, F16, Some(F16)),
            (Bool, U8, Some(U8)),
            (Bool, Bool, Some(Bool)),
            (I8, I32, Some(I32)),
            (U8, U16, Some(U16)),
            (U8, I8, Some(I16)),
            (U8, I64, Some(I64)),
            (U16, I8, Some(I32)),
            (U32, I32, Some(I64)),
            (U64, I8, None),
            (U64, F32, Some(F32)),
            (BitNet158, I8, Some(I8)),
            (BitNet158, BitNet158, Some(I8)),
        ] {
            assert_eq!(promote(left, right), expected, "{left} {right}");
            assert_eq!(promote(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn shapes_are_aligned_at_their_ends() {
        assert_eq!(broadcast(&[3, 1], &[2]), Some(vec![3, 2]));
        assert_eq!(broadcast(&[], &[2, 0]), Some(vec![2, 0]));
        assert_eq!(broadcast(&[1], &[0]), Some(vec![0]));
        assert_eq!(broadcast(&[2, 3], &[2, 4]), None);
        assert_eq!(broadcast(&[2, 3], &[3, 3]), None);
    }
}
