//! The elements of a tensor as a slice of their type, and tiles of them gathered into contiguous memory.

use bitnet_backend::{BitNetDType, Result};
use half::{bf16, f16};

use super::cast::Cast;
use crate::memory::tensor::BitNetTensor;
use crate::memory::tensor::packed::load_codes;
use crate::memory::{Element, HybridMemoryPool};

/// A number type that tensors compute in or are stored as; `bool` is computed as `u8`.
pub(crate) trait Number:
    Element
    + Cast<f64>
    + Cast<f32>
    + Cast<f16>
    + Cast<bf16>
    + Cast<i64>
    + Cast<i32>
    + Cast<i16>
    + Cast<i8>
    + Cast<u64>
    + Cast<u32>
    + Cast<u16>
    + Cast<u8>
{
    /// Returns the memory as elements of this type, where that is what it holds.
    fn direct<'a>(source: &Source<'a>) -> Option<&'a [Self]>;
}

macro_rules! sources {
    ($($variant:ident: $type:ty),*) => {
        /// All elements of the memory under a tensor, from its first byte on.
        #[derive(Clone, Copy)]
        pub(crate) enum Source<'a> {
            $(#[doc = concat!("Elements of type `", stringify!($type), "`.")] $variant(&'a [$type]),)*
        }

        $(impl Number for $type {
            fn direct<'a>(source: &Source<'a>) -> Option<&'a [$type]> {
                match *source {
                    Source::$variant(elements) => Some(elements),
                    _ => None,
                }
            }
        })*

        impl Source<'_> {
            /// Gathers a tile, row by row, into `out`.
            pub(crate) fn gather<C: Number>(&self, tile: Tile, out: &mut [C]) {
                match self {
                    $(Source::$variant(elements) => gather(elements, tile, out),)*
                }
            }
        }
    };
}

sources!(F64: f64, F32: f32, F16: f16, Bf16: bf16, I64: i64, I32: i32, I16: i16, I8: i8, U64: u64, U32: u32,
    U16: u16, U8: u8);

impl<'a> Source<'a> {
    /// Views the memory of a tensor whose type is not packed.
    pub(crate) fn of(tensor: &'a BitNetTensor) -> Self {
        fn elements<T: Element>(tensor: &BitNetTensor) -> &[T] {
            let bytes = tensor.memory().bytes();
            // Memory under a tensor without elements may begin anywhere.
            match tensor.element_count() {
                0 => &[],
                _ => bytemuck::cast_slice(&bytes[..bytes.len() / size_of::<T>() * size_of::<T>()]),
            }
        }
        match tensor.dtype() {
            BitNetDType::F64 => Source::F64(elements(tensor)),
            BitNetDType::F32 => Source::F32(elements(tensor)),
            BitNetDType::F16 => Source::F16(elements(tensor)),
            BitNetDType::BF16 => Source::Bf16(elements(tensor)),
            BitNetDType::I64 => Source::I64(elements(tensor)),
            BitNetDType::I32 => Source::I32(elements(tensor)),
            BitNetDType::I16 => Source::I16(elements(tensor)),
            BitNetDType::I8 => Source::I8(elements(tensor)),
            BitNetDType::U64 => Source::U64(elements(tensor)),
            BitNetDType::U32 => Source::U32(elements(tensor)),
            BitNetDType::U16 => Source::U16(elements(tensor)),
            BitNetDType::U8 | BitNetDType::Bool => Source::U8(elements(tensor)),
            other => unreachable!("{other} was unpacked before"),
        }
    }
}

/// Where the elements of a tile lie: `rows` times `cols` of them from `start` on.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub start: usize,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: isize,
    pub col_stride: isize,
}

fn gather<S: Copy, C: Cast<S>>(source: &[S], tile: Tile, out: &mut [C]) {
    let Tile { start, rows, cols, row_stride, col_stride } = tile;
    let at = |row: usize, col: usize| {
        start.wrapping_add_signed(row as isize * row_stride).wrapping_add_signed(col as isize * col_stride)
    };
    if row_stride == 1 && col_stride != 1 && rows > 1 {
        return gather_columns(source, start, col_stride, rows, cols, out);
    }
    for (row, out) in out.chunks_exact_mut(cols).take(rows).enumerate() {
        let from = at(row, 0);
        match col_stride {
            1 => out.iter_mut().zip(&source[from..][..cols]).for_each(|(out, &value)| *out = C::cast(value)),
            0 => out.fill(C::cast(source[from])),
            2 => {
                // Whole pairs become vectors; the last element need not have a neighbour.
                let (pairs, last) = source[from..=from + 2 * (cols - 1)].as_chunks::<2>();
                out.iter_mut().zip(pairs).for_each(|(out, pair)| *out = C::cast(pair[0]));
                out[cols - 1] = C::cast(last[0]);
            }
            3.. => {
                let values = source[from..].iter().step_by(col_stride as usize);
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = C::cast(value));
            }
            _ => {
                let values = source[..=from].iter().rev().step_by(col_stride.unsigned_abs());
                out.iter_mut().zip(values).for_each(|(out, &value)| *out = C::cast(value));
            }
        }
    }
}

/// Gathers a tile whose rows are neighbours in memory: reads along the columns, so that each cache line is read once,
/// and turns squares of elements around in registers.
fn gather_columns<S: Copy, C: Cast<S>>(
    source: &[S],
    start: usize,
    col_stride: isize,
    rows: usize,
    cols: usize,
    out: &mut [C],
) {
    const SIDE: usize = 4;
    let line = |col: usize| &source[start.wrapping_add_signed(col_stride * col as isize)..][..rows];
    let whole = cols / SIDE * SIDE;
    for col in (0..whole).step_by(SIDE) {
        let lines: [&[S]; SIDE] = std::array::from_fn(|i| line(col + i));
        let [a, b, c, d] = lines.map(|line| line.as_chunks::<SIDE>());
        for (square, (((a, b), c), d)) in a.0.iter().zip(b.0).zip(c.0).zip(d.0).enumerate() {
            for i in 0..SIDE {
                let to = &mut out[(square * SIDE + i) * cols + col..][..SIDE];
                to.copy_from_slice(&[C::cast(a[i]), C::cast(b[i]), C::cast(c[i]), C::cast(d[i])]);
            }
        }
        for row in rows / SIDE * SIDE..rows {
            (0..SIDE).for_each(|i| out[row * cols + col + i] = C::cast(lines[i][row]));
        }
    }
    for col in whole..cols {
        for (row, &value) in line(col).iter().enumerate() {
            out[row * cols + col] = C::cast(value);
        }
    }
}

/// Returns the tensor with whole-byte elements: packed ones become `i8` in memory of `pool`, others are shared.
///
/// # Errors
/// `Mismatch` for bytes that are no codes; otherwise as an allocation.
pub(crate) fn unpacked(
    tensor: &BitNetTensor,
    operation: &str,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let dtype = tensor.dtype();
    if !dtype.is_packed() {
        return Ok(tensor.clone());
    }
    let kernels = crate::cpu::select_kernels()?;
    super::output::build(tensor.shape(), BitNetDType::I8, pool, operation, |out: &mut [i8]| {
        load_codes(kernels, dtype, tensor.as_bytes()?, out).map_err(|error| error.context(operation))
    })
}
