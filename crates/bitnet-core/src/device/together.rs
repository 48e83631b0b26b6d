//! Work on several threads at the same time, timed from the first start to the last end.
//!
//! For measurements of the machine: threads are new each time and outside of any pool. A thread that the system refuses
//! is done without.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What threads did at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Threads that worked: those asked for, or fewer when the system refused some.
    pub workers: usize,
    /// What the work returned, added up.
    pub done: usize,
    /// From the start of the first thread to the end of the last.
    pub span: Duration,
}

impl Pass {
    /// Returns what was done in a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.span.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Runs `work` on every part at the same time, the first on this thread; the part of a refused thread is left out.
pub fn together<P: Send>(parts: impl Iterator<Item = P>, work: impl Fn(P) -> usize + Sync) -> Pass {
    let (ready, go) = (AtomicUsize::new(0), AtomicBool::new(false));
    let timed = |part| {
        let start = Instant::now();
        let done = work(part);
        (start, Instant::now(), done)
    };
    let mut parts = parts;
    let Some(own) = parts.next() else {
        return Pass { workers: 0, done: 0, span: Duration::ZERO };
    };
    let times = thread::scope(|scope| {
        let mut workers = Vec::new();
        for part in parts {
            let worker = || {
                ready.fetch_add(1, Ordering::AcqRel);
                while !go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                timed(part)
            };
            match thread::Builder::new().spawn_scoped(scope, worker) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        while ready.load(Ordering::Acquire) < workers.len() {
            thread::yield_now();
        }
        go.store(true, Ordering::Release);
        let own = timed(own);
        let others = workers.into_iter().filter_map(|worker| worker.join().ok());
        others.chain([own]).collect::<Vec<_>>()
    });
    let start = times.iter().map(|time| time.0).min();
    let end = times.iter().map(|time| time.1).max();
    let span = start.zip(end).map_or(Duration::ZERO, |(start, end)| end.duration_since(start));
    Pass { workers: times.len(), done: times.iter().map(|time| time.2).sum(), span }
}

/// Does `work` for each of `items` items, `repeats` times over, a thread with each of `states`.
///
/// A thread does its own share first, the same items each time, and then what the others, or threads that the system
/// refused, have left: nobody waits for one that lost its core for longer than an item takes.
pub fn share_out<S: Send>(
    states: &mut [S],
    items: usize,
    repeats: usize,
    work: impl Fn(&mut S, usize) -> usize + Sync,
) -> Pass {
    let threads = states.len();
    let start = |thread: usize| items / threads * thread + thread.min(items % threads);
    let taken: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
    together(states.iter_mut().enumerate(), |(own, state)| {
        let mut done = 0;
        for thread in (own..threads).chain(0..own) {
            let share = start(thread)..start(thread + 1);
            loop {
                let count = taken[thread].fetch_add(1, Ordering::Relaxed);
                if count >= repeats * share.len() {
                    break;
                }
                done += work(state, share.start + count % share.len());
            }
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_worked_on_together_and_once() {
        let mut parts = vec![0usize; 5];
        let arrived = AtomicUsize::new(0);
        let pass = together(parts.iter_mut(), |part| {
            *part += 1;
            arrived.fetch_add(1, Ordering::SeqCst);
            // Ends only if all five are running.
            while arrived.load(Ordering::SeqCst) < 5 {
                thread::yield_now();
            }
            10
        });
        assert_eq!((pass.workers, pass.done, parts), (5, 50, vec![1; 5]));
        assert!(pass.rate() > 0.0);
    }

    #[test]
    fn every_item_is_done_as_often_as_asked() {
        for (threads, items, repeats) in [(1, 5, 2), (3, 7, 4), (4, 2, 3), (2, 0, 5), (3, 9, 0)] {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            let mut done = vec![0; threads];
            let pass = share_out(&mut done, items, repeats, |done, item| {
                counts[item].fetch_add(1, Ordering::Relaxed);
                *done += 1;
                2
            });
            assert_eq!((pass.workers, pass.done), (threads, 2 * items * repeats));
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == repeats));
            assert_eq!(done.iter().sum::<usize>(), items * repeats);
        }
        assert_eq!(share_out::<()>(&mut [], 3, 1, |(), _| 1).done, 0);
    }

    #[test]
    fn a_thread_that_is_held_up_leaves_its_items_to_others() {
        let others = AtomicUsize::new(0);
        let mut states = [0, 1];
        share_out(&mut states, 100, 1, |state, _| {
            if *state == 0 {
                // Ends only if the other does all the rest.
                while others.load(Ordering::SeqCst) < 99 {
                    thread::yield_now();
                }
            } else {
                others.fetch_add(1, Ordering::SeqCst);
            }
            1
        });
        assert_eq!(others.into_inner(), 99);
    }
}
