//! One module a command.

mod bench;
mod chat;
mod convert;
mod doctor;
mod eval;
mod inspect;
mod logits;
mod run;
mod tokenize;
mod verify;

use anyhow::Result;

use crate::args::Command;

/// Runs a command.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Quantize(args) => convert::quantize(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
