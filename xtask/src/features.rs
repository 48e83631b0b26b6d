//! Feature flags: each alone, all together, none.
//!
//! The flags of `bitnet-core` are read from its manifest, so that a new one is checked from its first
//! day; those that the specification names must be among them.

use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::metadata::packages;
use crate::process::{capture, cargo, line, run};
use crate::spec_filters::tests_selected;

/// Flags of the specification's table and manifest.
const SPECIFIED: [&str; 9] =
    ["apple-silicon", "backtrace", "metal", "mlx", "parallel", "simd", "std", "tokenizers", "tracing"];

/// Checks the flags of every crate.
///
/// # Errors
/// A flag that is missing or does not build without warnings.
pub fn check() -> Result<()> {
    let packages = packages()?;
    let core =
        packages.iter().find(|package| package.name == "bitnet-core").context("no crate bitnet-core")?;
    if let Some(missing) = SPECIFIED.iter().find(|flag| !core.features.contains(**flag)) {
        bail!("bitnet-core: the specification's feature {missing} does not exist");
    }
    build("bitnet-core", &["--all-features"])?;
    for feature in core.features.iter().filter(|feature| *feature != "default") {
        build("bitnet-core", &["--no-default-features", "--features", feature])?;
    }
    for package in packages.iter().filter(|package| package.features.contains("default")) {
        build(&package.name, &["--no-default-features"])?;
    }
    test_metal()?;
    test_quant_candle()?;
    test_tensors()?;
    test_hub()
}

/// Checks and runs the layer that candle's users take: its own step, since candle is more to build than the workspace.
fn test_quant_candle() -> Result<()> {
    let quant = ["--package", "bitnet-quant", "--features", "candle"];
    run(cargo(["clippy"]).args(quant).args(["--lib", "--test", "candle", "--", "-D", "warnings"]))?;
    run(cargo(["test"]).args(quant).args(["--test", "candle"]))?;
    run(cargo(["test"]).args(quant).args(["--doc", "candle"]))
}

/// Runs the tests of tensors in what the default build leaves out: compression, `ndarray`, candle.
fn test_tensors() -> Result<()> {
    let core = ["--package", "bitnet-core", "--features", "mmap,compression,ndarray,candle", "--lib"];
    run(cargo(["clippy"]).args(core).args(["--tests", "--", "-D", "warnings"]))?;
    run(cargo(["test"]).args(core).args(["memory::tensor"]))?;
    run(cargo(["test"]).args(["--package", "bitnet-backend", "--features", "candle", "candle"]))
}

/// Runs the tests of the hub: its modules, and the program against a hub on this machine.
fn test_hub() -> Result<()> {
    let hub = ["--package", "bitnet-cli", "--features", "hub"];
    run(cargo(["clippy"]).args(hub).args(["--bins", "--test", "hub", "--", "-D", "warnings"]))?;
    run(cargo(["test"]).args(hub).args(["--bins", "hub::"]))?;
    run(cargo(["test"]).args(hub).args(["--test", "hub"]))
}

/// Runs the tests with the `metal` flag, which on every system answers: with a device or with a reason.
fn test_metal() -> Result<()> {
    let args = ["test", "--package", "bitnet-core", "--features", "metal", "--lib"];
    if tests_selected(&args)? == 0 {
        bail!("`cargo {}` selects no test", args.join(" "));
    }
    run(&mut cargo(args))
}

/// Type-checks one selection. A warning is an error too: code that is idle without a flag belongs behind it.
fn build(package: &str, flags: &[&str]) -> Result<()> {
    let mut command = cargo(["check", "--quiet", "--package", package]);
    eprintln!("$ {}", line(command.args(flags)));
    let result = capture(command.stderr(Stdio::piped()))?;
    if !result.success || result.stderr.lines().any(|line| line.starts_with("warning")) {
        bail!("`{}` does not build without warnings\n{}", line(&command), result.stderr);
    }
    Ok(())
}
