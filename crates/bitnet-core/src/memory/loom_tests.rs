//! Every interleaving of few threads on the parts where threads meet without a common lock: the word of a
//! block, and the lists of a class between the caches of threads.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p bitnet-core --lib --release loom_tests`

use std::sync::Arc;

use loom::model::Builder;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::bias::{Bias, Gate, NO_TICKET};
use super::cleanup::Budget;
use super::cpu::CpuMemory;
use super::heap::{Heap, HeapSettings, LargeStrategy};
use super::records::Records;
use super::small::{Ground, Slot, SmallBlockPool, Taker, class_of};
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
fn a_pinned_block_ends_without_a_moment_for_others() {
    model(|| {
        let word = Arc::new(Word::new());
        let generation = word.activate();
        word.pin_exclusive(generation).unwrap();
        let other = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                let pinned = word.pin_shared(generation).is_ok();
                pinned || word.free(generation).is_ok() || word.begin_move(generation)
            })
        };
        word.free_exclusive();
        // Whoever has it next is alone as well.
        assert_eq!(word.activate(), generation + 1);
        assert!(!other.join().unwrap());
        assert_eq!(word.see(), (Seen::Live, generation + 1));
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
                if word.begin_move(generation) {
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

/// A block whose record is granted to the thread that makes it.
struct Granted {
    gate: Gate,
    bias: Bias,
    word: Word,
    inside: AtomicUsize,
}

impl Granted {
    fn new() -> (Arc<Self>, u32) {
        let granted =
            Granted { gate: Gate::new(1), bias: Bias::new(), word: Word::new(), inside: AtomicUsize::new(0) };
        granted.bias.grant(1);
        let generation = granted.word.activate();
        (Arc::new(granted), generation)
    }

    /// Frees as the owner does.
    fn free(&self, generation: u32) -> bool {
        if self.gate.enter(&self.bias, || self.word.free_alone(generation)).is_some() {
            return true;
        }
        self.bias.open(1, |_| panic!("the owner waited for itself"));
        self.word.free(generation).is_ok()
    }

    /// Makes sure that a thread that is not the owner may exchange the word.
    fn open(&self) {
        self.bias.open(NO_TICKET, |owner| {
            assert_eq!(owner, 1);
            self.gate.wait();
        });
    }
}

#[test]
fn an_owner_and_others_free_a_block_once() {
    for others in [1, 2] {
        model(move || {
            let (block, generation) = Granted::new();
            let others: Vec<_> = (0..others)
                .map(|_| {
                    let block = Arc::clone(&block);
                    thread::spawn(move || {
                        block.open();
                        block.word.free(generation).is_ok()
                    })
                })
                .collect();
            // With two others, what matters is that one waits for the other.
            let freed = usize::from(others.len() == 1 && block.free(generation));
            let freed: usize =
                freed + others.into_iter().map(|o| usize::from(o.join().unwrap())).sum::<usize>();
            assert_eq!(freed, 1);
            assert_eq!(block.word.see(), (Seen::Free, generation + 1));
        });
    }
}

#[test]
fn an_owner_frees_no_block_that_another_has_pinned() {
    model(|| {
        let (block, generation) = Granted::new();
        let other = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.open();
                if block.word.pin_exclusive(generation).is_err() {
                    return false;
                }
                assert_eq!(block.inside.fetch_add(1, Ordering::SeqCst), 0);
                block.inside.fetch_sub(1, Ordering::SeqCst);
                block.word.unpin();
                true
            })
        };
        if block.free(generation) {
            // Whoever has the block next has it alone.
            assert_eq!(block.inside.fetch_add(1, Ordering::SeqCst), 0);
            block.inside.fetch_sub(1, Ordering::SeqCst);
        } else {
            assert!(other.join().unwrap());
            return;
        }
        other.join().unwrap();
    });
}

#[test]
fn a_block_is_granted_again_when_it_is_free() {
    model(|| {
        let (block, generation) = Granted::new();
        let late = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.open();
                block.word.free(generation).is_ok()
            })
        };
        // The owner alone has the block now, and takes it into use again, while the late one may be revoking.
        if block.free(generation) {
            block.bias.grant(1);
            let next = block.word.activate();
            assert_eq!(next, generation + 1);
            assert!(block.free(next));
            assert!(!late.join().unwrap());
        } else {
            assert!(late.join().unwrap());
        }
        assert_eq!(block.word.see().0, Seen::Free);
    });
}

#[test]
fn a_move_never_meets_a_block_that_was_granted_anew() {
    model(|| {
        let (block, generation) = Granted::new();
        let mover = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                let Some(seen) = block.word.movable() else { return };
                block.open();
                if block.word.begin_move(seen) {
                    assert_eq!(block.inside.fetch_add(1, Ordering::SeqCst), 0);
                    block.inside.fetch_sub(1, Ordering::SeqCst);
                    block.word.end_move_in_place();
                }
            })
        };
        let mut next = generation;
        if block.free(next) {
            block.bias.grant(1);
            next = block.word.activate();
        }
        assert!(block.free(next));
        assert_eq!(block.inside.fetch_add(1, Ordering::SeqCst), 0);
        block.inside.fetch_sub(1, Ordering::SeqCst);
        mover.join().unwrap();
        assert_eq!(block.word.see(), (Seen::Free, next + 1));
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
                let taker = Taker { ticket: NO_TICKET, wait: &|_| (), ended: &|_| false };
                let count = pool.take(ground, class, taker, &mut slots).unwrap();
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
        pool.release_empty(ground, &Budget::endless());
        heap.debug_validate();
        assert_eq!(heap.figures().held, 0);
    });
}
