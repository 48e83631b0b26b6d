//! Every check of the project as one command: `cargo xtask <step>`.
//!
//! A step is a function that prints what it runs and returns an error that names what failed. `ci` runs
//! the steps in order; the workflow of the hosting service calls the same steps one by one.

mod arrows;
mod ci;
mod features;
mod instructions;
mod metadata;
mod mutants;
mod process;
mod readme;
mod spec_filters;
mod spec_samples;
mod steps;
mod synth;
mod targets;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every check of the project as one command")]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

/// One step; its doc comment is its help text.
#[derive(Subcommand)]
enum Step {
    /// Check the formatting of every package
    Fmt,
    /// Lint the workspace with default features and with none, warnings denied
    Clippy,
    /// Build the documentation, warnings denied
    Doc,
    /// Run all tests, `cargo test --workspace`, and benches as tests
    Test,
    /// Run the tests again with the scalar kernels forced
    TestScalar,
    /// Check each feature flag alone, all of them and none
    Features,
    /// Check the direction of the dependencies between crates, and where intrinsics are used
    Arrows,
    /// Find the README's two opening commands verbatim and run them
    Readme(readme::Args),
    /// Write the specification's Rust samples as example files
    SpecSamples(spec_samples::Args),
    /// Check that each `cargo test` line of the specification selects a test
    SpecFilters,
    /// Type-check macOS and Windows, and test AArch64 under emulation, where installable
    Targets,
    /// Write a synthetic checkpoint with random ternary weights
    Synth(synth::Args),
    /// Count the instructions per weight of the ternary products under emulation
    Instructions,
    /// Inject known errors and demand that the tests named for them fail
    Mutants(mutants::Args),
    /// Run the long checks: mutation and stress
    Nightly,
    /// Run every step in order and stop at the first that fails
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().step {
        Step::Fmt => steps::fmt(),
        Step::Clippy => steps::clippy(),
        Step::Doc => steps::doc(),
        Step::Test => steps::test(),
        Step::TestScalar => steps::test_scalar(),
        Step::Features => features::check(),
        Step::Arrows => arrows::check(),
        Step::Readme(args) => readme::check(&args),
        Step::SpecSamples(args) => spec_samples::run(&args),
        Step::SpecFilters => spec_filters::check(),
        Step::Targets => targets::check(),
        Step::Synth(args) => synth::run(&args),
        Step::Instructions => instructions::count(),
        Step::Mutants(args) => mutants::run(&args),
        Step::Nightly => ci::nightly(),
        Step::Ci(args) => ci::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
