//! The machine's limits, measured between the rounds of a benchmark.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use bitnet_kernels::probe::{self, ComputeProbe};

/// Bytes that a round of reading goes over at least: small weights are read several times.
const LEAST_READ: usize = 128 << 20;
/// Seconds of a round of the compute probe, those of a round of products: where others use the machine too, a
/// shorter one would slip through between two of their turns.
const COMPUTE_SECONDS: f64 = 0.02;
/// Iterations between two looks at the clock.
const ITERATIONS: u32 = 1 << 16;

/// Returns the bytes a second at which `threads` threads together read `parts`: the better of plain and
/// prefetched reads.
///
/// The parts are the weights that were just worked on, so that the pages are the same: mapped, copied, small or
/// huge, near or far. Each thread reads its share of every part, as in a pass over the model. Weights that fit
/// the caches are read from there, as they were in the benchmark. NaN of nothing.
pub fn read_round(parts: &[&[u8]], threads: usize) -> f64 {
    let plain = read_pass(parts, threads, probe::read_plain);
    if probe::has_prefetch() { plain.max(read_pass(parts, threads, probe::read_prefetched)) } else { plain }
}

fn read_pass(parts: &[&[u8]], threads: usize, read: fn(&[u8]) -> u64) -> f64 {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if bytes == 0 {
        return f64::NAN;
    }
    let repeats = LEAST_READ.div_ceil(bytes);
    let seconds = together(threads, |thread, threads| {
        for _ in 0..repeats {
            for part in parts {
                let cut = |thread: usize| part.len() / threads * thread + (part.len() % threads).min(thread);
                black_box(read(&part[cut(thread)..cut(thread + 1)]));
            }
        }
    });
    (bytes * repeats) as f64 / seconds
}

/// Returns the operations a second of `threads` threads together that only multiply and add in registers.
///
/// # Panics
/// When this machine lacks the instructions; [`ComputeProbe::for_isa`] has ruled it out.
pub fn compute_round(probe: ComputeProbe, threads: usize) -> f64 {
    let Some(one) = probe.run(ITERATIONS) else { panic!("{}: not on this machine", probe.name()) };
    let runs = AtomicU64::new(0);
    let seconds = together(threads, |_, _| {
        let started = Instant::now();
        while started.elapsed().as_secs_f64() < COMPUTE_SECONDS {
            black_box(probe.run(black_box(ITERATIONS)));
            runs.fetch_add(1, Ordering::Relaxed);
        }
    });
    (one.operations * runs.into_inner()) as f64 / seconds
}

/// Runs `work(thread, threads)` on as many threads at once, and returns the seconds from the start of the first
/// to the end of the last.
fn together(threads: usize, work: impl Fn(usize, usize) + Sync) -> f64 {
    let threads = threads.max(1);
    let (ready, work) = (&Barrier::new(threads), &work);
    let timed = move |thread| {
        ready.wait();
        let started = Instant::now();
        work(thread, threads);
        (started, Instant::now())
    };
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|thread| scope.spawn(move || timed(thread))).collect();
        let own = timed(0);
        let others = others.into_iter().filter_map(|worker| worker.join().ok());
        others.chain([own]).collect()
    });
    let (first, last) = (times.iter().map(|time| time.0).min(), times.iter().map(|time| time.1).max());
    let span = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    span.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_byte_of_every_part_is_read_by_one_thread() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
        // Longer than a round has to be: it is then read once.
        let long = vec![1u8; LEAST_READ];
        for threads in [1, 2, 3, 7] {
            static READ: Mutex<usize> = Mutex::new(0);
            *READ.lock().unwrap() = 0;
            let count = |part: &[u8]| {
                *READ.lock().unwrap() += part.len();
                0
            };
            assert!(read_pass(&[&bytes, &bytes[..5], &[], &long], threads, count) > 0.0);
            assert_eq!(*READ.lock().unwrap(), LEAST_READ + 1005, "{threads} threads");
        }
        assert!(read_round(&[], 1).is_nan());
    }

    #[test]
    fn threads_run_at_the_same_time() {
        // Ends only if all three are running.
        let all = Barrier::new(3);
        let seconds = together(3, |thread, threads| {
            assert!(thread < threads);
            all.wait();
        });
        assert!(seconds > 0.0 && seconds < 60.0);
    }

    #[test]
    fn a_probe_of_the_best_tier_runs() {
        let best = bitnet_kernels::Isa::available().next_back().unwrap();
        if let Some(probe) = ComputeProbe::for_isa(best) {
            // No core does less than a billion or more than a hundred thousand billions.
            let rate = compute_round(probe, 1);
            assert!((1e9..1e14).contains(&rate), "{probe:?}: {rate}");
            assert!(compute_round(probe, 3) > 0.0);
        }
    }
}
