//! Standard output and standard error, written so that neither can panic.
//!
//! A reader that goes away (`bitnet run | head -c 10`) is no failure: writing then returns
//! [`OutputClosed`], which ends the program quietly.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::failure::OutputClosed;

/// The version of every JSON object that the program prints or saves.
pub const SCHEMA: u32 = 1;

/// Standard output.
pub struct Out {
    sink: BufWriter<Stdout>,
}

impl Out {
    /// Opens standard output.
    pub fn new() -> Self {
        Out { sink: BufWriter::new(io::stdout()) }
    }

    /// Writes text as it is.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.sink.write_all(text.as_bytes()).map_err(broken)
    }

    /// Writes text and the end of its line.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.text(text)?;
        self.text("\n")
    }

    /// Writes a value as JSON on a line of its own. Numbers that JSON lacks become null.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        self.line(&serde_json::to_string(value)?)
    }

    /// Hands everything written to whoever reads.
    pub fn flush(&mut self) -> Result<()> {
        self.sink.flush().map_err(broken)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Whoever needs to know whether it was written has called `flush`.
        let _ = self.sink.flush();
    }
}

fn broken(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => anyhow!("standard output: cannot write: {error}"),
    }
}

/// Reports whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes a line to standard error. A closed standard error is nobody's concern.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes a count of bytes in the unit that suits it.
pub fn bytes(count: u64) -> String {
    let count = count as f64;
    match count {
        c if c >= (1u64 << 30) as f64 => format!("{:.2} GiB", c / (1u64 << 30) as f64),
        c if c >= (1u64 << 20) as f64 => format!("{:.1} MiB", c / (1u64 << 20) as f64),
        c if c >= 1024.0 => format!("{:.1} KiB", c / 1024.0),
        c => format!("{c} B"),
    }
}

/// Writes the peak memory of this process, in MiB.
pub fn peak_memory() -> String {
    match bitnet_core::device::peak_resident_bytes() {
        Some(bytes) => format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
        None => "not available".into(),
    }
}

/// Returns `count` per second; NaN, which JSON prints as null, where nothing was counted or no time passed.
pub fn per_second(count: usize, seconds: f64) -> f64 {
    if count == 0 || seconds <= 0.0 { f64::NAN } else { count as f64 / seconds }
}

/// Writes a rate in tokens a second.
pub fn rate(tokens_per_second: f64) -> String {
    if tokens_per_second.is_nan() { "no rate".into() } else { format!("{tokens_per_second:.1} tok/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_the_unit_that_suits_them() {
        assert_eq!([5, 2048, 3 << 20, 5 << 30].map(bytes), ["5 B", "2.0 KiB", "3.0 MiB", "5.00 GiB"]);
    }

    #[test]
    fn a_rate_of_nothing_is_null_in_json() {
        assert_eq!(serde_json::to_string(&per_second(0, 1.0)).unwrap(), "null");
        assert_eq!(serde_json::to_string(&per_second(3, 0.0)).unwrap(), "null");
        assert_eq!(per_second(3, 2.0), 1.5);
        assert_eq!((rate(f64::NAN), rate(2.25)), ("no rate".into(), "2.2 tok/s".into()));
    }
}
