//! The product of int8 activations and a packed ternary matrix, through the ternary kernels.

use bitnet_backend::{BitNetDType, Result};
use bitnet_kernels::layout::row_quarters;

use super::output::{build, pool_of, unsupported};
use super::source::unpacked;
use crate::memory::tensor::BitNetTensor;

/// Bytes of packed rows that are multiplied at a time.
const PIECE: usize = 1 << 16;

/// Returns the products, i32 `[tokens, rows]`, of activations `[tokens, cols]` and a ternary matrix `[rows, cols]`,
/// packed or as i8; `operand` is the matrix as the caller gave it, for messages.
///
/// The matrix is put into row quarters, the layout of the kernels, at each call: one pass over it. Weights that
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
    let activations = activations.contiguous()?;
    let (x, tokens) = (activations.as_slice::<i8>()?, activations.shape()[0]);
    let values = unpacked(matrix, operation)?;
    let mut packed = vec![0; row_quarters::packed_len(rows, cols).unwrap_or_default()];
    row_quarters::pack(values.as_slice::<i8>()?, rows, cols, &mut packed);
    drop(values);
    let kernels = crate::cpu::select_kernels()?;
    build(&[tokens, rows], BitNetDType::I32, pool, operation, |out: &mut [i32]| {
        if cols == 0 || out.is_empty() {
            out.fill(0);
            return Ok(());
        }
        let sums: Vec<i32> = x.chunks_exact(cols).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
        let quads = row_quarters::quads(rows);
        let lines = (PIECE / cols).max(1);
        let mut products = vec![[0i32; 4]; lines.min(quads) * tokens];
        for (piece, codes) in packed.chunks(lines * cols).enumerate() {
            let products = &mut products[..codes.len() / cols * tokens];
            (kernels.row_quarters.i8)(codes, x, &sums, products);
            for (line, products) in products.chunks_exact(tokens).enumerate() {
                for (token, products) in products.iter().enumerate() {
                    for (quarter, &product) in products.iter().enumerate() {
                        let row = quarter * quads + piece * lines + line;
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
