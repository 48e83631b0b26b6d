//! Tracking: who holds how much memory, since when, and for what.
//!
//! Threads write for themselves: counters by class and tag, a note beside each live block, a ring of events.
//! Nothing here takes a lock or walks a stack while a block is allocated; reports gather what was written.

mod analysis;
mod clock;
mod config;
mod events;
mod export;
mod pickle;
mod report;
mod scope;
mod site;
mod snapshot;
mod traces;

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::analysis::{Pattern, PatternKind, PatternReport};
use self::clock::Clock;
pub use self::config::{TrackingConfig, TrackingLevel};
pub(super) use self::events::Event;
use self::events::Ring;
pub use self::report::{DetailedMetrics, Leak, LiveBlock, Timeline, TimelineEvent, Usage};
pub use self::scope::TagScope;
use self::site::SiteCache;
pub use self::snapshot::{PoolSnapshot, SnapshotBlock, SnapshotDifference};
use self::traces::Move;
use super::counters::{Common, Counters, Totals};
use super::records::{Kind, Record};
use super::small::{CLASSES, SIZES, Slot};

/// Rows of the table by class: the size classes, single small blocks, large blocks.
const ROWS: usize = CLASSES + 2;
/// Ended threads whose events are kept.
const KEPT_THREADS: usize = 64;

/// Returns the row of the blocks of a record.
#[inline]
pub(super) fn row_of(kind: Kind) -> usize {
    match kind {
        Kind::Small(class) => class as usize,
        Kind::Single { large } => single_row(large),
    }
}

/// Returns the row of a block that has a record of its own.
pub(super) fn single_row(large: bool) -> usize {
    CLASSES + usize::from(large)
}

fn row_name(row: usize) -> String {
    match SIZES.get(row) {
        Some(size) => format!("{size} B"),
        None if row == single_row(false) => "single small".into(),
        None => "large".into(),
    }
}

/// What is kept beside a live block.
#[derive(Debug, Default)]
pub(super) struct LiveSlot {
    /// Tag above, site below.
    origin: AtomicU32,
    size: AtomicU64,
    time: AtomicU64,
}

/// One thread's notes, as reports read them.
pub(super) struct ThreadNotes {
    name: String,
    rows: Arc<[Counters]>,
    tags: Arc<[Counters]>,
    ring: Option<Arc<Ring>>,
}

/// The tracking of one pool.
pub(super) struct Tracking {
    pub(super) config: TrackingConfig,
    clock: Clock,
    ring_capacity: usize,
    rows: Box<[Common]>,
    tags: Box<[Common]>,
    threads: Mutex<Threads>,
    /// What compaction moved, oldest first.
    moves: Mutex<VecDeque<Move>>,
}

#[derive(Default)]
struct Threads {
    notes: Vec<Arc<ThreadNotes>>,
    /// Notes of threads that ended, the oldest first.
    ended: Vec<Arc<ThreadNotes>>,
    /// Time of the latest event of a thread whose notes were given up.
    lost: u64,
    /// Sums of threads whose notes were given up.
    rows: Vec<Totals>,
    tags: Vec<Totals>,
}

/// What a thread writes with.
pub(super) struct ThreadTracker {
    rows: Arc<[Counters]>,
    tags: Arc<[Counters]>,
    /// From level Standard on.
    ring: Option<Arc<Ring>>,
    /// At level Detailed.
    sites: Option<Box<SiteCache>>,
    notes: Arc<ThreadNotes>,
}

/// A block, as the tracker is told of it.
#[derive(Clone, Copy)]
pub(super) struct Tracked<'a> {
    /// Where notes are kept beside it.
    pub(super) record: &'a Record,
    /// The block, by the name that its handle has.
    pub(super) slot: Slot,
    /// Which block of the record it is.
    pub(super) object: u32,
    pub(super) generation: u32,
    pub(super) size: usize,
    pub(super) row: usize,
}

fn counters(count: usize) -> Arc<[Counters]> {
    (0..count).map(|_| Counters::default()).collect()
}

impl Tracking {
    /// Starts tracking; `precise` reads the clock for every event.
    pub(super) fn new(config: TrackingConfig, ring_capacity: usize, precise: bool) -> Self {
        // Below Standard there are no events, so a clock that needs no thread will do.
        let clock = Clock::new(precise || config.level < TrackingLevel::Standard);
        let common = |count| (0..count).map(|_| Common::default()).collect();
        let (rows, tags) = (common(ROWS), common(scope::TAGS));
        let threads = Mutex::default();
        Tracking { config, clock, ring_capacity, rows, tags, threads, moves: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register_thread(&self) -> ThreadTracker {
        let level = self.config.level;
        let standard = level >= TrackingLevel::Standard;
        let thread = std::thread::current();
        let rows = counters(ROWS);
        let tags = counters(if standard { scope::TAGS } else { 0 });
        let ring = standard.then(|| Arc::new(Ring::new(self.ring_capacity)));
        let notes = Arc::new(ThreadNotes {
            name: thread.name().map_or_else(|| format!("{:?}", thread.id()), str::to_owned),
            rows: Arc::clone(&rows),
            tags: Arc::clone(&tags),
            ring: ring.clone(),
        });
        self.lock().notes.push(Arc::clone(&notes));
        let sites = (level >= TrackingLevel::Detailed).then(|| Box::new(SiteCache::new()));
        ThreadTracker { rows, tags, ring, sites, notes }
    }

    /// Settles and keeps the notes of a thread that ends.
    pub(super) fn end_thread(&self, tracker: &ThreadTracker) {
        for (counters, common) in tracker.notes.rows.iter().zip(&self.rows) {
            counters.settle(common);
        }
        for (counters, common) in tracker.notes.tags.iter().zip(&self.tags) {
            counters.settle(common);
        }
        let mut threads = self.lock();
        if let Some(index) = threads.notes.iter().position(|notes| Arc::ptr_eq(notes, &tracker.notes)) {
            let notes = threads.notes.swap_remove(index);
            threads.ended.push(notes);
        }
        if threads.ended.len() > KEPT_THREADS {
            let oldest = threads.ended.remove(0);
            add_up(&mut threads.rows, &oldest.rows);
            add_up(&mut threads.tags, &oldest.tags);
            let latest = oldest.ring.as_ref().and_then(|ring| ring.events().last().copied());
            threads.lost = threads.lost.max(latest.map_or(0, |event| event.time + 1));
        }
    }

    pub(super) fn level(&self) -> TrackingLevel {
        self.config.level
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        let threads = self.lock();
        let notes = threads.notes.iter().chain(&threads.ended).map(|notes| {
            (notes.rows.len() + notes.tags.len()) * size_of::<Counters>()
                + notes.ring.as_ref().map_or(0, |ring| ring.bytes())
        });
        notes.sum()
    }

    /// Returns what makes ages of the times that notes have, as of now.
    pub(super) fn ages(&self) -> impl Fn(u64) -> Duration + use<> {
        let (scale, now) = (self.clock.scale(), self.clock.now());
        move |time| Duration::from_nanos(scale(now.saturating_sub(time)))
    }

    /// Notes that compaction moved a block.
    pub(super) fn moved(&self, device: u8, from: usize, to: usize) {
        if self.config.level < TrackingLevel::Standard {
            return;
        }
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        if moves.len() >= self.ring_capacity.max(1) {
            moves.pop_front();
        }
        moves.push_back(Move { time: self.clock.pass(), device, from, to });
    }

    /// Returns the latest moves, oldest first.
    fn moves(&self) -> Vec<Move> {
        let scale = self.clock.scale();
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        moves.iter().map(|&moved| Move { time: scale(moved.time), ..moved }).collect()
    }

    /// Returns the latest events of all threads by time, with their thread: from where the events of each are all there.
    pub(super) fn events(&self) -> Vec<(Event, Arc<ThreadNotes>)> {
        let threads = self.lock();
        let (mut events, mut since) = (Vec::new(), threads.lost);
        for notes in threads.notes.iter().chain(&threads.ended) {
            let Some(ring) = &notes.ring else { continue };
            let (full, kept) = (ring.is_full(), ring.events());
            if full {
                since = kept.first().map_or(since, |event| since.max(event.time));
            }
            events.extend(kept.into_iter().map(|event| (event, Arc::clone(notes))));
        }
        drop(threads);
        events.retain(|(event, _)| event.time >= since);
        let scale = self.clock.scale();
        events.iter_mut().for_each(|(event, _)| event.time = scale(event.time));
        events.sort_by_key(|(event, _)| event.time);
        events
    }

    fn usage(
        &self,
        name: impl Fn(usize) -> String,
        common: &[Common],
        gone: impl Fn(&Threads) -> &Vec<Totals>,
        own: impl Fn(&ThreadNotes) -> &[Counters],
    ) -> Vec<Usage> {
        let threads = self.lock();
        let all = || threads.notes.iter().chain(&threads.ended).filter(|notes| !own(notes).is_empty());
        let mut out = Vec::new();
        for (row, common) in common.iter().enumerate() {
            let mut totals = gone(&threads).get(row).copied().unwrap_or_default();
            all().for_each(|notes| totals.add(own(notes)[row].totals()));
            if totals == Totals::default() {
                continue;
            }
            let highest = super::counters::highest(common, all().map(|notes| &own(notes)[row]));
            out.push(Usage::new(name(row), totals, common.peak.get().max(highest)));
        }
        out
    }

    /// Returns the sums by size class.
    pub(super) fn by_class(&self) -> Vec<Usage> {
        self.usage(row_name, &self.rows, |threads| &threads.rows, |notes| &notes.rows)
    }

    /// Returns the sums by scope tag.
    pub(super) fn by_tag(&self) -> Vec<Usage> {
        let name = |tag: usize| scope::name(tag as u8).to_owned();
        self.usage(name, &self.tags, |threads| &threads.tags, |notes| &notes.tags)
    }
}

fn add_up(sums: &mut Vec<Totals>, counters: &[Counters]) {
    sums.resize(sums.len().max(counters.len()), Totals::default());
    for (sum, counters) in sums.iter_mut().zip(counters) {
        sum.add(counters.totals());
    }
}

impl ThreadTracker {
    /// Notes that a block became live.
    #[inline]
    pub(super) fn allocated(
        &mut self,
        tracking: &Tracking,
        block: Tracked<'_>,
        site: &'static Location<'static>,
    ) {
        if self.rows[block.row].allocate(block.size) {
            self.rows[block.row].settle(&tracking.rows[block.row]);
        }
        if self.ring.is_some() {
            self.note_allocated(tracking, block, site);
        }
    }

    #[inline(never)]
    fn note_allocated(&mut self, tracking: &Tracking, block: Tracked<'_>, site: &'static Location<'static>) {
        let tag = scope::current();
        if self.tags[tag as usize].allocate(block.size) {
            self.tags[tag as usize].settle(&tracking.tags[tag as usize]);
        }
        let site = self.sites.as_mut().map_or(0, |sites| sites.number(site));
        let (time, live) = (tracking.clock.now(), block.record.live_slot(block.slot.object));
        live.origin.store(u32::from(tag) << 24 | site, Ordering::Relaxed);
        live.size.store(block.size as u64, Ordering::Relaxed);
        live.time.store(time, Ordering::Relaxed);
        self.push(block, time, false, tag, site);
    }

    /// Returns tag and site of a live block, where they are noted.
    #[inline]
    pub(super) fn origin(&self, record: &Record, slot: Slot) -> u32 {
        if self.ring.is_some() { record.live_slot(slot.object).origin() } else { 0 }
    }

    /// Notes that a block was freed, which had this `origin`.
    #[inline]
    pub(super) fn freed(&mut self, tracking: &Tracking, block: Tracked<'_>, origin: u32) {
        if self.rows[block.row].free(block.size) {
            self.rows[block.row].settle(&tracking.rows[block.row]);
        }
        if self.ring.is_some() {
            self.note_freed(tracking, block, origin);
        }
    }

    #[inline(never)]
    fn note_freed(&self, tracking: &Tracking, block: Tracked<'_>, origin: u32) {
        let tag = (origin >> 24) as u8;
        if self.tags[tag as usize].free(block.size) {
            self.tags[tag as usize].settle(&tracking.tags[tag as usize]);
        }
        self.push(block, tracking.clock.now(), true, tag, origin & 0xff_ffff);
    }

    /// Notes that a live block has `size` bytes left, and a new generation: as freed and allocated again.
    pub(super) fn shrunk(&mut self, tracking: &Tracking, block: Tracked<'_>, size: usize, origin: u32) {
        let tag = (origin >> 24) as usize;
        let count = |counters: &Counters, common: &Common| {
            let due = counters.free(block.size);
            if counters.allocate(size) || due {
                counters.settle(common);
            }
        };
        count(&self.rows[block.row], &tracking.rows[block.row]);
        if self.ring.is_none() {
            return;
        }
        count(&self.tags[tag], &tracking.tags[tag]);
        block.record.live_slot(block.slot.object).size.store(size as u64, Ordering::Relaxed);
        let (time, site) = (tracking.clock.now(), origin & 0xff_ffff);
        self.push(Tracked { generation: block.generation - 1, ..block }, time, true, tag as u8, site);
        self.push(Tracked { size, ..block }, time, false, tag as u8, site);
    }

    #[inline]
    fn push(&self, block: Tracked<'_>, time: u64, freed: bool, tag: u8, site: u32) {
        if let Some(ring) = &self.ring {
            let (size, slot, generation) = (block.size as u64, block.slot, block.generation);
            let address = block.record.address_of(block.object);
            ring.push(Event { time, freed, size, slot, address, generation, tag, site });
        }
    }
}

impl LiveSlot {
    /// Returns tag and site, which are to be read before the block is freed.
    pub(super) fn origin(&self) -> u32 {
        self.origin.load(Ordering::Relaxed)
    }

    fn tag(&self) -> u8 {
        (self.origin() >> 24) as u8
    }

    fn site(&self) -> u32 {
        self.origin() & 0xff_ffff
    }
}
