//! Page heaps: blocks of whole pages from arenas of one device's memory.
//!
//! An arena is a region of the device, mostly only reserved addresses. Which pages of it are free is the
//! business of a strategy (`best_fit`, `buddy`): safe bookkeeping on page numbers, out of band. The heap adds
//! arenas as it must, up to its limit, and knows which free pages read as zeros.

mod best_fit;
mod buddy;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bitnet_backend::{BitNetError, DeviceMemory, ErrorKind, MemoryRegion, Result};

use self::best_fit::BestFit;
use self::buddy::Buddy;
use super::bias::{Gate, Trust};
use super::cleanup::Budget;
use super::counters::Totals;
use super::latch::{Latch, LatchGuard};
use super::records::Record;
use super::region::OwnedRegion;
use super::small::PAGE;

/// Alignment of an arena, the greatest that a block may ask for.
pub(super) const ARENA_ALIGN: usize = 2 * 1024 * 1024;
/// Arenas that are not the first grow with what is there, up to this.
const MAX_GROWTH: usize = 1 << 30;

/// How a pool finds room for large blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LargeStrategy {
    /// The shortest free range that fits, joined with its neighbours when freed: little is lost whatever the
    /// sizes.
    #[default]
    BestFit,
    /// Powers of two, split and joined with their twin: the quickest, and up to half of a block is lost.
    Buddy,
}

#[derive(Debug)]
enum Book {
    BestFit(BestFit),
    Buddy(Buddy),
}

/// What a strategy found.
#[derive(Debug, Clone, Copy)]
struct Found {
    arena: u32,
    start: u32,
    pages: u32,
    token: u64,
    clean: bool,
}

/// A free range, as a strategy lists it.
#[derive(Debug, Clone, Copy)]
struct FreeRange {
    arena: u32,
    start: u32,
    pages: u32,
    token: u64,
    clean: bool,
}

impl Place {
    /// Names a place again from what its record keeps.
    pub(super) fn again(address: usize, bytes: usize, token: u64) -> Self {
        Place { address, bytes, zero_from: bytes, token }
    }

    /// Returns what the strategy knows the place by.
    pub(super) fn token(&self) -> u64 {
        self.token
    }
}

/// Pages handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: usize,
    pub(super) bytes: usize,
    /// From this many bytes on, everything reads as zeros.
    pub(super) zero_from: usize,
    token: u64,
}

/// A freed block that is still whole, with its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) place: Place,
    pub(super) record: u32,
}

#[derive(Debug)]
struct Arena {
    region: OwnedRegion,
    pages: u32,
    /// Pages from here on were never handed out.
    untouched: u32,
}

/// One heap of one device.
pub(super) struct Heap {
    memory: Arc<dyn DeviceMemory>,
    strategy: LargeStrategy,
    initial: usize,
    limit: usize,
    limit_name: &'static str,
    huge: bool,
    /// Bytes of live blocks counted here, for readers without the lock.
    live: AtomicI64,
    state: Latch<HeapState>,
    /// Whether blocks are granted to threads.
    pub(super) trust: Trust,
}

/// The books of a heap, under its lock.
#[derive(Debug)]
pub(super) struct HeapState {
    book: Book,
    arenas: Vec<Option<Arena>>,
    /// Bytes handed out.
    held: usize,
    reserved: usize,
    /// Buddy blocks that were freed last, one of each size: they are taken for held until the books are looked at.
    kept: Box<[Option<Kept>]>,
    /// Records whose block was freed.
    pub(super) spare_records: Vec<u32>,
    /// Blocks that no thread counts.
    pub(super) totals: Totals,
}

/// A heap in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeapFigures {
    pub(super) held: usize,
    pub(super) reserved: usize,
    pub(super) free: usize,
    pub(super) largest_free: usize,
    /// Free bytes that are not clean: they may hold memory of the system.
    pub(super) dirty: usize,
    pub(super) metadata: usize,
}

/// Settings of a heap.
pub(super) struct HeapSettings {
    pub(super) strategy: LargeStrategy,
    pub(super) initial: usize,
    pub(super) limit: usize,
    pub(super) limit_name: &'static str,
    /// Whether arenas ask for huge pages.
    pub(super) huge: bool,
}

impl Heap {
    /// Returns how room for blocks is found.
    pub(super) fn strategy(&self) -> LargeStrategy {
        self.strategy
    }

    pub(super) fn new(memory: Arc<dyn DeviceMemory>, settings: HeapSettings) -> Self {
        let HeapSettings { strategy, initial, limit, limit_name, huge } = settings;
        let book = match strategy {
            LargeStrategy::BestFit => Book::BestFit(BestFit::new()),
            LargeStrategy::Buddy => Book::Buddy(Buddy::new()),
        };
        let (arenas, spare_records) = (Vec::new(), Vec::new());
        let totals = Totals::default();
        let kept = match strategy {
            LargeStrategy::BestFit => Vec::new(),
            LargeStrategy::Buddy => vec![None; buddy::ORDERS],
        };
        let state =
            HeapState { book, arenas, held: 0, reserved: 0, kept: kept.into(), spare_records, totals };
        Heap {
            memory,
            strategy,
            initial,
            limit,
            limit_name,
            huge,
            live: AtomicI64::new(0),
            state: Latch::new(state),
            trust: Trust::default(),
        }
    }

    /// Reports whether freed blocks may stay whole.
    #[inline]
    pub(super) fn keeps(&self) -> bool {
        self.strategy == LargeStrategy::Buddy
    }

    /// Grants the record of a block, which the caller alone has, to the caller's thread.
    #[inline]
    pub(super) fn grant(&self, record: &Record, gate: &Gate) {
        if record.bias.is_shared() && self.trust.grants() {
            record.bias.grant(gate.ticket());
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    #[inline]
    pub(super) fn lock(&self) -> LatchGuard<'_, HeapState> {
        self.state.lock()
    }

    /// Takes `size` bytes or more at `align` (a power of two up to [`ARENA_ALIGN`]), under the lock.
    ///
    /// # Errors
    /// `OutOfMemory` with the limit or the refusal that was met.
    pub(super) fn allocate(&self, state: &mut HeapState, size: usize, align: usize) -> Result<Place> {
        let pages = size.div_ceil(PAGE);
        let align_pages = align.div_ceil(PAGE) as u32;
        let refuse = |available| {
            Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: size,
                purpose: format!("a block of {} memory", self.memory.device()),
                available,
            }))
        };
        let Ok(pages) = u32::try_from(pages) else {
            return refuse("a heap ends at 16 TiB".into());
        };
        let needed = match self.strategy {
            LargeStrategy::BestFit => Some(pages),
            LargeStrategy::Buddy => Buddy::arena_pages(pages.max(align_pages)),
        };
        let Some(needed) = needed else {
            return refuse("the buddy strategy ends at 1 TiB".into());
        };
        let bytes = needed as usize * PAGE;
        if bytes > self.limit.saturating_sub(state.held) {
            state.settle_kept();
        }
        if bytes > self.limit.saturating_sub(state.held) {
            let left = self.limit.saturating_sub(state.held);
            return refuse(format!("{left} of {} bytes left ({})", self.limit, self.limit_name));
        }
        self.find(state, pages, align_pages, Some((bytes, align)))
    }

    /// Takes `size` bytes like [`allocate`](Self::allocate), whatever the limit and only where the heap has
    /// room: for a block that gives its present place back.
    pub(super) fn allocate_held(&self, state: &mut HeapState, size: usize, align: usize) -> Result<Place> {
        self.find(state, (size / PAGE) as u32, align.div_ceil(PAGE) as u32, None)
    }

    /// Finds pages, growing by `grow` bytes and alignment where there are none.
    fn find(
        &self,
        state: &mut HeapState,
        pages: u32,
        align_pages: u32,
        grow: Option<(usize, usize)>,
    ) -> Result<Place> {
        let refuse = |available: String| {
            Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: pages as usize * PAGE,
                purpose: format!("a block of {} memory", self.memory.device()),
                available,
            }))
        };
        let mut found = state.book.allocate(pages, align_pages);
        if found.is_none() && state.settle_kept() {
            found = state.book.allocate(pages, align_pages);
        }
        let found = match (found, grow) {
            (Some(found), _) => found,
            (None, None) => return refuse("the arenas are full".into()),
            (None, Some((bytes, align))) => {
                self.grow(state, bytes, align)?;
                match state.book.allocate(pages, align_pages) {
                    Some(found) => found,
                    None => return refuse("a new arena does not hold it".into()),
                }
            }
        };
        state.held += found.pages as usize * PAGE;
        Ok(state.place(found))
    }

    /// Adds an arena that holds `bytes` at `align`.
    fn grow(&self, state: &mut HeapState, bytes: usize, align: usize) -> Result<()> {
        let padding = if align > PAGE { align } else { 0 };
        let least = match self.strategy {
            LargeStrategy::BestFit => bytes.saturating_add(padding),
            LargeStrategy::Buddy => bytes,
        };
        let mut wanted = least;
        if self.memory.is_lazy() {
            // Addresses cost nothing: few arenas, and large ones. What the limit does not allow is not asked for.
            let growth = if state.reserved == 0 { self.initial } else { state.reserved.min(MAX_GROWTH) };
            wanted = least.max(growth.min(self.limit.saturating_sub(state.held)));
        }
        let size = |wanted: usize| match self.strategy {
            LargeStrategy::BestFit => Some(wanted.checked_next_multiple_of(PAGE)?),
            LargeStrategy::Buddy => Buddy::arena_pages(u32::try_from(wanted.div_ceil(PAGE)).ok()?)
                .map(|pages| pages as usize * PAGE),
        };
        let mut region = Err(BitNetError::new(ErrorKind::OutOfMemory {
            requested: bytes,
            purpose: "an arena".into(),
            available: "the sum exceeds the address space".into(),
        }));
        for wanted in [wanted, least] {
            let Some(size) = size(wanted).filter(|&size| u32::try_from(size / PAGE).is_ok()) else {
                continue;
            };
            region = OwnedRegion::acquire(&self.memory, size, ARENA_ALIGN);
            if region.is_ok() || wanted == least {
                break;
            }
        }
        let region = region?;
        if self.huge {
            self.memory.prefer_huge_pages(region.region());
        }
        let bytes = region.region().size;
        let pages = (bytes / PAGE) as u32;
        let index = state.arenas.iter().position(Option::is_none).unwrap_or_else(|| {
            state.arenas.push(None);
            state.arenas.len() - 1
        });
        state.arenas[index] = Some(Arena { region, pages, untouched: 0 });
        state.reserved += bytes;
        match &mut state.book {
            Book::BestFit(book) => book.add_arena(index as u32, pages),
            Book::Buddy(book) => book.add_arena(index as u32, pages),
        }
        Ok(())
    }

    /// Counts a block that no thread counts.
    pub(super) fn count_allocated(&self, state: &mut HeapState, size: usize) {
        state.totals.allocated += 1;
        state.totals.allocated_bytes += size as u64;
        self.live.store(state.totals.live_bytes(), Ordering::Relaxed);
    }

    /// Counts a freed block that no thread counted.
    pub(super) fn count_freed(&self, state: &mut HeapState, size: usize) {
        state.totals.freed += 1;
        state.totals.freed_bytes += size as u64;
        self.live.store(state.totals.live_bytes(), Ordering::Relaxed);
    }

    /// Returns the bytes of live blocks counted here.
    pub(super) fn live_bytes(&self) -> i64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Gives pages back, under the lock.
    pub(super) fn free(&self, state: &mut HeapState, place: Place) {
        state.give_back(place);
    }

    /// Gives back the pages of a place that lie beyond its first `size` bytes, under the lock; returns what is
    /// left of it.
    pub(super) fn shrink(&self, state: &mut HeapState, place: Place, size: usize) -> Place {
        let pages = size.div_ceil(PAGE) as u32;
        let left = match &mut state.book {
            Book::BestFit(book) => book.shrink(place.token, pages),
            Book::Buddy(book) => book.shrink(place.token, pages),
        };
        let bytes = left as usize * PAGE;
        state.held -= place.bytes - bytes;
        Place { bytes, ..place }
    }

    /// Gives the memory of free pages back to the system, arenas that hold nothing whole; returns the bytes.
    pub(super) fn purge(&self, budget: &Budget) -> usize {
        let mut state = self.lock();
        let state = &mut *state;
        state.settle_kept();
        state.join();
        let ranges: Vec<_> = state.free_ranges().collect();
        let mut purged = 0;
        for range in ranges {
            let Some(slot) = state.arenas.get_mut(range.arena as usize) else { continue };
            let Some(arena) = slot else { continue };
            let whole = range.pages == arena.pages;
            if range.clean && !whole {
                continue;
            }
            if budget.is_spent() {
                break;
            }
            let bytes = arena.dirty_pages(range) as usize * PAGE;
            if whole && state.book.remove_arena(range.arena) {
                // Also of memory that takes no single page back.
                state.reserved -= arena.region.region().size;
                *slot = None;
            } else if bytes > 0 && arena.region.purge(range.start as usize * PAGE, bytes) < bytes {
                continue;
            } else {
                state.book.mark_clean(range.token);
            }
            purged += bytes;
        }
        purged
    }

    pub(super) fn figures(&self) -> HeapFigures {
        let mut state = self.lock();
        state.settle_kept();
        state.join();
        let (free, metadata) = match &state.book {
            Book::BestFit(book) => (book.free_pages(), book.metadata_bytes()),
            Book::Buddy(book) => (book.free_pages(), book.metadata_bytes()),
        };
        let (mut largest, mut dirty) = (0, 0);
        for range in state.free_ranges() {
            largest = largest.max(range.pages as usize);
            dirty += state.arenas[range.arena as usize].as_ref().map_or(0, |arena| arena.dirty_pages(range));
        }
        HeapFigures {
            held: state.held,
            reserved: state.reserved,
            free: free * PAGE,
            largest_free: largest * PAGE,
            dirty: dirty as usize * PAGE,
            metadata,
        }
    }

    /// Asserts that books and arenas agree.
    pub(super) fn debug_validate(&self) {
        let state = self.lock();
        match &state.book {
            Book::BestFit(book) => book.debug_validate(&state.arenas),
            Book::Buddy(book) => book.debug_validate(&state.arenas),
        }
        let reserved: usize = state.arenas.iter().flatten().map(|arena| arena.region.region().size).sum();
        assert_eq!(reserved, state.reserved);
        let free: usize = state.free_ranges().map(|range| range.pages as usize * PAGE).sum();
        assert_eq!(reserved, free + state.held);
    }
}

impl Book {
    fn allocate(&mut self, pages: u32, align: u32) -> Option<Found> {
        match self {
            Book::BestFit(book) => book.allocate(pages, align),
            Book::Buddy(book) => book.allocate(pages, align),
        }
    }

    fn free(&mut self, token: u64) {
        match self {
            Book::BestFit(book) => book.free(token),
            Book::Buddy(book) => book.free(token),
        }
    }

    fn mark_clean(&mut self, token: u64) {
        match self {
            Book::BestFit(book) => book.mark_clean(token),
            Book::Buddy(book) => book.mark_clean(token),
        }
    }

    /// Takes an arena out, if all of it is free.
    fn remove_arena(&mut self, arena: u32) -> bool {
        match self {
            Book::BestFit(book) => book.remove_arena(arena),
            Book::Buddy(book) => book.remove_arena(arena),
        }
    }
}

impl Arena {
    /// Returns the pages of a free range that may hold memory of the system: the first of it.
    fn dirty_pages(&self, range: FreeRange) -> u32 {
        match range.clean {
            true => 0,
            false => self.untouched.clamp(range.start, range.start + range.pages) - range.start,
        }
    }
}

impl HeapState {
    /// Takes a kept block that has the size and the alignment of the buddy block for a request: its place and its
    /// record.
    #[inline]
    pub(super) fn take_kept(&mut self, size: usize, align: usize) -> Option<Kept> {
        self.kept.get_mut(buddy::order_of(size.max(align)))?.take()
    }

    /// Keeps a block of `bytes` that `free` frees for the next request of its size. `None` where there is one already
    /// or none is kept, and `free` is not asked, or says no.
    #[inline]
    pub(super) fn keep(
        &mut self,
        record: u32,
        bytes: usize,
        free: impl FnOnce() -> Option<Place>,
    ) -> Option<()> {
        let slot = self.kept.get_mut(buddy::order_of(bytes)).filter(|slot| slot.is_none())?;
        *slot = Some(Kept { place: free()?, record });
        Some(())
    }

    /// Gives the kept blocks back to the books; returns whether there were any.
    fn settle_kept(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.kept.len() {
            if let Some(Kept { place, record }) = self.kept[index].take() {
                self.give_back(place);
                self.spare_records.push(record);
                any = true;
            }
        }
        any
    }

    fn give_back(&mut self, place: Place) {
        self.held -= place.bytes;
        self.book.free(place.token);
    }

    /// Joins what a strategy has left apart.
    fn join(&mut self) {
        if let Book::Buddy(book) = &mut self.book {
            book.join();
        }
    }

    fn place(&mut self, found: Found) -> Place {
        let Found { arena, start, pages, token, clean } = found;
        let bytes = pages as usize * PAGE;
        let Some(Some(arena)) = self.arenas.get_mut(arena as usize) else {
            unreachable!("a strategy found pages of an arena that is not there")
        };
        let dirty = if clean { 0 } else { arena.untouched.saturating_sub(start).min(pages) };
        arena.untouched = arena.untouched.max(start + pages);
        let MemoryRegion { address, .. } = arena.region.region();
        Place { address: address + start as usize * PAGE, bytes, zero_from: dirty as usize * PAGE, token }
    }

    fn free_ranges(&self) -> Box<dyn Iterator<Item = FreeRange> + '_> {
        match &self.book {
            Book::BestFit(book) => Box::new(book.free_ranges()),
            Book::Buddy(book) => Box::new(book.free_ranges()),
        }
    }
}
