//! The worker threads of the CPU backend.
//!
//! A [`Team`] is entered once per forward pass. Inside, every worker walks the same list of stages and
//! meets the others at a [`Barrier`](Worker::barrier) where data passes between them; a pass has hundreds
//! of those, so waiting spins, but never for long: beside other busy processes the missing worker may be waiting
//! for the very core that a spinning one holds. A [`Governor`] leaves workers out while they keep each other waiting.
//! Between passes the workers park.

#![allow(unsafe_code)]

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::governor::{Governor, Took};
use super::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use super::sync::thread::{self, JoinHandle, Thread};
use super::sync::{Condvar, Mutex, spin_loop};

/// Rounds of spinning before a waiting worker sleeps: long enough for the skew between workers, short beside
/// the time for which the system takes a core away.
const SPINS: usize = if cfg!(loom) { 0 } else { 4_000 };
/// Rounds of spinning before a wait is timed.
const SPINS_UNTIMED: usize = if cfg!(loom) { 0 } else { 64 };
/// Rounds of spinning after a pass before a worker parks; decoding starts the next pass soon.
const SPINS_BEFORE_PARK: usize = if cfg!(loom) { 0 } else { 20_000 };

/// A pass, its lifetime erased: `Team::run` outlives every use.
type Job = *const (dyn Fn(Worker<'_>) + Sync);

/// A pass for the first `workers` of the team.
#[derive(Clone, Copy)]
struct Order {
    job: SendJob,
    workers: usize,
    generation: usize,
}

/// What the workers share.
struct Shared {
    size: usize,
    /// Counts passes; a change starts the workers.
    generation: AtomicUsize,
    order: Mutex<Option<Order>>,
    /// Workers that have not finished the current pass.
    running: AtomicUsize,
    arrived: AtomicUsize,
    /// Counts completed barriers.
    phase: AtomicUsize,
    panicked: AtomicBool,
    stopping: AtomicBool,
    /// Workers that sleep until a barrier opens or the pass ends.
    sleepers: AtomicUsize,
    /// Nanoseconds of this pass's waits that ended asleep.
    slept: AtomicU64,
    asleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Waits until `done`, spinning first and then asleep.
    fn wait(&self, done: impl Fn() -> bool) {
        let spin = |rounds| {
            (0..rounds).any(|_| {
                spin_loop();
                done()
            })
        };
        // Most waits are shorter than a look at the clock.
        if done() || spin(SPINS_UNTIMED) {
            return;
        }
        let began = Instant::now();
        if spin(SPINS) {
            return;
        }
        let mut guard = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        // Announced before `done` is asked again. Changes of `sleepers` have one order: who makes it true comes
        // later and sees the sleeper, or came earlier and is seen.
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        while !done() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        drop(guard);
        self.slept.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Wakes sleepers, after what they wait for became true.
    fn wake(&self) {
        // A change, though of nothing: a load might miss who announced itself just now.
        if self.sleepers.fetch_add(0, Ordering::AcqRel) > 0 {
            drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Tells everyone that a worker panicked.
    fn fail(&self) {
        self.panicked.store(true, Ordering::Release);
        self.wake();
    }
}

#[derive(Clone, Copy)]
struct SendJob(Job);

// SAFETY: the closure is `Sync`, so a reference to it may be used from any thread; `Team::run` keeps it
// alive until every worker has finished with it.
unsafe impl Send for SendJob {}

/// One worker's place in the team.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    /// Index, 0 being the thread that called [`Team::run`].
    pub index: usize,
    count: usize,
    shared: &'a Shared,
}

impl Worker<'_> {
    /// Returns the number of workers in this pass.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits until every worker has come here; what they wrote before is visible after.
    ///
    /// # Panics
    /// When another worker panicked, since it will never come.
    pub fn barrier(&self) {
        let shared = self.shared;
        if self.count == 1 {
            return;
        }
        let phase = shared.phase.load(Ordering::Acquire);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.phase.store(phase.wrapping_add(1), Ordering::Release);
            shared.wake();
            return;
        }
        let opened = || shared.phase.load(Ordering::Acquire) != phase;
        shared.wait(|| opened() || shared.panicked.load(Ordering::Acquire));
        assert!(opened(), "another worker of the pass panicked");
    }
}

/// A fixed set of worker threads, of which the caller is one.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<(Thread, JoinHandle<()>)>,
    governor: Governor,
}

impl Team {
    /// Starts `size - 1` threads beside the caller's.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(size: usize) -> std::io::Result<Team> {
        let shared = Arc::new(Shared {
            size: size.max(1),
            generation: AtomicUsize::new(0),
            order: Mutex::new(None),
            running: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            phase: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            slept: AtomicU64::new(0),
            asleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let governor = Governor::new(shared.size);
        let mut team = Team { shared, workers: Vec::new(), governor };
        for index in 1..team.shared.size {
            let shared = Arc::clone(&team.shared);
            let builder = thread::Builder::new().name(format!("bitnet-{index}"));
            let handle = builder.spawn(move || work(&shared, index))?;
            team.workers.push((handle.thread().clone(), handle));
        }
        Ok(team)
    }

    /// Runs every further step on `active` workers.
    #[cfg(all(test, not(loom)))]
    pub fn fix(&mut self, active: usize) {
        self.governor.fix(active);
    }

    /// Returns the number of workers, the caller included.
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Runs `pass` once on every worker and returns when all have finished.
    ///
    /// # Panics
    /// When `pass` panics on any worker.
    pub fn run(&mut self, pass: &(dyn Fn(Worker<'_>) + Sync)) {
        self.run_on(self.shared.size, pass);
    }

    /// Runs `pass`, a step of `tokens` tokens, on as many workers as do it fastest: all of them, unless they keep
    /// each other waiting.
    ///
    /// # Panics
    /// When `pass` panics on any worker.
    pub fn run_step(&mut self, tokens: usize, pass: &(dyn Fn(Worker<'_>) + Sync)) {
        let began = Instant::now();
        self.run_on(self.governor.active(), pass);
        let now = Instant::now();
        let asleep = Duration::from_nanos(self.shared.slept.load(Ordering::Relaxed));
        self.governor.observe(Took { tokens, time: now - began, asleep }, now);
    }

    /// Runs `pass` on the first `count` workers.
    pub(super) fn run_on(&mut self, count: usize, pass: &(dyn Fn(Worker<'_>) + Sync)) {
        let shared = &*self.shared;
        shared.slept.store(0, Ordering::Relaxed);
        if count == 1 {
            pass(Worker { index: 0, count, shared });
            return;
        }
        let others = &self.workers[..count - 1];
        shared.arrived.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        shared.running.store(others.len(), Ordering::Relaxed);
        // SAFETY: only the lifetime changes. The first `count` workers alone use the closure, between the change of
        // `generation` below and their decrement of `running`, and this function returns (or unwinds)
        // only after `running` is 0.
        let job = unsafe { std::mem::transmute::<*const (dyn Fn(Worker<'_>) + Sync + '_), Job>(pass) };
        let mut order = shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = shared.generation.load(Ordering::Relaxed).wrapping_add(1);
        *order = Some(Order { job: SendJob(job), workers: count, generation });
        shared.generation.store(generation, Ordering::Release);
        drop(order);
        others.iter().for_each(|(thread, _)| thread.unpark());
        let own = panic::catch_unwind(AssertUnwindSafe(|| pass(Worker { index: 0, count, shared })));
        if own.is_err() {
            shared.fail();
        }
        shared.wait(|| shared.running.load(Ordering::Acquire) == 0);
        if let Err(payload) = own {
            panic::resume_unwind(payload);
        }
        assert!(!shared.panicked.load(Ordering::Relaxed), "a worker of the pass panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.generation.fetch_add(1, Ordering::Release);
        for (thread, handle) in self.workers.drain(..) {
            thread.unpark();
            // A worker catches the panics of its passes, so it ends normally.
            let _ = handle.join();
        }
    }
}

/// The life of a worker thread.
fn work(shared: &Shared, index: usize) {
    let (mut seen, mut spins) = (0, 0);
    loop {
        while shared.generation.load(Ordering::Acquire) == seen {
            if spins < SPINS_BEFORE_PARK {
                spins += 1;
                spin_loop();
            } else {
                thread::park();
            }
        }
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let order = *shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Order { job: SendJob(job), workers, generation }) = order else { return };
        // Passes that this worker is not part of may have come and gone meanwhile.
        seen = generation;
        if index >= workers {
            // Left out to leave its core to others.
            spins = SPINS_BEFORE_PARK;
            continue;
        }
        // SAFETY: this worker is one of the pass's, so `Team::run_on` keeps the closure alive until `running` reaches
        // 0, below.
        let pass = unsafe { &*job };
        if panic::catch_unwind(AssertUnwindSafe(|| pass(Worker { index, count: workers, shared }))).is_err() {
            shared.fail();
        }
        spins = 0;
        shared.running.fetch_sub(1, Ordering::AcqRel);
        shared.wake();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_and_meets_at_each_barrier() {
        for size in [1, 2, 3, 7] {
            let mut team = Team::new(size).unwrap();
            for _ in 0..50 {
                let counters: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|worker| {
                    for counter in &counters {
                        counter.fetch_add(1, Ordering::Relaxed);
                        worker.barrier();
                        assert_eq!(counter.load(Ordering::Relaxed), size);
                    }
                });
            }
        }
    }

    #[test]
    fn workers_that_are_left_out_come_back() {
        let mut team = Team::new(4).unwrap();
        for round in 0..400 {
            let count = [4, 1, 2, 2, 3, 1, 4][round % 7];
            let ran: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
            team.run_on(count, &|worker| {
                ran[worker.index].fetch_add(1, Ordering::Relaxed);
                worker.barrier();
                let all: usize = ran.iter().map(|ran| ran.load(Ordering::Relaxed)).sum();
                assert_eq!((all, worker.count()), (count, count));
            });
            let ran: Vec<usize> = ran.into_iter().map(AtomicUsize::into_inner).collect();
            assert_eq!(ran[..count], vec![1; count], "round {round}");
        }
    }

    #[test]
    fn sleep_at_a_barrier_is_counted() {
        let mut team = Team::new(2).unwrap();
        team.run(&|worker| {
            if worker.index == 1 {
                thread::sleep(Duration::from_millis(60));
            }
            worker.barrier();
        });
        let slept = Duration::from_nanos(team.shared.slept.load(Ordering::Relaxed));
        assert!(slept > Duration::from_millis(10) && slept < Duration::from_secs(60), "{slept:?}");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives_it() {
        for culprit in [0, 1] {
            let mut team = Team::new(2).unwrap();
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                team.run(&|worker| {
                    assert_ne!(worker.index, culprit, "planted");
                    worker.barrier();
                });
            }));
            assert!(outcome.is_err());
            let ran = AtomicUsize::new(0);
            team.run(&|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 2);
        }
    }
}
