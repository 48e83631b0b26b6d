//! The walk over one or more operands of one shape, which writes a contiguous result.
//!
//! Dimensions that every operand walks with one stride are merged. What remains is rows: the innermost dimension is
//! handed to a kernel as contiguous slices, straight from memory where an operand has the type and lies so, and
//! gathered into a tile otherwise (other types are converted on the way). Operands whose rows are
//! columns in memory are gathered in tiles of several rows, so that a cache line is read once.

use super::parallel;
use super::source::{Number, Source, Tile};
use crate::memory::Element;

/// Elements of a tile: some kilobytes an operand, which stay in the first-level cache.
pub(crate) const TILE: usize = 1024;
/// Columns of a tile whose rows are columns in memory, of as many rows as a cache line has elements: of each page one
/// line is read, and so few pages are in turn that their addresses stay at hand.
const TILE_COLUMNS: usize = 64;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Shorter rows are gathered several at a time, so that a kernel has something to do.
const SHORT_ROW: usize = 64;
/// Bytes of a result from which on threads share the work.
const PARALLEL_BYTES: usize = 1 << 20;

/// Computes elements of a result from equally many elements of each operand.
pub(crate) type Kernel<'a, const N: usize, C, O> = dyn Fn([&[C]; N], &mut [O]) + Sync + 'a;

/// Merged dimensions of `N` operands.
#[derive(Debug, Clone)]
pub(crate) struct Walk<const N: usize> {
    /// Length, and stride of each operand, outermost first; lengths are not 1.
    outer: Vec<(usize, [isize; N])>,
    /// The innermost dimension.
    inner: (usize, [isize; N]),
    starts: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// Merges the dimensions of operands of the same shape.
    pub fn new(shape: &[usize], strides: [&[isize]; N], starts: [usize; N]) -> Self {
        let mut merged: Vec<(usize, [isize; N])> = Vec::with_capacity(shape.len());
        for (dim, &length) in shape.iter().enumerate().filter(|(_, length)| **length != 1) {
            let step = strides.map(|strides| strides[dim]);
            match merged.last_mut() {
                Some(last) if (0..N).all(|i| last.1[i] == step[i].wrapping_mul(length as isize)) => {
                    *last = (last.0 * length, step);
                }
                _ => merged.push((length, step)),
            }
        }
        let inner = merged.pop().unwrap_or((1, [0; N]));
        Walk { outer: merged, inner, starts }
    }

    /// Returns length and strides of the innermost dimension.
    pub fn inner(&self) -> (usize, [isize; N]) {
        self.inner
    }

    /// Returns the number of rows: what the outer dimensions count.
    pub fn rows(&self) -> usize {
        self.outer.iter().map(|(length, _)| length).product()
    }

    /// Returns where each operand's row begins, and for how many rows the last outer stride leads on.
    pub fn row(&self, mut row: usize) -> ([usize; N], usize) {
        let mut starts = self.starts;
        let mut together = 1;
        for (place, (length, strides)) in self.outer.iter().rev().enumerate() {
            let index = row % length;
            row /= length;
            for (start, stride) in starts.iter_mut().zip(strides) {
                *start = start.wrapping_add_signed(stride * index as isize);
            }
            if place == 0 {
                together = length - index;
            }
        }
        (starts, together)
    }
}

impl<const N: usize> Walk<N> {
    /// Returns where the elements of a row-major index lie.
    pub fn positions(&self, index: usize) -> [usize; N] {
        let (length, strides) = self.inner;
        let (mut starts, _) = self.row(index / length);
        for (start, stride) in starts.iter_mut().zip(strides) {
            *start = start.wrapping_add_signed(stride * (index % length) as isize);
        }
        starts
    }
}

impl Walk<1> {
    /// Returns where the element of a row-major index lies.
    pub fn position(&self, index: usize) -> usize {
        self.positions(index)[0]
    }
}

/// Computes every element of `out`, whose elements are those of the walk in order.
///
/// `kernel` gets equally many elements of each operand and of the result. Results do not depend on how the work is
/// cut.
pub(crate) fn fill<const N: usize, C: Number, O: Element>(
    walk: &Walk<N>,
    sources: [Source<'_>; N],
    out: &mut [O],
    kernel: &Kernel<'_, N, C, O>,
) {
    if out.is_empty() {
        return;
    }
    let (cols, threads) = (walk.inner.0, parallel::threads());
    if size_of_val(out) < PARALLEL_BYTES || threads == 1 {
        return fill_rows(walk, sources, 0, 0, out, cols, kernel);
    }
    let (rows, pieces) = (walk.rows(), 4 * threads);
    if rows >= pieces {
        // Whole tiles of rows a piece, where there are enough of them.
        let tiles = rows.div_ceil(pieces).next_multiple_of(tile_rows::<C>());
        let each = if rows.div_ceil(tiles) < threads { rows.div_ceil(pieces) } else { tiles };
        parallel::pieces(out, each * cols, &|piece, out| {
            fill_rows(walk, sources, piece * each, 0, out, cols, kernel);
        });
    } else {
        let each = cols.div_ceil(pieces.div_ceil(rows)).next_multiple_of(TILE);
        parallel::pieces(out, cols, &|row, out| {
            parallel::pieces(out, each, &|piece, out| {
                let width = out.len();
                fill_rows(walk, sources, row, piece * each, out, width, kernel);
            });
        });
    }
}

/// Rows of a tile of columns.
fn tile_rows<C>() -> usize {
    (LINE_BYTES / size_of::<C>()).max(1)
}

/// Fills rows from `first` on, `cols` columns of each from `first_col` on.
fn fill_rows<const N: usize, C: Number, O: Element>(
    walk: &Walk<N>,
    sources: [Source<'_>; N],
    first: usize,
    first_col: usize,
    out: &mut [O],
    cols: usize,
    kernel: &Kernel<'_, N, C, O>,
) {
    let steps = walk.inner.1;
    let row_steps = walk.outer.last().map_or([0; N], |(_, strides)| *strides);
    let directs: [Option<&[C]>; N] = std::array::from_fn(|i| match steps[i] {
        1 if cols >= SHORT_ROW => C::direct(&sources[i]),
        _ => None,
    });
    let all_direct = directs.iter().all(Option::is_some);
    let in_columns = (0..N).any(|i| steps[i] != 1 && row_steps[i] == 1);
    let (tile_rows, tile_cols) = match (all_direct, cols < SHORT_ROW, in_columns) {
        (true, ..) => (1, cols),
        (_, true, _) => (TILE / cols, cols),
        (_, _, true) => (tile_rows::<C>(), TILE_COLUMNS),
        _ => (1, TILE),
    };
    let mut scratch: [Vec<C>; N] = std::array::from_fn(|i| match directs[i] {
        Some(_) => Vec::new(),
        None => vec![C::ONE; tile_rows * tile_cols.min(cols)],
    });
    let (mut row, rows) = (0, out.len() / cols);
    while row < rows {
        let (starts, together) = walk.row(first + row);
        let height = tile_rows.min(together).min(rows - row);
        let mut col = 0;
        while col < cols {
            let width = tile_cols.min(cols - col);
            let at: [usize; N] =
                std::array::from_fn(|i| starts[i].wrapping_add_signed(steps[i] * (first_col + col) as isize));
            for i in 0..N {
                if directs[i].is_none() {
                    let tile = Tile {
                        start: at[i],
                        rows: height,
                        cols: width,
                        row_stride: row_steps[i],
                        col_stride: steps[i],
                    };
                    sources[i].gather(tile, &mut scratch[i]);
                }
            }
            if width == cols && directs.iter().all(Option::is_none) {
                let count = height * width;
                let inputs = std::array::from_fn(|i| &scratch[i][..count]);
                kernel(inputs, &mut out[row * cols..][..count]);
            } else {
                for line in 0..height {
                    let inputs = std::array::from_fn(|i| match directs[i] {
                        Some(elements) => {
                            let start = at[i].wrapping_add_signed(row_steps[i] * line as isize);
                            &elements[start..][..width]
                        }
                        None => &scratch[i][line * width..][..width],
                    });
                    kernel(inputs, &mut out[(row + line) * cols + col..][..width]);
                }
            }
            col += width;
        }
        row += height;
    }
}
