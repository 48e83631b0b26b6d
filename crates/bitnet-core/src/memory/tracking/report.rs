//! What a tracking pool knows, gathered.

use std::panic::Location;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Tracking, TrackingLevel, scope, site};
use crate::memory::counters::Totals;
use crate::memory::pressure::MemoryPressureLevel;
use crate::memory::records::Kind;
use crate::memory::small::Slot;
use crate::memory::word::Seen;
use crate::memory::{HybridMemoryPool, MemoryMetrics, PoolFootprint};

/// The sums of one class, device or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Which.
    pub name: String,
    /// Bytes allocated now.
    pub current_bytes: u64,
    /// Most bytes allocated at any one time, as exact as [`MemoryMetrics::peak_allocated`].
    pub peak_bytes: u64,
    /// Bytes allocated so far.
    pub allocated_bytes: u64,
    /// Bytes deallocated so far.
    pub freed_bytes: u64,
    /// Blocks allocated so far.
    pub allocations: u64,
    /// Blocks deallocated so far.
    pub deallocations: u64,
}

impl Usage {
    pub(super) fn new(name: String, totals: Totals, peak: i64) -> Self {
        let current_bytes = totals.live_bytes().max(0) as u64;
        Usage {
            name,
            current_bytes,
            peak_bytes: current_bytes.max(peak.max(0) as u64),
            allocated_bytes: totals.allocated_bytes,
            freed_bytes: totals.freed_bytes,
            allocations: totals.allocated,
            deallocations: totals.freed,
        }
    }
}

/// Everything about a pool that tracks, at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DetailedMetrics {
    /// Level of tracking.
    pub level: TrackingLevel,
    /// Totals.
    pub metrics: MemoryMetrics,
    /// Where the memory is.
    pub footprint: PoolFootprint,
    /// How short memory is.
    pub pressure_level: MemoryPressureLevel,
    /// Share of the held bytes that no block uses for what was asked for, 0 to 1.
    pub fragmentation_ratio: f64,
    /// By size class.
    pub by_class: Vec<Usage>,
    /// By device.
    pub by_device: Vec<Usage>,
    /// By scope tag, from level Standard on.
    pub by_tag: Vec<Usage>,
    /// Blocks older than the leak detection interval, where leaks are looked for.
    pub possible_leaks: Option<u64>,
}

/// A block that is allocated now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveBlock {
    /// Bytes asked for.
    pub size: u64,
    /// Scope tag.
    pub tag: &'static str,
    /// Where it was allocated, at level Detailed.
    pub site: Option<&'static Location<'static>>,
    /// How long it has been allocated.
    pub age: Duration,
    /// How many blocks were in its place before.
    pub generation: u32,
    /// Whether it is pinned.
    pub pinned: bool,
    /// The name that its handle has.
    pub(in crate::memory) slot: Slot,
    /// Where it is: elsewhere, if it was moved.
    pub(in crate::memory) place: Slot,
    pub(in crate::memory) address: usize,
    pub(super) device: u8,
}

/// Blocks of one place of origin that were not given back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leak {
    /// Scope tag.
    pub tag: &'static str,
    /// Where they were allocated, at level Detailed.
    pub site: Option<&'static Location<'static>>,
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest: Duration,
}

/// One allocation or deallocation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimelineEvent {
    /// Time since the pool was made.
    pub time: Duration,
    /// Whether the block was deallocated.
    pub freed: bool,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes of blocks allocated afterwards, as far as the kept events tell.
    pub live_bytes: u64,
    /// Scope tag.
    pub tag: &'static str,
    /// Where the block was allocated, at level Detailed.
    pub site: Option<&'static Location<'static>>,
    /// Name of the thread.
    pub thread: String,
}

/// The latest events of all threads, by time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// Events, the oldest first.
    pub events: Vec<TimelineEvent>,
}

impl HybridMemoryPool {
    fn tracked(&self, level: TrackingLevel) -> Option<&Tracking> {
        self.shared.tracking().filter(|tracking| tracking.level() >= level)
    }

    /// Returns everything that the pool tracks; `None` when it does not track.
    pub fn get_detailed_metrics(&self) -> Option<DetailedMetrics> {
        let tracking = self.tracked(TrackingLevel::Basic)?;
        let (metrics, footprint) = (self.get_metrics(), self.footprint());
        let config = &tracking.config;
        let leaks = config.enable_leak_detection && config.level >= TrackingLevel::Standard;
        Some(DetailedMetrics {
            level: tracking.level(),
            metrics,
            footprint,
            pressure_level: self.check_pressure(),
            fragmentation_ratio: footprint.fragmentation(metrics.current_allocated),
            by_class: tracking.by_class(),
            by_device: self.by_device(),
            by_tag: tracking.by_tag(),
            possible_leaks: leaks
                .then(|| self.leaks(config.leak_detection_interval).iter().map(|leak| leak.blocks).sum()),
        })
    }

    /// Returns the sums of each device.
    pub fn by_device(&self) -> Vec<Usage> {
        let devices = self.shared.totals_of_devices().into_iter();
        devices.map(|(device, totals, peak)| Usage::new(device.to_string(), totals, peak)).collect()
    }

    /// Looks at the memory pressure now, where the pool detects it, calls the callbacks when the level has
    /// changed, and returns the level.
    pub fn check_pressure(&self) -> MemoryPressureLevel {
        self.shared.check_pressure(Duration::ZERO)
    }

    /// Returns the memory pressure as last looked at.
    pub fn pressure_level(&self) -> MemoryPressureLevel {
        self.shared.pressure.level()
    }

    /// Calls `callback` with the new level whenever the memory pressure changes, from the thread that notices.
    ///
    /// Pressure is looked at while blocks are allocated, by automatic cleanup and by
    /// [`check_pressure`](Self::check_pressure), where the pool detects it.
    pub fn register_pressure_callback(&self, callback: Box<dyn Fn(MemoryPressureLevel) + Send + Sync>) {
        self.shared.pressure.register(callback);
    }

    /// Returns the blocks that are allocated, from level Standard on, the oldest first.
    pub fn live_blocks(&self) -> Vec<LiveBlock> {
        let Some(tracking) = self.tracked(TrackingLevel::Standard) else { return Vec::new() };
        let age = tracking.ages();
        let forwards = self.shared.forwards();
        let mut blocks = Vec::new();
        for (number, record) in self.shared.records.iter() {
            let Some(notes) = record.live_slots() else { continue };
            for (object, (word, notes)) in record.words.iter().zip(notes).enumerate() {
                let slot = Slot { record: number, object: object as u32 };
                let (seen, generation) = word.see();
                let place = match seen {
                    Seen::Free | Seen::Retired => continue,
                    // It is found under the name that its handle has.
                    Seen::Live | Seen::Pinned if forwards.is_target(slot) => continue,
                    Seen::Live | Seen::Pinned => slot,
                    Seen::Moved => match forwards.get(slot) {
                        Some(target) => target.slot,
                        None => continue,
                    },
                };
                let Some(at) = self.shared.records.get(place.record) else { continue };
                blocks.push(LiveBlock {
                    size: notes.size.load(Ordering::Relaxed),
                    tag: scope::name(notes.tag()),
                    site: site::site(notes.site()),
                    age: age(notes.time.load(Ordering::Relaxed)),
                    generation,
                    pinned: at.words[place.object as usize].see().0 == Seen::Pinned,
                    slot,
                    place,
                    address: at.address_of(place.object),
                    device: record.device,
                });
            }
        }
        blocks.sort_by_key(|block| std::cmp::Reverse(block.age));
        blocks
    }

    /// Returns the blocks that were allocated `min_age` ago or longer, by origin, the most bytes first.
    pub fn leaks(&self, min_age: Duration) -> Vec<Leak> {
        let mut leaks: Vec<Leak> = Vec::new();
        for block in self.live_blocks().into_iter().filter(|block| block.age >= min_age) {
            match leaks.iter_mut().find(|leak| leak.tag == block.tag && leak.site == block.site) {
                Some(leak) => {
                    leak.blocks += 1;
                    leak.bytes += block.size;
                    leak.oldest = leak.oldest.max(block.age);
                }
                None => leaks.push(Leak {
                    tag: block.tag,
                    site: block.site,
                    blocks: 1,
                    bytes: block.size,
                    oldest: block.age,
                }),
            }
        }
        leaks.sort_by_key(|leak| std::cmp::Reverse(leak.bytes));
        leaks
    }

    /// Returns the latest events, from level Standard on.
    pub fn timeline(&self) -> Timeline {
        let Some(tracking) = self.tracked(TrackingLevel::Standard) else { return Timeline::default() };
        let kept = tracking.events();
        // What was live before the first kept event follows from what is live after the last.
        let delta = |freed: bool, size: u64| if freed { -(size as i64) } else { size as i64 };
        let sum: i64 = kept.iter().map(|(event, _)| delta(event.freed, event.size)).sum();
        let mut live = self.get_metrics().current_allocated as i64 - sum;
        let events = kept.into_iter().map(|(event, thread)| {
            live += delta(event.freed, event.size);
            TimelineEvent {
                time: Duration::from_nanos(event.time),
                freed: event.freed,
                size: event.size,
                live_bytes: live.max(0) as u64,
                tag: scope::name(event.tag),
                site: site::site(event.site),
                thread: thread.name.clone(),
            }
        });
        Timeline { events: events.collect() }
    }

    /// Returns whether a record stands for a block of its own in the heap of large blocks.
    pub(super) fn is_large(&self, slot: Slot) -> bool {
        self.shared.records.get(slot.record).is_some_and(|record| record.kind == Kind::Single { large: true })
    }
}
