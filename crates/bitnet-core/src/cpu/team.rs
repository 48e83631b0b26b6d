//! The worker threads of the CPU backend.
//!
//! A [`Team`] is entered once per forward pass. Inside, every worker walks the same list of stages and
//! meets the others at a [`Barrier`](Worker::barrier) where data passes between them; a pass has hundreds
//! of those, so waiting spins, but never for long: beside other busy processes the missing worker may be waiting
//! for the very core that a spinning one holds. A [`Governor`] leaves workers out while they keep each other waiting.
//! Between passes the workers park.

#![allow(unsafe_code)]

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::governor::{Governor, Took};

/// Rounds of spinning before a waiting worker sleeps: long enough for the skew between workers, short beside
/// the time for which the system takes a core away.
const SPINS: usize = 4_000;
/// Rounds of spinning before a wait is timed.
const SPINS_UNTIMED: usize = 64;
/// Rounds of spinning after a pass before a worker parks; decoding starts the next pass soon.
const SPINS_BEFORE_PARK: usize = 20_000;

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
                std::hint::spin_loop();
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
        // Announced before `done` is asked again: who makes it true either sees the sleeper, or is seen.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !done() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        drop(guard);
        self.slept.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Wakes sleepers, after what they wait for became true by a sequentially consistent write.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.asleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Tells everyone that a worker panicked.
    fn fail(&self) {
        self.panicked.store(true, Ordering::SeqCst);
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
            shared.phase.store(phase.wrapping_add(1), Ordering::SeqCst);
            shared.wake();
            return;
        }
        let opened = || shared.phase.load(Ordering::SeqCst) != phase;
        shared.wait(|| opened() || shared.panicked.load(Ordering::SeqCst));
        assert!(opened(), "another worker of the pass panicked");
    }

    /// Returns the size of the pieces in which `0..total` is handed out, `None` for one piece each: see
    /// [`Turn::pieces`].
    fn piece(&self, total: usize, cost: usize, unit: usize) -> Option<usize> {
        let (count, cost) = (self.count(), cost.max(1));
        let size = total.div_ceil(count * PIECES).min(MOST / cost).max(1).next_multiple_of(unit);
        let alone = count == 1 || size.saturating_mul(cost) < LEAST || size * count >= total;
        (!alone).then_some(size)
    }

    /// Returns the first of the pieces that [`Turn::pieces`] hands to this worker.
    pub fn first(&self, total: usize, cost: usize, unit: usize) -> Range<usize> {
        match self.piece(total, cost, unit) {
            None => self.share(total, 1),
            Some(size) => self.index * size..(self.index + 1) * size,
        }
    }

    /// Returns this worker's share of `0..total`: contiguous, in units of `unit`.
    pub fn share(&self, total: usize, unit: usize) -> Range<usize> {
        let units = total.div_ceil(unit);
        let at = |index: usize| (units * index / self.count() * unit).min(total);
        at(self.index)..at(self.index + 1)
    }
}

/// Pieces that each worker gets of a stage, on average: enough that one which is late or slow leaves its part to
/// the others.
const PIECES: usize = 8;
/// Bytes read for a piece, at least: below this an even cut is better than a piece more or less.
const LEAST: usize = 48 << 10;
/// Bytes read for a piece, at most: what the last one to finish may keep the others waiting for.
const MOST: usize = 16 << 20;

/// A worker at one stage, with the count of pieces that the workers have taken of it.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// The worker.
    pub worker: Worker<'a>,
    taken: &'a AtomicUsize,
}

impl<'a> Turn<'a> {
    /// Comes to a stage, whose count `taken` was zero before any worker came.
    pub fn new(worker: Worker<'a>, taken: &'a AtomicUsize) -> Self {
        Turn { worker, taken }
    }

    /// Takes the next piece of the stage, by number.
    pub fn next(self) -> usize {
        // The barriers around the stage order what is computed.
        self.taken.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands out `0..total`, for each of which about `cost` bytes are read, in contiguous pieces: to each worker its
    /// [first](Worker::first), then each to the worker that comes first; a stage too small for that, or without other
    /// workers, in one piece each. Pieces are whole multiples of `unit`, but for the last. Called once a stage.
    pub fn pieces(self, total: usize, cost: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
        let worker = self.worker;
        let size = worker.piece(total, cost, unit);
        let mut first = Some(worker.first(total, cost, unit)).filter(|first| !first.is_empty());
        std::iter::from_fn(move || {
            let size = match first.take() {
                Some(first) => return Some(first),
                None => size?,
            };
            let start = (worker.count() + self.next()) * size;
            (start < total).then(|| start..total.min(start + size))
        })
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
    #[cfg(test)]
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
    fn run_on(&mut self, count: usize, pass: &(dyn Fn(Worker<'_>) + Sync)) {
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
        shared.wait(|| shared.running.load(Ordering::SeqCst) == 0);
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
                std::hint::spin_loop();
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
        shared.running.fetch_sub(1, Ordering::SeqCst);
        shared.wake();
    }
}

#[cfg(test)]
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
    fn shares_cover_the_range_once() {
        let mut team = Team::new(3).unwrap();
        for (total, unit) in [(0, 1), (1, 1), (10, 1), (10, 4), (64, 8), (7, 16)] {
            let hits: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
            team.run(&|worker| {
                worker.share(total, unit).for_each(|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "{total} by {unit}");
        }
    }

    #[test]
    fn pieces_cover_the_range_once() {
        let mut team = Team::new(3).unwrap();
        let stages = [
            (0, 1, 1),
            (1, 1, 1),
            (10, LEAST, 1),
            (10, 1, 4),
            (640, LEAST, 16),
            (641, 2560, 1),
            (1000, MOST, 7),
        ];
        for (total, cost, unit) in stages {
            let hits: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
            let taken = AtomicUsize::new(0);
            team.run(&|worker| {
                Turn::new(worker, &taken).pieces(total, cost, unit).flatten().for_each(|i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "{total} by {cost}");
        }
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
