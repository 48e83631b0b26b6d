//! A buffer that the workers of one stage access in disjoint parts.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// A slice lent to several workers at once.
///
/// The borrow checker cannot see that workers take different rows; each access says why it does not
/// overlap another one, between two barriers. Bounds are always checked.
#[derive(Clone, Copy)]
pub struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: the slice is exclusively lent for 'a and its elements may move between threads; the callers
// of `get` and `get_mut` guarantee that no element is written by one thread and touched by another.
unsafe impl<T: Send + Sync> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Lends a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedSlice { start: slice.as_mut_ptr(), len: slice.len(), lent: PhantomData }
    }

    /// Forgets the lifetime.
    ///
    /// # Safety
    /// The memory outlives every use of the result, and stays lent to it alone.
    pub unsafe fn erase(self) -> SharedSlice<'static, T> {
        SharedSlice { start: self.start, len: self.len, lent: PhantomData }
    }

    /// Returns a part to read.
    ///
    /// # Panics
    /// When the range lies outside.
    ///
    /// # Safety
    /// While the result lives, no worker writes to any element of `range`.
    pub unsafe fn get(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds of a slice that lives for 'a; not written meanwhile, by the contract.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// Returns a part to write.
    ///
    /// # Panics
    /// When the range lies outside.
    ///
    /// # Safety
    /// While the result lives, nothing else reads or writes any element of `range`.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds of a slice that lives for 'a; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
