//! Work split over threads by whole rows of the result; a row is computed by one thread in one order,
//! so the thread count never changes a result.

use std::thread;

/// Calls `work(first_row, rows)` on pieces of `out` that together cover it, in parallel.
///
/// Panics when `row_len` is zero or does not divide the length.
pub(super) fn over_rows<T: Send>(out: &mut [T], row_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    assert!(row_len > 0 && out.len().is_multiple_of(row_len), "whole rows of {row_len}");
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(8));
    let rows_each = (out.len() / row_len).div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (i, piece) in out.chunks_mut(rows_each * row_len).enumerate() {
            let work = &work;
            scope.spawn(move || work(i * rows_each, piece));
        }
    });
}

/// Turns `[rows, cols]` into `[cols, rows]`.
pub(super) fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    for col in 0..cols {
        out.extend((0..rows).map(|row| values[row * cols + col]));
    }
    out
}
