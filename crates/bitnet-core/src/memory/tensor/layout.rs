//! Where the elements of a tensor lie in its memory: shape, strides and offset, in elements.
/// Maps an index `[i0, i1, ..]` to the element `offset + i0 * strides[0] + i1 * strides[1] + ..` of the memory.
///
/// A stride of 0 repeats elements along a dimension (broadcasting), a negative one walks backwards. Making a
/// layout never fails; a row-major layout of a shape beyond the address space has meaningless strides, and the
/// sizes of its tensor are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<isize>,
    pub(super) offset: usize,
}

impl Layout {
    /// Lays elements out without gaps, the last index fastest. An empty shape is a scalar.
    pub fn row_major(shape: Vec<usize>) -> Self {
        let mut inner: isize = 1;
        let mut strides = vec![0; shape.len()];
        for (stride, &length) in strides.iter_mut().zip(&shape).rev() {
            *stride = inner;
            inner = inner.saturating_mul(isize::try_from(length.max(1)).unwrap_or(isize::MAX));
        }
        Layout { shape, strides, offset: 0 }
    }

    /// Makes a layout of its parts; that it stays inside the memory is the caller's promise, kept by the view
    /// operations and checked by [`last_element`](Self::last_element).
    ///
    /// # Panics
    /// When `shape` and `strides` differ in length.
    pub fn strided(shape: Vec<usize>, strides: Vec<isize>, offset: usize) -> Self {
        assert_eq!(shape.len(), strides.len(), "one stride a dimension");
        Layout { shape, strides, offset }
    }

    /// Returns the length of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the distance, in elements, between neighbours along each dimension.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// Returns the position of the element at index 0 of every dimension, in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Returns the number of elements, or `None` when the product of the non-zero lengths does not fit an
    /// `isize`, in which no stride could be stated.
    pub fn element_count(&self) -> Option<usize> {
        let mut extent: usize = 1;
        for &length in &self.shape {
            extent = extent.checked_mul(length.max(1))?;
        }
        let fits = isize::try_from(extent).is_ok();
        fits.then_some(if self.shape.contains(&0) { 0 } else { extent })
    }

    /// Reports whether the elements follow one another without gaps, the last index fastest.
    ///
    /// Dimensions of length 1 have no neighbours, so their strides do not count.
    pub fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut inner: isize = 1;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if length != 1 && stride != inner {
                return false;
            }
            inner = inner.saturating_mul(length as isize);
        }
        true
    }

    /// Returns the highest position that any index reaches, or `None` for a tensor without elements or one that
    /// leaves the range of positions.
    pub fn last_element(&self) -> Option<usize> {
        self.element_count().filter(|&count| count > 0)?;
        let (mut low, mut high) = (isize::try_from(self.offset).ok()?, isize::try_from(self.offset).ok()?);
        for (&length, &stride) in self.shape.iter().zip(&self.strides) {
            let reach = stride.checked_mul(isize::try_from(length - 1).ok()?)?;
            if reach < 0 {
                low = low.checked_add(reach)?;
            } else {
                high = high.checked_add(reach)?;
            }
        }
        if low < 0 { None } else { usize::try_from(high).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_major_strides_count_elements() {
        let layout = Layout::row_major(vec![2, 3, 5]);
        assert_eq!((layout.strides(), layout.offset()), (&[15, 5, 1][..], 0));
        assert_eq!((layout.element_count(), layout.last_element()), (Some(30), Some(29)));
        assert!(layout.is_contiguous());
    }

    #[test]
    fn empty_and_scalar_layouts() {
        let empty = Layout::row_major(vec![4, 0, 3]);
        assert_eq!((empty.element_count(), empty.last_element()), (Some(0), None));
        assert_eq!(empty.strides(), [3, 3, 1]);
        let scalar = Layout::row_major(vec![]);
        assert_eq!((scalar.element_count(), scalar.last_element()), (Some(1), Some(0)));
    }

    #[test]
    fn strided_layouts_know_their_reach() {
        let transposed = Layout::strided(vec![3, 2], vec![1, 3], 4);
        assert_eq!((transposed.is_contiguous(), transposed.last_element()), (false, Some(9)));
        let backwards = Layout::strided(vec![4], vec![-1], 3);
        assert_eq!((backwards.is_contiguous(), backwards.last_element()), (false, Some(3)));
        assert_eq!(Layout::strided(vec![4], vec![-1], 2).last_element(), None);
        assert!(Layout::strided(vec![1, 3], vec![77, 1], 5).is_contiguous());
        assert!(!Layout::strided(vec![2, 3], vec![0, 1], 0).is_contiguous());
    }

    #[test]
    fn lengths_beyond_the_address_space_have_no_count() {
        let half = usize::MAX / 2 + 1;
        assert_eq!(Layout::row_major(vec![half, 2]).element_count(), None);
        assert_eq!(Layout::row_major(vec![0, half, 2]).element_count(), None);
        assert_eq!(Layout::row_major(vec![half]).element_count(), None);
    }
}
