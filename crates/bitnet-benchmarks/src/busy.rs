//! Decoding beside other busy threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use bitnet_inference::model::Model;

use crate::BenchError;
use crate::speed::{Settings, generate, runner};
use crate::statistics::{Summary, ratio};

/// Decoding alone and beside busy threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beside {
    /// Tokens a second alone.
    pub idle: Summary,
    /// Tokens a second beside them.
    pub busy: Summary,
    /// The one's share of the other, median of neighbouring rounds.
    pub share: f64,
}

/// Measures decoding `tokens` tokens alone and beside `busy` threads that never wait, in turn.
///
/// Each round starts an engine of its own: what it learns of a busy machine counts for that round only.
///
/// # Errors
/// What the backend met.
pub fn measure(
    model: &Model,
    settings: Settings,
    tokens: usize,
    busy: usize,
    rounds: usize,
) -> Result<Beside, BenchError> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(decode(model, settings, tokens, 0)?);
        beside.push(decode(model, settings, tokens, busy)?);
    }
    Ok(Beside { idle: Summary::of(&alone), busy: Summary::of(&beside), share: ratio(&beside, &alone) })
}

/// Returns the tokens a second of a new engine beside `busy` threads, the first token not counted.
fn decode(model: &Model, settings: Settings, tokens: usize, busy: usize) -> Result<f64, BenchError> {
    let mut runner = runner(model, settings, tokens + 2)?;
    let sequence = runner.start();
    let mut next = vec![0];
    generate(&mut runner, sequence, &mut next, 1)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..busy {
            scope.spawn(|| while !black_box(stop.load(Ordering::Relaxed)) {});
        }
        let started = Instant::now();
        generate(&mut runner, sequence, &mut next, tokens)?;
        Ok(tokens as f64 / started.elapsed().as_secs_f64())
    })
}

/// Lets the busy threads end, however the measurement does.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
