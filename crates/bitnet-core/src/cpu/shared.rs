//! A buffer that the workers of one stage access in disjoint parts.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::memory::Element;

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

    /// Returns the `len` elements of a plain type at byte `start`.
    ///
    /// # Panics
    /// When they lie outside or are not aligned.
    ///
    /// # Safety
    /// The memory outlives every use of the result. Where two parts share bytes, no worker touches both between
    /// the same two barriers, and none is read before it was written.
    pub unsafe fn part<E: Element>(&self, start: usize, len: usize) -> SharedSlice<'static, E>
    where
        T: Element,
    {
        assert_eq!(size_of::<T>(), 1, "parts are counted in bytes");
        let end = len.checked_mul(size_of::<E>()).and_then(|bytes| start.checked_add(bytes));
        assert!(end.is_some_and(|end| end <= self.len), "{len} elements at {start} of {}", self.len);
        let start = self.start.wrapping_add(start).cast::<E>();
        assert!(len == 0 || start.is_aligned());
        SharedSlice { start, len, lent: PhantomData }
    }

    /// Asks for a part to be brought near, whoever writes it meanwhile.
    ///
    /// # Panics
    /// When the range lies outside.
    pub fn prefetch(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        bitnet_kernels::prefetch(self.start.wrapping_add(range.start), range.len());
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
