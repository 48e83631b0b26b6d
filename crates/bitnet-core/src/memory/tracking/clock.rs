//! The clock of a tracker: what an event costs to date, and what its date means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bitnet_kernels::ticks::TickCounter;

/// Time between two steps of the coarse clock.
pub(super) const TICK: Duration = Duration::from_millis(2);
/// Time after which the rate of ticks is known well enough for good.
const SETTLED: Duration = Duration::from_millis(200);

/// Counts time since it was made, in a unit of its own.
pub(super) struct Clock {
    start: Instant,
    source: Source,
    /// Nanoseconds a tick.
    rate: OnceLock<f64>,
}

enum Source {
    /// Nanoseconds, moved on by a thread.
    Coarse(Arc<AtomicU64>),
    /// The processor's count, from the one at the start.
    Ticks(TickCounter, u64),
    /// Nanoseconds, by the system.
    System,
}

impl Clock {
    /// Makes a clock that is read for every event, or where not `precise` moves on every two milliseconds.
    pub(super) fn new(precise: bool) -> Self {
        let start = Instant::now();
        let coarse = if precise { None } else { tick(start).map(Source::Coarse) };
        let ticks = || TickCounter::new().map(|counter| Source::Ticks(counter, counter.read()));
        let source = coarse.or_else(ticks).unwrap_or(Source::System);
        Clock { start, source, rate: OnceLock::new() }
    }

    /// Returns the time, in the clock's unit.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        match &self.source {
            Source::Coarse(clock) => clock.load(Ordering::Relaxed),
            Source::Ticks(counter, start) => counter.read().saturating_sub(*start),
            Source::System => self.start.elapsed().as_nanos() as u64,
        }
    }

    /// Returns the time, and has whatever comes after have a later one.
    pub(super) fn pass(&self) -> u64 {
        match &self.source {
            Source::Coarse(clock) => clock.fetch_add(1, Ordering::Relaxed),
            Source::Ticks(..) | Source::System => self.now(),
        }
    }

    /// Returns what makes nanoseconds of times, the same for all times that are to be compared.
    pub(super) fn scale(&self) -> impl Fn(u64) -> u64 + Copy + use<> {
        let rate = match &self.source {
            Source::Ticks(..) => self.rate.get().copied().unwrap_or_else(|| self.measure()),
            _ => 1.0,
        };
        move |time| if rate == 1.0 { time } else { (time as f64 * rate) as u64 }
    }

    fn measure(&self) -> f64 {
        let (elapsed, ticks) = (self.start.elapsed(), self.now());
        let rate = elapsed.as_nanos() as f64 / ticks.max(1) as f64;
        if elapsed >= SETTLED { *self.rate.get_or_init(|| rate) } else { rate }
    }
}

/// Starts a thread that moves a clock on until the clock is dropped; `None` where no thread can start.
fn tick(start: Instant) -> Option<Arc<AtomicU64>> {
    let clock = Arc::new(AtomicU64::new(0));
    let weak = Arc::downgrade(&clock);
    let thread = std::thread::Builder::new().name("bitnet-memory-clock".into());
    let run = move || {
        while let Some(clock) = weak.upgrade() {
            clock.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            drop(clock);
            std::thread::sleep(TICK);
        }
    };
    thread.spawn(run).is_ok().then_some(clock)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn precise_times_are_those_of_the_system() {
        let clock = Clock::new(true);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(20));
            let (scale, before) = (clock.scale(), clock.start.elapsed());
            let found = Duration::from_nanos(scale(clock.now()));
            let after = clock.start.elapsed();
            let slack = Duration::from_millis(1);
            assert!(found + slack >= before && found <= after + slack, "{before:?} {found:?} {after:?}");
        }
    }
}
