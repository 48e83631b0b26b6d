//! Patterns in the kept events, each with the probability that chance alone does not make it.
//!
//! Every kind is a test of significance against its own idea of no pattern, and of a least size of the effect:
//! with many events even a difference that matters to nobody is certain.

use std::collections::HashMap;
use std::time::Duration;

use super::{Event, TrackingLevel};
use crate::memory::HybridMemoryPool;
use crate::memory::small::Slot;

/// Events that an analysis needs.
const FEWEST: usize = 64;
/// Least number of requests that a device is expected to have of a size, were they unrelated.
const FEWEST_EXPECTED: f64 = 5.0;
/// Least confidence of a pattern that is reported.
const CONFIDENCE: f64 = 0.999;

/// What a pattern is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatternKind {
    /// A few sizes make up many of the requests.
    Size,
    /// Requests come in a rhythm.
    Temporal,
    /// Devices get blocks of different sizes.
    Device,
    /// Short-lived blocks lie between long-lived ones, which leaves holes.
    Fragmentation,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pattern {
    /// What it is about.
    pub kind: PatternKind,
    /// One minus the probability that events without a pattern look like this.
    pub confidence: f64,
    /// Time after which requests repeat, of a rhythm.
    pub period: Option<Duration>,
    /// What was found and what to do about it.
    pub description: String,
}

/// The patterns of a pool.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PatternReport {
    /// Events that were looked at.
    pub events: usize,
    /// What was found.
    pub patterns: Vec<Pattern>,
}

impl HybridMemoryPool {
    /// Looks for patterns in the latest events, from level Standard on.
    pub fn patterns(&self) -> PatternReport {
        let Some(tracking) =
            self.shared.tracking().filter(|tracking| tracking.level() >= TrackingLevel::Standard)
        else {
            return PatternReport::default();
        };
        let events: Vec<_> = tracking.events().into_iter().map(|(event, _)| event).collect();
        let device = |slot: Slot| self.shared.records.get(slot.record).map_or(0, |record| record.device);
        analyse(&events, device)
    }
}

fn analyse(events: &[Event], device: impl Fn(Slot) -> u8) -> PatternReport {
    let allocations: Vec<&Event> = events.iter().filter(|event| !event.freed).collect();
    let found = [sizes(&allocations), rhythm(&allocations), devices(&allocations, device), holes(events)];
    let patterns = found.into_iter().flatten().filter(|pattern| pattern.confidence >= CONFIDENCE);
    PatternReport { events: events.len(), patterns: patterns.collect() }
}

/// Returns the probability that a standard normal variable exceeds `z`.
///
/// Source: Abramowitz and Stegun, 7.1.26, good to 1.5e-7.
fn upper_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let polynomial = series.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let tail = 0.5 * polynomial * (-x * x).exp();
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// Compares how often two requests have the same size with what a smooth distribution of the same shape gives.
fn sizes(allocations: &[&Event]) -> Option<Pattern> {
    let n = allocations.len();
    if n < FEWEST {
        return None;
    }
    let mut counts: HashMap<u64, u64> = HashMap::new();
    let mut octaves: HashMap<u32, u64> = HashMap::new();
    for event in allocations {
        *counts.entry(event.size).or_default() += 1;
        *octaves.entry(event.size.max(1).ilog2()).or_default() += 1;
    }
    let pairs = |count: u64| count as f64 * (count as f64 - 1.0) / 2.0;
    let equal: f64 = counts.values().map(|&count| pairs(count)).sum();
    // Sizes are spread evenly over an octave, at the granularity of what programs ask for.
    let choices = |octave: u32| (1u64 << octave).div_ceil(16) as f64;
    let expected: f64 = octaves.iter().map(|(&octave, &count)| pairs(count) / choices(octave)).sum();
    let z = (equal - expected) / (expected + 1.0).sqrt();
    let mut top: Vec<_> = counts.into_iter().collect();
    top.sort_by_key(|&(size, count)| (std::cmp::Reverse(count), size));
    top.truncate(4);
    let share = top.iter().map(|&(_, count)| count).sum::<u64>() as f64 / n as f64;
    if share < 0.3 {
        return None;
    }
    let list =
        top.iter().map(|(size, count)| format!("{size} bytes {count} times")).collect::<Vec<_>>().join(", ");
    Some(Pattern {
        kind: PatternKind::Size,
        confidence: 1.0 - upper_tail(z),
        period: None,
        description: format!(
            "{:.0} % of {n} requests have one of few sizes: {list}; reuse those blocks",
            share * 100.0
        ),
    })
}

/// Looks for a period in the bytes asked for over time.
fn rhythm(allocations: &[&Event]) -> Option<Pattern> {
    let (first, last) = (allocations.first()?.time, allocations.last()?.time);
    let step = ((last - first) / 512).max(2 * super::clock::TICK.as_nanos() as u64).max(1);
    let bins = ((last - first) / step) as usize;
    if allocations.len() < FEWEST || bins < 48 {
        return None;
    }
    let mut series = vec![0.0; bins];
    for event in allocations {
        let bin = ((event.time - first) / step) as usize;
        series[bin.min(bins - 1)] += 1.0;
    }
    let mean = series.iter().sum::<f64>() / bins as f64;
    series.iter_mut().for_each(|value| *value -= mean);
    let power: f64 = series.iter().map(|value| value * value).sum();
    if power == 0.0 {
        return None;
    }
    let correlation = |lag: usize| {
        let sum: f64 = series[..bins - lag].iter().zip(&series[lag..]).map(|(a, b)| a * b).sum();
        sum / power * bins as f64 / (bins - lag) as f64
    };
    let found: Vec<f64> = (0..bins / 3).map(correlation).collect();
    // Neighbours are alike in a trend as well: a rhythm comes back after it was gone.
    let gone = found.iter().position(|&value| value <= 0.0)?;
    let peaks = (gone + 1..found.len().saturating_sub(1))
        .filter(|&lag| found[lag] >= found[lag - 1] && found[lag] >= found[lag + 1]);
    let best = peaks.clone().map(|lag| found[lag]).max_by(f64::total_cmp)?;
    // Every multiple of a period is as good.
    let lag = peaks.into_iter().find(|&lag| found[lag] >= 0.8 * best)?;
    // Of the lags tried, each of white noise is normal with variance 1 / bins.
    let z = found[lag] * ((bins - lag) as f64).sqrt();
    let confidence = (1.0 - upper_tail(z)).powf(found.len() as f64);
    if best < 0.3 {
        return None;
    }
    let period = Duration::from_nanos(lag as u64 * step);
    let millis = period.as_secs_f64() * 1e3;
    Some(Pattern {
        kind: PatternKind::Temporal,
        confidence,
        period: Some(period),
        description: format!("requests repeat about every {millis:.1} ms; their memory can be kept between"),
    })
}

/// Tests whether the sizes of requests and their devices depend on each other.
fn devices(allocations: &[&Event], device: impl Fn(Slot) -> u8) -> Option<Pattern> {
    let mut requests: Vec<(u8, u32)> =
        allocations.iter().map(|event| (device(event.slot), event.size.max(1).ilog2() / 4)).collect();
    let count = |requests: &[(u8, u32)]| {
        let (mut rows, mut columns): (HashMap<u8, f64>, HashMap<u32, f64>) = Default::default();
        for &(row, column) in requests {
            *rows.entry(row).or_default() += 1.0;
            *columns.entry(column).or_default() += 1.0;
        }
        (rows, columns)
    };
    // Chi square is what the tail below says only where no cell is expected to be nearly empty: devices and sizes that
    // are rare are left out.
    let (rows, _) = count(&requests);
    requests.retain(|(row, _)| rows[row] >= 4.0 * FEWEST_EXPECTED);
    let (rows, columns) = count(&requests);
    let rarest = rows.values().copied().min_by(f64::total_cmp)? / requests.len() as f64;
    requests.retain(|(_, column)| columns[column] * rarest >= FEWEST_EXPECTED);
    let (rows, columns) = count(&requests);
    let n = requests.len() as f64;
    let mut table: HashMap<(u8, u32), f64> = HashMap::new();
    for &request in &requests {
        *table.entry(request).or_default() += 1.0;
    }
    let freedom = (rows.len().checked_sub(1)? * columns.len().checked_sub(1)?) as f64;
    if requests.len() < FEWEST || freedom < 1.0 {
        return None;
    }
    let mut square = 0.0;
    for (&row, &in_row) in &rows {
        for (&column, &in_column) in &columns {
            let expected = in_row * in_column / n;
            let found = table.get(&(row, column)).copied().unwrap_or(0.0);
            square += (found - expected).powi(2) / expected;
        }
    }
    let strength = (square / (n * (rows.len().min(columns.len()) - 1) as f64)).sqrt();
    if strength < 0.3 {
        return None;
    }
    // Wilson and Hilferty: the cube root of chi square over its freedom is nearly normal.
    let spread = 2.0 / (9.0 * freedom);
    let z = ((square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt();
    Some(Pattern {
        kind: PatternKind::Device,
        confidence: 1.0 - upper_tail(z),
        period: None,
        description: format!(
            "{} devices get blocks of different sizes (association {strength:.2}); size their pools apart",
            rows.len()
        ),
    })
}

/// Tests whether blocks that stayed and blocks that went alternate more than chance lets them.
fn holes(events: &[Event]) -> Option<Pattern> {
    let mut stayed = Vec::new();
    let mut index: HashMap<(Slot, u32), usize> = HashMap::new();
    for event in events {
        let key = (event.slot, event.generation);
        if !event.freed {
            index.insert(key, stayed.len());
            stayed.push(true);
        } else if let Some(&at) = index.get(&key) {
            stayed[at] = false;
        }
    }
    let survivors = stayed.iter().filter(|&&stayed| stayed).count() as f64;
    let n = stayed.len() as f64;
    let gone = n - survivors;
    if stayed.len() < FEWEST || survivors < 16.0 || gone < 16.0 {
        return None;
    }
    let runs = 1.0 + stayed.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64;
    let expected = 1.0 + 2.0 * survivors * gone / n;
    let variance = (expected - 1.0) * (expected - 2.0) / (n - 1.0);
    if runs < 1.25 * expected || variance <= 0.0 {
        return None;
    }
    let z = (runs - expected) / variance.sqrt();
    Some(Pattern {
        kind: PatternKind::Fragmentation,
        confidence: 1.0 - upper_tail(z),
        period: None,
        description: format!(
            "{survivors} blocks that stayed alternate with {gone} that went ({runs} runs, {expected:.0} expected by \
             chance); allocate them apart, or compact"
        ),
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A seeded source of numbers.
    struct Random(u64);

    impl Random {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    fn allocation(n: u64, time: u64, size: u64, device: u32) -> Event {
        let slot = Slot { record: device, object: n as u32 };
        Event { time, freed: false, size, slot, address: 0, generation: 0, tag: 0, site: 0 }
    }

    fn kinds(events: &[Event]) -> Vec<PatternKind> {
        let report = analyse(events, |slot| slot.record as u8);
        assert!(report.patterns.iter().all(|pattern| pattern.confidence <= 1.0));
        report.patterns.iter().map(|pattern| pattern.kind).collect()
    }

    /// Sizes, times, devices and lives without any relation.
    fn noise(seed: u64, n: u64) -> Vec<Event> {
        let mut random = Random(seed);
        let mut times: Vec<u64> = (0..n).map(|_| random.next(4_000_000_000)).collect();
        times.sort_unstable();
        let mut events = Vec::new();
        for (index, &time) in times.iter().enumerate() {
            let octave = 8 + random.next(10);
            let size = (1 << octave) + random.next(1 << octave);
            let device = random.next(2) as u32;
            let event = allocation(index as u64, time, size, device);
            events.push(event);
            if random.next(2) == 0 {
                events.push(Event { freed: true, time: time + 1, ..event });
            }
        }
        events
    }

    #[test]
    fn pure_noise_has_no_pattern() {
        for seed in 0..40 {
            assert_eq!(kinds(&noise(seed, 800)), [], "seed {seed}");
        }
    }

    #[test]
    fn planted_sizes_are_found() {
        let mut events = noise(1, 800);
        let mut random = Random(2);
        events.iter_mut().filter(|_| random.next(5) < 2).for_each(|event| event.size = 6912 * 4);
        assert_eq!(kinds(&events), [PatternKind::Size]);
    }

    #[test]
    fn planted_rhythms_are_found() {
        let mut random = Random(3);
        let mut events = noise(1, 800);
        for event in &mut events {
            // A burst of eight milliseconds every hundred.
            event.time = event.time / 100_000_000 * 100_000_000 + random.next(8_000_000);
        }
        events.sort_by_key(|event| event.time);
        assert_eq!(kinds(&events), [PatternKind::Temporal]);
        let period = analyse(&events, |_| 0).patterns[0].period.unwrap();
        assert!(period.abs_diff(Duration::from_millis(100)) <= Duration::from_millis(8), "{period:?}");
    }

    #[test]
    fn a_trend_is_no_rhythm() {
        // Loading, then little; and ever more.
        for shape in [|x: f64| if x < 0.9 { x / 9.0 } else { x }, |x: f64| x.sqrt(), |x: f64| x * x] {
            let mut events = noise(6, 800);
            for event in &mut events {
                event.time = (shape(event.time as f64 / 4e9) * 4e9) as u64;
            }
            events.sort_by_key(|event| event.time);
            assert_eq!(kinds(&events), []);
        }
    }

    #[test]
    fn one_block_of_another_device_is_no_pattern() {
        let mut events: Vec<_> = noise(7, 64).into_iter().filter(|event| !event.freed).collect();
        events.iter_mut().for_each(|event| event.slot.record = 0);
        events[20].size = 1 << 30;
        events[20].slot.record = 1;
        assert_eq!(kinds(&events), []);
    }

    #[test]
    fn planted_devices_are_found() {
        let mut events = noise(4, 800);
        events.iter_mut().for_each(|event| event.slot.record = u32::from(event.size > 8192));
        assert_eq!(kinds(&events), [PatternKind::Device]);
    }

    #[test]
    fn planted_holes_are_found() {
        let mut events: Vec<_> = noise(5, 800).into_iter().filter(|event| !event.freed).collect();
        let freed: Vec<_> = events
            .iter()
            .step_by(2)
            .map(|event| Event { freed: true, time: event.time + 1, ..*event })
            .collect();
        events.extend(freed);
        assert_eq!(kinds(&events), [PatternKind::Fragmentation]);
    }

    #[test]
    fn tails_are_those_of_the_normal_distribution() {
        for (z, tail) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_750), (3.0, 0.001_350), (-1.0, 0.841_345)]
        {
            assert!((upper_tail(z) - tail).abs() < 1e-6, "{z}");
        }
    }
}
