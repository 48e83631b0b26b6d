//! The product of int8 activations and a packed ternary matrix, through the ternary kernels.

use bitnet_backend::{BitNetDType, Result};
use bitnet_kernels::layout::row_quarters;

use super::output::{build, pool_of, unsupported};
use crate::memory::tensor::BitNetTensor;
use crate::memory::tensor::packed::load_some;

/// Bytes of packed rows that are multiplied at a time.
const PIECE: usize = 1 << 16;

/// Returns the products, i32 `[tokens, rows]`, of activations `[tokens, cols]` and a ternary matrix `[rows, cols]`,
/// packed or as i8; `operand` is the matrix as the caller gave it, for messages.
///
/// The matrix is put into row quarters, the layout of the kernels, at each call, a few rows at a time. Weights that
/// meet many activations one after the other are better prepared once, as the engine and `BitLinear` do.
///
/// # Errors
/// `Unsupported` for activations that are not i8, more columns than the kernels sum exactly, or when neither memory
/// belongs to a pool; otherwise as an allocation.
pub(super) fn product(
    operation: &str,
    activations: &BitNetTensor,
    matrix: &BitNetTensor,
    operand: &BitNetTensor,
) -> Result<BitNetTensor> {
    if activations.dtype() != BitNetDType::I8 {
        let reason = "a packed ternary matrix is multiplied with i8; cast one of them";
        return Err(unsupported(operation, &[activations, operand], reason));
    }
    let (rows, cols) = (matrix.shape()[0], matrix.shape()[1]);
    if cols > row_quarters::MAX_COLS {
        let reason = format!("sums of more than {} products may leave an i32", row_quarters::MAX_COLS);
        return Err(unsupported(operation, &[activations, operand], &reason));
    }
    let pool = pool_of(operation, &[activations, matrix])?;
    let activations = activations.contiguous_in(pool)?;
    let (x, tokens) = (activations.as_slice::<i8>()?, activations.shape()[0]);
    let (dtype, bytes) = (matrix.dtype(), matrix.as_bytes()?);
    let kernels = crate::cpu::select_kernels()?;
    build(&[tokens, rows], BitNetDType::I32, pool, operation, |out: &mut [i32]| {
        if cols == 0 || out.is_empty() {
            out.fill(0);
            return Ok(());
        }
        let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
        let quads = row_quarters::quads(rows);
        let lines = (PIECE / cols).clamp(1, quads);
        let (mut codes, mut products) = (vec![0; lines * cols], vec![[0i32; 4]; lines * tokens]);
        let mut rooms: [Vec<i8>; 4] = Default::default();
        for first in (0..quads).step_by(lines) {
            let lines = lines.min(quads - first);
            let (codes, products) = (&mut codes[..lines * cols], &mut products[..lines * tokens]);
            for (line, codes) in codes.chunks_exact_mut(cols).enumerate() {
                let mut values: [Option<&[i8]>; 4] = [None; 4];
                for (quarter, (values, room)) in values.iter_mut().zip(&mut rooms).enumerate() {
                    let row = quarter * quads + first + line;
                    if row < rows {
                        let elements = row * cols..(row + 1) * cols;
                        let found = load_some(kernels, dtype, bytes, elements, room);
                        *values = Some(found.map_err(|error| error.context(operation))?);
                    }
                }
                row_quarters::pack_quad(|quarter| values[quarter], codes);
            }
            (kernels.row_quarters.i8)(codes, x, &sums, products);
            for (line, products) in products.chunks_exact(tokens).enumerate() {
                for (token, products) in products.iter().enumerate() {
                    for (quarter, &product) in products.iter().enumerate() {
                        let row = quarter * quads + first + line;
                        if row < rows {
                            out[token * rows + row] = product;
                        }
                    }
                }
            }
        }
        Ok(())
    })
}
