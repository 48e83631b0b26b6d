//! Rounds of measurements in turn, and how much of them there is.
//!
//! Shared machines change from moment to moment: what is to be compared alternates, and ratios are of neighbours.

use std::time::Instant;

use crate::statistics::{Summary, ratio};

const ROUNDS: usize = 7;
/// Seconds of a round at least.
const ROUND_SECONDS: f64 = 0.02;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Figures to quote.
    Full,
    /// One short round of little data: that it works.
    Smoke,
}

impl Effort {
    /// Returns the rounds that count.
    pub fn rounds(self) -> usize {
        match self {
            Effort::Full => ROUNDS,
            Effort::Smoke => 1,
        }
    }

    /// Returns how often work that takes `seconds` is repeated in a round.
    pub fn repeats(self, seconds: f64) -> usize {
        match self {
            Effort::Full => (ROUND_SECONDS / seconds.max(1e-9)).ceil().max(1.0) as usize,
            Effort::Smoke => 1,
        }
    }
}

/// Reads the arguments that cargo gives a suite: `None` where a filter names another, the smoke effort where the
/// suite runs as a test.
pub fn effort(suite: &str, arguments: impl Iterator<Item = String>) -> Option<Effort> {
    let (mut bench, mut test, mut selected, mut is_value) = (false, false, true, false);
    for argument in arguments {
        let follows_option = std::mem::take(&mut is_value);
        match argument.as_str() {
            "--bench" => bench = true,
            "--test" => test = true,
            // What follows may be its value, not a filter.
            flag if flag.starts_with('-') => is_value = !flag.contains('='),
            _ if follows_option => {}
            filter => selected = suite.contains(filter),
        }
    }
    selected.then_some(if bench && !test { Effort::Full } else { Effort::Smoke })
}

/// Returns the seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Lets each contender measure itself once a round, back and forth, and returns what each found in `rounds` rounds.
///
/// A first round touches pages and is not counted. As the order turns, nobody always follows the same.
///
/// # Errors
/// The first of a contender.
pub fn alternate<E>(
    rounds: usize,
    contenders: &mut [&mut dyn FnMut() -> Result<f64, E>],
) -> Result<Vec<Vec<f64>>, E> {
    let mut found = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..=rounds {
        for &at in &order {
            let figure = contenders[at]()?;
            if round > 0 {
                found[at].push(figure);
            }
        }
        order.reverse();
    }
    Ok(found)
}

/// One line of a suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Billions of units a second.
    pub rate: Summary,
    /// The rate over that of the yardstick in the same rounds.
    pub ratio: f64,
}

/// Times `work` beside `yardstick`, both of `units` units a call, in alternating rounds.
///
/// # Errors
/// Those of `work`.
pub fn beside<E>(
    name: String,
    units: usize,
    effort: Effort,
    mut work: impl FnMut() -> Result<(), E>,
    mut yardstick: impl FnMut(),
) -> Result<Figure, E> {
    // The first call touches the pages and is not counted.
    work()?;
    let started = Instant::now();
    work()?;
    let repeats = effort.repeats(started.elapsed().as_secs_f64());
    let mut own = || {
        let started = Instant::now();
        (0..repeats).try_for_each(|_| work())?;
        Ok(started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE))
    };
    let mut other = || Ok(seconds(|| (0..repeats).for_each(|_| yardstick())));
    let times = alternate(effort.rounds(), &mut [&mut own, &mut other])?;
    let rates: Vec<f64> = times[0].iter().map(|time| (units * repeats) as f64 / time / 1e9).collect();
    Ok(Figure { name, rate: Summary::of(&rates), ratio: ratio(&times[1], &times[0]) })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn suites_obey_the_filter_and_the_flags() {
        let effort =
            |arguments: &[&str]| effort("packing_performance", arguments.iter().map(|a| (*a).to_owned()));
        assert_eq!(effort(&["--bench"]), Some(Effort::Full));
        assert_eq!(effort(&[]), Some(Effort::Smoke));
        assert_eq!(effort(&["--test", "--bench"]), Some(Effort::Smoke));
        assert_eq!(effort(&["--bench", "packing"]), Some(Effort::Full));
        assert_eq!(effort(&["quantization_performance", "--bench"]), None);
    }

    #[test]
    fn contenders_go_back_and_forth_after_a_round_that_does_not_count() {
        let turns = RefCell::new(String::new());
        let contender = |name: char| {
            let (turns, mut count) = (&turns, 0.0);
            move || {
                turns.borrow_mut().push(name);
                count += 1.0;
                Ok::<f64, ()>(count)
            }
        };
        let (mut a, mut b) = (contender('a'), contender('b'));
        let found = alternate(3, &mut [&mut a, &mut b]).unwrap();
        assert_eq!((turns.borrow().as_str(), found), ("abbaabba", vec![vec![2.0, 3.0, 4.0]; 2]));
        assert_eq!(alternate(1, &mut [&mut || Err("refused")]), Err("refused"));
    }

    #[test]
    fn a_rate_stands_beside_that_of_the_yardstick() {
        let wait = |millis| std::thread::sleep(std::time::Duration::from_millis(millis));
        let work = || {
            wait(1);
            Ok::<(), ()>(())
        };
        let figure = beside("sleep".into(), 1000, Effort::Smoke, work, || wait(200)).unwrap();
        assert!(figure.ratio > 1.0 && figure.rate.median > 0.0 && figure.rate.median <= 1e-3, "{figure:?}");
        assert!(Effort::Full.repeats(0.001) == 20 && Effort::Full.repeats(1.0) == 1);
    }
}
