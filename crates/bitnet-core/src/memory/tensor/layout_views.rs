//! Layouts of views: parts of the same elements, or another order of them, as NumPy and PyTorch define them.
//!
//! A dimension below 0 counts from the last. No view reaches a position that its origin does not reach.

use bitnet_backend::{BitNetError, Result};

use super::Layout;

impl Layout {
    /// Returns the layout of the same elements, in row-major order, as `shape`, or `None` when these strides
    /// cannot say it: the elements have to be copied then.
    ///
    /// # Errors
    /// `Mismatch` when `shape` has another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Option<Layout>> {
        let wanted = Layout::row_major(shape.to_vec());
        if wanted.element_count().is_none() || wanted.element_count() != self.element_count() {
            let expected = format!("{} elements", self.element_count().unwrap_or_default());
            return Err(BitNetError::mismatch(
                format!("reshape of a tensor of shape {:?}", self.shape),
                expected,
                format!("shape {shape:?}"),
            ));
        }
        if self.is_contiguous() {
            return Ok(Some(Layout { offset: self.offset, ..wanted }));
        }
        // Each run of old dimensions that is walked with one stride holds a run of new ones.
        let runs = self.runs();
        let mut strides = vec![0; shape.len()];
        let mut next = shape.len();
        for &(length, stride) in runs.iter().rev() {
            let (mut covered, mut step) = (1, stride);
            while next > 0 && (covered < length || shape[next - 1] == 1) {
                next -= 1;
                strides[next] = step;
                covered *= shape[next];
                step *= shape[next] as isize;
            }
            if covered != length {
                return Ok(None);
            }
        }
        Ok(Some(Layout { shape: shape.to_vec(), strides, offset: self.offset }))
    }

    /// Merges neighbouring dimensions that one stride walks through; dimensions of length 1 go.
    fn runs(&self) -> Vec<(usize, isize)> {
        let mut runs: Vec<(usize, isize)> = Vec::with_capacity(self.rank());
        for (&length, &stride) in self.shape.iter().zip(&self.strides).filter(|(length, _)| **length != 1) {
            match runs.last_mut() {
                Some(last) if last.1 == stride * length as isize => *last = (last.0 * length, stride),
                _ => runs.push((length, stride)),
            }
        }
        runs
    }

    /// Puts dimension `dims[i]` at place `i`.
    ///
    /// # Errors
    /// `Mismatch` when `dims` is not a permutation of the dimensions.
    pub fn permute(&self, dims: &[isize]) -> Result<Layout> {
        let wrong = || {
            let what = format!("permute of a tensor of shape {:?}", self.shape);
            BitNetError::mismatch(
                what,
                format!("each of {} dimensions once", self.rank()),
                format!("{dims:?}"),
            )
        };
        let mut seen = vec![false; self.rank()];
        let mut order = Vec::with_capacity(self.rank());
        for &dim in dims {
            let dim = self.dim("permute", dim)?;
            if std::mem::replace(&mut seen[dim], true) {
                return Err(wrong());
            }
            order.push(dim);
        }
        if order.len() != self.rank() {
            return Err(wrong());
        }
        let shape = order.iter().map(|&dim| self.shape[dim]).collect();
        let strides = order.iter().map(|&dim| self.strides[dim]).collect();
        Ok(Layout { shape, strides, offset: self.offset })
    }

    /// Exchanges two dimensions.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks.
    pub fn transpose(&self, first: isize, second: isize) -> Result<Layout> {
        let (first, second) = (self.dim("transpose", first)?, self.dim("transpose", second)?);
        let mut layout = self.clone();
        layout.shape.swap(first, second);
        layout.strides.swap(first, second);
        Ok(layout)
    }

    /// Takes out a dimension of length 1; one of another length stays.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks.
    pub fn squeeze(&self, dim: isize) -> Result<Layout> {
        let dim = self.dim("squeeze", dim)?;
        let mut layout = self.clone();
        if layout.shape[dim] == 1 {
            layout.shape.remove(dim);
            layout.strides.remove(dim);
        }
        Ok(layout)
    }

    /// Puts in a dimension of length 1 at place `dim`, 0 to the number of dimensions; -1 puts it last.
    ///
    /// # Errors
    /// `Mismatch` for a place that the result would lack.
    pub fn unsqueeze(&self, dim: isize) -> Result<Layout> {
        let dim = self.new_dim("unsqueeze", dim)?;
        let mut layout = self.clone();
        let stride =
            layout.shape.get(dim).map_or(1, |&l| layout.strides[dim].saturating_mul(l.max(1) as isize));
        layout.shape.insert(dim, 1);
        layout.strides.insert(dim, stride);
        Ok(layout)
    }

    /// Repeats dimensions of length 1, and the whole as new outer dimensions, until the shape is `shape`.
    ///
    /// # Errors
    /// `Mismatch` when a dimension is neither 1 nor that of `shape`, or `shape` has fewer of them.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Layout> {
        self.repeated("broadcast_to", shape)
    }

    /// Is [`broadcast_to`](Self::broadcast_to) in the name of `operation`.
    pub(crate) fn repeated(&self, operation: &str, shape: &[usize]) -> Result<Layout> {
        let wrong = || {
            let what = format!("{operation} of a tensor of shape {:?}", self.shape);
            BitNetError::mismatch(what, "a shape that repeats it", format!("{shape:?}"))
        };
        let new = shape.len().checked_sub(self.rank()).ok_or_else(wrong)?;
        let mut strides = vec![0; shape.len()];
        for dim in 0..self.rank() {
            strides[new + dim] = match (self.shape[dim], shape[new + dim]) {
                (length, wanted) if length == wanted => self.strides[dim],
                (1, _) => 0,
                _ => return Err(wrong()),
            };
        }
        let layout = Layout { shape: shape.to_vec(), strides, offset: self.offset };
        if layout.element_count().is_none() { Err(wrong()) } else { Ok(layout) }
    }

    /// Keeps `length` indices of a dimension, from `start` on.
    ///
    /// # Errors
    /// `Mismatch` when they are not all there.
    pub fn narrow(&self, dim: isize, start: usize, length: usize) -> Result<Layout> {
        let dim = self.dim("narrow", dim)?;
        if start.checked_add(length).is_none_or(|end| end > self.shape[dim]) {
            let what = format!("narrow of dimension {dim} of a tensor of shape {:?}", self.shape);
            let expected = format!("indices up to {}", self.shape[dim]);
            return Err(BitNetError::mismatch(what, expected, format!("{length} from {start} on")));
        }
        Ok(self.walk(dim, start, length, 1))
    }

    /// Keeps every `step`th index of a dimension, from `start` to before `end`, as `[start:end:step]` does in
    /// Python: bounds below 0 count from the end, those beyond the ends are the ends, and a `step` below 0 walks
    /// backwards, from the last index to the first where no bounds are given.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks, or a step of 0.
    pub fn slice(&self, dim: isize, start: Option<isize>, end: Option<isize>, step: isize) -> Result<Layout> {
        let dim = self.dim("slice", dim)?;
        if step == 0 || step == isize::MIN {
            let what = format!("slice of dimension {dim} of a tensor of shape {:?}", self.shape);
            return Err(BitNetError::mismatch(what, "a step that leads somewhere", format!("step {step}")));
        }
        // A tensor without elements may have lengths that no index needs to reach.
        let length = isize::try_from(self.shape[dim]).unwrap_or(isize::MAX);
        let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let bound = |bound: Option<isize>, otherwise| match bound {
            None => otherwise,
            Some(at) if at < 0 => at.saturating_add(length).clamp(lowest, highest),
            Some(at) => at.min(highest),
        };
        let (from, to) = match step > 0 {
            true => (bound(start, lowest), bound(end, highest)),
            false => (bound(start, highest), bound(end, lowest)),
        };
        let span = if step > 0 { to - from } else { from - to };
        let count = if span <= 0 { 0 } else { (span as usize).div_ceil(step.unsigned_abs()) };
        Ok(self.walk(dim, if count == 0 { 0 } else { from as usize }, count, step))
    }

    /// Turns dimensions around.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks or that is named twice.
    pub fn flip(&self, dims: &[isize]) -> Result<Layout> {
        let mut layout = self.clone();
        let mut seen = vec![false; self.rank()];
        for &dim in dims {
            let dim = self.dim("flip", dim)?;
            if std::mem::replace(&mut seen[dim], true) {
                let what = format!("flip of a tensor of shape {:?}", self.shape);
                return Err(BitNetError::mismatch(what, "each dimension once", format!("{dims:?}")));
            }
            let length = self.shape[dim];
            layout = layout.walk(dim, length.saturating_sub(1), length, -1);
        }
        Ok(layout)
    }

    /// Keeps `count` indices of a dimension: `start`, `start + step`, ...; all of them exist.
    fn walk(&self, dim: usize, start: usize, count: usize, step: isize) -> Layout {
        let mut layout = self.clone();
        // Without elements no position is reached, and the offset must not leave the memory.
        if count > 0 && !self.shape.contains(&0) {
            layout.offset = self.offset.wrapping_add_signed(self.strides[dim] * start as isize);
        }
        layout.shape[dim] = count;
        if count > 1 {
            layout.strides[dim] = self.strides[dim].saturating_mul(step);
        }
        layout
    }

    /// Resolves a dimension that may count from the last.
    pub(crate) fn dim(&self, operation: &str, dim: isize) -> Result<usize> {
        resolve(operation, dim, self.rank(), &self.shape)
    }

    /// Resolves the place of a dimension that is put in.
    pub(crate) fn new_dim(&self, operation: &str, dim: isize) -> Result<usize> {
        resolve(operation, dim, self.rank() + 1, &self.shape)
    }
}

/// Resolves one of `rank` dimensions of `operation` on a tensor of shape `shape`.
fn resolve(operation: &str, dim: isize, rank: usize, shape: &[usize]) -> Result<usize> {
    let index = if dim < 0 { rank.checked_add_signed(dim) } else { usize::try_from(dim).ok() };
    index.filter(|&index| index < rank).ok_or_else(|| {
        let expected = match rank {
            0 => "no dimension of a scalar".to_owned(),
            _ => format!("{} to {}", -(rank as isize), rank - 1),
        };
        BitNetError::mismatch(
            format!("dimension of {operation} of a tensor of shape {shape:?}"),
            expected,
            dim,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_strides_can_say() {
        let base = Layout::row_major(vec![2, 3, 4]);
        let turned = base.permute(&[2, 0, 1]).unwrap();
        assert_eq!((turned.shape(), turned.strides()), (&[4, 2, 3][..], &[1, 12, 4][..]));
        let merged = turned.reshape(&[4, 6]).unwrap().unwrap();
        assert_eq!(merged.strides(), [1, 4]);
        assert!(turned.reshape(&[8, 3]).unwrap().is_none());
        let split = merged.reshape(&[2, 2, 1, 3, 2, 1]).unwrap().unwrap();
        assert_eq!(split.strides()[..2], [2, 1]);
        assert_eq!(split.strides()[3..5], [8, 4]);
        assert!(base.reshape(&[5, 5]).is_err());
        let row = Layout::row_major(vec![3]).broadcast_to(&[2, 3]).unwrap();
        assert_eq!(row.strides(), [0, 1]);
        assert!(row.reshape(&[6]).unwrap().is_none());
        assert!(base.broadcast_to(&[3, 4]).is_err());
        assert!(Layout::row_major(vec![1]).broadcast_to(&[usize::MAX, 2]).is_err());
    }

    #[test]
    fn slices_are_those_of_python() {
        let of = |start, end, step| {
            let layout = Layout::row_major(vec![7]).slice(0, start, end, step).unwrap();
            let first = layout.offset() as isize;
            (0..layout.shape()[0]).map(|i| first + layout.strides()[0] * i as isize).collect::<Vec<_>>()
        };
        assert_eq!(of(None, None, 3), [0, 3, 6]);
        assert_eq!(of(Some(-3), None, 1), [4, 5, 6]);
        assert_eq!(of(Some(1), Some(-1), 2), [1, 3, 5]);
        assert_eq!(of(None, None, -1), [6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(of(Some(5), Some(0), -2), [5, 3, 1]);
        assert_eq!(of(Some(100), Some(-100), -3), [6, 3, 0]);
        assert_eq!(of(Some(-100), Some(2), 1), [0, 1]);
        assert_eq!(of(Some(4), Some(2), 1), [0; 0]);
        assert_eq!(of(Some(9), None, 1), [0; 0]);
        assert!(Layout::row_major(vec![7]).slice(0, None, None, 0).is_err());
        let empty = Layout::row_major(vec![0, 3]).flip(&[0, 1]).unwrap();
        assert_eq!((empty.shape(), empty.offset()), (&[0, 3][..], 0));
    }

    #[test]
    fn dimensions_are_named_in_errors() {
        let error = Layout::row_major(vec![2, 3]).transpose(0, 2).unwrap_err().to_string();
        assert_eq!(error, "dimension of transpose of a tensor of shape [2, 3]: expected -2 to 1, found 2");
        let error = Layout::row_major(vec![]).squeeze(0).unwrap_err().to_string();
        assert!(error.contains("no dimension of a scalar"), "{error}");
        assert!(Layout::row_major(vec![2, 3]).permute(&[0, 0]).is_err());
        assert_eq!(Layout::row_major(vec![2, 3]).unsqueeze(-1).unwrap().shape(), [2, 3, 1]);
        assert!(Layout::row_major(vec![2, 3]).unsqueeze(3).is_err());
        assert_eq!(Layout::row_major(vec![2, 1]).squeeze(-1).unwrap().shape(), [2]);
        assert!(Layout::row_major(vec![2, 3]).narrow(1, 2, 2).is_err());
    }
}
