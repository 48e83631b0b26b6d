//! Elements chosen by index.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::convert::for_number;
use super::output::{build, pool_of, room, shapes, unsupported};
use super::source::{Number, Source, Tile, unpacked};
use super::walk::Walk;
use crate::memory::tensor::BitNetTensor;
use crate::memory::{Element, HybridMemoryPool};

impl BitNetTensor {
    /// Returns all elements of the memory under a tensor of type `T`.
    pub(crate) fn memory_elements<T: Number>(&self) -> &[T] {
        match T::direct(&Source::of(self)) {
            Some(elements) => elements,
            None => unreachable!("a {} tensor was taken for one of {}", self.dtype(), T::DTYPE),
        }
    }

    /// Returns, for each element of `indices` (integers), the element of this tensor at the same place but for
    /// dimension `dim`, where the index is its value. The result has the shape of `indices`.
    ///
    /// # Errors
    /// `Mismatch` when `indices` has another number of dimensions or is longer in one other than `dim`, or for an
    /// index out of range; `Unsupported` for indices that are not integers, or when neither memory belongs to a
    /// pool; otherwise as an allocation.
    pub fn gather(&self, dim: isize, indices: &Self) -> Result<Self> {
        let name = "gather";
        let dim = self.layout().dim(name, dim)?;
        let (shape, wanted) = (self.shape(), indices.shape());
        let fits = shape.len() == wanted.len() && (0..shape.len()).all(|d| d == dim || wanted[d] <= shape[d]);
        if !fits {
            return Err(shapes(name, "indices no longer than the elements", &[self, indices]));
        }
        let pool = pool_of(name, &[self, indices])?;
        let places = places(name, self, indices, shape[dim], pool)?;
        let (places, plain) = (places.as_slice::<i64>()?, unpacked(self, name, pool)?);
        let layout = plain.layout();
        // The place along `dim` comes from the index: the walk stays at its first element.
        let mut strides = layout.strides().to_vec();
        let step = std::mem::take(&mut strides[dim]);
        let walk = Walk::new(wanted, [&strides], [layout.offset()]);
        for_number!(plain.dtype(), T => build(wanted, plain.dtype(), pool, name, |out: &mut [T]| {
            let elements = plain.memory_elements::<T>();
            for (index, (out, &place)) in out.iter_mut().zip(places).enumerate() {
                *out = elements[walk.position(index).wrapping_add_signed(step * place as isize)];
            }
            Ok(())
        }), packed => unreachable!("unpacked"))
    }

    /// Returns the slices of dimension `dim` at the indices (integers, one dimension), in their order.
    ///
    /// # Errors
    /// `Mismatch` when `indices` has not one dimension, or for an index out of range; `Unsupported` for
    /// indices that are not integers, or when neither memory belongs to a pool; otherwise as an allocation.
    pub fn index_select(&self, dim: isize, indices: &Self) -> Result<Self> {
        let name = "index_select";
        let dim = self.layout().dim(name, dim)?;
        if indices.shape().len() != 1 {
            return Err(shapes(name, "indices of one dimension", &[self, indices]));
        }
        let pool = pool_of(name, &[self, indices])?;
        let places = places(name, self, indices, self.shape()[dim], pool)?;
        let (places, plain) = (places.as_slice::<i64>()?, unpacked(self, name, pool)?);
        let (layout, shape) = (plain.layout(), plain.shape());
        let outer = Walk::new(&shape[..dim], [&layout.strides()[..dim]], [layout.offset()]);
        let slice = Walk::new(&shape[dim + 1..], [&layout.strides()[dim + 1..]], [0]);
        let length: usize = shape[dim + 1..].iter().product();
        let (cols, [stride]) = slice.inner();
        let wanted = [&shape[..dim], &[places.len()], &shape[dim + 1..]].concat();
        for_number!(plain.dtype(), T => build(&wanted, plain.dtype(), pool, name, |out: &mut [T]| {
            if out.is_empty() {
                return Ok(());
            }
            let source = Source::of(&plain);
            for (index, out) in out.chunks_exact_mut(length).enumerate() {
                let (row, place) = (index / places.len(), places[index % places.len()]);
                let start = outer.position(row).wrapping_add_signed(layout.strides()[dim] * place as isize);
                for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                    let start = start.wrapping_add(slice.row(row).0[0]);
                    source.gather(Tile { start, rows: 1, cols, row_stride: 0, col_stride: stride }, out);
                }
            }
            Ok(())
        }), packed => unreachable!("unpacked"))
    }

    /// Returns an i64 tensor with a new last dimension of `classes` elements: 1 at the index that the element of this
    /// tensor is, 0 elsewhere.
    ///
    /// # Errors
    /// `Mismatch` for an element that is not below `classes`; `Unsupported` for types other than integers, or when the
    /// memory belongs to no pool; otherwise as an allocation.
    pub fn one_hot(&self, classes: usize) -> Result<Self> {
        let pool = pool_of("one_hot", &[self])?;
        let places = places("one_hot", self, self, classes, pool)?;
        let places = places.as_slice::<i64>()?;
        let shape = [self.shape(), &[classes]].concat();
        build(&shape, BitNetDType::I64, pool, "one_hot", |out: &mut [i64]| {
            out.fill(0);
            for (row, &place) in places.iter().enumerate() {
                out[row * classes + place as usize] = 1;
            }
            Ok(())
        })
    }
}

/// Returns the indices as i64, row-major, each from 0 to below `length`.
fn places(
    operation: &str,
    tensor: &BitNetTensor,
    indices: &BitNetTensor,
    length: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    if indices.dtype().is_float() || indices.dtype() == BitNetDType::Bool {
        return Err(unsupported(operation, &[tensor, indices], "indices are integers"));
    }
    // An index beyond i64 is negative here, and out of range all the same.
    let places = indices.cast_in(BitNetDType::I64, pool)?.contiguous_in(pool)?;
    let beyond = |&index: &i64| usize::try_from(index).map_or(true, |index| index >= length);
    let found = places.as_slice::<i64>()?;
    if let Some(at) = found.iter().position(beyond) {
        let what = format!("index {at} of {operation} of a tensor of shape {:?}", tensor.shape());
        return Err(BitNetError::mismatch(what, format!("0 to below {length}"), found[at]));
    }
    Ok(places)
}

/// Calls `each` with every line of elements along a dimension: its index, and its elements in order.
///
/// # Errors
/// `OutOfMemory` for a line.
pub(super) fn lines<T: Number>(
    operation: &str,
    tensor: &BitNetTensor,
    dim: usize,
    mut each: impl FnMut(usize, &[T]),
) -> Result<()> {
    let (layout, shape) = (tensor.layout(), tensor.shape());
    let others = |of: &[usize]| [&of[..dim], &of[dim + 1..]].concat();
    let strides = [&layout.strides()[..dim], &layout.strides()[dim + 1..]].concat();
    let walk = Walk::new(&others(shape), [&strides], [layout.offset()]);
    let source = Source::of(tensor);
    let count: usize = others(shape).iter().product();
    let mut line = room(operation, shape[dim])?;
    line.resize(shape[dim], <T as Element>::ONE);
    for index in 0..count {
        if !line.is_empty() {
            let start = walk.position(index);
            let tile =
                Tile { start, rows: 1, cols: shape[dim], row_stride: 0, col_stride: layout.strides()[dim] };
            source.gather(tile, &mut line);
        }
        each(index, &line);
    }
    Ok(())
}
