//! The `cargo test` lines of the specification's section on testing: each selects at least one test.

use anyhow::{Context, Result, bail};

use crate::process::{cargo, root, stdout_of};

/// Checks every line.
///
/// # Errors
/// A line that does not build or selects nothing.
pub fn check() -> Result<()> {
    let path = root().join("docs/specification.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = commands(&text);
    if lines.is_empty() {
        bail!("docs/specification.md: no `cargo test` line in the section Testing");
    }
    let mut empty = Vec::new();
    for line in lines {
        let args: Vec<&str> = line.split_whitespace().skip(1).collect();
        let count = tests_selected(&args)?;
        println!("{count:>5} tests: {line}");
        if count == 0 {
            empty.push(line);
        }
    }
    if !empty.is_empty() {
        bail!("these lines of the specification select no test:\n{}", empty.join("\n"));
    }
    Ok(())
}

fn commands(specification: &str) -> Vec<&str> {
    let section =
        specification.lines().skip_while(|line| !(line.starts_with("## ") && line.ends_with("Testing")));
    let section = section.skip(1).take_while(|line| !line.starts_with("## "));
    section.filter(|line| line.starts_with("cargo test")).collect()
}

/// Counts the tests that `cargo <args>` selects, by asking the test binaries for their lists.
///
/// # Errors
/// Tests that do not build.
pub fn tests_selected(args: &[&str]) -> Result<usize> {
    let mut command = cargo(args);
    if !args.contains(&"--") {
        command.arg("--");
    }
    let listing = stdout_of(command.arg("--list"))?;
    Ok(count_listed(&listing))
}

fn count_listed(listing: &str) -> usize {
    listing.lines().filter(|line| line.ends_with(": test")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_has_nine_test_commands() {
        let text = std::fs::read_to_string(root().join("docs/specification.md")).unwrap();
        let lines = commands(&text);
        assert_eq!(lines.len(), 9, "{lines:?}");
        assert!(lines.contains(&"cargo test --package bitnet-core --test integration_test"));
    }

    #[test]
    fn listed_tests_are_counted_and_summaries_are_not() {
        assert_eq!(count_listed("a::b: test\nc: test\nd: benchmark\n\n2 tests, 1 benchmarks\n"), 2);
    }
}
