//! Compaction: live blocks of sparse spans move into the gaps of fuller ones, and large blocks down.
//!
//! A block is moved behind its handle: its word is closed, the bytes are copied, the word says where it went
//! (`forwards`). Whoever comes meanwhile waits for the copy. Pinned blocks refuse, so no pointer dangles.
#![allow(unsafe_code)]

use super::{Budget, CleanupReport};
use crate::memory::bias::NO_TICKET;
use crate::memory::device_pool::DevicePool;
use crate::memory::forwards::Target;
use crate::memory::records::{Kind, Record};
use crate::memory::region::copy_block;
use crate::memory::shared::Shared;
use crate::memory::shrink::place_of;
use crate::memory::small::{CLASSES, Class, Slot};
use crate::memory::sync::lock;
use crate::memory::word::{Freed, Seen};

impl Shared {
    /// Empties sparse spans that are `min_age` generations old or older, and moves large blocks down.
    pub(in crate::memory) fn compact(
        &self,
        pool: &DevicePool,
        min_age: u32,
        budget: &Budget,
        report: &mut CleanupReport,
    ) {
        for class in 0..CLASSES {
            self.compact_class(pool, class, min_age, budget, report);
        }
        if min_age == 0 {
            self.compact_large(pool, budget, report);
        }
    }

    fn compact_class(
        &self,
        pool: &DevicePool,
        class: usize,
        min_age: u32,
        budget: &Budget,
        report: &mut CleanupReport,
    ) {
        let ground = pool.ground(&self.records);
        let mut books = lock(pool.small.class(class));
        let mut victims = books.sparse(pool.small.generation(), min_age);
        victims.sort_by_key(|&index| books.spans[index].live());
        for index in victims {
            let span = &books.spans[index];
            let elsewhere = books.listed_free() - span.free as usize;
            if span.live() as usize > elsewhere {
                break;
            }
            if span.is_idle() {
                continue;
            }
            if budget.is_spent() {
                return;
            }
            let Some(record) = self.records.get(span.record) else { continue };
            let stays = (0..span.blocks).any(|object| {
                !span.has_free(object)
                    && matches!(record.words[object as usize].see().0, Seen::Free | Seen::Pinned)
            });
            if stays {
                report.skipped_spans += 1;
                continue;
            }
            books.unlist(index);
            books.fullest_last();
            if !self.empty_span(&mut books, index, record, report) {
                report.skipped_spans += 1;
            }
            books.relist(ground, index);
        }
    }

    /// Moves every live block of a span, which is in no list, elsewhere; `false` when one stayed.
    fn empty_span(
        &self,
        books: &mut Class,
        index: usize,
        record: &Record,
        report: &mut CleanupReport,
    ) -> bool {
        let (number, blocks) = (books.spans[index].record, books.spans[index].blocks);
        self.open(record, NO_TICKET);
        // Before any word is closed: who holds this lock may wait for a closed word.
        let mut forwards = self.forwards();
        for object in 0..blocks {
            let word = &record.words[object as usize];
            if books.spans[index].has_free(object) || matches!(word.see().0, Seen::Moved | Seen::Retired) {
                continue;
            }
            // No record of this class is granted anew while its lock is held.
            if !word.begin_move(word.see().1) {
                return false;
            }
            let from = Slot { record: number, object };
            let to = books.pop();
            let Some((to, target)) = to.and_then(|to| Some((to, self.records.get(to.record)?))) else {
                word.end_move_in_place();
                return false;
            };
            let bytes = record.stride();
            // SAFETY:
            // - both are blocks of one class of host memory, `bytes` each, and different ones;
            // - the word of the first is closed for the move, so no slice of it exists or comes to be; the second
            //   is free and was taken out of the books just now.
            unsafe { copy_block(record.address_of(object), target.address_of(to.object), bytes) };
            if let Some(tracking) = self.tracking() {
                tracking.moved(record.device, record.address_of(object), target.address_of(to.object));
            }
            let generation = target.words[to.object as usize].activate();
            let moved_before = forwards.moved(from, Target { slot: to, generation });
            let span = &mut books.spans[index];
            if moved_before {
                // No handle names this word: it ends here.
                match word.end_move_freed() {
                    Freed::Reusable => span.put(object),
                    Freed::Retired => span.retired += 1,
                }
            } else {
                word.end_move_forwarded();
                span.moved += 1;
            }
            report.moved_blocks += 1;
            report.moved_bytes += bytes as u64;
        }
        true
    }

    /// Moves large blocks to lower places, the highest first, as long as that is possible.
    fn compact_large(&self, pool: &DevicePool, budget: &Budget, report: &mut CleanupReport) {
        let figures = pool.large_heap.figures();
        // One free range, or next to nothing free below what is held: nothing to gain.
        if figures.dirty == 0 || figures.dirty == figures.largest_free {
            return;
        }
        let mut records: Vec<_> = self
            .records
            .iter()
            .map(|(_, record)| record)
            .filter(|record| record.kind == (Kind::Single { large: true }) && record.device == pool.index)
            .filter(|record| record.words[0].movable().is_some())
            .collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.address_of(0)));
        for record in records {
            if budget.is_spent() {
                return;
            }
            let Some(generation) = record.words[0].movable() else { continue };
            self.open(record, NO_TICKET);
            if record.words[0].begin_move(generation) {
                let from = record.address_of(0);
                let moved = move_down(pool, record);
                if let (Some(tracking), true) = (self.tracking(), moved > 0) {
                    tracking.moved(record.device, from, record.address_of(0));
                }
                record.words[0].end_move_in_place();
                report.moved_blocks += u64::from(moved > 0);
                report.moved_bytes += moved as u64;
            }
        }
    }
}

/// Moves a block, whose word is closed for it, to a lower place; returns its bytes, or 0 if there is none.
fn move_down(pool: &DevicePool, record: &Record) -> usize {
    let heap = &pool.large_heap;
    let (from, bytes) = (record.address_of(0), record.stride());
    let mut books = heap.lock();
    let Ok(place) = heap.allocate_held(&mut books, bytes, record.align()) else { return 0 };
    if place.address > from {
        heap.free(&mut books, place);
        return 0;
    }
    // A strategy may find more, where the block has shrunk below its alignment.
    let place = heap.shrink(&mut books, place, bytes);
    drop(books);
    // SAFETY: two places of the heap of host memory that are both taken, so they overlap nowhere; the word of the
    // first is closed for the move and the second belongs to no block yet, so no slices exist.
    unsafe { copy_block(from, place.address, bytes) };
    let old = place_of(record);
    record.place(place);
    heap.free(&mut heap.lock(), old);
    bytes
}
