//! What a thread keeps of each pool it uses: free small blocks at hand, and its counts.
//!
//! A thread alone touches its cache. When the thread ends, the cache is handed over to the pool; when the
//! pool has ended before, there is nothing to hand over.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::bias::Gate;
use super::counters::Counters;
use super::shared::Shared;
use super::small::{CLASSES, Slot, cached};
use super::tracking::{ThreadTracker, Tracking};

/// Most blocks that move between a thread and the pool at once.
pub(super) const BATCH: usize = 64;

/// Free blocks of one class.
struct Magazine {
    /// The block that came last, or none: most requests look at nothing else.
    top: Slot,
    slots: Vec<Slot>,
}

impl Magazine {
    fn new() -> Self {
        Magazine { top: Slot::NONE, slots: Vec::new() }
    }
}

/// What others see of a thread that uses a pool, in a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct ThreadShare {
    pub(super) gate: Gate,
    pub(super) counters: Counters,
}

/// One thread's share of one pool.
pub(super) struct ThreadCache {
    magazines: Box<[Magazine]>,
    pub(super) share: Arc<ThreadShare>,
    pub(super) tracker: Option<ThreadTracker>,
    /// Value of the pool's trim counter when this cache was last emptied.
    trimmed: u32,
    pool: Weak<Shared>,
}

impl ThreadCache {
    fn new(pool: &Arc<Shared>) -> Self {
        ThreadCache {
            magazines: (0..CLASSES).map(|_| Magazine::new()).collect(),
            share: pool.register_thread(),
            tracker: pool.tracking().map(Tracking::register_thread),
            trimmed: pool.trim_requests(),
            pool: Arc::downgrade(pool),
        }
    }

    /// Makes the cache of a single operation, for a thread that is ending.
    pub(super) fn passing(pool: &Arc<Shared>) -> Self {
        ThreadCache::new(pool)
    }

    /// Takes a free block at hand.
    #[inline]
    pub(super) fn pop(&mut self, class: usize) -> Option<Slot> {
        let magazine = self.magazines.get_mut(class)?;
        match std::mem::replace(&mut magazine.top, Slot::NONE) {
            Slot::NONE => magazine.slots.pop(),
            slot => Some(slot),
        }
    }

    /// Keeps a free block, or says that there is no room.
    pub(super) fn push(&mut self, class: usize, slot: Slot) -> bool {
        self.push_if(class, slot, |_| Some(())).is_some()
    }

    /// Keeps a block that `free` frees, which is not asked where there is no room and may say no.
    #[inline]
    pub(super) fn push_if<R>(
        &mut self,
        class: usize,
        slot: Slot,
        free: impl FnOnce(&Gate) -> Option<R>,
    ) -> Option<R> {
        let magazine = self.magazines.get_mut(class)?;
        let occupied = magazine.top != Slot::NONE;
        if occupied && magazine.slots.len() + 1 >= cached(class) {
            return None;
        }
        let freed = free(&self.share.gate)?;
        if occupied {
            magazine.slots.push(magazine.top);
        }
        magazine.top = slot;
        Some(freed)
    }

    /// Takes the older half of a class's blocks out, as many as `out` holds; returns how many.
    pub(super) fn spill(&mut self, class: usize, out: &mut [Slot; BATCH]) -> usize {
        let slots = &mut self.magazines[class].slots;
        let count = slots.len().div_ceil(2).min(BATCH);
        for (to, from) in out.iter_mut().zip(slots.drain(..count)) {
            *to = from;
        }
        count
    }

    /// Takes all blocks out, class by class.
    pub(super) fn empty(&mut self, mut each: impl FnMut(usize, &[Slot])) {
        for (class, magazine) in self.magazines.iter_mut().enumerate() {
            if magazine.top != Slot::NONE {
                magazine.slots.push(std::mem::replace(&mut magazine.top, Slot::NONE));
            }
            if !magazine.slots.is_empty() {
                each(class, &magazine.slots);
                magazine.slots.clear();
            }
        }
    }

    /// Reports, once for every request, that the pool wants the blocks back.
    pub(super) fn trim_wanted(&mut self, requests: u32) -> bool {
        std::mem::replace(&mut self.trimmed, requests) != requests
    }
}

/// How many blocks of a class a thread takes at once.
pub(super) fn batch(class: usize) -> usize {
    (cached(class) / 4).clamp(1, BATCH)
}

/// The caches of one thread: that of the pool used last, and the others.
struct Local {
    pool: u32,
    front: Option<ThreadCache>,
    others: Vec<(u32, ThreadCache)>,
}

impl Drop for Local {
    fn drop(&mut self) {
        let caches = self.front.take().into_iter().chain(self.others.drain(..).map(|(_, cache)| cache));
        for mut cache in caches {
            if let Some(pool) = cache.pool.upgrade() {
                pool.hand_over(&mut cache);
            }
        }
    }
}

thread_local! {
    static LOCAL: RefCell<Local> =
        const { RefCell::new(Local { pool: 0, front: None, others: Vec::new() }) };
}

/// Runs `f` on this thread's cache of a pool. `None` while the thread ends: there is no cache any more.
#[inline(always)]
pub(super) fn with<R>(pool: &Arc<Shared>, f: impl FnOnce(&mut ThreadCache) -> R) -> Option<R> {
    LOCAL
        .try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            if local.pool != pool.id() {
                local.bring_to_front(pool);
            }
            local.front.as_mut().map(f)
        })
        .ok()
        .flatten()
}

impl Local {
    #[cold]
    fn bring_to_front(&mut self, pool: &Arc<Shared>) {
        if let Some(front) = self.front.take() {
            self.others.push((self.pool, front));
        }
        // Pools that ended leave their caches behind in the threads that used them.
        self.others.retain(|(_, cache)| cache.pool.strong_count() > 0);
        let known = self.others.iter().position(|(id, _)| *id == pool.id());
        self.front = Some(match known {
            Some(index) => self.others.swap_remove(index).1,
            None => ThreadCache::new(pool),
        });
        self.pool = pool.id();
    }
}
