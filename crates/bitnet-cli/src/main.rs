//! The `bitnet` command line.
//!
//! [`args`] states every command and option, a module of [`commands`] runs each. Results go to standard output
//! through [`output`], everything else to standard error. [`failure`] turns errors into one line and an exit
//! status: 0, 1 for a failure, 2 for a usage error, 130 after Ctrl-C.

mod args;
mod commands;
mod failure;
#[cfg(feature = "hub")]
mod hub;
mod input;
mod interrupt;
mod model;
mod output;
mod progress;
mod weights;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    silence_contained_panics();
    // A usage error, --help and --version end the program here.
    let cli = args::Cli::parse();
    let outcome = interrupt::install().and_then(|()| commands::run(&cli.command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

/// Leaves the report of panics that the tokenizer catches and returns as errors to those errors.
fn silence_contained_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !bitnet_core::tokenizer::in_library_call() {
            previous(panic);
        }
    }));
}
