//! The memory of one device: small blocks, large blocks, and the heaps below them.

use std::sync::Arc;

use bitnet_backend::{Device, DeviceMemory, Result};

use super::MemoryPoolConfig;
use super::bias::Gate;
use super::counters::Peak;
use super::heap::{Heap, HeapSettings, Kept, LargeStrategy};
use super::records::{Kind, Record, Records};
use super::shrink::place_of;
use super::small::{Ground, Slot, SmallBlockPool, no_records};
use super::word::Freed;

/// The pools of one device. What differs between devices is behind [`DeviceMemory`].
pub(super) struct DevicePool {
    pub(super) device: Device,
    pub(super) index: u8,
    pub(super) small: SmallBlockPool,
    pub(super) small_heap: Heap,
    pub(super) large_heap: Heap,
    pub(super) peak: Peak,
}

impl DevicePool {
    pub(super) fn new(
        index: u8,
        memory: &Arc<dyn DeviceMemory>,
        config: &MemoryPoolConfig,
        strategy: LargeStrategy,
    ) -> Self {
        let small = HeapSettings {
            strategy: LargeStrategy::BestFit,
            initial: config.initial_small_pool_size,
            limit: config.max_small_pool_size,
            limit_name: "max_small_pool_size",
            huge: false,
        };
        let large = HeapSettings {
            strategy,
            initial: config.initial_large_pool_size,
            limit: config.max_large_pool_size,
            limit_name: "max_large_pool_size",
            huge: true,
        };
        DevicePool {
            device: memory.device(),
            index,
            small: SmallBlockPool::new(),
            small_heap: Heap::new(Arc::clone(memory), small),
            large_heap: Heap::new(Arc::clone(memory), large),
            peak: Peak::default(),
        }
    }

    /// Returns what the small blocks stand on.
    pub(super) fn ground<'a>(&'a self, records: &'a Records) -> Ground<'a> {
        Ground { records, heap: &self.small_heap, device: self.index }
    }

    pub(super) fn heap(&self, large: bool) -> &Heap {
        if large { &self.large_heap } else { &self.small_heap }
    }

    /// Returns the bytes of live blocks that threads do not count.
    pub(super) fn live_bytes(&self) -> i64 {
        self.small_heap.live_bytes() + self.large_heap.live_bytes()
    }

    /// Takes a block that has a record of its own, for the thread of `gate`; it is not live yet. Returns its slot and
    /// the bytes after which it reads as zeros.
    pub(super) fn take_single(
        &self,
        records: &Records,
        request: (usize, usize),
        large: bool,
        gate: &Gate,
    ) -> Result<(Slot, usize)> {
        let (heap, (size, align)) = (self.heap(large), request);
        let mut books = heap.lock();
        let kept = books.take_kept(size, align);
        let (place, record) = match kept {
            Some(Kept { place, record }) => (place, record),
            None => {
                let place = heap.allocate(&mut books, size, align)?;
                let record = match books.spare_records.pop() {
                    Some(record) => record,
                    None => match records.add(Record::new(Kind::Single { large }, self.index, 1)) {
                        Some(record) => record,
                        None => {
                            heap.free(&mut books, place);
                            return Err(no_records());
                        }
                    },
                };
                (place, record)
            }
        };
        heap.count_allocated(&mut books, size);
        drop(books);
        if let Some(record) = records.get(record) {
            if kept.is_none() {
                record.place(place);
            }
            record.set_align(align);
            heap.grant(record, gate);
        }
        Ok((Slot { record, object: 0 }, place.zero_from))
    }

    /// Gives back a block with a record of its own, which was live until now.
    pub(super) fn free_single(&self, record: &Record, slot: Slot, size: usize, large: bool, freed: Freed) {
        // Only a word whose generations are used up needs the new epoch, but every one may have it.
        if freed == Freed::Retired {
            record.begin_epoch();
        }
        let (heap, place) = (self.heap(large), place_of(record));
        let mut books = heap.lock();
        if books.keep(slot.record, place.bytes, || Some(place)).is_none() {
            heap.free(&mut books, place);
            books.spare_records.push(slot.record);
        }
        heap.count_freed(&mut books, size);
    }
}
