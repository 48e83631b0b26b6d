//! Loops over rows, on one thread or on all.

#[cfg(feature = "parallel")]
use rayon::prelude::*;

/// Elements below which a matrix is not worth waking other threads for.
const PARALLEL_ELEMENTS: usize = 1 << 16;

/// Returns `function(row)` of every row, in order.
pub(crate) fn map_rows<T: Send>(
    rows: usize,
    cols: usize,
    function: impl Fn(usize) -> T + Sync + Send,
) -> Vec<T> {
    #[cfg(feature = "parallel")]
    if rows.saturating_mul(cols) >= PARALLEL_ELEMENTS {
        return (0..rows).into_par_iter().map(function).collect();
    }
    let _ = (cols, PARALLEL_ELEMENTS);
    (0..rows).map(function).collect()
}

/// Returns the first `Some` of `function(row)`, in the order of rows.
pub(crate) fn find_row<T: Send>(
    rows: usize,
    cols: usize,
    function: impl Fn(usize) -> Option<T> + Sync + Send,
) -> Option<T> {
    #[cfg(feature = "parallel")]
    if rows.saturating_mul(cols) >= PARALLEL_ELEMENTS {
        return (0..rows).into_par_iter().find_map_first(function);
    }
    let _ = cols;
    (0..rows).find_map(function)
}

/// Returns room for a `[rows, cols]` matrix in row quarters.
pub(crate) fn room(rows: usize, cols: usize) -> Vec<u8> {
    vec![0; rows.div_ceil(4) * cols]
}

/// Packs a `[rows, cols]` matrix by row quarters; `fill(row, lane, out)` adds the codes of one row, shifted
/// to bits `2 * lane`, to a line of packed bytes.
///
/// Lines of absent rows (`rows` not a multiple of 4) get the code of zero.
pub(crate) fn pack_quarters(
    packed: &mut [u8],
    rows: usize,
    cols: usize,
    fill: impl Fn(usize, u32, &mut [u8]) + Sync + Send,
) {
    let lines = rows.div_ceil(4);
    fill_lines(packed, rows, cols, |index, out| {
        out.fill(0);
        for lane in 0..4u32 {
            let row = lane as usize * lines + index;
            if row < rows {
                fill(row, lane, out);
            } else {
                out.iter_mut().for_each(|byte| *byte |= 1 << (2 * lane));
            }
        }
    });
}

/// Has each line of a row-quarters matrix written by `line(index, out)`.
///
/// # Panics
/// When `packed` is not as long as the packed form of `[rows, cols]`.
pub(crate) fn fill_lines(
    packed: &mut [u8],
    rows: usize,
    cols: usize,
    line: impl Fn(usize, &mut [u8]) + Sync + Send,
) {
    assert_eq!(Some(packed.len()), rows.div_ceil(4).checked_mul(cols), "room for the codes");
    if cols == 0 {
        return;
    }
    #[cfg(feature = "parallel")]
    if packed.len() >= PARALLEL_ELEMENTS / 4 {
        return packed.par_chunks_mut(cols).enumerate().for_each(|(index, out)| line(index, out));
    }
    packed.chunks_mut(cols).enumerate().for_each(|(index, out)| line(index, out));
}
