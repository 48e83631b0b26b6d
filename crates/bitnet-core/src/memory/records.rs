//! The table of records: what a handle's numbers mean.
//!
//! A record stands for one span of equal small blocks, or for one block of its own. Records are never
//! removed, so a number in a handle, stale or forged, always leads to memory that may be looked at; a
//! record that is used again advances its epoch. Records of one shape are used again for that shape only,
//! which keeps the array of words for ever.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::bias::Bias;
use super::heap::Place;
use super::small::SIZES;
use super::tracking::LiveSlot;
use super::word::Word;

/// Records in the first bucket, which is always there; every further one doubles.
const FIRST: usize = 512;
const BUCKETS: usize = 23;

/// What blocks a record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Blocks of one size class, side by side.
    Small(u8),
    /// One block, in the heap of small or of large blocks.
    Single { large: bool },
}

/// One record: what every request looks at. Threads write to the words of different ones.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Index of the device in its pool.
    pub(super) device: u8,
    epoch: AtomicU32,
    /// Who may change the words alone.
    pub(super) bias: Bias,
    pub(super) words: Box<[Word]>,
    rest: Box<Rest>,
}

/// What few requests look at.
#[derive(Debug)]
struct Rest {
    address: AtomicUsize,
    /// Bytes of the one block.
    bytes: AtomicUsize,
    align_log2: AtomicU8,
    /// Where the owner's books keep the rest.
    index: AtomicU64,
    live: OnceLock<Box<[LiveSlot]>>,
}

impl Record {
    pub(super) fn new(kind: Kind, device: u8, blocks: usize) -> Self {
        let rest = Rest {
            address: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            align_log2: AtomicU8::new(0),
            index: AtomicU64::new(u64::MAX),
            live: OnceLock::new(),
        };
        Record {
            kind,
            device,
            epoch: AtomicU32::new(0),
            bias: Bias::new(),
            words: (0..blocks).map(|_| Word::new()).collect(),
            rest: Box::new(rest),
        }
    }

    /// Gives a record of small blocks its memory, and its `index` in their books. No block of it can be reached
    /// meanwhile.
    pub(super) fn attach(&self, address: usize, index: u64) {
        self.rest.address.store(address, Ordering::Relaxed);
        self.rest.index.store(index, Ordering::Relaxed);
    }

    /// Gives the record of a single block its place.
    pub(super) fn place(&self, place: Place) {
        self.attach(place.address, place.token());
        self.rest.bytes.store(place.bytes, Ordering::Relaxed);
    }

    /// Returns where the owner's books keep the rest.
    pub(super) fn index(&self) -> u64 {
        self.rest.index.load(Ordering::Relaxed)
    }

    /// Notes the alignment that a single block is asked for with.
    pub(super) fn set_align(&self, align: usize) {
        self.rest.align_log2.store(align.trailing_zeros() as u8, Ordering::Relaxed);
    }

    /// Makes every handle of the past stale, used-up generations included. No block is live.
    pub(super) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
        for word in &self.words {
            word.begin_epoch();
        }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Returns the bytes from one block to the next, or of the one block.
    #[inline]
    pub(super) fn stride(&self) -> usize {
        match self.kind {
            Kind::Small(class) => SIZES[class as usize] as usize,
            Kind::Single { .. } => self.rest.bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns the alignment that its one block was asked for with.
    pub(super) fn align(&self) -> usize {
        1 << self.rest.align_log2.load(Ordering::Relaxed)
    }

    /// Returns the address of a block; it stays as long as the block is pinned.
    pub(super) fn address_of(&self, object: u32) -> usize {
        self.rest.address.load(Ordering::Relaxed) + object as usize * self.stride()
    }

    /// Returns what the tracker keeps of a block, for writing.
    pub(super) fn live_slot(&self, object: u32) -> &LiveSlot {
        let live = self.rest.live.get_or_init(|| self.words.iter().map(|_| LiveSlot::default()).collect());
        &live[object as usize]
    }

    /// Returns what the tracker keeps of all blocks, where it keeps anything.
    pub(super) fn live_slots(&self) -> Option<&[LiveSlot]> {
        self.rest.live.get().map(|live| &**live)
    }

    /// Returns the bytes of bookkeeping beside the record itself.
    fn metadata_bytes(&self) -> usize {
        size_of::<Rest>()
            + size_of_val::<[Word]>(&self.words)
            + self.rest.live.get().map_or(0, |live| size_of_val::<[LiveSlot]>(live))
    }
}

/// A record, once it is there, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell(OnceLock<Record>);

const _: () = assert!(cfg!(loom) || size_of::<Cell>() == 64);

/// All records of a pool.
#[derive(Debug)]
pub(super) struct Records {
    next: AtomicU32,
    first: Box<[Cell]>,
    /// The buckets after the first.
    more: [OnceLock<Box<[Cell]>>; BUCKETS],
}

impl Default for Records {
    fn default() -> Self {
        let more = std::array::from_fn(|_| OnceLock::new());
        Records { next: AtomicU32::new(0), first: cells(FIRST), more }
    }
}

fn cells(count: usize) -> Box<[Cell]> {
    (0..count).map(|_| Cell::default()).collect()
}

/// Returns the bucket after the first, and the place in it, of a record beyond the first bucket.
fn place(index: usize) -> (usize, usize) {
    let bucket = (index / FIRST).ilog2() as usize;
    (bucket, index - (FIRST << bucket))
}

impl Records {
    /// Adds a record and returns its number; `None` when the numbers are used up.
    pub(super) fn add(&self, record: Record) -> Option<u32> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let index = number as usize;
        let cell = match self.first.get(index) {
            Some(cell) => cell,
            None => {
                let (bucket, offset) = place(index);
                &self.more.get(bucket)?.get_or_init(|| cells(FIRST << bucket))[offset]
            }
        };
        cell.0.set(record).ok()?;
        Some(number)
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Record> {
        match self.first.get(number as usize) {
            Some(cell) => cell.0.get(),
            None => self.get_further(number),
        }
    }

    #[cold]
    fn get_further(&self, number: u32) -> Option<&Record> {
        let (bucket, offset) = place(number as usize);
        self.more.get(bucket)?.get()?.get(offset)?.0.get()
    }

    /// Returns the bytes of bookkeeping, room for records to come included.
    pub(super) fn metadata_bytes(&self) -> usize {
        let more = self.more.iter().filter_map(|cells| cells.get());
        let cells: usize = std::iter::once(&self.first).chain(more).map(|cells| size_of_val(&**cells)).sum();
        cells + self.iter().map(|(_, record)| record.metadata_bytes()).sum::<usize>()
    }

    /// Returns every record with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        let count = self.next.load(Ordering::Acquire);
        (0..count).filter_map(|index| Some((index, self.get(index)?)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_number_across_buckets() {
        let records = Records::default();
        let count = if cfg!(miri) { 600 } else { 5000 };
        for index in 0..count {
            let record = Record::new(Kind::Small((index % 7) as u8), 0, 1);
            assert_eq!(records.add(record), Some(index));
        }
        for (index, record) in records.iter() {
            assert_eq!(record.kind, Kind::Small((index % 7) as u8));
        }
        for forged in [count, 1 << 20, u32::MAX - 1, u32::MAX] {
            assert!(records.get(forged).is_none());
        }
    }
}
