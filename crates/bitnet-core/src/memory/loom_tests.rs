//! Every interleaving of few threads on the parts where threads meet without a common lock: the word of a
//! block, and the lists of a class between the caches of threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p bitnet-core --lib --release loom_tests`

use std::sync::Arc;

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::cpu::CpuMemory;
use super::heap::{Heap, HeapSettings, LargeStrategy};
use super::records::Records;
use super::small::{Ground, Slot, SmallBlockPool, class_of};
use super::word::{Refusal, Seen, Word};

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

#[test]
fn a_block_is_freed_once() {
    model(|| {
        let word = Arc::new(Word::new());
        let generation = word.activate();
        let freed = {
            let word = Arc::clone(&word);
            thread::spawn(move || word.free(generation).is_ok())
        };
        let own = word.free(generation).is_ok();
        assert!(own ^ freed.join().unwrap());
        assert_eq!(word.see(), (Seen::Free, generation + 1));
    });
}

#[test]
fn an_exclusive_pin_keeps_everybody_else_away() {
    model(|| {
        let word = Arc::new(Word::new());
        let generation = word.activate();
        let inside = Arc::new(AtomicUsize::new(0));
        let other = {
            let (word, inside) = (Arc::clone(&word), Arc::clone(&inside));
            thread::spawn(move || {
                if word.pin_exclusive(generation).is_ok() {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    word.unpin();
                }
                word.free(generation).is_ok()
            })
        };
        if word.pin_shared(generation).is_ok() {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            inside.fetch_sub(1, Ordering::SeqCst);
            word.unpin();
        }
        let freed = other.join().unwrap();
        assert_eq!(freed, word.free(generation) == Err(Refusal::Stale));
    });
}

#[test]
fn a_move_and_a_pin_never_meet() {
    model(|| {
        let word = Arc::new(Word::new());
        let generation = word.activate();
        let inside = Arc::new(AtomicUsize::new(0));
        let mover = {
            let (word, inside) = (Arc::clone(&word), Arc::clone(&inside));
            thread::spawn(move || {
                if word.begin_move() {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    word.end_move_in_place();
                }
            })
        };
        // Whoever comes during the move waits for its end, and is not refused.
        word.pin_exclusive(generation).unwrap();
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
        inside.fetch_sub(1, Ordering::SeqCst);
        word.unpin();
        mover.join().unwrap();
        assert_eq!(word.see(), (Seen::Live, generation));
    });
}

#[test]
fn threads_hand_blocks_over_without_losing_or_sharing_one() {
    model(|| {
        let records = Arc::new(Records::default());
        let settings = HeapSettings {
            strategy: LargeStrategy::BestFit,
            initial: 1 << 20,
            limit: 1 << 20,
            limit_name: "limit",
            huge: false,
        };
        let heap = Arc::new(Heap::new(Arc::new(CpuMemory), settings));
        let pool = Arc::new(SmallBlockPool::new());
        // Two blocks a span at this size.
        let class = class_of(28 * 1024, 64);
        let run = {
            let (records, heap, pool) = (Arc::clone(&records), Arc::clone(&heap), Arc::clone(&pool));
            move || {
                let ground = Ground { records: &records, heap: &heap, device: 0 };
                let mut slots = [Slot { record: 0, object: 0 }; 2];
                let count = pool.take(ground, class, &mut slots).unwrap();
                for slot in &slots[..count] {
                    let record = records.get(slot.record).unwrap();
                    // A block that two threads had at hand would be live already.
                    let word = &record.words[slot.object as usize];
                    assert_eq!(word.see().0, Seen::Free);
                    let generation = word.activate();
                    word.free(generation).unwrap();
                }
                pool.give_back(ground, class, &slots[..count]);
            }
        };
        let other = thread::spawn(run.clone());
        run();
        other.join().unwrap();
        let ground = Ground { records: &records, heap: &heap, device: 0 };
        pool.debug_validate(ground);
        pool.release_empty(ground);
        heap.debug_validate();
        assert_eq!(heap.figures().held, 0);
    });
}
