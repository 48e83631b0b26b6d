//! Likelihood of given tokens.

use bitnet_core::error::BitNetError;
use bitnet_kernels::scalar::exp::exp;

use crate::EngineError;
use crate::runner::Runner;

/// Returns `-log softmax(logits)[target]` in nats; NaN when a logit is NaN.
///
/// The sum runs in f64 in ascending order over an exponential that is the same on every machine.
///
/// # Panics
/// When `target` is not an index of `logits`.
pub fn nll(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(exp(logit - max))).sum();
    libm::log(sum) + f64::from(max) - f64::from(logits[target as usize])
}

/// Returns the mean negative log-likelihood of `targets[i]` after `inputs[..=i]`.
///
/// # Errors
/// Other than one target an input and at least one, a window longer than the context, an id outside the
/// vocabulary, or a failing backend.
pub fn window_nll(runner: &mut Runner, inputs: &[u32], targets: &[u32]) -> Result<f64, EngineError> {
    if inputs.is_empty() || inputs.len() != targets.len() {
        let expected = format!("{} (at least one)", inputs.len());
        return Err(BitNetError::mismatch("targets of a window", expected, targets.len()).into());
    }
    let vocab = runner.vocab();
    if let Some(&id) = inputs.iter().chain(targets).find(|&&id| id as usize >= vocab) {
        return Err(BitNetError::mismatch("token id", format_args!("below {vocab}"), id).into());
    }
    let sequence = runner.admit()?;
    let mut sum = 0.0;
    let outcome = runner.forward_all(sequence, inputs, |index, logits| sum += nll(logits, targets[index]));
    runner.release(sequence);
    outcome.map(|()| sum / targets.len() as f64)
}
