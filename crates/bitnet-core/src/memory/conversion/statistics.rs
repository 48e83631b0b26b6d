//! What conversions cost, and what they lose.

use std::time::Duration;

use super::config::ConversionStrategy;

/// Sums over the elements whose results were compared with their values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ErrorSums {
    elements: u64,
    greatest: f64,
    squares: f64,
    signal: f64,
}

impl ErrorSums {
    /// Compares results with values; those that are not finite are left out.
    pub fn of(values: &[f64], results: &[f64]) -> Self {
        let mut sums = ErrorSums::default();
        for (value, result) in values.iter().zip(results) {
            if value.is_finite() && result.is_finite() {
                let error = value - result;
                sums.elements += 1;
                sums.greatest = sums.greatest.max(error.abs());
                sums.squares += error * error;
                sums.signal += value * value;
            }
        }
        sums
    }

    /// Adds those of other elements.
    pub fn add(&mut self, other: ErrorSums) {
        self.elements += other.elements;
        self.greatest = self.greatest.max(other.greatest);
        self.squares += other.squares;
        self.signal += other.signal;
    }

    fn figures(&self) -> Option<ErrorFigures> {
        let ErrorSums { elements, greatest, squares, signal } = *self;
        (elements > 0).then(|| ErrorFigures {
            elements,
            max_error: greatest,
            rms_error: (squares / elements as f64).sqrt(),
            sqnr_db: if squares == 0.0 { f64::INFINITY } else { 10.0 * (signal / squares).log10() },
        })
    }
}

/// Errors of results, in the units of the values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorFigures {
    /// Elements that were compared.
    pub elements: u64,
    /// Greatest magnitude of an error.
    pub max_error: f64,
    /// Root of the mean squared error.
    pub rms_error: f64,
    /// Energy of the values over that of the errors in decibels; infinite without errors.
    pub sqnr_db: f64,
}

/// What the conversions of one strategy did. A chain counts once for each of its conversions, by their strategies; one
/// that is refused for the conversion that refused.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StrategyStats {
    /// Conversions that were begun.
    pub conversions: u64,
    /// Those of them that were refused.
    pub failures: u64,
    /// Elements converted.
    pub elements: u64,
    /// Bytes of the sources.
    pub bytes_read: u64,
    /// Bytes of the results.
    pub bytes_written: u64,
    /// Bytes that conversions in place gave back to the pool.
    pub bytes_freed: u64,
    /// Most bytes of the pool that one conversion took beside its source: its result, unless that has memory already,
    /// and a buffer.
    pub peak_extra_bytes: u64,
    /// Time taken, failures included. That of a chain counts for its last conversion.
    pub time: Duration,
    errors: ErrorSums,
}

impl StrategyStats {
    /// Returns the errors of the conversions that ran with `validate_results`; `None` without one.
    pub fn errors(&self) -> Option<ErrorFigures> {
        self.errors.figures()
    }

    /// Returns the share of conversions that were refused, in percent; 0 without any.
    pub fn error_rate(&self) -> f64 {
        100.0 * self.failures as f64 / self.conversions.max(1) as f64
    }
}

/// What an engine did since it was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConversionStats {
    /// Conversions that were begun: one a tensor, chains too.
    pub total_conversions: u64,
    /// Those that were refused.
    pub failed_conversions: u64,
    /// Those of them that copied nothing.
    pub zero_copy: u64,
    /// Those of them that stayed in the memory of their source.
    pub in_place: u64,
    /// Time taken.
    pub time: Duration,
    strategies: [StrategyStats; ConversionStrategy::ALL.len()],
}

/// One conversion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub elements: usize,
    pub bytes_read: usize,
    pub bytes_written: usize,
    pub bytes_freed: usize,
    pub extra_bytes: usize,
    pub errors: ErrorSums,
    pub zero_copy: bool,
    pub in_place: bool,
}

/// A conversion and its strategy.
pub type Stage = (ConversionStrategy, Done);

impl ConversionStats {
    /// Returns what the conversions of a strategy did.
    pub fn strategy(&self, strategy: ConversionStrategy) -> &StrategyStats {
        &self.strategies[strategy as usize]
    }

    /// Returns the share of conversions that gave a result, in percent; 100 without any.
    pub fn success_rate(&self) -> f64 {
        let succeeded = self.total_conversions - self.failed_conversions;
        if self.total_conversions == 0 {
            100.0
        } else {
            100.0 * succeeded as f64 / self.total_conversions as f64
        }
    }

    /// Returns the mean time of a conversion in milliseconds; 0 without any.
    pub fn average_time_ms(&self) -> f64 {
        self.time.as_secs_f64() * 1e3 / self.total_conversions.max(1) as f64
    }

    /// Counts what was done to one tensor, or the strategy that refused.
    pub(super) fn count(&mut self, outcome: Result<&[Stage], ConversionStrategy>, time: Duration) {
        self.total_conversions += 1;
        self.time += time;
        let stages = match outcome {
            Ok(stages) => stages,
            Err(strategy) => {
                self.failed_conversions += 1;
                let of = &mut self.strategies[strategy as usize];
                of.conversions += 1;
                of.failures += 1;
                of.time += time;
                return;
            }
        };
        for (strategy, done) in stages {
            let of = &mut self.strategies[*strategy as usize];
            of.conversions += 1;
            of.elements += done.elements as u64;
            of.bytes_read += done.bytes_read as u64;
            of.bytes_written += done.bytes_written as u64;
            of.bytes_freed += done.bytes_freed as u64;
            of.peak_extra_bytes = of.peak_extra_bytes.max(done.extra_bytes as u64);
            of.errors.add(done.errors);
            self.zero_copy += u64::from(done.zero_copy);
            self.in_place += u64::from(done.in_place);
        }
        if let Some((strategy, _)) = stages.last() {
            self.strategies[*strategy as usize].time += time;
        }
    }
}
