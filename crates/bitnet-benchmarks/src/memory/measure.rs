//! Measurements of time.

use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use super::Candidate;
use super::candidates::Block;

type Candidates = [(&'static str, Box<dyn Candidate>)];
type Medians = Vec<(&'static str, f64)>;

/// How thoroughly is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As the figures that are published.
    Measure,
    /// Once, with few blocks and small ones, to see that it runs.
    Test,
}

impl Effort {
    /// Returns the rounds of which the median counts.
    fn rounds(self, measure: usize) -> usize {
        if self == Effort::Test { 1 } else { measure }
    }

    /// Returns how many blocks are measured.
    fn count(self, measure: usize) -> usize {
        if self == Effort::Test { measure / 64 } else { measure }
    }

    /// Returns the logarithm of the size up to which large blocks go.
    fn large(self) -> u64 {
        if self == Effort::Test { 22 } else { 31 }
    }
}

/// Rounds of which the median counts.
const ROUNDS: usize = 21;

/// A seeded source of numbers.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Returns sizes spread evenly over the octaves from `2^from` to `2^to`.
pub(super) fn mix(count: usize, from: u64, to: u64) -> Vec<usize> {
    let mut random = Random(7);
    let octaves = to - from;
    let size = |random: &mut Random| {
        let octave = from + random.next(octaves);
        ((1u64 << octave) + random.next(1 << octave.min(30))) as usize
    };
    (0..count).map(|_| size(&mut random)).collect()
}

/// Measures each candidate in turn, round by round; `run` returns nanoseconds.
fn medians(candidates: &Candidates, rounds: usize, mut run: impl FnMut(&dyn Candidate) -> f64) -> Medians {
    let mut samples = vec![Vec::new(); candidates.len()];
    for round in 0..=rounds {
        for ((_, candidate), samples) in candidates.iter().zip(&mut samples) {
            let sample = run(&**candidate);
            // The first round warms up.
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let median = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    };
    candidates.iter().zip(samples).map(|((name, _), samples)| (*name, median(samples))).collect()
}

fn per(count: usize, run: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_nanos() as f64 / count as f64
}

/// Each block is freed before the next is allocated.
pub(super) fn small_pairs(candidates: &Candidates, effort: Effort) -> Medians {
    let (sizes, count) = (mix(4096, 6, 19), effort.count(409_600));
    medians(candidates, effort.rounds(ROUNDS), |candidate| per(count, || candidate.pairs(&sizes, count)))
}

/// 64 blocks are allocated, then freed in another order.
pub(super) fn small_batches(candidates: &Candidates, effort: Effort) -> Medians {
    let sizes = mix(effort.count(4096), 6, 19);
    medians(candidates, effort.rounds(ROUNDS), |candidate| {
        per(sizes.len(), || {
            for sizes in sizes.chunks(64) {
                let mut blocks: Vec<_> = sizes.iter().map(|&size| Some(candidate.allocate(size))).collect();
                for index in 0..64 {
                    // 37 has no divisor in common with 64, so every block has its turn.
                    if let Some(block) = blocks[index * 37 % 64].take() {
                        candidate.free(block);
                    }
                }
            }
        })
    })
}

/// Pairs in two threads at once.
pub(super) fn two_threads(candidates: &Candidates, effort: Effort) -> Medians {
    let sizes = mix(4096, 6, 19);
    let count = effort.count(40_960);
    medians(candidates, effort.rounds(ROUNDS), |candidate| {
        let barrier = Barrier::new(2);
        let run = || {
            // What a thread keeps is there before the clock starts.
            candidate.pairs(&sizes, sizes.len());
            barrier.wait();
            per(count, || candidate.pairs(&sizes, count))
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(run);
            let own = run();
            other.join().map_or(own, |other| own.max(other))
        })
    })
}

/// One thread allocates, another frees.
pub(super) fn cross_thread(candidates: &Candidates, effort: Effort) -> Medians {
    let sizes = mix(4096, 6, 14);
    let batches = effort.count(300);
    medians(candidates, effort.rounds(ROUNDS), |candidate| {
        let (send, receive) = sync_channel::<Vec<Block>>(4);
        let (give_back, empty) = sync_channel::<Vec<Block>>(8);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for mut blocks in receive {
                    blocks.drain(..).for_each(|block| candidate.free(block));
                    if give_back.send(blocks).is_err() {
                        return;
                    }
                }
            });
            per(batches * 128, || {
                for batch in 0..batches {
                    let mut blocks =
                        if batch < 8 { Vec::with_capacity(128) } else { empty.recv().unwrap_or_default() };
                    let sizes = &sizes[batch * 128 % sizes.len()..][..128];
                    blocks.extend(sizes.iter().map(|&size| candidate.allocate(size)));
                    if send.send(blocks).is_err() {
                        return;
                    }
                }
                drop(send);
                // The end of the other thread is part of the time.
                while empty.recv().is_ok() {}
            })
        })
    })
}

/// Large blocks, each freed before the next is allocated.
pub(super) fn large_pairs(candidates: &Candidates, effort: Effort) -> Medians {
    let (sizes, count) = (mix(256, 20, effort.large()), effort.count(10_240));
    medians(candidates, effort.rounds(ROUNDS), |candidate| per(count, || candidate.pairs(&sizes, count)))
}

/// A buffer as large as those of an engine, allocated, filled and freed again and again.
pub(super) fn fill(candidates: &Candidates, effort: Effort) -> Medians {
    medians(candidates, effort.rounds(7), |candidate| {
        per(1, || {
            let block = candidate.allocate(effort.count(64 << 20));
            candidate.fill(&block, 1);
            candidate.free(block);
        })
    })
}
