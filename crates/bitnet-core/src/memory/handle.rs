//! Names of blocks.
//!
//! A handle is four words of 64 bits, each written and read whole: it is made, copied and taken apart in the few
//! nanoseconds of a request, and a processor that reads more than one store wrote waits for the stores.

use std::fmt;
use std::num::NonZeroU64;

use bitnet_backend::{Device, MlxDeviceType};

use super::small::Slot;

/// Greatest ordinal of a device that a handle can name.
pub(super) const MOST_ORDINAL: usize = (1 << 23) - 1;

/// Names one block of one [`HybridMemoryPool`](super::HybridMemoryPool).
///
/// A handle owns nothing and keeps nothing alive: clones name the same block, and every use is checked.
/// After the block is deallocated, the handle and its clones are refused with
/// [`ErrorKind::InvalidHandle`](bitnet_backend::ErrorKind::InvalidHandle), whatever has taken its place.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MemoryHandle {
    pub(super) size: usize,
    /// The block, see [`Taken`].
    pub(super) name: NonZeroU64,
    /// Epoch of the record above, generation of the block below.
    pub(super) life: u64,
    /// Device above, logarithm of the alignment, pool below.
    pub(super) home: u64,
}

/// A block that was made live, as its handle names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// Position in its record above, the number of the record plus one below.
    pub(super) name: NonZeroU64,
    /// Epoch of the record above, generation of the block below.
    pub(super) life: u64,
}

impl Taken {
    #[inline]
    pub(super) fn new(slot: Slot, epoch: u32, generation: u32) -> Self {
        // A record's number is below `u32::MAX`.
        let name = u64::from(slot.object) << 32 | u64::from(slot.record);
        Taken {
            name: NonZeroU64::MIN.saturating_add(name),
            life: u64::from(epoch) << 32 | u64::from(generation),
        }
    }
}

/// Returns the slot that the word of a handle names.
#[inline]
pub(super) fn slot_of(name: NonZeroU64) -> Slot {
    let name = name.get() - 1;
    Slot { record: name as u32, object: (name >> 32) as u32 }
}

/// Returns the last word of a handle. The ordinal of `device` is [`MOST_ORDINAL`] at most.
#[inline]
pub(super) fn home_of(pool: u32, align: usize, device: &Device) -> u64 {
    let (kind, ordinal) = match *device {
        Device::Cuda(ordinal) => (1, ordinal as u64),
        Device::Metal(ordinal) => (2, ordinal as u64),
        Device::Mlx(MlxDeviceType::Gpu) => (3, 0),
        Device::Mlx(MlxDeviceType::Cpu) => (3, 1),
        _ => (0, 0),
    };
    (ordinal << 3 | kind) << 38 | u64::from(align.trailing_zeros()) << 32 | u64::from(pool)
}

/// Returns the pool in the last word of a handle.
#[inline]
pub(super) fn pool_of(home: u64) -> u32 {
    home as u32
}

impl MemoryHandle {
    /// Returns the size of the block in bytes, as asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the alignment that was asked for, in bytes.
    pub fn align(&self) -> usize {
        1 << (self.home >> 32 & 63)
    }

    /// Returns the device whose memory the block is.
    pub fn device(&self) -> Device {
        let code = self.home >> 38;
        let ordinal = (code >> 3) as usize;
        match code & 7 {
            1 => Device::Cuda(ordinal),
            2 => Device::Metal(ordinal),
            3 if ordinal == 0 => Device::Mlx(MlxDeviceType::Gpu),
            3 => Device::Mlx(MlxDeviceType::Cpu),
            _ => Device::Cpu,
        }
    }

    pub(super) fn slot(&self) -> Slot {
        slot_of(self.name)
    }

    pub(super) fn epoch(&self) -> u32 {
        (self.life >> 32) as u32
    }

    pub(super) fn generation(&self) -> u32 {
        self.life as u32
    }

    /// Names the same block with another size and generation.
    pub(super) fn rename(&mut self, size: usize, generation: u32) {
        self.size = size;
        self.life = self.life >> 32 << 32 | u64::from(generation);
    }
}

impl fmt::Display for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slot { record, object } = self.slot();
        let (pool, epoch, generation) = (pool_of(self.home), self.epoch(), self.generation());
        write!(f, "{pool}.{record}.{object}.{epoch}.{generation} ({} bytes on {})", self.size, self.device())
    }
}

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryHandle({self}, aligned to {})", self.align())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn handles_say_what_they_were_made_of() {
        let devices = [
            Device::Cpu,
            Device::Cuda(0),
            Device::Cuda(MOST_ORDINAL),
            Device::Metal(3),
            Device::Mlx(MlxDeviceType::Gpu),
            Device::Mlx(MlxDeviceType::Cpu),
        ];
        for (n, device) in devices.into_iter().enumerate() {
            let slot = Slot { record: u32::MAX - 1 - n as u32, object: 16_383 };
            let taken = Taken::new(slot, 7, u32::MAX);
            let home = home_of(u32::MAX, 1 << (20 + n % 2), &device);
            let handle = MemoryHandle { size: 5, name: taken.name, life: taken.life, home };
            assert_eq!((handle.slot(), handle.epoch(), handle.generation()), (slot, 7, u32::MAX));
            assert_eq!((handle.device(), pool_of(handle.home)), (device, u32::MAX));
            assert_eq!(handle.align(), 1 << (20 + n % 2));
        }
        assert_eq!(size_of::<MemoryHandle>(), 32);
        assert_eq!(size_of::<Option<Taken>>(), 16);
    }
}
