//! Matrix products.
//!
//! Floats go through the crate `gemm`, which reads transposed and strided operands where they lie; halves are widened
//! to f32 first and the result is rounded once. Integers are summed in their own type and wrap around, but the
//! product of 8-bit signed ones is i32. A ternary matrix with i8 goes through the ternary kernels.

use bitnet_backend::{BitNetDType, Result};

use super::arithmetic::Arithmetic;
use super::broadcast::{broadcast, common_type};
use super::elementwise::for_arithmetic;
use super::output::{build, pool_of, shapes, unsupported};
use super::source::unpacked;
use super::walk::Walk;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetTensor, Layout};

impl BitNetTensor {
    /// Multiplies matrices: `[.., m, k]` with `[.., k, n]` gives `[.., m, n]`, the outer dimensions broadcast.
    ///
    /// A left operand of one dimension is a row and a right one a column, and the result lacks that dimension.
    /// Floats are computed in their common type. i8 with i8 gives i32, and so does i8 with a ternary matrix of two
    /// dimensions, which [`linear`](Self::linear) takes without unpacking it first.
    ///
    /// # Errors
    /// `Mismatch` with both shapes when they do not fit; `Unsupported` for a scalar, truth values, types without a
    /// common one, floats in a build without the feature `gemm`, or when neither memory belongs to a pool; otherwise
    /// as an allocation.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        if self.shape().is_empty() || other.shape().is_empty() {
            return Err(unsupported("matmul", &[self, other], "a scalar is no matrix; mul scales"));
        }
        self.multiplied(other, "matmul", [self, other])
    }

    /// Multiplies matrices or rows and columns; messages are about `operation` of `operands`.
    fn multiplied(&self, other: &Self, operation: &str, operands: [&Self; 2]) -> Result<Self> {
        let (left_rank, right_rank) = (self.shape().len(), other.shape().len());
        let left = if left_rank == 1 { self.unsqueeze(0)? } else { self.clone() };
        let right = if right_rank == 1 { other.unsqueeze(1)? } else { other.clone() };
        let depth = |shape: &[usize], from_end: usize| shape[shape.len() - from_end];
        let batch = |shape: &[usize]| shape[..shape.len() - 2].to_vec();
        let outer = broadcast(&batch(left.shape()), &batch(right.shape()));
        let (Some(outer), true) = (outer, depth(left.shape(), 1) == depth(right.shape(), 2)) else {
            return Err(shapes(operation, "[.., m, k] and [.., k, n]", &operands));
        };
        let product = Product {
            operation,
            operands,
            rows: depth(left.shape(), 2),
            depth: depth(left.shape(), 1),
            cols: depth(right.shape(), 1),
            outer,
        };
        if Layout::row_major(product.shape()).element_count().is_none() {
            return Err(shapes(operation, "a product that fits the address space", &operands));
        }
        let mut result = product.of(&left, &right)?;
        if left_rank == 1 {
            result = result.squeeze(-2)?;
        }
        if right_rank == 1 { result.squeeze(-1) } else { Ok(result) }
    }

    /// Multiplies rows with the rows of a weight matrix: `[.., k]` with `[n, k]` gives `[.., n]`, as
    /// [`matmul`](Self::matmul) with the transposed weights. Packed ternary weights with i8 give i32.
    ///
    /// # Errors
    /// As `matmul`.
    pub fn linear(&self, weights: &Self) -> Result<Self> {
        let (shape, rows) = (self.shape(), weights.shape());
        let fits = rows.len() == 2 && !shape.is_empty() && shape.last() == rows.last();
        if !fits {
            return Err(shapes("linear", "[.., k] and [n, k]", &[self, weights]));
        }
        let pool = pool_of("linear", &[self, weights])?;
        if !is_ternary(weights) {
            let turned = unpacked(weights, "linear", pool)?.transpose(0, 1)?;
            return self.multiplied(&turned, "linear", [self, weights]);
        }
        let (outer, depth) = (&shape[..shape.len() - 1], rows[1]);
        let tokens = outer.iter().product();
        let activations = self.contiguous_in(pool)?.reshape(&[tokens, depth])?;
        let result = super::ternary::product("linear", &activations, weights, weights)?;
        result.reshape(&[outer, &rows[..1]].concat())
    }
}

/// Reports whether elements are packed ternary codes.
fn is_ternary(tensor: &BitNetTensor) -> bool {
    matches!(tensor.dtype(), BitNetDType::BitNet158 | BitNetDType::TernaryBase3)
}

/// The lengths of a product, and what messages say of it.
struct Product<'a> {
    operation: &'a str,
    operands: [&'a BitNetTensor; 2],
    rows: usize,
    depth: usize,
    cols: usize,
    outer: Vec<usize>,
}

impl Product<'_> {
    fn of(&self, left: &BitNetTensor, right: &BitNetTensor) -> Result<BitNetTensor> {
        use BitNetDType::I8;
        let operation = self.operation;
        let pool = pool_of(operation, &self.operands)?;
        match (left.dtype(), right.dtype()) {
            (_, I8) if is_ternary(left) && self.outer.is_empty() => {
                let product = super::ternary::product(operation, &right.transpose(0, 1)?, left, right)?;
                return product.transpose(0, 1)?.contiguous();
            }
            (I8, _) if is_ternary(right) && self.outer.is_empty() => {
                let turned = unpacked(right, operation, pool)?.transpose(0, 1)?.contiguous_in(pool)?;
                return super::ternary::product(operation, left, &turned, right);
            }
            _ => {}
        }
        let (plain_left, plain_right) = (unpacked(left, operation, pool)?, unpacked(right, operation, pool)?);
        let dtype = common_type(operation, self.operands[0], self.operands[1])?;
        match dtype {
            BitNetDType::Bool => {
                Err(unsupported(operation, &self.operands, "truth values are no numbers; cast them"))
            }
            dtype if dtype.is_float() => self.floats(&plain_left, &plain_right, dtype, pool),
            dtype => {
                let wide = if dtype == I8 { BitNetDType::I32 } else { dtype };
                let (left, right) = (plain_left.cast_in(wide, pool)?, plain_right.cast_in(wide, pool)?);
                for_arithmetic!(wide, C, _S => self.integers::<C>(&left, &right, wide, pool), bool => {
                    unreachable!("of truth values there is no product")
                })
            }
        }
    }

    fn shape(&self) -> Vec<usize> {
        [&self.outer[..], &[self.rows, self.cols]].concat()
    }

    /// Returns where the matrices of both operands begin, for each outer index.
    fn starts(&self, left: &BitNetTensor, right: &BitNetTensor) -> Result<Walk<2>> {
        let outer = |tensor: &BitNetTensor| {
            let (layout, rank) = (tensor.layout(), tensor.shape().len() - 2);
            let parts = (layout.shape()[..rank].to_vec(), layout.strides()[..rank].to_vec());
            Layout::strided(parts.0, parts.1, layout.offset()).repeated(self.operation, &self.outer)
        };
        let (left, right) = (outer(left)?, outer(right)?);
        Ok(Walk::new(&self.outer, [left.strides(), right.strides()], [left.offset(), right.offset()]))
    }

    #[cfg(feature = "gemm")]
    fn floats(
        &self,
        left: &BitNetTensor,
        right: &BitNetTensor,
        dtype: BitNetDType,
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        let computed = if dtype == BitNetDType::F64 { dtype } else { BitNetDType::F32 };
        let (left, right) = (left.cast_in(computed, pool)?, right.cast_in(computed, pool)?);
        // One right matrix for all: the outer dimensions are rows of one left matrix, where strides can say so.
        let rows = self.outer.iter().product::<usize>() * self.rows;
        if !self.outer.is_empty()
            && right.shape().len() == 2
            && left.shape()[..self.outer.len()] == self.outer[..]
            && let Some(layout) = left.layout().reshape(&[rows, self.depth])?
        {
            let one = Product { rows, outer: Vec::new(), ..*self };
            return one
                .floats(&left.view(self.operation, layout)?, &right, dtype, pool)?
                .reshape(&self.shape());
        }
        let product = match computed {
            BitNetDType::F64 => self.native::<f64>(&left, &right, computed, pool),
            _ => self.native::<f32>(&left, &right, computed, pool),
        }?;
        product.cast(dtype)
    }

    #[cfg(feature = "gemm")]
    fn native<T: super::source::Number + Default + From<bool>>(
        &self,
        left: &BitNetTensor,
        right: &BitNetTensor,
        dtype: BitNetDType,
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        use super::gemm::{Matrix, product};
        use super::source::Source;
        let starts = self.starts(left, right)?;
        let sources = [Source::of(left), Source::of(right)];
        let [Some(left_elements), Some(right_elements)] = sources.map(|source| T::direct(&source)) else {
            unreachable!("both operands were cast to the type");
        };
        let strides = |tensor: &BitNetTensor| {
            let strides = tensor.layout().strides();
            (strides[strides.len() - 2], strides[strides.len() - 1])
        };
        let (left_strides, right_strides) = (strides(left), strides(right));
        build(&self.shape(), dtype, pool, self.operation, |out: &mut [T]| {
            let each = self.rows * self.cols;
            for (index, out) in out.chunks_mut(each.max(1)).enumerate() {
                let [left_start, right_start] = starts.positions(index);
                let left = Matrix {
                    elements: left_elements,
                    start: left_start,
                    row_stride: left_strides.0,
                    col_stride: left_strides.1,
                };
                let right = Matrix {
                    elements: right_elements,
                    start: right_start,
                    row_stride: right_strides.0,
                    col_stride: right_strides.1,
                };
                product((self.rows, self.depth, self.cols), left, right, out);
            }
            Ok(())
        })
    }

    #[cfg(not(feature = "gemm"))]
    fn floats(
        &self,
        _: &BitNetTensor,
        _: &BitNetTensor,
        _: BitNetDType,
        _: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        Err(unsupported(self.operation, &self.operands, "this build lacks the feature gemm"))
    }

    /// Multiplies integers of one type, row by row of the right operand.
    fn integers<C: Arithmetic>(
        &self,
        left: &BitNetTensor,
        right: &BitNetTensor,
        dtype: BitNetDType,
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        let (left, right) = (left.contiguous_in(pool)?, right.contiguous_in(pool)?);
        let starts = self.starts(&left, &right)?;
        let (left_elements, right_elements) = (left.memory_elements::<C>(), right.memory_elements::<C>());
        build(&self.shape(), dtype, pool, self.operation, |out: &mut [C]| {
            out.fill(C::default());
            if self.depth == 0 {
                return Ok(());
            }
            for (index, out) in out.chunks_mut((self.rows * self.cols).max(1)).enumerate() {
                let [left_start, right_start] = starts.positions(index);
                let rows = left_elements[left_start..].chunks_exact(self.depth).take(self.rows);
                for (row, out) in rows.zip(out.chunks_exact_mut(self.cols)) {
                    for (&factor, values) in
                        row.iter().zip(right_elements[right_start..].chunks_exact(self.cols))
                    {
                        out.iter_mut()
                            .zip(values)
                            .for_each(|(out, &value)| *out = out.plus(factor.times(value)));
                    }
                }
            }
            Ok(())
        })
    }
}
