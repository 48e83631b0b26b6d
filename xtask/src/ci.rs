//! All steps in order, one line each, and the long checks of a night.
//!
//! Each step runs as a child of this program with its output in `target/xtask/ci/STEP.log`: the screen
//! shows the step, its seconds and what it skipped; of a failing step, the end of the log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::root;
use crate::{mutants, steps};

/// Lines of a failing step's log that are shown.
const LOG_TAIL: usize = 200;

/// The steps of `ci` in order: cheap ones first, then by what they leave compiled for the next.
const STEPS: &[&[&str]] = &[
    &["fmt"],
    &["arrows"],
    &["spec-samples", "--check"],
    &["clippy"],
    &["doc"],
    &["test"],
    &["test-scalar"],
    &["readme", "--skip-test"],
    &["features"],
    &["spec-filters"],
    &["targets"],
];

/// Options of the step.
#[derive(clap::Args)]
pub struct Args {
    /// Start at this step instead of the first
    #[arg(long)]
    from: Option<String>,
}

/// Runs every step and stops at the first that fails.
///
/// # Errors
/// The name of the failing step and where its log lies.
pub fn run(args: &Args) -> Result<()> {
    let begin = Instant::now();
    let logs = root().join("target/xtask/ci");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    // Taken once: building the workspace may put a new file in this program's place.
    let program = std::env::current_exe()?;
    let mut passed = 0;
    for step in steps_from(args.from.as_deref())? {
        passed += run_step(&program, step, &logs)?;
    }
    println!("{:<7} {:<16} {:>7.1} s", "ok", "all steps", begin.elapsed().as_secs_f64());
    // A failing test ends its step, so none failed by here.
    println!("{passed} passed, 0 failed");
    Ok(())
}

fn steps_from(name: Option<&str>) -> Result<&'static [&'static [&'static str]]> {
    let Some(name) = name else { return Ok(STEPS) };
    match STEPS.iter().position(|step| step[0] == name) {
        Some(first) => Ok(&STEPS[first..]),
        None => bail!(
            "ci has no step {name}, expected one of {:?}",
            STEPS.iter().map(|s| s[0]).collect::<Vec<_>>()
        ),
    }
}

/// Runs a step and returns the tests that passed in it.
fn run_step(program: &Path, step: &[&str], logs: &Path) -> Result<usize> {
    let begin = Instant::now();
    let path = logs.join(format!("{}.log", step[0]));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut command = Command::new(program);
    command.args(step).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().context("cannot start a step")?;
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let word = if status.success() { "ok" } else { "FAILED" };
    let passed = passed_tests(&text);
    let tests = if passed > 0 { format!("  {passed} tests passed") } else { String::new() };
    println!("{word:<7} {:<16} {:>7.1} s{tests}", step[0], begin.elapsed().as_secs_f64());
    for line in text.lines().filter(|line| line.starts_with("SKIPPED ")) {
        println!("        {line}");
    }
    if status.success() { Ok(passed) } else { Err(failure(step[0], &text, path)) }
}

/// Adds up the closing lines of `cargo test`.
fn passed_tests(log: &str) -> usize {
    let count = |line: &str| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok();
    log.lines().filter_map(count).sum()
}

fn failure(step: &str, text: &str, log: PathBuf) -> anyhow::Error {
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("{}", lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n"));
    anyhow::anyhow!("step {step} failed, see {}; `cargo xtask {step}` repeats it", log.display())
}

/// Runs the mutation checks and the tests that are too long for every change.
///
/// # Errors
/// As the two steps.
pub fn nightly() -> Result<()> {
    mutants::run(&mutants::Args::default())?;
    steps::stress()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_added_up() {
        let log = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\ntest result: ok. 4 passed; 0 failed";
        assert_eq!(passed_tests(log), 7);
    }

    #[test]
    fn ci_can_start_in_the_middle_and_refuses_unknown_steps() {
        assert_eq!(steps_from(None).unwrap().len(), STEPS.len());
        assert_eq!(steps_from(Some("targets")).unwrap(), [["targets"]]);
        assert!(steps_from(Some("nothing")).is_err());
    }
}
