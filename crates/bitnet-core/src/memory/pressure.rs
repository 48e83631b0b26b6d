//! Memory pressure: how much is left for this process, and who wants to know.
//!
//! Three things count, and the worst decides: the share of the memory in use of the machine or, where tighter,
//! of the control group or of the addresses that the process may have; the share of the pool's own limits; and how
//! long tasks stall for memory (PSI). Stalls are of the whole machine, and come with plenty to spare when another program
//! is short of its own limit: they are critical only where memory is in use too. A level rises at once and falls only
//! when the figure is clearly below its threshold.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::device::{cgroup, memory};

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MemoryPressureLevel {
    /// Plenty is left.
    #[default]
    None,
    /// Some is in use.
    Low,
    /// Caches had better not grow.
    Medium,
    /// The configured threshold is passed: caches are to be dropped.
    High,
    /// Almost nothing is left.
    Critical,
}

use MemoryPressureLevel::{Critical, High, Low, Medium, None as Calm};

const LEVELS: [MemoryPressureLevel; 5] = [Calm, Low, Medium, High, Critical];

/// Called with the new level when it changes.
pub type PressureCallback = Box<dyn Fn(MemoryPressureLevel) + Send + Sync>;

/// What the system says about memory.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct PressureReading {
    /// Bytes that this process may use: of the machine or, where tighter, of its control group or its address space.
    pub limit: Option<u64>,
    /// Bytes that are left of it.
    pub available: Option<u64>,
    /// Share of the last ten seconds in which some task stalled for memory, 0 to 1.
    pub some_stall: Option<f64>,
    /// Share of the last ten seconds in which all tasks stalled for memory, 0 to 1.
    pub full_stall: Option<f64>,
}

impl PressureReading {
    /// Reads the files of Linux below `root`. Elsewhere the machine's memory is known (macOS, Windows and other
    /// systems that `sysinfo` knows) and stalls are not.
    pub fn read(root: &Path) -> Self {
        let (total, free) = memory::of_machine(root);
        let group = cgroup::memory_limit(root, total).map(|groups| groups.fullest);
        let bounds = [total.zip(free), group, memory::address_space(root)];
        let share = cgroup::share_left;
        // The tightest is the one with the smallest share left.
        let tightest = bounds.into_iter().flatten().min_by(|a, b| share(a).total_cmp(&share(b)));
        let (limit, available) = tightest.map_or((total, free), |(limit, left)| (Some(limit), Some(left)));
        let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let unified = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let group_file = unified.map(|path| root.join("sys/fs/cgroup").join(path).join("memory.pressure"));
        let stall = |kind: &str| {
            let files = [Some(root.join("proc/pressure/memory")), group_file.clone()];
            files
                .into_iter()
                .flatten()
                .filter_map(|file| average(&fs::read_to_string(file).ok()?, kind))
                .reduce(f64::max)
        };
        PressureReading { limit, available, some_stall: stall("some"), full_stall: stall("full") }
    }

    /// Returns the share of the memory in use.
    pub fn used(&self) -> Option<f64> {
        let (limit, available) = self.limit.zip(self.available)?;
        if limit == 0 { None } else { Some(1.0 - available.min(limit) as f64 / limit as f64) }
    }
}

/// Reads the ten-second average of a line of a pressure file as a share.
fn average(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    let percent = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse::<f64>().ok()?;
    Some(percent / 100.0)
}

#[derive(Debug, Clone)]
pub(super) struct PressureSettings {
    pub(super) root: PathBuf,
    /// Share in use from which the pressure is high.
    pub(super) threshold: f64,
    pub(super) enabled: bool,
}

impl Default for PressureSettings {
    fn default() -> Self {
        PressureSettings { root: PathBuf::from("/"), threshold: 0.8, enabled: false }
    }
}

/// Watches the pressure for one pool.
pub(super) struct PressureMonitor {
    settings: PressureSettings,
    level: AtomicU8,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Arc<Subscriber>>,
    checked: Option<Instant>,
    /// Somebody calls subscribers, and looks again when they have returned.
    telling: bool,
}

struct Subscriber {
    callback: PressureCallback,
    /// The level that it knows.
    told: AtomicU8,
}

/// Ends the calls of subscribers, however they end.
struct Telling<'a>(&'a PressureMonitor);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.lock().telling = false;
    }
}

impl PressureMonitor {
    pub(super) fn new(settings: PressureSettings) -> Self {
        PressureMonitor { settings, level: AtomicU8::new(0), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn level(&self) -> MemoryPressureLevel {
        LEVELS[self.level.load(Ordering::Relaxed) as usize]
    }

    /// Adds a callback, and calls it when there is pressure already.
    pub(super) fn register(&self, callback: PressureCallback) {
        self.lock().subscribers.push(Arc::new(Subscriber { callback, told: AtomicU8::new(Calm as u8) }));
        self.tell();
    }

    /// Calls the subscribers that know another level, until there are none: one caller at a time, so that each hears of
    /// levels in their order and of the latest one last.
    fn tell(&self) {
        loop {
            let mut state = self.lock();
            let level = self.level();
            let due = |subscriber: &&Arc<Subscriber>| subscriber.told.load(Ordering::Relaxed) != level as u8;
            let due: Vec<_> = state.subscribers.iter().filter(due).cloned().collect();
            if state.telling || due.is_empty() {
                return;
            }
            state.telling = true;
            due.iter().for_each(|subscriber| subscriber.told.store(level as u8, Ordering::Relaxed));
            // Called without the lock: a callback may ask the pool anything.
            drop(state);
            let _telling = Telling(self);
            due.iter().for_each(|subscriber| (subscriber.callback)(level));
        }
    }

    /// Looks at the memory, `pool` being the share in use of the pool's own limits; returns the level. Unless
    /// the last look is `age` or less ago.
    pub(super) fn check(&self, pool: impl FnOnce() -> f64, age: Duration) -> MemoryPressureLevel {
        if !self.settings.enabled {
            return Calm;
        }
        {
            let mut state = self.lock();
            if state.checked.is_some_and(|at| at.elapsed() < age) {
                return self.level();
            }
            // At once, so that others do not look as well.
            state.checked = Some(Instant::now());
        }
        self.look(pool()).1
    }

    /// Looks at the memory, `pool` being the share in use of the pool's own limits; returns the share in use, and the
    /// level where the pressure is watched.
    pub(super) fn look(&self, pool: f64) -> (f64, MemoryPressureLevel) {
        let reading = PressureReading::read(&self.settings.root);
        let used = reading.used().unwrap_or(0.0).max(pool);
        if !self.settings.enabled {
            return (used, Calm);
        }
        self.lock().checked = Some(Instant::now());
        (used, self.note(used, reading.some_stall.unwrap_or(0.0), reading.full_stall.unwrap_or(0.0)))
    }

    fn note(&self, used: f64, some: f64, full: f64) -> MemoryPressureLevel {
        let state = self.lock();
        let level = next_level(self.level(), self.settings.threshold, used, some, full);
        self.level.store(level as u8, Ordering::Relaxed);
        drop(state);
        self.tell();
        level
    }
}

/// Returns the level for a share in use and two stall shares, coming from `before`.
fn next_level(
    before: MemoryPressureLevel,
    threshold: f64,
    used: f64,
    some: f64,
    full: f64,
) -> MemoryPressureLevel {
    let rest = 1.0 - threshold;
    // Where a level begins: by the share in use, by any task stalling, by all tasks stalling.
    let begins = |level| match level {
        Calm => (0.0, 0.0, 0.0),
        Low => (threshold - rest, 0.02, 1.0),
        Medium => (threshold - rest * 0.5, 0.05, 0.02),
        High => (threshold, 0.2, 0.05),
        Critical => (threshold + rest * 0.75, 0.6, 0.2),
    };
    let reached = |level, slack: f64, calm: f64| {
        let (by_use, by_some, by_full) = begins(level);
        let stalls = some >= by_some * calm || full >= by_full * calm;
        level == Calm
            || used >= by_use - slack
            || stalls && (level < Critical || used >= begins(Low).0 - slack)
    };
    let rising = LEVELS.into_iter().rev().find(|&level| reached(level, 0.0, 1.0)).unwrap_or(Calm);
    if rising >= before {
        return rising;
    }
    let falling = LEVELS.into_iter().rev().filter(|&level| level <= before);
    falling.into_iter().find(|&level| reached(level, rest * 0.25, 0.5)).unwrap_or(Calm).max(rising)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_once_and_fall_late() {
        let next = |before, used| next_level(before, 0.8, used, 0.0, 0.0);
        for (used, level) in
            [(0.1, Calm), (0.601, Low), (0.701, Medium), (0.8, High), (0.951, Critical), (1.0, Critical)]
        {
            assert_eq!(next(Calm, used), level, "{used}");
        }
        assert_eq!(next(High, 0.76), High);
        assert_eq!(next(High, 0.74), Medium);
        assert_eq!(next(Critical, 0.85), High);
        assert_eq!(next(Critical, 0.3), Calm);
        assert_eq!(next(Medium, 0.97), Critical);
    }

    #[test]
    fn the_latest_level_is_heard_last() {
        use std::sync::mpsc::channel;

        let settings = PressureSettings { enabled: true, ..PressureSettings::default() };
        let monitor = Arc::new(PressureMonitor::new(settings));
        let (heard, (go, wait), (begun, has_begun)) =
            (Arc::new(Mutex::new(Vec::new())), channel(), channel());
        let wait = Mutex::new(wait);
        let kept = Arc::clone(&heard);
        monitor.register(Box::new(move |level| {
            if level == High {
                begun.send(()).unwrap();
                wait.lock().unwrap().recv().unwrap();
            }
            kept.lock().unwrap().push(level);
        }));
        let other = Arc::clone(&monitor);
        let slow = std::thread::spawn(move || other.note(0.85, 0.0, 0.0));
        has_begun.recv().unwrap();
        // The first is still being told of the high level.
        assert_eq!(monitor.note(0.1, 0.0, 0.0), Calm);
        go.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), High);
        assert_eq!(*heard.lock().unwrap(), [High, Calm]);
        // Who comes later hears of the level once, and only where there is pressure.
        let kept = Arc::clone(&heard);
        monitor.register(Box::new(move |level| kept.lock().unwrap().push(level)));
        assert_eq!(heard.lock().unwrap().len(), 2);
    }

    #[test]
    fn stalls_count_whatever_is_free_and_are_critical_where_little_is() {
        assert_eq!(next_level(Calm, 0.8, 0.1, 0.3, 0.0), High);
        assert_eq!(next_level(Calm, 0.8, 0.1, 0.9, 0.25), High);
        assert_eq!(next_level(Calm, 0.8, 0.65, 0.0, 0.25), Critical);
        assert_eq!(next_level(Calm, 0.8, 0.65, 0.7, 0.0), Critical);
        assert_eq!(next_level(High, 0.8, 0.1, 0.12, 0.0), High);
        assert_eq!(next_level(High, 0.8, 0.1, 0.04, 0.0), Medium);
    }

    #[test]
    fn pressure_files_are_read_for_both_kinds() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!((average(text, "some"), average(text, "full")), (Some(0.125), Some(0.03)));
        assert_eq!(average("", "some"), None);
    }
}
