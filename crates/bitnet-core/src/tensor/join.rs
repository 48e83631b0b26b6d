//! Tensors put together and taken apart.

use bitnet_backend::{BitNetError, Result};

use super::broadcast::promote;
use super::output::{pool_of, room, shapes, unsupported};
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;

impl BitNetTensor {
    /// Joins tensors along a dimension, in their common type. Their other lengths are equal.
    ///
    /// # Errors
    /// `Mismatch` when there is none, or for shapes that differ elsewhere; `Unsupported` when no type holds all, for
    /// packed types whose parts do not fill whole bytes, or when no memory belongs to a pool; otherwise as an
    /// allocation.
    pub fn concat(tensors: &[&Self], dim: isize) -> Result<Self> {
        let name = "concat";
        let pool = pool_of(name, tensors)?;
        let first = tensors[0];
        let dim = first.layout().dim(name, dim)?;
        let mut shape = first.shape().to_vec();
        for tensor in &tensors[1..] {
            let same = tensor.shape().len() == shape.len()
                && (0..shape.len()).all(|d| d == dim || tensor.shape()[d] == shape[d]);
            if !same {
                return Err(shapes(name, &format!("the same but for dimension {dim}"), &[first, tensor]));
            }
            shape[dim] = shape[dim].checked_add(tensor.shape()[dim]).ok_or_else(|| {
                BitNetError::mismatch(format!("length of {name}"), "one in the address space", "more")
            })?;
        }
        Self::joined(name, tensors, dim, &shape, pool)
    }

    /// Joins tensors of one shape along a new dimension.
    ///
    /// # Errors
    /// As [`concat`](Self::concat).
    pub fn stack(tensors: &[&Self], dim: isize) -> Result<Self> {
        let name = "stack";
        let pool = pool_of(name, tensors)?;
        let first = tensors[0];
        let dim = first.layout().new_dim(name, dim)?;
        if let Some(other) = tensors.iter().find(|tensor| tensor.shape() != first.shape()) {
            return Err(shapes(name, "the same", &[first, other]));
        }
        let shape = [&first.shape()[..dim], &[tensors.len()], &first.shape()[dim..]].concat();
        Self::joined(name, tensors, dim, &shape, pool)
    }

    /// Writes tensors of fitting shapes one after the other along dimension `dim` of a result of `shape`, which they may
    /// lack.
    fn joined(
        name: &str,
        tensors: &[&Self],
        dim: usize,
        shape: &[usize],
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let first = tensors[0];
        let mut dtype = first.dtype();
        for tensor in &tensors[1..] {
            if tensor.dtype() != dtype {
                dtype = promote(dtype, tensor.dtype()).ok_or_else(|| {
                    unsupported(name, &[first, tensor], "no type holds both; cast one of them")
                })?;
            }
        }
        let mut result =
            BitNetTensor::zeros(shape, dtype, &first.device(), pool).map_err(|error| error.context(name))?;
        let inner: usize = shape[dim + 1..].iter().product();
        let rows: usize = shape[..dim].iter().product();
        let row_elements = shape[dim] * inner;
        let mut at = 0;
        for &tensor in tensors {
            let part = tensor.cast_in(dtype, pool)?.contiguous_in(pool)?;
            // Of one row: what all outer indices share.
            let count = tensor.element_count() / rows.max(1);
            // The last part of one row may end inside a byte, as the whole does.
            let whole = count.is_multiple_of(dtype.block().0) || (rows == 1 && at + count == row_elements);
            let (Some(start), Some(bytes), Some(row_bytes), true) =
                (dtype.byte_offset(at), dtype.size_bytes(count), dtype.size_bytes(row_elements), whole)
            else {
                return Err(unsupported(
                    name,
                    &[first, tensor],
                    "the parts of packed types are not whole bytes",
                ));
            };
            if bytes > 0 && rows > 0 {
                let out = result.as_mut_bytes()?.chunks_exact_mut(row_bytes);
                for (out, source) in out.zip(part.as_bytes()?.chunks_exact(bytes)) {
                    out[start..start + bytes].copy_from_slice(source);
                }
            }
            at += count;
        }
        Ok(result)
    }

    /// Cuts a dimension into views of `length` indices; the last one may be shorter.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks or a length of 0; `OutOfMemory` for more views than fit; as
    /// [`narrow`](Self::narrow) for packed types.
    pub fn split(&self, length: usize, dim: isize) -> Result<Vec<Self>> {
        let at = self.layout().dim("split", dim)?;
        if length == 0 {
            let what = format!("length of split of a tensor of shape {:?}", self.shape());
            return Err(BitNetError::mismatch(what, "at least 1", 0));
        }
        self.cut("split", length, at)
    }

    /// Cuts a dimension into at most `parts` views of equal length; the last one may be shorter.
    ///
    /// # Errors
    /// As [`split`](Self::split).
    pub fn chunk(&self, parts: usize, dim: isize) -> Result<Vec<Self>> {
        let at = self.layout().dim("chunk", dim)?;
        if parts == 0 {
            let what = format!("parts of chunk of a tensor of shape {:?}", self.shape());
            return Err(BitNetError::mismatch(what, "at least 1", 0));
        }
        self.cut("chunk", self.shape()[at].div_ceil(parts).max(1), at)
    }

    fn cut(&self, name: &str, length: usize, dim: usize) -> Result<Vec<Self>> {
        let whole = self.shape()[dim];
        // A dimension without indices is one part, as in PyTorch.
        let starts = (0..whole.max(1)).step_by(length);
        let mut parts = room(name, starts.len())?;
        for start in starts {
            let layout = self.layout().narrow(dim as isize, start, length.min(whole - start))?;
            parts.push(self.view(name, layout)?);
        }
        Ok(parts)
    }
}
