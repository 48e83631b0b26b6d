//! The machine's limits, measured between the rounds of a benchmark.

use std::thread;
use std::time::Instant;

use bitnet_kernels::probe;

/// Reads memory with a number of threads, as fast as it goes.
#[derive(Debug)]
pub struct ReadProbe {
    buffer: Vec<u8>,
    threads: usize,
}

impl ReadProbe {
    /// Takes a buffer of `bytes`, written once; ordinary pages, as weights in memory have.
    pub fn new(bytes: usize, threads: usize) -> Self {
        // Not one repeated byte: some systems merge equal pages.
        let buffer = (0..bytes.max(1)).map(|index| (index % 251) as u8).collect();
        ReadProbe { buffer, threads: threads.max(1) }
    }

    /// Returns the bytes a second of one round: the better of plain and prefetched reads.
    pub fn round(&self) -> f64 {
        let plain = self.pass(probe::read_plain);
        if probe::has_prefetch() { plain.max(self.pass(probe::read_prefetched)) } else { plain }
    }

    fn pass(&self, read: fn(&[u8]) -> u64) -> f64 {
        let started = Instant::now();
        thread::scope(|scope| {
            for part in self.buffer.chunks(self.buffer.len().div_ceil(self.threads)) {
                scope.spawn(move || std::hint::black_box(read(part)));
            }
        });
        self.buffer.len() as f64 / started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Returns the operations a second of one round of the multiply-and-add probe, on one thread: the practical
/// ceiling of int8 products on AVX2. `None` where there is no such probe.
pub fn compute_round() -> Option<f64> {
    const ITERATIONS: usize = 400_000;
    let started = Instant::now();
    let operations = probe::multiply_add(ITERATIONS)?;
    Some(operations as f64 / started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE))
}
