//! The thread that decides when a pool cleans up.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bitnet_backend::{BitNetError, Result};

use super::{CleanupConfig, CleanupStrategy};
use crate::memory::pressure::MemoryPressureLevel;
use crate::memory::shared::Shared;

/// Longest time between two looks at the pressure.
const LOOK: Duration = Duration::from_millis(500);

/// The running thread. Dropping it stops the thread and waits for it.
pub(super) struct Scheduler {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // The pool's last owner may be the thread itself, for the moment of a run.
        if thread.thread().id() != thread::current().id() {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "the cleanup thread panicked");
        }
    }
}

/// Starts the thread of a pool.
///
/// # Errors
/// A thread that the system refuses.
pub(in crate::memory) fn start(pool: &Arc<Shared>, config: &CleanupConfig) -> Result<()> {
    let stop = Arc::new((Mutex::new(false), Condvar::new()));
    let (weak, config, signal) = (Arc::downgrade(pool), config.clone(), Arc::clone(&stop));
    let thread = thread::Builder::new()
        .name("bitnet-memory-cleanup".into())
        .spawn(move || run(&weak, &config, &signal))
        .map_err(|error| BitNetError::mismatch("the cleanup thread", "a thread", error))?;
    let scheduler = Scheduler { stop, thread: Some(thread) };
    *pool.cleaner.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheduler);
    Ok(())
}

fn run(pool: &Weak<Shared>, config: &CleanupConfig, stop: &(Mutex<bool>, Condvar)) {
    let tick = LOOK.min(config.idle_cleanup_interval / 2).max(Duration::from_millis(1));
    let mut state = Watch::new();
    loop {
        let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = stop.1.wait_timeout_while(stopped, tick, |stopped| !*stopped);
        if *wait.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        let (used, level) = pool.look_at_memory();
        let short = used >= config.pressure_cleanup_threshold || level >= MemoryPressureLevel::High;
        let operations = pool.metrics().allocation_count;
        if let Some(strategy) = state.next(operations, short, config, pool.cleaner.settings().every) {
            pool.clean(strategy, None, config.enable_compaction, config.max_cleanup_time);
        }
    }
}

/// What the thread remembers between looks.
struct Watch {
    operations: u64,
    active: Instant,
    idle_done: bool,
    cleaned: Instant,
    periodic: u32,
    short: bool,
}

impl Watch {
    fn new() -> Self {
        let now = Instant::now();
        Watch { operations: 0, active: now, idle_done: true, cleaned: now, periodic: 0, short: false }
    }

    /// Decides what is due.
    fn next(
        &mut self,
        operations: u64,
        short: bool,
        config: &CleanupConfig,
        every: u32,
    ) -> Option<CleanupStrategy> {
        let now = Instant::now();
        if self.operations != operations {
            (self.operations, self.active, self.idle_done) = (operations, now, false);
        }
        let due = now.duration_since(self.cleaned) >= config.idle_cleanup_interval;
        // Pressure that stays is answered once an interval.
        let newly_short = short && !self.short;
        self.short = short;
        let strategy = if newly_short || short && due {
            CleanupStrategy::Pressure
        } else if !self.idle_done && now.duration_since(self.active) >= config.idle_cleanup_interval {
            self.idle_done = true;
            CleanupStrategy::Idle
        } else if due && !self.idle_done {
            self.periodic += 1;
            match self.periodic.is_multiple_of(every.max(1)) {
                true => CleanupStrategy::Generational,
                false => CleanupStrategy::Periodic,
            }
        } else {
            return None;
        };
        self.cleaned = now;
        Some(strategy)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_activity_and_pressure() {
        let interval = Duration::from_millis(20);
        let config = CleanupConfig { idle_cleanup_interval: interval, ..Default::default() };
        let mut watch = Watch::new();
        assert_eq!(watch.next(0, false, &config, 2), None);
        assert_eq!(watch.next(1, true, &config, 2), Some(CleanupStrategy::Pressure));
        assert_eq!(watch.next(2, true, &config, 2), None);
        thread::sleep(interval);
        assert_eq!(watch.next(3, true, &config, 2), Some(CleanupStrategy::Pressure));
        thread::sleep(interval);
        assert_eq!(watch.next(4, false, &config, 2), Some(CleanupStrategy::Periodic));
        thread::sleep(interval);
        assert_eq!(watch.next(5, false, &config, 2), Some(CleanupStrategy::Generational));
        thread::sleep(interval);
        assert_eq!(watch.next(5, false, &config, 2), Some(CleanupStrategy::Idle));
        thread::sleep(interval);
        assert_eq!(watch.next(5, false, &config, 2), None);
    }
}
