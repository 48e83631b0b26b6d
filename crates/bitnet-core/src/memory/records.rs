//! The table of records: what a handle's numbers mean.
//!
//! A record stands for one span of equal small blocks, or for one block of its own. Records are never
//! removed, so a number in a handle, stale or forged, always leads to memory that may be looked at; a
//! record that is used again advances its epoch. Records of one shape are used again for that shape only,
//! which keeps the array of words for ever.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use super::bias::Bias;
use super::heap::Place;
use super::tracking::LiveSlot;
use super::word::Word;

/// Records in the first bucket; every further one doubles.
const FIRST: usize = 64;
const BUCKETS: usize = 26;

/// What blocks a record stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Blocks of one size class, side by side.
    Small(u8),
    /// One block, in the heap of small or of large blocks.
    Single { large: bool },
}

/// One record, in cache lines of its own: threads write to the words and positions of different ones.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Index of the device in its pool.
    pub(super) device: u8,
    epoch: AtomicU32,
    address: AtomicUsize,
    /// Bytes from one block to the next, or of the one block.
    stride: AtomicUsize,
    align_log2: AtomicU8,
    /// Where the owner's books keep the rest.
    pub(super) index: AtomicU32,
    /// Who may change the words alone.
    pub(super) bias: Bias,
    pub(super) words: Box<[Word]>,
    live: OnceLock<Box<[LiveSlot]>>,
}

impl Record {
    pub(super) fn new(kind: Kind, device: u8, blocks: usize) -> Self {
        Record {
            kind,
            device,
            epoch: AtomicU32::new(0),
            address: AtomicUsize::new(0),
            stride: AtomicUsize::new(0),
            align_log2: AtomicU8::new(0),
            index: AtomicU32::new(u32::MAX),
            bias: Bias::new(),
            words: (0..blocks).map(|_| Word::new()).collect(),
            live: OnceLock::new(),
        }
    }

    /// Gives the record memory. No block of it can be reached meanwhile.
    pub(super) fn attach(&self, address: usize, stride: usize) {
        self.address.store(address, Ordering::Relaxed);
        self.stride.store(stride, Ordering::Relaxed);
    }

    /// Gives the record of a single block its place.
    pub(super) fn place(&self, place: Place) {
        self.attach(place.address, place.bytes);
        self.index.store(place.token(), Ordering::Relaxed);
    }

    pub(super) fn set_align(&self, align: usize) {
        self.align_log2.store(align.trailing_zeros() as u8, Ordering::Relaxed);
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

    pub(super) fn stride(&self) -> usize {
        self.stride.load(Ordering::Relaxed)
    }

    /// Returns the alignment that its memory was asked for with.
    pub(super) fn align(&self) -> usize {
        1 << self.align_log2.load(Ordering::Relaxed)
    }

    /// Returns the address of a block; it stays as long as the block is pinned.
    pub(super) fn address_of(&self, object: u32) -> usize {
        self.address.load(Ordering::Relaxed) + object as usize * self.stride()
    }

    /// Returns what the tracker keeps of a block, for writing.
    pub(super) fn live_slot(&self, object: u32) -> &LiveSlot {
        let live = self.live.get_or_init(|| self.words.iter().map(|_| LiveSlot::default()).collect());
        &live[object as usize]
    }

    /// Returns what the tracker keeps of all blocks, where it keeps anything.
    pub(super) fn live_slots(&self) -> Option<&[LiveSlot]> {
        self.live.get().map(|live| &**live)
    }

    /// Returns the bytes of bookkeeping.
    pub(super) fn metadata_bytes(&self) -> usize {
        size_of::<OnceLock<Record>>()
            + size_of_val::<[Word]>(&self.words)
            + self.live.get().map_or(0, |live| size_of_val::<[LiveSlot]>(live))
    }
}

/// All records of a pool.
#[derive(Debug)]
pub(super) struct Records {
    next: AtomicU32,
    buckets: [OnceLock<Box<[OnceLock<Record>]>>; BUCKETS],
}

impl Default for Records {
    fn default() -> Self {
        Records { next: AtomicU32::new(0), buckets: std::array::from_fn(|_| OnceLock::new()) }
    }
}

#[inline]
fn place(index: u32) -> (usize, usize) {
    let shifted = index as usize + FIRST;
    let bucket = (shifted.ilog2() - FIRST.ilog2()) as usize;
    (bucket, shifted - (FIRST << bucket))
}

impl Records {
    /// Adds a record and returns its number; `None` when the numbers are used up.
    pub(super) fn add(&self, record: Record) -> Option<u32> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let (bucket, offset) = place(index);
        let bucket =
            self.buckets.get(bucket)?.get_or_init(|| (0..FIRST << bucket).map(|_| OnceLock::new()).collect());
        bucket[offset].set(record).ok()?;
        Some(index)
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Record> {
        let (bucket, offset) = place(index);
        self.buckets.get(bucket)?.get()?.get(offset)?.get()
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
        for index in 0..1000 {
            let record = Record::new(Kind::Small((index % 7) as u8), 0, 1);
            assert_eq!(records.add(record), Some(index));
        }
        for (index, record) in records.iter() {
            assert_eq!(record.kind, Kind::Small((index % 7) as u8));
        }
        for forged in [1000, 1 << 20, u32::MAX - 1, u32::MAX] {
            assert!(records.get(forged).is_none());
        }
    }
}
