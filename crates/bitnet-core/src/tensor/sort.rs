//! Order: sorting, the greatest elements, and running sums.
//!
//! NaN is greater than every number, equal elements keep their order, and both zeros are equal.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::arithmetic::Arithmetic;
use super::cast::Cast;
use super::convert::for_number;
use super::elementwise::for_arithmetic;
use super::index::lines;
use super::output::{build, pool_of, room, unsupported};
use super::source::{Number, unpacked};
use super::unary::for_real;
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;

/// Some of the elements along a dimension.
struct Choice {
    /// How many.
    count: usize,
    /// Greatest first.
    descending: bool,
}

impl BitNetTensor {
    /// Sorts along a dimension. Returns the elements, and their indices (i64) in this tensor.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks; `Unsupported` when the memory belongs to no pool; otherwise
    /// as an allocation.
    pub fn sort(&self, dim: isize, descending: bool) -> Result<(Self, Self)> {
        let at = self.layout().dim("sort", dim)?;
        self.ordered("sort", at, &Choice { count: self.shape()[at], descending })
    }

    /// Returns the indices (i64) that sort along a dimension.
    ///
    /// # Errors
    /// As [`sort`](Self::sort).
    pub fn argsort(&self, dim: isize, descending: bool) -> Result<Self> {
        let at = self.layout().dim("argsort", dim)?;
        Ok(self.ordered("argsort", at, &Choice { count: self.shape()[at], descending })?.1)
    }

    /// Returns the `count` greatest elements along a dimension, or the least ones, the most extreme first, and their
    /// indices (i64) in this tensor.
    ///
    /// # Errors
    /// As [`sort`](Self::sort); `Mismatch` when there are fewer.
    pub fn topk(&self, count: usize, dim: isize, greatest: bool) -> Result<(Self, Self)> {
        let at = self.layout().dim("topk", dim)?;
        if count > self.shape()[at] {
            let what = format!("count of topk of dimension {at} of a tensor of shape {:?}", self.shape());
            return Err(BitNetError::mismatch(what, format!("at most {}", self.shape()[at]), count));
        }
        self.ordered("topk", at, &Choice { count, descending: greatest })
    }

    fn ordered(&self, name: &str, dim: usize, choice: &Choice) -> Result<(Self, Self)> {
        let plain = unpacked(self, name, pool_of(name, &[self])?)?;
        let (values, indices) = for_arithmetic!(plain.dtype(), C, S => {
            choose::<C, S>(name, &plain, dim, choice)
        }, bool => choose::<u8, u8>(name, &plain, dim, choice))?;
        // The chosen dimension was written last.
        let back = |tensor: Self| -> Result<Self> {
            let rank = tensor.shape().len() as isize;
            let mut dims: Vec<isize> = (0..rank - 1).collect();
            dims.insert(dim, rank - 1);
            tensor.permute(&dims)?.contiguous()
        };
        Ok((back(values)?, back(indices)?))
    }

    /// Sums along a dimension up to each element; integers and truth values as 64-bit integers that wrap around,
    /// floats in f64, rounded at each element.
    ///
    /// # Errors
    /// As [`sort`](Self::sort).
    pub fn cumsum(&self, dim: isize) -> Result<Self> {
        let name = "cumsum";
        let at = self.layout().dim(name, dim)?;
        let plain = unpacked(self, name, pool_of(name, &[self])?)?;
        let sums = match plain.dtype() {
            dtype if dtype.is_float() => for_real!(dtype, R, S => {
                running::<R, f64, S>(name, &plain, at, dtype, |sum, value| sum + value, S::cast)
            }),
            BitNetDType::U64 => {
                running::<u64, u64, u64>(name, &plain, at, BitNetDType::U64, u64::wrapping_add, |sum| sum)
            }
            dtype => for_number!(dtype, T => {
                running::<T, i64, i64>(name, &plain, at, BitNetDType::I64, i64::wrapping_add, |sum| sum)
            }, packed => unreachable!("unpacked")),
        }?;
        let rank = sums.shape().len() as isize;
        let mut dims: Vec<isize> = (0..rank - 1).collect();
        dims.insert(at, rank - 1);
        sums.permute(&dims)?.contiguous()
    }
}

/// Returns the shape with a dimension of `length` last instead of `dim`.
fn moved_last(shape: &[usize], dim: usize, length: usize) -> Vec<usize> {
    [&shape[..dim], &shape[dim + 1..], &[length]].concat()
}

fn choose<C: Arithmetic, S: Element + Cast<C>>(
    name: &str,
    tensor: &BitNetTensor,
    dim: usize,
    choice: &Choice,
) -> Result<(BitNetTensor, BitNetTensor)> {
    let pool = pool_of(name, &[tensor])?;
    if u32::try_from(tensor.shape()[dim]).is_err() {
        return Err(unsupported(name, &[tensor], "dimensions of 2^32 and more are not sorted"));
    }
    let shape = moved_last(tensor.shape(), dim, choice.count);
    let mut indices = BitNetTensor::zeros(&shape, BitNetDType::I64, &tensor.device(), pool)?;
    let places = indices.as_mut_slice::<i64>()?;
    let values = build(&shape, tensor.dtype(), pool, name, |out: &mut [S]| {
        let mut keys: Vec<(u64, u32)> = room(name, tensor.shape()[dim])?;
        lines(name, tensor, dim, |line, values: &[C]| {
            let key = |value: C| if choice.descending { !value.order() } else { value.order() };
            keys.clear();
            keys.extend(values.iter().enumerate().map(|(index, &value)| (key(value), index as u32)));
            if choice.count > 0 && choice.count < keys.len() {
                keys.select_nth_unstable(choice.count - 1);
            }
            keys.truncate(choice.count);
            // Indices differ, so that an unstable sort keeps the order of equal elements.
            keys.sort_unstable();
            let here = line * choice.count..(line + 1) * choice.count;
            for ((out, place), &(_, index)) in out[here.clone()].iter_mut().zip(&mut places[here]).zip(&keys)
            {
                *out = S::cast(values[index as usize]);
                *place = i64::from(index);
            }
        })
    })?;
    Ok((values, indices))
}

fn running<C: Number, A: Copy + Default + Cast<C>, S: Element>(
    name: &str,
    tensor: &BitNetTensor,
    dim: usize,
    dtype: BitNetDType,
    add: impl Fn(A, A) -> A,
    store: impl Fn(A) -> S,
) -> Result<BitNetTensor> {
    let length = tensor.shape()[dim];
    build(
        &moved_last(tensor.shape(), dim, length),
        dtype,
        pool_of(name, &[tensor])?,
        name,
        |out: &mut [S]| {
            lines(name, tensor, dim, |line, values: &[C]| {
                let mut sum = A::default();
                for (out, &value) in out[line * length..].iter_mut().zip(values) {
                    sum = add(sum, A::cast(value));
                    *out = store(sum);
                }
            })
        },
    )
}
