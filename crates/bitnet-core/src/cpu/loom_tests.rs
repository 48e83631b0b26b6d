//! Every interleaving of few workers where they meet: at the start of a pass, at a barrier, at the end, and asleep.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p bitnet-core --lib --release loom_tests`

#![allow(unsafe_code)]

use std::panic::{self, AssertUnwindSafe};

use loom::cell::UnsafeCell;
use loom::model::Builder;

use super::team::Team;

/// A number without a lock, as the rows of a buffer: loom refuses accesses that nothing orders.
struct Row(UnsafeCell<usize>);

// SAFETY: loom checks that no access overlaps a write, which is what the tests are for.
unsafe impl Sync for Row {}

impl Row {
    fn new(value: usize) -> Self {
        Row(UnsafeCell::new(value))
    }

    fn get(&self) -> usize {
        // SAFETY: loom has made sure that nobody writes meanwhile.
        self.0.with(|value| unsafe { *value })
    }

    fn set(&self, new: usize) {
        // SAFETY: loom has made sure that nobody else has access meanwhile.
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

#[test]
fn a_barrier_orders_what_is_before_it_and_what_is_after() {
    model(6, || {
        let mut team = Team::new(2).unwrap();
        let rows = [Row::new(0), Row::new(0)];
        team.run(&|worker| {
            let (own, other) = (&rows[worker.index], &rows[1 - worker.index]);
            own.set(1);
            worker.barrier();
            assert_eq!(other.get(), 1);
            worker.barrier();
            own.set(2);
        });
        assert_eq!(rows.each_ref().map(Row::get), [2, 2]);
    });
}

#[test]
fn a_pass_sees_what_was_done_between_the_passes() {
    model(6, || {
        let mut team = Team::new(2).unwrap();
        let row = Row::new(0);
        for pass in 0..2 {
            row.set(10 * pass);
            team.run(&|worker| {
                if worker.index == 1 {
                    row.set(row.get() + 1);
                }
            });
            assert_eq!(row.get(), 10 * pass + 1);
        }
    });
}

#[test]
fn workers_that_are_left_out_miss_no_later_pass() {
    model(3, || {
        let mut team = Team::new(3).unwrap();
        for count in [2, 3] {
            let rows = [Row::new(0), Row::new(0), Row::new(0)];
            team.run_on(count, &|worker| {
                rows[worker.index].set(1);
                worker.barrier();
                assert_eq!(rows.iter().map(Row::get).sum::<usize>(), count);
            });
        }
    });
}

#[test]
fn a_panic_of_either_worker_ends_the_pass_of_both() {
    for culprit in [0, 1] {
        model(6, move || {
            let mut team = Team::new(2).unwrap();
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                team.run(&|worker| {
                    if worker.index == culprit {
                        // Without the message of a panic, of which there would be thousands.
                        panic::resume_unwind(Box::new("planted"));
                    }
                    worker.barrier();
                });
            }));
            assert!(outcome.is_err());
            let row = Row::new(0);
            team.run(&|worker| {
                if worker.index == 1 {
                    row.set(1);
                }
            });
            assert_eq!(row.get(), 1);
        });
    }
}
