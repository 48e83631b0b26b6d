//! The frame of reductions: which elements meet, in what order, on which thread.
//!
//! The dimensions of a tensor are parted into those that stay and those that go, each merged where one stride walks
//! through them. Where the dimension that lies together in memory goes, a result is folded from runs of it; where it
//! stays, whole rows are folded into a block of accumulators. Runs are cut into pieces of a fixed length whose
//! accumulators are merged in order, so that a result does not depend on the number of threads.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::output::{build, pool_of};
use super::parallel;
use super::source::{Number, Source, Tile, unpacked};
use super::walk::{TILE, Walk};
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;

/// Elements folded into one accumulator before it is merged with others.
const PIECE: usize = 1 << 16;
/// Columns that are folded together.
const COLUMNS: usize = 2048;
/// Elements of rows that are folded into one set of accumulators before it is merged with others.
const COLUMN_PIECE: usize = 1 << 20;
/// Rows that are handed to [`Reduction::columns`] together.
pub(crate) const ROWS: usize = 8;
/// Elements from which on threads share the work.
const PARALLEL: usize = 1 << 18;

/// A way to make one value of many numbers.
pub(crate) trait Reduction<C: Number>: Sync {
    /// What is known of the numbers met so far.
    type Acc: Copy + Send + Sync;

    /// Returns what is known of no numbers.
    fn start(&self) -> Self::Acc;

    /// Folds neighbours, whose index among all that are reduced begins at `first`.
    fn run(&self, acc: Self::Acc, values: &[C], first: usize) -> Self::Acc;

    /// Folds up to [`ROWS`] rows, each into the accumulators of its columns; row `i` has index `first + i`.
    fn columns(&self, accs: &mut [Self::Acc], rows: &[&[C]], first: usize);

    /// Puts together what is known of numbers and of those that come after them.
    fn merge(&self, acc: Self::Acc, later: Self::Acc) -> Self::Acc;
}

/// The dimensions that stay and those that go.
pub(crate) struct Axes {
    /// Shape of the result.
    pub shape: Vec<usize>,
    kept: Vec<usize>,
    gone: Vec<usize>,
}

impl Axes {
    /// Resolves the dimensions to reduce, all where none is named.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks or that is named twice.
    pub fn new(operation: &str, tensor: &BitNetTensor, dims: &[isize], keepdim: bool) -> Result<Self> {
        let rank = tensor.shape().len();
        let mut goes = vec![dims.is_empty(); rank];
        for &dim in dims {
            if std::mem::replace(&mut goes[tensor.layout().dim(operation, dim)?], true) {
                let what = format!("dimensions of {operation} of a tensor of shape {:?}", tensor.shape());
                return Err(BitNetError::mismatch(what, "each once", format!("{dims:?}")));
            }
        }
        let gone: Vec<usize> = (0..rank).filter(|&dim| goes[dim]).collect();
        let kept: Vec<usize> = (0..rank).filter(|&dim| !goes[dim]).collect();
        let shape = (0..rank)
            .filter(|&dim| keepdim || !goes[dim])
            .map(|dim| if goes[dim] { 1 } else { tensor.shape()[dim] })
            .collect();
        Ok(Axes { shape, kept, gone })
    }

    /// Returns how many elements meet in one of the result.
    pub fn count(&self, tensor: &BitNetTensor) -> usize {
        self.gone.iter().map(|&dim| tensor.shape()[dim]).product()
    }

    /// Refuses to reduce nothing.
    ///
    /// # Errors
    /// `Mismatch` when a dimension that goes has no elements, and the result would have some.
    pub fn check_some(&self, operation: &str, tensor: &BitNetTensor) -> Result<()> {
        if self.count(tensor) > 0 || self.shape.contains(&0) {
            return Ok(());
        }
        let what = format!("elements of {operation} of a tensor of shape {:?}", tensor.shape());
        Err(BitNetError::mismatch(what, "at least one", "none"))
    }

    fn part(&self, tensor: &BitNetTensor, dims: &[usize], start: usize) -> Walk<1> {
        let layout = tensor.layout();
        let shape: Vec<usize> = dims.iter().map(|&dim| layout.shape()[dim]).collect();
        let strides: Vec<isize> = dims.iter().map(|&dim| layout.strides()[dim]).collect();
        Walk::new(&shape, [&strides], [start])
    }
}

/// Reduces a tensor to one of `dtype`, whose elements are `O`.
///
/// # Errors
/// As an allocation.
pub(crate) fn reduce<C: Number, R: Reduction<C>, O: Element>(
    operation: &str,
    tensor: &BitNetTensor,
    axes: &Axes,
    dtype: BitNetDType,
    reduction: &R,
    finish: impl Fn(R::Acc) -> O + Sync,
) -> Result<BitNetTensor> {
    let pool = pool_of(operation, &[tensor])?;
    let tensor = unpacked(tensor, operation, pool)?;
    let kept = axes.part(&tensor, &axes.kept, tensor.layout().offset());
    let gone = axes.part(&tensor, &axes.gone, 0);
    let frame = Frame { source: Source::of(&tensor), kept, gone, count: axes.count(&tensor), reduction };
    build(&axes.shape, dtype, pool, operation, |out: &mut [O]| {
        frame.fill(out, &finish);
        Ok(())
    })
}

struct Frame<'a, R> {
    source: Source<'a>,
    kept: Walk<1>,
    gone: Walk<1>,
    count: usize,
    reduction: &'a R,
}

impl<R> Frame<'_, R> {
    fn fill<C: Number, O: Element>(&self, out: &mut [O], finish: &(impl Fn(R::Acc) -> O + Sync))
    where
        R: Reduction<C>,
    {
        if out.is_empty() || self.count == 0 {
            return out.fill(finish(self.reduction.start()));
        }
        let (kept_length, [kept_stride]) = self.kept.inner();
        let (_, [gone_stride]) = self.gone.inner();
        let in_columns = kept_length > 1 && kept_stride.unsigned_abs() < gone_stride.unsigned_abs();
        // Blocks of columns end with a row of the part that stays.
        let unit = if in_columns { kept_length } else { 1 };
        let threads = parallel::threads();
        let share = threads > 1 && out.len().saturating_mul(self.count) >= PARALLEL;
        // What cannot be parted into so many pieces is parted further.
        let pieces = if share { 4 * threads } else { 1 };
        let rows = out.len() / unit;
        let each = rows.div_ceil(pieces);
        match (in_columns, rows < pieces) {
            (true, true) => parallel::pieces(out, unit, &|row, out| {
                parallel::pieces(out, COLUMNS, &|block, out| {
                    let (first, width) = (block * COLUMNS, out.len());
                    let fold = |piece| self.fold_columns(row, first, width, piece);
                    self.finish_columns(parallel::map(self.column_pieces(width), &fold), out, finish);
                });
            }),
            (true, false) => parallel::pieces(out, each * unit, &|piece, out| {
                for (row, out) in out.chunks_mut(unit).enumerate() {
                    for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
                        let (row, first, width) = (piece * each + row, block * COLUMNS, out.len());
                        let accs = (0..self.column_pieces(width))
                            .map(|piece| self.fold_columns(row, first, width, piece));
                        self.finish_columns(accs, out, finish);
                    }
                }
            }),
            (false, true) => {
                for (index, out) in out.iter_mut().enumerate() {
                    *out = finish(self.fold_all(self.kept.position(index)));
                }
            }
            (false, false) => {
                parallel::pieces(out, each, &|piece, out| self.fold_runs(piece * each, out, finish));
            }
        }
    }

    /// Folds the results from index `first` on, those of both halves in turn: the prefetchers of the hardware stop at
    /// the end of a page, and two places far apart keep two of them busy.
    fn fold_runs<C: Number, O>(&self, first: usize, out: &mut [O], finish: &impl Fn(R::Acc) -> O)
    where
        R: Reduction<C>,
    {
        let half = out.len() / 2;
        let (low, high) = out.split_at_mut(half);
        let (high, last) = high.split_at_mut(half);
        let start = |index: usize| self.kept.position(first + index);
        for (index, (low, high)) in low.iter_mut().zip(high).enumerate() {
            let starts = [start(index), start(half + index)];
            let pieces = (0..self.pieces()).map(|piece| self.fold_pieces(starts.map(|start| (start, piece))));
            let merge = |[a, b]: [R::Acc; 2], [c, d]: [R::Acc; 2]| {
                [self.reduction.merge(a, c), self.reduction.merge(b, d)]
            };
            let accs = pieces.reduce(merge).unwrap_or([self.reduction.start(); 2]);
            [*low, *high] = accs.map(finish);
        }
        if let Some(last) = last.first_mut() {
            let start = start(2 * half);
            let pieces = (0..self.pieces()).map(|piece| self.fold_pieces([(start, piece)])[0]);
            *last = finish(self.merge(pieces));
        }
    }

    fn merge<C: Number>(&self, accs: impl Iterator<Item = R::Acc>) -> R::Acc
    where
        R: Reduction<C>,
    {
        let whole = accs.reduce(|acc, later| self.reduction.merge(acc, later));
        whole.unwrap_or_else(|| self.reduction.start())
    }

    fn pieces(&self) -> usize {
        self.count.div_ceil(PIECE)
    }

    /// Folds all elements that meet at `start` on all threads, neighbouring pieces in turn.
    fn fold_all<C: Number>(&self, start: usize) -> R::Acc
    where
        R: Reduction<C>,
    {
        let pieces = self.pieces();
        let fold = |pair| match 2 * pair + 1 {
            second if second < pieces => self.fold_pieces([(start, second - 1), (start, second)]),
            last => [self.fold_pieces([(start, last - 1)])[0], self.reduction.start()],
        };
        self.merge(parallel::map(pieces.div_ceil(2), &fold).flatten().take(pieces))
    }

    /// Folds a tile of each piece in turn: `places` holds where the elements of a result begin, and the piece of them.
    fn fold_pieces<C: Number, const N: usize>(&self, places: [(usize, usize); N]) -> [R::Acc; N]
    where
        R: Reduction<C>,
    {
        let (length, [stride]) = self.gone.inner();
        let direct = if stride == 1 { C::direct(&self.source) } else { None };
        let mut scratch = [C::ONE; TILE];
        let mut accs = [self.reduction.start(); N];
        let mut cursors = places.map(|(_, piece)| piece * PIECE);
        let ends = places.map(|(_, piece)| self.count.min((piece + 1) * PIECE));
        while cursors != ends {
            for ((acc, at), ((start, _), end)) in
                accs.iter_mut().zip(&mut cursors).zip(places.iter().zip(ends))
            {
                // Pieces that begin at other columns of their rows are met in more or fewer tiles.
                if *at == end {
                    continue;
                }
                let (row, col) = (*at / length, *at % length);
                let from =
                    start.wrapping_add(self.gone.row(row).0[0]).wrapping_add_signed(stride * col as isize);
                let width = (length - col).min(end - *at).min(TILE);
                let values = match direct {
                    Some(elements) => &elements[from..][..width],
                    None => {
                        let tile =
                            Tile { start: from, rows: 1, cols: width, row_stride: 0, col_stride: stride };
                        self.source.gather(tile, &mut scratch[..width]);
                        &scratch[..width]
                    }
                };
                *acc = self.reduction.run(*acc, values, *at);
                *at += width;
            }
        }
        accs
    }

    /// Returns how many rows of the part that goes make a piece, for blocks of `width` columns.
    fn piece_rows(width: usize) -> usize {
        (COLUMN_PIECE / width).next_multiple_of(ROWS)
    }

    /// Returns the number of pieces of blocks of `width` columns. A piece is of one row of the outer part that goes.
    fn column_pieces(&self, width: usize) -> usize {
        let length = self.gone.inner().0;
        self.count / length * length.div_ceil(Self::piece_rows(width))
    }

    fn finish_columns<C: Number, O>(
        &self,
        mut accs: impl Iterator<Item = Vec<R::Acc>>,
        out: &mut [O],
        finish: &impl Fn(R::Acc) -> O,
    ) where
        R: Reduction<C>,
    {
        let Some(mut whole) = accs.next() else { return };
        for accs in accs {
            whole.iter_mut().zip(accs).for_each(|(acc, later)| *acc = self.reduction.merge(*acc, later));
        }
        out.iter_mut().zip(whole).for_each(|(out, acc)| *out = finish(acc));
    }

    /// Folds piece `piece` of `width` columns, at most [`COLUMNS`], of row `row` of the part that stays.
    fn fold_columns<C: Number>(&self, row: usize, first_col: usize, width: usize, piece: usize) -> Vec<R::Acc>
    where
        R: Reduction<C>,
    {
        let (_, [kept_stride]) = self.kept.inner();
        let (length, [gone_stride]) = self.gone.inner();
        let start = self.kept.row(row).0[0].wrapping_add_signed(kept_stride * first_col as isize);
        let direct = if kept_stride == 1 { C::direct(&self.source) } else { None };
        let mut scratch = vec![C::ONE; if direct.is_some() { 0 } else { ROWS * width }];
        let mut accs = vec![self.reduction.start(); width];
        let piece_rows = Self::piece_rows(width);
        let (gone_row, piece) = (piece / length.div_ceil(piece_rows), piece % length.div_ceil(piece_rows));
        let from = start.wrapping_add(self.gone.row(gone_row).0[0]);
        let end = length.min((piece + 1) * piece_rows);
        for first in (piece * piece_rows..end).step_by(ROWS) {
            let rows = ROWS.min(end - first);
            let at = |row: usize| from.wrapping_add_signed(gone_stride * (first + row) as isize);
            let mut together: [&[C]; ROWS] = [&[]; ROWS];
            match direct {
                Some(elements) => {
                    for row in 0..rows {
                        together[row] = &elements[at(row)..][..width];
                    }
                }
                None => {
                    let tile = Tile {
                        start: at(0),
                        rows,
                        cols: width,
                        row_stride: gone_stride,
                        col_stride: kept_stride,
                    };
                    self.source.gather(tile, &mut scratch[..rows * width]);
                    for (slot, row) in together.iter_mut().zip(scratch.chunks_exact(width)) {
                        *slot = row;
                    }
                }
            }
            self.reduction.columns(&mut accs, &together[..rows], gone_row * length + first);
        }
        accs
    }
}
