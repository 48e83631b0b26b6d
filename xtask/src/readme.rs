//! The promise at the top of the README: two commands, verbatim, that work.

use anyhow::{Context, Result, bail};

use crate::process::{cargo, root, run, stdout_of};
use crate::steps::TEST;

/// Arguments of the command that generates text.
const RUN: [&str; 5] = ["run", "--release", "--", "run", "Once upon a time"];

/// Options of the step.
#[derive(clap::Args)]
pub struct Args {
    /// Only look the test command up: for a run in which the step `test` has executed it
    #[arg(long)]
    skip_test: bool,
}

/// Finds both commands and runs them.
///
/// # Errors
/// A command that the README does not open with, that fails, or that generates no text.
pub fn check(args: &Args) -> Result<()> {
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let opening = opening_commands(&readme);
    let expected = [typed(&RUN), typed(&TEST)];
    if opening.len() < 2 || opening[..2] != expected {
        let expected = expected.join("` and `");
        bail!("README.md: expected to open with the commands `{expected}`, found {opening:?}");
    }
    let text = stdout_of(&mut cargo(RUN))?;
    if text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count() < 8 {
        bail!("`{}` printed no text: {text:?}", expected[0]);
    }
    println!("{text}");
    if args.skip_test { Ok(()) } else { run(&mut cargo(TEST)) }
}

/// Returns the lines that begin with `cargo` in the README's fenced code, in order.
fn opening_commands(readme: &str) -> Vec<String> {
    let mut fenced = false;
    let mut commands = Vec::new();
    for line in readme.lines().map(str::trim) {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced && line.starts_with("cargo ") {
            commands.push(line.to_owned());
        }
    }
    commands
}

fn typed(args: &[&str]) -> String {
    let words =
        args.iter().map(|word| if word.contains(' ') { format!("\"{word}\"") } else { (*word).into() });
    std::iter::once("cargo".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_typed_as_the_readme_shows_them() {
        assert_eq!(typed(&RUN), "cargo run --release -- run \"Once upon a time\"");
        assert_eq!(typed(&TEST), "cargo test --workspace");
    }

    #[test]
    fn only_fenced_commands_count() {
        let readme = "cargo prose\n```sh\ncargo a\n# remark\ncargo b\n```\ncargo c\n";
        assert_eq!(opening_commands(readme), ["cargo a", "cargo b"]);
    }
}
