//! What happens to a block between request and return.
//!
//! A small block that is at hand is served without a lock and, as long as its record is granted to this thread
//! (`bias`), freed without an atomic exchange. Everything else takes the slow way, which begins anew.

use std::num::NonZeroU64;
use std::panic::Location;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bitnet_backend::Result;

use super::bias::Gate;
use super::builder::AllocationRequest;
use super::cache::{self, BATCH, ThreadCache};
use super::device_pool::DevicePool;
use super::forwards::Forwards;
use super::handle::{Taken, home_of, pool_of, slot_of};
use super::heap::Heap;
use super::records::{Kind, Record};
use super::shared::{CACHED, Shared, refused, stale};
use super::shrink::place_of;
use super::small::{PAGE, Slot, Taker, class_of, no_records};
use super::tracking::{Tracked, row_of, single_row};
use super::word::{Freed, Refusal};
use super::{MemoryHandle, SMALL_BLOCK_LIMIT};

/// Age up to which the last look at the memory pressure counts.
const PRESSURE_AGE: Duration = Duration::from_millis(250);

impl Shared {
    /// Turns a free block into a live one, and counts it where `COUNTED`: a small one of the first device.
    #[inline(always)]
    fn hand_out<const COUNTED: bool>(
        &self,
        cache: &mut ThreadCache,
        slot: Slot,
        size: usize,
        row: usize,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        let record = self.records.get(slot.record)?;
        let generation = record.words.get(slot.object as usize)?.activate();
        if COUNTED && cache.share.counters.allocate(size) {
            self.settle(cache);
        }
        if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, self.tracking()) {
            tracker.allocated(
                tracking,
                Tracked { record, slot, object: slot.object, generation, size, row },
                site,
            );
        }
        Some(Taken::new(slot, record.epoch(), generation))
    }

    /// Names a block.
    #[inline]
    pub(super) fn handle(
        &self,
        taken: Taken,
        size: usize,
        align: usize,
        device: &bitnet_backend::Device,
    ) -> MemoryHandle {
        MemoryHandle { size, name: taken.name, life: taken.life, home: home_of(self.id(), align, device) }
    }

    /// Allocates a small block of host memory that this thread has at hand.
    pub(super) fn allocate_at_hand(
        self: &Arc<Self>,
        size: usize,
        align: usize,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        cache::with(self, move |cache| {
            let class = class_of(size, align);
            let slot = cache.pop(class)?;
            self.hand_out::<true>(cache, slot, size, class, site)
        })
        .flatten()
    }

    /// Frees a small block that this thread may keep at hand, alone; `false` when nothing was done. The arguments
    /// are the words of its handle.
    pub(super) fn free_at_hand(
        self: &Arc<Self>,
        size: usize,
        name: NonZeroU64,
        life: u64,
        home: u64,
    ) -> bool {
        // All of it inside, so that no more than these words go in.
        let freed = cache::with(self, move |cache| {
            let (slot, generation) = (slot_of(name), life as u32);
            let record = self.records.get(slot.record)?;
            let Kind::Small(class) = record.kind else { return None };
            let row = class as usize;
            let named = pool_of(home) == self.id()
                && u64::from(record.epoch()) == life >> 32
                && size <= record.stride()
                && record.device == CACHED;
            if !named {
                return None;
            }
            cache.push_if(row, slot, |gate| self.free_granted(gate, record, slot, generation))?;
            if cache.share.counters.free(size) {
                self.settle(cache);
            }
            if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, self.tracking()) {
                // It is at hand, so what was noted beside it is still there.
                let origin = tracker.origin(record, slot);
                tracker.freed(
                    tracking,
                    Tracked { record, slot, object: slot.object, generation, size, row },
                    origin,
                );
            }
            Some(())
        });
        freed.flatten().is_some()
    }

    /// Allocates a large block of host memory that was freed and is still whole.
    pub(super) fn allocate_kept(
        self: &Arc<Self>,
        size: usize,
        align: usize,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        let heap = self.keeping_heap()?;
        cache::with(self, |cache| {
            self.settle(cache);
            let mut books = heap.lock();
            let record = books.take_kept(size, align)?.record;
            heap.count_allocated(&mut books, size);
            drop(books);
            self.reach();
            let slot = Slot { record, object: 0 };
            let record = self.records.get(record)?;
            record.set_align(align);
            heap.grant(record, &cache.share.gate);
            self.hand_out::<false>(cache, slot, size, single_row(true), site)
        })
        .flatten()
    }

    /// Frees a large block of host memory that may stay whole; `false` when nothing was done. The arguments are the
    /// words of its handle.
    pub(super) fn free_kept(self: &Arc<Self>, size: usize, name: NonZeroU64, life: u64, home: u64) -> bool {
        let Some(heap) = self.keeping_heap() else { return false };
        let slot = slot_of(name);
        let Some(record) = self.records.get(slot.record) else { return false };
        let named = pool_of(home) == self.id()
            && slot.object == 0
            && u64::from(record.epoch()) == life >> 32
            && size <= record.stride();
        if !named || record.kind != (Kind::Single { large: true }) || record.device != CACHED {
            return false;
        }
        let generation = life as u32;
        let freed = cache::with(self, |cache| {
            let origin = cache.tracker.as_ref().map_or(0, |tracker| tracker.origin(record, slot));
            // What is counted elsewhere is about to change, and a peak is that of all together.
            self.settle(cache);
            let mut books = heap.lock();
            books.keep(slot.record, record.stride(), || {
                self.free_granted(&cache.share.gate, record, slot, generation)?;
                Some(place_of(record))
            })?;
            heap.count_freed(&mut books, size);
            drop(books);
            if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, self.tracking()) {
                let row = single_row(true);
                tracker.freed(
                    tracking,
                    Tracked { record, slot, object: slot.object, generation, size, row },
                    origin,
                );
            }
            Some(())
        });
        freed.flatten().is_some()
    }

    /// Returns the heap of large blocks of host memory, if it keeps blocks whole.
    #[inline]
    fn keeping_heap(&self) -> Option<&Heap> {
        let pool = self.devices.first().filter(|_| self.direct)?;
        Some(&pool.large_heap).filter(|heap| heap.keeps())
    }

    /// Frees the word of a block that is granted to this thread or to nobody. `None` where nothing was done.
    #[inline(always)]
    fn free_granted(&self, gate: &Gate, record: &Record, slot: Slot, generation: u32) -> Option<Freed> {
        let word = record.words.get(slot.object as usize)?;
        match gate.enter(&record.bias, || word.free_alone(generation)) {
            None if record.bias.is_shared() => word.free_at_once(generation),
            freed => freed,
        }
    }

    /// Allocates a block, freeing memory and asking the failure callback where there is none. Returns it with
    /// the bytes after which it reads as zeros.
    pub(super) fn allocate_anew(
        self: &Arc<Self>,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(MemoryHandle, usize)> {
        let pool = self.device_of(&request.device)?;
        self.check_pressure(PRESSURE_AGE);
        let mut attempt = 0;
        loop {
            if let Some(admission) = &self.hooks.admission {
                admission(request)?;
            }
            let error = match self.take(pool, request, site) {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            if attempt == 0 {
                self.reclaim(pool);
                if let Ok(taken) = self.take(pool, request, site) {
                    return Ok(taken);
                }
            }
            attempt += 1;
            let retry =
                self.hooks.failure.as_ref().is_some_and(|callback| callback(request, &error, attempt));
            if !retry {
                return Err(error);
            }
        }
    }

    fn take(
        self: &Arc<Self>,
        pool: &DevicePool,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(MemoryHandle, usize)> {
        let &AllocationRequest { size, align, ref device } = request;
        let large = size >= SMALL_BLOCK_LIMIT;
        let (taken, zero_from) = if large || align > PAGE {
            self.with_cache(|cache| self.take_single(cache, pool, request, large, site))?
        } else {
            (self.with_cache(|cache| self.take_small(cache, pool, request, site))?, size)
        };
        Ok((self.handle(taken, size, align, device), zero_from))
    }

    fn take_single(
        &self,
        cache: &mut ThreadCache,
        pool: &DevicePool,
        request: &AllocationRequest,
        large: bool,
        site: &'static Location<'static>,
    ) -> Result<(Taken, usize)> {
        let &AllocationRequest { size, align, .. } = request;
        self.settle(cache);
        let (slot, zero_from) = pool.take_single(&self.records, (size, align), large, &cache.share.gate)?;
        self.reach();
        let taken = self.hand_out::<false>(cache, slot, size, single_row(large), site);
        Ok((taken.ok_or_else(no_records)?, zero_from))
    }

    fn take_small(
        &self,
        cache: &mut ThreadCache,
        pool: &DevicePool,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<Taken> {
        let &AllocationRequest { size, align, .. } = request;
        let class = class_of(size, align);
        let ground = pool.ground(&self.records);
        let mut slots = [Slot::NONE; BATCH];
        let count = if pool.index == CACHED { cache::batch(class) } else { 1 };
        let taker = Taker {
            ticket: cache.share.gate.ticket(),
            wait: &|owner| self.wait_outside(owner),
            ended: &|owner| self.has_ended(owner),
        };
        let count = pool.small.take(ground, class, taker, &mut slots[..count])?;
        let (slot, rest) = (slots[0], &slots[1..count]);
        if cache.trim_wanted(self.trim_requests()) {
            self.empty_cache(cache);
        }
        let kept = rest.iter().take_while(|&&slot| cache.push(class, slot)).count();
        if kept < rest.len() {
            pool.small.give_back(ground, class, &rest[kept..]);
        }
        let taken = if pool.index == CACHED {
            self.hand_out::<true>(cache, slot, size, class, site)
        } else {
            self.settle(cache);
            pool.small_heap.count_allocated(&mut pool.small_heap.lock(), size);
            self.reach();
            self.hand_out::<false>(cache, slot, size, class, site)
        };
        taken.ok_or_else(no_records)
    }

    /// Frees a block.
    pub(super) fn free(self: &Arc<Self>, handle: &MemoryHandle) -> Result<()> {
        let (record, slot) = (self.record_of(handle)?, handle.slot());
        self.with_cache(|cache| match self.free_word(cache, record, slot, handle.generation()) {
            Ok((freed, origin)) => {
                self.take_back(cache, record, slot, handle, freed, origin);
                Ok(())
            }
            Err(Refusal::Moved) => self.free_moved(cache, record, handle),
            Err(refusal) => Err(refused(handle, refusal, "none")),
        })
    }

    /// Frees the word of a block; returns what becomes of it, and its origin where that is tracked.
    #[inline]
    fn free_word(
        &self,
        cache: &ThreadCache,
        record: &Record,
        slot: Slot,
        generation: u32,
    ) -> std::result::Result<(Freed, u32), Refusal> {
        let word = &record.words[slot.object as usize];
        // Read before the block is free, and may be another's.
        let origin = cache.tracker.as_ref().map_or(0, |tracker| tracker.origin(record, slot));
        let gate = &cache.share.gate;
        if let Some(freed) = gate.enter(&record.bias, || word.free_alone(generation)) {
            return Ok((freed, origin));
        }
        self.open(record, gate.ticket());
        Ok((word.free(generation)?, origin))
    }

    /// Puts a freed block where the next request finds it, and counts it.
    fn take_back(
        &self,
        cache: &mut ThreadCache,
        record: &Record,
        slot: Slot,
        handle: &MemoryHandle,
        freed: Freed,
        origin: u32,
    ) {
        let Some(pool) = self.devices.get(record.device as usize) else { return };
        let (row, cached) = (row_of(record.kind), pool.index == CACHED);
        let class = matches!(record.kind, Kind::Small(_)).then_some(row);
        let size = handle.size;
        // What is counted elsewhere is about to change, and a peak is that of all together.
        if class.is_none() || !cached || cache.share.counters.free(size) {
            self.settle(cache);
        }
        if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, self.tracking()) {
            // By its name, which a block that was moved has kept.
            let (named, generation) = (handle.slot(), handle.generation());
            let block = Tracked { record, slot: named, object: slot.object, generation, size, row };
            tracker.freed(tracking, block, origin);
        }
        let Some(class) = class else {
            pool.free_single(record, slot, size, row == single_row(true), freed);
            return;
        };
        let ground = pool.ground(&self.records);
        if freed == Freed::Retired {
            pool.small.retire(ground, class, slot);
        } else if !cached || !cache.push(class, slot) {
            if cached {
                self.spill(pool, cache, class);
            }
            if !cached || !cache.push(class, slot) {
                pool.small.give_back(ground, class, &[slot]);
            }
        }
        if !cached {
            pool.small_heap.count_freed(&mut pool.small_heap.lock(), size);
        }
    }

    #[cold]
    fn spill(&self, pool: &DevicePool, cache: &mut ThreadCache, class: usize) {
        if cache.trim_wanted(self.trim_requests()) {
            self.empty_cache(cache);
            return;
        }
        let mut slots = [Slot::NONE; BATCH];
        let count = cache.spill(class, &mut slots);
        pool.small.give_back(pool.ground(&self.records), class, &slots[..count]);
    }

    /// Frees a block that was moved: at its place, and then its name.
    #[cold]
    fn free_moved(&self, cache: &mut ThreadCache, named: &Record, handle: &MemoryHandle) -> Result<()> {
        let forwards = self.forwards();
        let Some(target) = forwards.get(handle.slot()) else { return Err(stale(handle)) };
        let Some(record) = self.records.get(target.slot.record) else { return Err(stale(handle)) };
        let (freed, _) = self
            .free_word(cache, record, target.slot, target.generation)
            .map_err(|refusal| refused(handle, refusal, "none"))?;
        let origin = self.end_name(cache, forwards, named, handle.slot());
        self.take_back(cache, record, target.slot, handle, freed, origin);
        Ok(())
    }

    /// Ends the name of a moved block that was freed; returns the origin of the block.
    fn end_name(
        &self,
        cache: &ThreadCache,
        mut forwards: MutexGuard<'_, Forwards>,
        named: &Record,
        name: Slot,
    ) -> u32 {
        let origin = cache.tracker.as_ref().map_or(0, |tracker| tracker.origin(named, name));
        forwards.forget(name);
        let retired = named.words[name.object as usize].free_moved();
        drop(forwards);
        if let (Some(pool), Kind::Small(class)) = (self.devices.get(named.device as usize), named.kind) {
            pool.small.free_moved(pool.ground(&self.records), class as usize, name, retired);
        }
        origin
    }

    /// Frees the block in `slot` that `handle` names and that the caller has pinned exclusively: at no moment in
    /// between can another pin it.
    pub(super) fn free_pinned(self: &Arc<Self>, handle: &MemoryHandle, slot: Slot) {
        let name = handle.slot();
        let (Some(record), Some(named)) = (self.records.get(slot.record), self.records.get(name.record))
        else {
            return;
        };
        self.open_here(record);
        self.with_cache(|cache| {
            let word = &record.words[slot.object as usize];
            let (freed, origin) = if slot == name {
                let origin = cache.tracker.as_ref().map_or(0, |tracker| tracker.origin(record, slot));
                (word.free_exclusive(), origin)
            } else {
                let forwards = self.forwards();
                let freed = word.free_exclusive();
                (freed, self.end_name(cache, forwards, named, name))
            };
            self.take_back(cache, record, slot, handle, freed, origin);
        });
    }

    pub(super) fn unpin(self: &Arc<Self>, slot: Slot) {
        if let Some(record) = self.records.get(slot.record) {
            self.open_here(record);
            record.words[slot.object as usize].unpin();
        }
    }
}
