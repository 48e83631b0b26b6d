//! How the work of a stage is handed out to the workers of a pass.
//!
//! Even shares cost nothing and suit small stages. Of larger ones each worker has a first piece, which it can ask the
//! memory for before it comes to the stage; the rest goes, a piece at a time, to whoever is free, so that a slower
//! core does less.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::team::Worker;

/// Pieces that each worker gets of a stage, on average: enough that one which is late or slow leaves its part to
/// the others.
const PIECES: usize = 8;
/// Bytes read for a piece, at least: below this an even cut is better than a piece more or less.
const LEAST: usize = 48 << 10;
/// Bytes read for a piece, at most: what the last one to finish may keep the others waiting for.
const MOST: usize = 16 << 20;

impl Worker<'_> {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::team::Team;
    use super::*;

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
}
