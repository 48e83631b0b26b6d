//! The latest events of a thread, in a ring that its thread writes and others read.
//!
//! Writing takes six plain stores. A reader checks afterwards how far the writer has come and drops what may
//! have been written over meanwhile.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::memory::small::Slot;

/// One allocation or deallocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) struct Event {
    /// Nanoseconds since the pool was made.
    pub(in crate::memory) time: u64,
    pub(in crate::memory) freed: bool,
    pub(in crate::memory) size: u64,
    /// The block, by the name that its handle has.
    pub(in crate::memory) slot: Slot,
    /// Where it was then.
    pub(in crate::memory) address: usize,
    pub(in crate::memory) generation: u32,
    pub(in crate::memory) tag: u8,
    /// Number of the call site, 0 where unknown.
    pub(in crate::memory) site: u32,
}

const FREED: u64 = 1 << 63;

#[derive(Debug)]
pub(super) struct Ring {
    cells: Box<[[AtomicU64; 5]]>,
    head: AtomicU64,
}

impl Ring {
    /// Makes a ring of at least `capacity` events, rounded up to a power of two.
    pub(super) fn new(capacity: usize) -> Self {
        let cell = || std::array::from_fn(|_| AtomicU64::new(0));
        let capacity = capacity.clamp(2, 1 << 24).next_power_of_two();
        Ring { cells: (0..capacity).map(|_| cell()).collect(), head: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn push(&self, event: Event) {
        let head = self.head.load(Ordering::Relaxed);
        let cell = &self.cells[head as usize & (self.cells.len() - 1)];
        // A reader that sees any of the stores below sees this head, too, and drops the cell.
        fence(Ordering::Release);
        cell[0].store(event.time, Ordering::Relaxed);
        cell[1].store(event.size | if event.freed { FREED } else { 0 }, Ordering::Relaxed);
        cell[2].store(u64::from(event.slot.record) << 32 | u64::from(event.slot.object), Ordering::Relaxed);
        let origin = u64::from(event.tag) << 24 | u64::from(event.site);
        cell[3].store(u64::from(event.generation) << 32 | origin, Ordering::Relaxed);
        cell[4].store(event.address as u64, Ordering::Relaxed);
        self.head.store(head + 1, Ordering::Release);
    }

    /// Returns the latest events, oldest first.
    pub(super) fn events(&self) -> Vec<Event> {
        let capacity = self.cells.len() as u64;
        let end = self.head.load(Ordering::Acquire);
        let start = end.saturating_sub(capacity);
        let mut events: Vec<_> = (start..end).map(|at| self.read(at)).collect();
        fence(Ordering::Acquire);
        let now = self.head.load(Ordering::Relaxed);
        // The cell after the newest may be half-written.
        let lost = (now + 1).saturating_sub(capacity).saturating_sub(start);
        events.drain(..(lost as usize).min(events.len()));
        events
    }

    fn read(&self, at: u64) -> Event {
        let cell = &self.cells[at as usize & (self.cells.len() - 1)];
        let [time, size, slot, rest, address] =
            std::array::from_fn(|word| cell[word].load(Ordering::Relaxed));
        Event {
            time,
            freed: size & FREED != 0,
            size: size & !FREED,
            slot: Slot { record: (slot >> 32) as u32, object: slot as u32 },
            address: address as usize,
            generation: (rest >> 32) as u32,
            tag: (rest >> 24) as u8,
            site: rest as u32 & 0xff_ffff,
        }
    }

    /// Returns whether events were written over.
    pub(super) fn is_full(&self) -> bool {
        self.head.load(Ordering::Acquire) >= self.cells.len() as u64
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.cells)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        let slot = Slot { record: n as u32, object: !n as u32 };
        Event {
            time: n,
            freed: n.is_multiple_of(3),
            size: n * 7,
            slot,
            address: !n as usize,
            generation: n as u32,
            tag: n as u8,
            site: n as u32 % 1000,
        }
    }

    #[test]
    fn rings_keep_the_latest_events() {
        let ring = Ring::new(8);
        assert!(ring.events().is_empty());
        for n in 0..100 {
            ring.push(event(n));
            let events = ring.events();
            assert!(events.len() <= 8 && (n < 8 || events.len() == 7));
            assert_eq!(events.last(), Some(&event(n)));
        }
        assert_eq!(ring.events(), (93..100).map(event).collect::<Vec<_>>());
    }

    #[test]
    fn readers_never_see_half_an_event() {
        let ring = Ring::new(64);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|n| ring.push(event(n))));
            for _ in 0..200 {
                for read in ring.events() {
                    assert_eq!(read, event(read.time));
                }
            }
        });
    }
}
