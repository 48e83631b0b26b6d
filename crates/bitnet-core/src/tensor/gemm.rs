//! Products of floating-point matrices through the crate `gemm`.
#![allow(unsafe_code)]

use gemm::Parallelism;

/// A matrix in memory: element `(i, j)` at `start + i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub elements: &'a [T],
    pub start: usize,
    pub row_stride: isize,
    pub col_stride: isize,
}

impl<T> Matrix<'_, T> {
    /// Reports whether every element of `rows` times `cols` is in the memory.
    fn holds(&self, rows: usize, cols: usize) -> bool {
        let reach = |length: usize, stride: isize| {
            isize::try_from(length - 1).ok().and_then(|steps| steps.checked_mul(stride))
        };
        let (Some(down), Some(along)) = (reach(rows, self.row_stride), reach(cols, self.col_stride)) else {
            return false;
        };
        let (Some(low), Some(high)) =
            (down.min(0).checked_add(along.min(0)), down.max(0).checked_add(along.max(0)))
        else {
            return false;
        };
        self.start.checked_add_signed(low).is_some()
            && self.start.checked_add_signed(high).is_some_and(|last| last < self.elements.len())
    }
}

/// Writes the product of `left` (`rows` times `depth`) and `right` (`depth` times `cols`) to `out`, row-major.
///
/// `T` is f32 or f64.
///
/// # Panics
/// When a matrix is not in its memory or `out` is not `rows * cols` long.
pub(super) fn product<T: Copy + Default + From<bool> + 'static>(
    (rows, depth, cols): (usize, usize, usize),
    left: Matrix<'_, T>,
    right: Matrix<'_, T>,
    out: &mut [T],
) {
    assert_eq!(Some(out.len()), rows.checked_mul(cols), "elements of the product");
    if out.is_empty() {
        return;
    }
    if depth == 0 {
        return out.fill(T::default());
    }
    assert!(left.holds(rows, depth) && right.holds(depth, cols), "the matrices are in their memory");
    #[cfg(feature = "parallel")]
    let parallelism = Parallelism::Rayon(rayon::current_num_threads());
    #[cfg(not(feature = "parallel"))]
    let parallelism = Parallelism::None;
    // SAFETY:
    // - `out` is `rows * cols` elements, borrowed exclusively, and `cols` fits an `isize` as a slice is no longer;
    // - every element of `left` and `right` is in the slice its pointer is derived from, by the check of `holds`,
    //   and both are borrowed while the call lasts;
    // - `gemm` computes f32 and f64 natively and panics for types that it does not know.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            depth,
            out.as_mut_ptr(),
            1,
            cols as isize,
            false,
            left.elements.as_ptr().add(left.start),
            left.col_stride,
            left.row_stride,
            right.elements.as_ptr().add(right.start),
            right.col_stride,
            right.row_stride,
            T::default(),
            T::from(true),
            false,
            false,
            false,
            parallelism,
        );
    }
}
