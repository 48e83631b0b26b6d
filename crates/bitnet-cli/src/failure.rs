//! Errors at the edge of the program: the line that a user reads, and the exit status.

use std::fmt;
use std::process::ExitCode;

use bitnet_core::error::{BitNetError, ErrorKind};
use bitnet_inference::EngineError;
use bitnet_inference::sampler::SamplerError;
use bitnet_kernels::IsaError;

use crate::output;

/// Exit status after Ctrl-C, as shells count it: 128 + SIGINT.
pub const INTERRUPTED_STATUS: u8 = 130;

/// A mistake in the command line or the environment, found after parsing.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The user pressed Ctrl-C.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Whoever read standard output has gone.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Makes a usage error.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Prints the error where the user has to see it, and returns the exit status.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::SUCCESS;
    }
    if error.is::<Interrupted>() {
        return INTERRUPTED_STATUS.into();
    }
    output::note(&format!("error: {}", line(error)));
    ExitCode::from(if error.chain().any(is_usage) { 2 } else { 1 })
}

/// Returns the error and its causes on one line, each said once.
pub fn line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Many errors repeat the words of their cause.
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    one_line(&text)
}

/// Escapes control characters, so that a hostile name can neither break the line nor drive the terminal.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn is_usage(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return match error {
            EngineError::NoBackend { .. } | EngineError::ContextSize { .. } => true,
            EngineError::Sampler(SamplerError::Parameter { .. }) | EngineError::Stop(_) => true,
            EngineError::Backend(error) => is_unavailable(error),
            _ => false,
        };
    }
    cause.is::<Usage>()
        || cause.is::<IsaError>()
        || cause.downcast_ref::<BitNetError>().is_some_and(is_unavailable)
}

fn is_unavailable(error: &BitNetError) -> bool {
    matches!(error.kind(), ErrorKind::DeviceUnavailable { .. } | ErrorKind::IsaUnavailable { .. })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_are_joined_once_on_one_line() {
        let error = anyhow!("no such\nfile").context("a.json: no such\nfile").context("loading");
        assert_eq!(line(&error), "loading: a.json: no such\\nfile");
    }

    #[test]
    fn what_a_user_got_wrong_is_told_from_what_failed() {
        let context = EngineError::ContextSize { limit: 5, found: 9 };
        assert!(anyhow::Error::from(context).chain().any(is_usage));
        let isa = BitNetError::new(ErrorKind::IsaUnavailable { isa: "x".into(), reason: "y".into() });
        assert!(anyhow::Error::from(EngineError::Backend(isa)).chain().any(is_usage));
        let nested: anyhow::Result<()> = Err(usage("--window: wrong")).context("eval");
        assert!(nested.unwrap_err().chain().any(is_usage));
        assert!(!anyhow::Error::from(EngineError::EmptyPrompt).chain().any(is_usage));
    }
}
