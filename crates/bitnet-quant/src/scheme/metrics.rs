//! How far quantised values are from what they stand for.

use std::fmt;

/// Errors of values against a reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorMetrics {
    /// Mean squared error.
    pub mse: f64,
    /// Signal to quantisation noise in decibels: infinite without error, NaN of nothing but zeros.
    pub sqnr_db: f64,
    /// Cosine of the angle between the two; NaN where one is zero.
    pub cosine: f64,
    /// Greatest error of one value.
    pub max_abs: f64,
}

impl fmt::Display for ErrorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorMetrics { mse, sqnr_db, cosine, max_abs } = self;
        write!(f, "mse {mse:.3e}, SQNR {sqnr_db:.2} dB, cosine {cosine:.5}, max {max_abs:.3e}")
    }
}

/// Sums of errors as values arrive.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ErrorSums {
    count: u64,
    error: f64,
    signal: f64,
    found: f64,
    product: f64,
    max_abs: f64,
}

impl ErrorSums {
    /// Adds values and their reference, of one length.
    pub fn add(&mut self, reference: &[f32], found: &[f32]) {
        for (&reference, &found) in reference.iter().zip(found) {
            let (reference, found) = (f64::from(reference), f64::from(found));
            let error = found - reference;
            self.error += error * error;
            self.signal += reference * reference;
            self.found += found * found;
            self.product += reference * found;
            self.max_abs = self.max_abs.max(error.abs());
        }
        self.count += reference.len().min(found.len()) as u64;
    }

    /// Returns the metrics of all values.
    pub fn metrics(&self) -> ErrorMetrics {
        ErrorMetrics {
            mse: self.error / self.count.max(1) as f64,
            sqnr_db: 10.0 * (self.signal / self.error).log10(),
            cosine: self.product / (self.signal.sqrt() * self.found.sqrt()),
            max_abs: self.max_abs,
        }
    }
}
