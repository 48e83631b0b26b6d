//! How many workers of a team run the next pass.
//!
//! Beside other busy processes, or with more workers than cores, a worker loses its core in the middle of a stage, and
//! the others sleep at the barrier until it has it back. Fewer workers then may be faster, one of them waits for
//! nobody. The [`Governor`] sees how long each pass took and how long its workers slept; when they sleep much it tries
//! fewer of them for as many tokens, and keeps what was faster. From time to time it tries all of them again. Results
//! do not depend on the number of workers, so only time does.

use std::time::{Duration, Instant};

/// Passes that are judged together, at least.
const PASSES: u32 = 2;
/// Time that is judged together, at least.
const SHORT: Duration = Duration::from_millis(20);
/// Time after which fewer passes than [`PASSES`] are enough.
const LONG: Duration = Duration::from_millis(200);
/// Share of the workers' time asleep from which fewer workers are tried.
const LOSS: f64 = 0.15;
/// Share of the time that another number of workers may take to be preferred.
const BETTER: f64 = 0.95;
/// Time until the next trial, at first; doubled after each that failed.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time until the next trial, at most: what is lost when the other processes have gone.
const MOST_PATIENCE: Duration = Duration::from_secs(8);

/// What a pass took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Tokens of the step.
    pub tokens: usize,
    /// From its start to its end.
    pub time: Duration,
    /// Time of all workers together in waits that ended asleep.
    pub asleep: Duration,
}

/// Passes with one number of workers.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    passes: u32,
    tokens: usize,
    time: Duration,
    asleep: Duration,
}

impl Window {
    fn is_full(&self) -> bool {
        self.time >= LONG || self.passes >= PASSES && self.time >= SHORT
    }

    /// Returns the seconds of a token.
    fn pace(&self) -> f64 {
        self.time.as_secs_f64() / self.tokens as f64
    }

    fn loss(&self, workers: usize) -> f64 {
        self.asleep.as_secs_f64() / (self.time.as_secs_f64() * workers as f64)
    }
}

/// Another number of workers, against time.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Workers before it.
    before: usize,
    /// Tokens to do.
    tokens: usize,
    /// Time for them.
    time: Duration,
}

/// Chooses the number of workers.
#[derive(Debug)]
pub struct Governor {
    all: usize,
    active: usize,
    /// Binary order of the step's tokens: only passes of one order are compared.
    order: u32,
    window: Window,
    /// The window before, when its workers slept much: once may be chance.
    suspect: Option<Window>,
    trial: Option<Trial>,
    patience: Duration,
    /// No trial before.
    next: Option<Instant>,
}

impl Governor {
    /// Governs a team of `all` workers, who all start.
    pub fn new(all: usize) -> Self {
        let (window, patience) = (Window::default(), PATIENCE);
        Governor { all, active: all, order: 0, window, suspect: None, trial: None, patience, next: None }
    }

    /// Makes the next passes run on `active` workers, whatever they take.
    #[cfg(all(test, not(loom)))]
    pub fn fix(&mut self, active: usize) {
        let next = Some(Instant::now() + Duration::from_secs(3600));
        *self = Governor { active, next, ..Governor::new(self.all) };
    }

    /// Returns the workers of the next pass, at least 1.
    pub fn active(&self) -> usize {
        self.active
    }

    /// Learns what a pass of [`active`](Self::active) workers took that ended `now`.
    pub fn observe(&mut self, took: Took, now: Instant) {
        if self.all == 1 || took.tokens == 0 {
            return;
        }
        let order = took.tokens.ilog2();
        if order != self.order {
            self.order = order;
            self.window = Window::default();
            self.suspect = None;
            if let Some(trial) = self.trial.take() {
                self.active = trial.before;
            }
        }
        self.window.passes += 1;
        self.window.tokens += took.tokens;
        self.window.time += took.time;
        self.window.asleep += took.asleep;
        match self.trial {
            Some(trial) => self.judge(trial, now),
            None if self.window.is_full() => {
                let window = std::mem::take(&mut self.window);
                if self.next.is_none_or(|next| now >= next) {
                    self.consider(window);
                }
            }
            None => {}
        }
    }

    /// Starts a trial where one is due.
    fn consider(&mut self, mut window: Window) {
        let (before, loss) = (self.active, window.loss(self.active));
        let suspect = self.suspect.take();
        self.active = if before > 1 && loss > LOSS {
            let Some(earlier) = suspect else {
                self.suspect = Some(window);
                return;
            };
            if earlier.pace() < window.pace() {
                window = earlier;
            }
            let busy = before as f64 * (1.0 - loss);
            (busy.round() as usize).clamp(1, before - 1)
        } else {
            self.all
        };
        if self.active != before {
            let time = window.time.mul_f64(BETTER);
            self.trial = Some(Trial { before, tokens: window.tokens, time });
        }
    }

    /// Ends a trial that has done its tokens, or has no time left for them.
    fn judge(&mut self, trial: Trial, now: Instant) {
        let late = self.window.time > trial.time;
        if !late && self.window.tokens < trial.tokens {
            return;
        }
        self.window = Window::default();
        self.trial = None;
        if late {
            self.active = trial.before;
            self.next = Some(now + self.patience);
            self.patience = MOST_PATIENCE.min(2 * self.patience);
        } else {
            self.patience = PATIENCE;
            // More workers turned out better only just now: fewer may be tried as soon as they sleep again.
            self.next = (self.active < trial.before).then(|| now + PATIENCE);
        }
        #[cfg(feature = "tracing")]
        tracing::debug!(active = self.active, before = trial.before, kept = !late, "workers tried");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs passes of one token for `time`, each of which takes what `machine` says of its workers: its time in
    /// milliseconds and the share of it asleep. Returns the time spent with each number of workers.
    fn run(
        governor: &mut Governor,
        now: &mut Instant,
        time: f64,
        machine: impl Fn(usize) -> (f64, f64),
    ) -> Vec<f64> {
        let mut spent = vec![0.0; governor.all + 1];
        while spent.iter().sum::<f64>() < time {
            let active = governor.active();
            let (milliseconds, asleep) = machine(active);
            let time = Duration::from_secs_f64(milliseconds / 1e3);
            *now += time;
            spent[active] += milliseconds / 1e3;
            governor.observe(Took { tokens: 1, time, asleep: time.mul_f64(asleep * active as f64) }, *now);
        }
        spent
    }

    #[test]
    fn an_idle_machine_keeps_every_worker() {
        let mut governor = Governor::new(4);
        let spent = run(&mut governor, &mut Instant::now(), 20.0, |active| (40.0 / active as f64, 0.1));
        assert_eq!(spent[..4], [0.0; 4], "{spent:?}");
    }

    #[test]
    fn busy_neighbours_leave_one_worker_until_they_are_gone() {
        let (mut governor, mut now) = (Governor::new(2), Instant::now());
        let busy = |active| if active == 2 { (30.0, 0.4) } else { (15.0, 0.0) };
        let first = run(&mut governor, &mut now, 1.0, busy);
        assert!(first[2] < 0.3 && governor.active() == 1, "{first:?}");
        let later = run(&mut governor, &mut now, 60.0, busy);
        assert!(later[2] < 2.0, "{later:?}");
        let gone = run(&mut governor, &mut now, 60.0, |active| (14.0 / active as f64, 0.0));
        assert!(gone[1] < 9.0 && governor.active() == 2, "{gone:?}");
    }

    #[test]
    fn more_workers_than_cores_come_down_to_the_cores() {
        let mut governor = Governor::new(8);
        let cores = |active: usize| match active {
            0..=2 => (40.0 / active as f64, 0.02),
            _ => (20.0 + 10.0 * active as f64, 1.0 - 2.0 / active as f64),
        };
        let spent = run(&mut governor, &mut Instant::now(), 60.0, cores);
        assert!(spent[2] > 50.0, "{spent:?}");
    }

    #[test]
    fn one_disturbance_changes_nothing() {
        let (mut governor, mut now) = (Governor::new(2), Instant::now());
        let idle = |active| (40.0 / active as f64, 0.0);
        for _ in 0..20 {
            run(&mut governor, &mut now, 1.0, idle);
            governor.observe(Took { tokens: 1, time: 2 * LONG, asleep: 2 * LONG }, now);
            assert_eq!(governor.active(), 2);
        }
    }

    #[test]
    fn sleeping_alone_changes_nothing_when_fewer_are_slower() {
        let mut governor = Governor::new(2);
        let spent = run(&mut governor, &mut Instant::now(), 60.0, |active| (40.0 / active as f64, 0.3));
        assert!(spent[1] < 3.0, "{spent:?}");
    }

    #[test]
    fn a_trial_ends_with_the_kind_of_pass_it_began_with() {
        let (mut governor, now) = (Governor::new(2), Instant::now());
        let (time, asleep) = (Duration::from_millis(500), Duration::from_millis(500));
        for active in [2, 1] {
            governor.observe(Took { tokens: 1, time, asleep }, now);
            assert_eq!(governor.active(), active);
        }
        governor.observe(Took { tokens: 128, time, asleep: Duration::ZERO }, now);
        assert_eq!(governor.active(), 2);
    }
}
