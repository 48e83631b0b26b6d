//! Typed buffers on the pool.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;

use bitnet_backend::{BitNetError, Device, ErrorKind, Result, WeightBytes};

use super::builder::AllocationRequest;
use super::{Element, HybridMemoryPool, PinGuardMut};

/// Alignment of every [`PoolBuffer`], that of a cache line and of the widest vector register.
pub const BUFFER_ALIGN: usize = 64;

/// Owns a `[T]` in host memory of a pool: 64-byte aligned, pinned, given back on drop.
///
/// An empty buffer holds no block.
pub struct PoolBuffer<T: Element> {
    pool: HybridMemoryPool,
    block: Option<PinGuardMut>,
    device: Device,
    element: PhantomData<T>,
}

impl<T: Element> PoolBuffer<T> {
    /// Allocates `len` zeros on `device`; `purpose` names the buffer in errors.
    ///
    /// # Errors
    /// `TensorTooLarge` when `len` elements do not fit the address space; otherwise as
    /// [`HybridMemoryPool::allocate_zeroed`]. All begin with `purpose`.
    #[track_caller]
    pub fn zeroed(pool: &HybridMemoryPool, len: usize, device: &Device, purpose: &str) -> Result<Self> {
        match Self::allocate(pool, len, device, true) {
            Ok(buffer) => Ok(buffer),
            Err(error) => Err(error.context(purpose)),
        }
    }

    /// Allocates `len` elements that are about to be written: they are zeros, or what the block held before.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    #[track_caller]
    pub fn for_overwrite(
        pool: &HybridMemoryPool,
        len: usize,
        device: &Device,
        purpose: &str,
    ) -> Result<Self> {
        match Self::allocate(pool, len, device, false) {
            Ok(buffer) => Ok(buffer),
            Err(error) => Err(error.context(purpose)),
        }
    }

    #[track_caller]
    fn allocate(pool: &HybridMemoryPool, len: usize, device: &Device, zeroed: bool) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| {
            BitNetError::new(ErrorKind::TensorTooLarge { dtype: T::DTYPE, shape: vec![len] })
        })?;
        let block = if bytes == 0 {
            crate::device::availability(device)?;
            None
        } else if zeroed {
            Some(pool.allocate_pinned(bytes, BUFFER_ALIGN, device)?)
        } else {
            let request = AllocationRequest { size: bytes, align: BUFFER_ALIGN, device: *device };
            Some(pool.allocate_open(&request, Location::caller())?.0)
        };
        Ok(PoolBuffer { pool: pool.clone(), block, device: *device, element: PhantomData })
    }

    /// Keeps the first `len` elements and gives the rest of the memory back, as
    /// [`HybridMemoryPool::shrink`] does: a buffer of 1 MiB and more stays where it is.
    ///
    /// # Errors
    /// `InvalidAllocation` when the buffer has fewer elements; it is as it was then.
    #[track_caller]
    pub fn shrink_to(&mut self, len: usize) -> Result<()> {
        let present = self.len();
        match &mut self.block {
            Some(pin) if (1..=present).contains(&len) => {
                self.pool.shrink_pinned(pin, len * size_of::<T>(), Location::caller())
            }
            Some(_) if len == 0 => {
                self.give_back();
                Ok(())
            }
            None if len == 0 => Ok(()),
            _ => Err(BitNetError::new(ErrorKind::InvalidAllocation {
                size: len.saturating_mul(size_of::<T>()),
                align: BUFFER_ALIGN,
                reason: "a buffer shrinks to the elements that it has at most",
            })),
        }
    }

    /// Returns the pool that the buffer came from.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Returns the device that the buffer is on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the size in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of_val::<[T]>(self)
    }

    /// Returns the address of the first element, for reading; the buffer moves in `shrink_to` at most.
    pub fn as_ptr(&self) -> *const T {
        self.deref().as_ptr()
    }

    /// Returns the address of the first element, for writing; the buffer moves in `shrink_to` at most.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.deref_mut().as_mut_ptr()
    }
}

impl<T: Element> Deref for PoolBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.block {
            Some(pin) => bytemuck::cast_slice(pin),
            None => &[],
        }
    }
}

impl<T: Element> AsRef<[T]> for PoolBuffer<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl From<PoolBuffer<u8>> for WeightBytes {
    fn from(buffer: PoolBuffer<u8>) -> Self {
        WeightBytes::new(Arc::new(buffer))
    }
}

impl<T: Element> DerefMut for PoolBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.block {
            Some(pin) => bytemuck::cast_slice_mut(pin),
            None => &mut [],
        }
    }
}

impl<T: Element> PoolBuffer<T> {
    fn give_back(&mut self) {
        if let Some(pin) = self.block.take() {
            let result = self.pool.deallocate(pin.into_handle());
            debug_assert!(result.is_ok(), "{result:?}");
        }
    }
}

impl<T: Element> Drop for PoolBuffer<T> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<T: Element> fmt::Debug for PoolBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuffer({} x {} on {})", self.len(), T::DTYPE, self.device)
    }
}
