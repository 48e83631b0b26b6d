//! Blocks below 1 MiB: spans of equal blocks by size class, and the lists that threads draw from.
//!
//! A span is one record and some pages of the heap of small blocks; which of its blocks are free is a bitmap
//! beside it. Threads take and give back blocks in batches and keep some at hand (`cache`), so the lock of a
//! class is met once a batch. A span whose blocks are all free gives its pages back, but for a few that a class
//! keeps; records stay.

mod classes;

use std::sync::atomic::{AtomicU32, Ordering};

use bitnet_backend::Result;

use self::classes::span_of;
pub(super) use self::classes::{CLASSES, PAGE, SIZES, cached, class_of};
use super::bias::Trust;
use super::cleanup::Budget;
use super::heap::{Heap, Place};
use super::records::{Kind, Record, Records};
use super::sync::{Mutex, lock};
use super::word::Freed;

/// Names a block: record and position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) record: u32,
    pub(super) object: u32,
}

impl Slot {
    /// Names no block.
    pub(super) const NONE: Slot = Slot { record: u32::MAX, object: 0 };
}

/// What the books of a device's small blocks stand on.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) records: &'a Records,
    pub(super) heap: &'a Heap,
    pub(super) device: u8,
}

/// A thread that takes blocks.
#[derive(Clone, Copy)]
pub(super) struct Taker<'a> {
    pub(super) ticket: u32,
    /// Waits until a thread is outside its gate, see [`Bias::open`](super::bias::Bias::open).
    pub(super) wait: &'a dyn Fn(u32),
    /// Reports whether a thread has ended.
    pub(super) ended: &'a dyn Fn(u32) -> bool,
}

const NONE: u32 = u32::MAX;
/// Spans that are looked at for one that belongs to no other thread.
const LOOKED_AT: usize = 8;
/// Bytes of empty spans of a class that keep their pages.
const KEPT_EMPTY: usize = 512 * 1024;

/// The small blocks of one device.
pub(super) struct SmallBlockPool {
    classes: Box<[Mutex<Class>]>,
    /// Whether spans of a class are granted to threads.
    trust: Box<[Trust]>,
    /// Generation of cleanup in which spans are opened.
    generation: AtomicU32,
}

#[derive(Debug, Default)]
pub(super) struct Class {
    /// In one-to-one relation with the records of the class, for ever.
    pub(super) spans: Vec<Span>,
    /// Spans with free blocks.
    partial: Vec<u32>,
    /// Spans without memory, full-sized and of one block.
    spare: Vec<u32>,
    spare_short: Vec<u32>,
    /// Bytes of spans in `partial` whose blocks are all free.
    empty_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Span {
    pub(super) record: u32,
    pub(super) place: Option<Place>,
    pub(super) blocks: u32,
    pub(super) free: u32,
    pub(super) retired: u32,
    /// Blocks that live elsewhere while their handles name this span.
    pub(super) moved: u32,
    /// Generation of cleanup in which it got its pages.
    opened: u32,
    bits: Box<[u64]>,
    /// Position in `partial`.
    listed: u32,
}

impl Span {
    fn new(record: u32, blocks: u32) -> Self {
        let bits = vec![0; blocks.div_ceil(64) as usize].into();
        Span { record, place: None, blocks, free: 0, retired: 0, moved: 0, opened: 0, bits, listed: NONE }
    }

    /// Returns the blocks that are live or at hand in a thread.
    pub(super) fn live(&self) -> u32 {
        self.blocks - self.free - self.retired - self.moved
    }

    pub(super) fn is_idle(&self) -> bool {
        self.free + self.retired + self.moved == self.blocks
    }

    pub(super) fn has_free(&self, object: u32) -> bool {
        self.bits[object as usize / 64] >> (object % 64) & 1 == 1
    }

    pub(super) fn put(&mut self, object: u32) {
        debug_assert!(!self.has_free(object));
        self.bits[object as usize / 64] |= 1 << (object % 64);
        self.free += 1;
    }

    /// Takes the free block at the lowest place.
    fn pop(&mut self) -> Option<u32> {
        let (index, word) = self.bits.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        self.free -= 1;
        Some(index as u32 * 64 + bit)
    }

    fn fill(&mut self) {
        for (index, word) in self.bits.iter_mut().enumerate() {
            let left = self.blocks as usize - index * 64;
            *word = if left >= 64 { u64::MAX } else { (1 << left) - 1 };
        }
        (self.free, self.retired) = (self.blocks, 0);
    }
}

impl SmallBlockPool {
    pub(super) fn new() -> Self {
        let classes = (0..CLASSES).map(|_| Mutex::new(Class::default())).collect();
        let trust = (0..CLASSES).map(|_| Trust::default()).collect();
        SmallBlockPool { classes, trust, generation: AtomicU32::new(0) }
    }

    pub(super) fn begin_generation(&self, generation: u32) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(super) fn class(&self, class: usize) -> &Mutex<Class> {
        &self.classes[class]
    }

    /// Takes up to `out.len()` free blocks of a class, at least one, for the thread `taker`; returns how
    /// many. They are of spans of its own as far as there is memory for more spans.
    ///
    /// # Errors
    /// As [`Heap::allocate`].
    pub(super) fn take(
        &self,
        ground: Ground<'_>,
        class: usize,
        taker: Taker<'_>,
        out: &mut [Slot],
    ) -> Result<usize> {
        let mut books = lock(&self.classes[class]);
        let mut count = 0;
        while count < out.len() {
            if !books.bring_suiting(ground, taker) {
                if count > 0 {
                    break;
                }
                let opened = books.open(ground, class, self.generation());
                if books.partial.is_empty() {
                    opened?;
                }
            }
            books.grant_last(ground, taker, &self.trust[class]);
            count += books.pop_last_into(&mut out[count..]);
        }
        Ok(count)
    }

    /// Notes that a thread changed blocks of a span that was another's.
    pub(super) fn revoked(&self, class: usize) {
        self.trust[class].revoked();
    }

    /// Takes blocks back that nobody uses.
    pub(super) fn give_back(&self, ground: Ground<'_>, class: usize, slots: &[Slot]) {
        let mut books = lock(&self.classes[class]);
        for &slot in slots {
            books.put(ground, slot);
        }
    }

    /// Notes that the generations of a block are used up.
    pub(super) fn retire(&self, ground: Ground<'_>, class: usize, slot: Slot) {
        let mut books = lock(&self.classes[class]);
        let Some(index) = span_index(ground, slot) else { return };
        books.spans[index].retired += 1;
        books.settle(ground, index);
    }

    /// Notes that a block that lived elsewhere was freed.
    pub(super) fn free_moved(&self, ground: Ground<'_>, class: usize, slot: Slot, freed: Freed) {
        let mut books = lock(&self.classes[class]);
        let Some(index) = span_index(ground, slot) else { return };
        books.spans[index].moved -= 1;
        if books.spans[index].place.is_some() {
            match freed {
                Freed::Reusable => books.put(ground, slot),
                Freed::Retired => {
                    books.spans[index].retired += 1;
                    books.settle(ground, index);
                }
            }
        } else if books.spans[index].moved == 0 {
            books.rest(ground, index);
        }
    }

    /// Gives the pages of empty spans back to the heap, class by class; returns the bytes.
    pub(super) fn release_empty(&self, ground: Ground<'_>, budget: &Budget) -> usize {
        let mut released = 0;
        for class in 0..CLASSES {
            let mut books = lock(&self.classes[class]);
            if books.empty_bytes == 0 {
                continue;
            }
            if budget.is_spent() {
                break;
            }
            for index in 0..books.spans.len() {
                if books.spans[index].listed != NONE && books.spans[index].is_idle() {
                    released += books.release(ground, index);
                }
            }
        }
        released
    }

    /// Returns bytes of bookkeeping, without the records.
    pub(super) fn metadata_bytes(&self) -> usize {
        let class = |class: &Mutex<Class>| {
            let books = lock(class);
            let bits = books.spans.iter().map(|span| span.bits.len() * 8).sum::<usize>();
            books.spans.capacity() * size_of::<Span>()
                + bits
                + 4 * (books.partial.capacity() + books.spare.capacity() + books.spare_short.capacity())
        };
        self.classes.iter().map(class).sum()
    }

    /// Returns, of the spans that have pages: their bytes, the bytes of blocks that are free, and the spans.
    pub(super) fn figures(&self) -> (usize, usize, usize) {
        let (mut bytes, mut free, mut count) = (0, 0, 0);
        for (class, books) in self.classes.iter().enumerate() {
            for span in lock(books).spans.iter() {
                if let Some(place) = &span.place {
                    bytes += place.bytes;
                    free += span.free as usize * SIZES[class] as usize;
                    count += 1;
                }
            }
        }
        (bytes, free, count)
    }

    /// Asserts that bitmaps, counts and words agree.
    pub(super) fn debug_validate(&self, ground: Ground<'_>) {
        use super::word::Seen;
        for (class, books) in self.classes.iter().enumerate() {
            let books = lock(books);
            let mut empty = 0;
            for (index, span) in books.spans.iter().enumerate() {
                let Some(record) = ground.records.get(span.record) else {
                    panic!("the record of span {index} is not there")
                };
                assert_eq!(record.kind, Kind::Small(class as u8));
                assert_eq!((record.words.len() as u32, record.device), (span.blocks, ground.device));
                let Some(place) = &span.place else {
                    assert_eq!(span.listed, NONE);
                    continue;
                };
                let free = (0..span.blocks).filter(|&object| span.has_free(object)).count();
                assert_eq!(free as u32, span.free);
                assert_eq!(record.address_of(0), place.address);
                assert!(span.blocks as usize * record.stride() <= place.bytes);
                let (mut moved, mut retired) = (0, 0);
                for (object, word) in record.words.iter().enumerate() {
                    let (seen, _) = word.see();
                    moved += u32::from(seen == Seen::Moved);
                    retired += u32::from(seen == Seen::Retired);
                    assert!(!span.has_free(object as u32) || seen == Seen::Free, "{seen:?} block is listed");
                }
                assert_eq!((moved, retired), (span.moved, span.retired));
                assert_eq!(span.listed != NONE, span.free > 0);
                if span.listed != NONE {
                    assert_eq!(books.partial[span.listed as usize], index as u32);
                    empty += if span.is_idle() { place.bytes } else { 0 };
                }
            }
            assert_eq!(empty, books.empty_bytes);
        }
    }
}

fn span_index(ground: Ground<'_>, slot: Slot) -> Option<usize> {
    let record = ground.records.get(slot.record)?;
    Some(record.index() as usize)
}

impl Class {
    /// Takes one free block, of the span that was listed last.
    pub(super) fn pop(&mut self) -> Option<Slot> {
        let mut out = [Slot::NONE];
        (self.pop_last_into(&mut out) == 1).then_some(out[0])
    }

    /// Takes free blocks out of the span that was listed last; returns how many.
    fn pop_last_into(&mut self, out: &mut [Slot]) -> usize {
        let Some(&index) = self.partial.last() else { return 0 };
        let span = &mut self.spans[index as usize];
        if span.is_idle() {
            self.empty_bytes -= span.place.map_or(0, |place| place.bytes);
        }
        let mut count = 0;
        while count < out.len() {
            let Some(object) = span.pop() else { break };
            out[count] = Slot { record: span.record, object };
            count += 1;
        }
        if span.free == 0 {
            span.listed = NONE;
            self.partial.pop();
        }
        count
    }

    /// Brings a span to the end of the list that a thread may draw from without taking it from another; `false`
    /// when there is none near the end.
    fn bring_suiting(&mut self, ground: Ground<'_>, taker: Taker<'_>) -> bool {
        let suits = |&index: &u32| {
            let span = &self.spans[index as usize];
            let bias = ground.records.get(span.record).map(|record| &record.bias);
            span.is_idle() || bias.is_some_and(|bias| bias.suits(taker.ticket, taker.ended))
        };
        let Some(back) = self.partial.iter().rev().take(LOOKED_AT).position(suits) else { return false };
        let last = self.partial.len() - 1;
        let at = last - back;
        self.partial.swap(at, last);
        for at in [at, last] {
            self.spans[self.partial[at] as usize].listed = at as u32;
        }
        true
    }

    /// Grants the span that was listed last to a thread, if nobody has a block of it; otherwise it is everybody's.
    fn grant_last(&mut self, ground: Ground<'_>, taker: Taker<'_>, trust: &Trust) {
        let Some(&index) = self.partial.last() else { return };
        let span = &self.spans[index as usize];
        let Some(record) = ground.records.get(span.record) else { return };
        if record.bias.belongs_to(taker.ticket) {
            return;
        }
        record.bias.open(taker.ticket, taker.wait);
        // A retired or moved word is another's business still.
        if span.free == span.blocks && trust.grants() {
            record.bias.grant(taker.ticket);
        }
    }

    /// Returns the spans of several blocks that have free ones and are `min_age` generations old.
    pub(super) fn sparse(&self, generation: u32, min_age: u32) -> Vec<usize> {
        let old = |span: &Span| generation.wrapping_sub(span.opened) >= min_age;
        let listed = self.partial.iter().map(|&index| index as usize);
        listed.filter(|&index| self.spans[index].blocks > 1 && old(&self.spans[index])).collect()
    }

    /// Orders the spans with free blocks so that the fullest is drawn from first.
    pub(super) fn fullest_last(&mut self) {
        let spans = &self.spans;
        self.partial.sort_by_key(|&index| std::cmp::Reverse(spans[index as usize].free));
        for (at, &index) in self.partial.iter().enumerate() {
            self.spans[index as usize].listed = at as u32;
        }
    }

    /// Returns the free blocks of all spans.
    pub(super) fn listed_free(&self) -> usize {
        self.partial.iter().map(|&index| self.spans[index as usize].free as usize).sum()
    }

    /// Gives a span pages: as many as its class has, or those of a single block when memory is short.
    fn open(&mut self, ground: Ground<'_>, class: usize, generation: u32) -> Result<()> {
        let (bytes, blocks) = span_of(class);
        let size = SIZES[class] as usize;
        let mut heap = ground.heap.lock();
        let (place, blocks) = match ground.heap.allocate(&mut heap, bytes, PAGE) {
            Ok(place) => (place, blocks),
            Err(error) if blocks == 1 => return Err(error),
            Err(_) => (ground.heap.allocate(&mut heap, size.next_multiple_of(PAGE), PAGE)?, 1),
        };
        drop(heap);
        let spare = if blocks == 1 { &mut self.spare_short } else { &mut self.spare };
        let index = match spare.pop() {
            Some(index) => index as usize,
            None => {
                let Some(number) =
                    ground.records.add(Record::new(Kind::Small(class as u8), ground.device, blocks))
                else {
                    ground.heap.free(&mut ground.heap.lock(), place);
                    return Err(no_records());
                };
                self.spans.push(Span::new(number, blocks as u32));
                self.spans.len() - 1
            }
        };
        let span = &mut self.spans[index];
        (span.place, span.opened) = (Some(place), generation);
        span.fill();
        if let Some(record) = ground.records.get(span.record) {
            record.attach(place.address, index as u64);
        }
        self.list(index);
        self.empty_bytes += place.bytes;
        Ok(())
    }

    fn list(&mut self, index: usize) {
        self.spans[index].listed = self.partial.len() as u32;
        self.partial.push(index as u32);
    }

    pub(super) fn unlist(&mut self, index: usize) {
        let at = std::mem::replace(&mut self.spans[index].listed, NONE);
        if at != NONE {
            self.partial.swap_remove(at as usize);
            if let Some(&moved) = self.partial.get(at as usize) {
                self.spans[moved as usize].listed = at;
            }
        }
    }

    /// Lists a span again that has free blocks and is in no list.
    pub(super) fn relist(&mut self, ground: Ground<'_>, index: usize) {
        if self.spans[index].free > 0 && self.spans[index].listed == NONE {
            self.list(index);
        }
        self.settle(ground, index);
    }

    fn put(&mut self, ground: Ground<'_>, slot: Slot) {
        let Some(index) = span_index(ground, slot) else { return };
        self.spans[index].put(slot.object);
        if self.spans[index].listed == NONE {
            self.list(index);
        }
        self.settle(ground, index);
    }

    /// Keeps a span that has just become idle as an empty one, or releases it.
    fn settle(&mut self, ground: Ground<'_>, index: usize) {
        let span = &self.spans[index];
        let Some(bytes) = span.place.filter(|_| span.is_idle()).map(|place| place.bytes) else { return };
        self.empty_bytes += if span.listed != NONE { bytes } else { 0 };
        // A span with rested or moved blocks gains from a new start.
        let worn = span.retired + span.moved > 0;
        if worn || self.empty_bytes > KEPT_EMPTY.max(bytes) {
            self.release(ground, index);
        }
    }

    /// Gives the pages of an idle span back.
    fn release(&mut self, ground: Ground<'_>, index: usize) -> usize {
        let listed = self.spans[index].listed != NONE;
        self.unlist(index);
        let Some(place) = self.spans[index].place.take() else { return 0 };
        if listed {
            self.empty_bytes -= place.bytes;
        }
        ground.heap.free(&mut ground.heap.lock(), place);
        if self.spans[index].moved == 0 {
            self.rest(ground, index);
        }
        place.bytes
    }

    /// Makes a span without memory and without names ready for another start.
    fn rest(&mut self, ground: Ground<'_>, index: usize) {
        if let Some(record) = ground.records.get(self.spans[index].record) {
            record.begin_epoch();
        }
        let spare = if self.spans[index].blocks == 1 { &mut self.spare_short } else { &mut self.spare };
        spare.push(index as u32);
    }
}

/// Returns the error of a pool that ran out of record numbers.
pub(super) fn no_records() -> bitnet_backend::BitNetError {
    bitnet_backend::BitNetError::new(bitnet_backend::ErrorKind::OutOfMemory {
        requested: 1,
        purpose: "a record of the memory pool".into(),
        available: "all record numbers are in use".into(),
    })
}
