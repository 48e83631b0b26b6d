//! The machine's limits, measured between the rounds of a benchmark.

use std::hint::black_box;
use std::time::Instant;

use bitnet_core::device::{read_pass, together};
use bitnet_kernels::probe::{ComputeProbe, ReadMethod};

/// Bytes that a round of reading goes over at least: small weights are read several times.
const LEAST_READ: usize = 128 << 20;
/// Seconds of a round of the compute probe, those of a round of products: where others use the machine too, a
/// shorter one would slip through between two of their turns.
const COMPUTE_SECONDS: f64 = 0.02;
/// Iterations between two looks at the clock.
const ITERATIONS: u32 = 1 << 16;

/// Returns the bytes a second at which `threads` threads together read `parts`, by the best [`ReadMethod`].
///
/// The parts are the bytes that were just worked on, as the backend lends them, so that the pages are the same:
/// mapped, copied, small or huge, near or far. Each thread begins with its own share of them. Weights that fit the
/// caches are read from there, as they were in the benchmark. NaN of nothing.
pub fn read_round(parts: &[&[u8]], threads: usize) -> f64 {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if bytes == 0 {
        return f64::NAN;
    }
    let repeats = LEAST_READ.div_ceil(bytes);
    let rates =
        ReadMethod::available().iter().map(|&method| read_pass(method, parts, repeats, threads).rate());
    rates.fold(f64::NAN, f64::max)
}

/// Returns the operations a second of `threads` threads together that only multiply and add in registers.
///
/// # Panics
/// When this machine lacks the instructions; [`ComputeProbe::for_isa`] has ruled it out.
pub fn compute_round(probe: ComputeProbe, threads: usize) -> f64 {
    let Some(one) = probe.run(ITERATIONS) else { panic!("{}: not on this machine", probe.name()) };
    let pass = together(0..threads.max(1), |_| {
        let (started, mut runs) = (Instant::now(), 0);
        while started.elapsed().as_secs_f64() < COMPUTE_SECONDS {
            black_box(probe.run(black_box(ITERATIONS)));
            runs += 1;
        }
        runs
    });
    one.operations as f64 * pass.rate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_weights_are_read_at_the_speed_of_a_cache_and_none_at_none() {
        let small = vec![1u8; 100_000];
        for threads in [1, 3] {
            // From a tenth of an old memory channel to far more than any first-level cache.
            let rate = read_round(&[&small, &[]], threads);
            assert!((1e8..1e14).contains(&rate), "{rate}");
        }
        assert!(read_round(&[], 1).is_nan() && read_round(&[&[]], 1).is_nan());
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
