//! Mutation checks: known errors are injected into a scratch copy, and a named test must fail.
//!
//! The copy lies in `target/mutants/tree` and compiles into `target/mutants/build`; the working tree is
//! never touched. Every test named in the [`table`] must exist and pass before anything is injected, and
//! a mutant must compile, so that only the test itself can give the verdict.

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{Captured, capture, cargo, line, root};

/// One error that a test has to notice.
pub struct Mutant {
    /// What the error is, in a few words.
    pub name: &'static str,
    /// File to change, relative to the workspace.
    pub file: &'static str,
    /// Text that occurs exactly once in the file.
    pub snippet: &'static str,
    /// What takes its place.
    pub replacement: &'static str,
    /// Package of the test.
    pub package: &'static str,
    /// Arguments that select the test's binary, such as `--lib` or `--test golden`.
    pub target: &'static [&'static str],
    /// Full path of the test in its binary.
    pub test: &'static str,
}

/// Options of the step.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Only mutants whose name contains this
    filter: Option<String>,
}

/// Injects every mutant.
///
/// # Errors
/// A mutant that survives, does not compile or no longer applies; a test that fails without it.
pub fn run(args: &Args) -> Result<()> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let mutants: Vec<&Mutant> = table::MUTANTS.iter().filter(|mutant| mutant.name.contains(filter)).collect();
    if mutants.is_empty() {
        bail!("no mutant has {filter:?} in its name");
    }
    let scratch = Scratch::prepare(&root())?;
    for test in mutants.iter().map(|m| (m.package, m.target, m.test)).collect::<BTreeSet<_>>() {
        match scratch.test(test.0, test.1, test.2)? {
            Verdict::Passed => println!("passes unmutated: {} {}", test.0, test.2),
            Verdict::Failed => bail!("{} {} fails without any mutation", test.0, test.2),
        }
    }
    let mut survivors = Vec::new();
    for mutant in mutants {
        match scratch.judge(mutant).with_context(|| format!("mutant {:?}", mutant.name))? {
            Verdict::Failed => println!("noticed: {}", mutant.name),
            Verdict::Passed => survivors.push(format!("{}: {} {}", mutant.name, mutant.package, mutant.test)),
        }
    }
    if !survivors.is_empty() {
        bail!("these errors go unnoticed by their tests:\n{}", survivors.join("\n"));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
}

/// The copy of the workspace in which mutants live.
struct Scratch {
    tree: PathBuf,
    build: PathBuf,
}

impl Scratch {
    /// Brings the copy up to date; files that did not change keep their times, so that cargo rebuilds
    /// only what did.
    fn prepare(root: &Path) -> Result<Self> {
        let folder = root.join("target/mutants");
        let scratch = Scratch { tree: folder.join("tree"), build: folder.join("build") };
        let wanted = tracked_files(root)?;
        for file in &wanted {
            let bytes = fs::read(root.join(file)).with_context(|| format!("cannot read {file}"))?;
            write_if_changed(&scratch.tree.join(file), &bytes)?;
        }
        remove_others(&scratch.tree, &scratch.tree, &wanted)?;
        Ok(scratch)
    }

    fn judge(&self, mutant: &Mutant) -> Result<Verdict> {
        let path = self.tree.join(mutant.file);
        let original = fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file))?;
        fs::write(&path, mutate(&original, mutant)?)?;
        let verdict = self.test(mutant.package, mutant.target, mutant.test);
        fs::write(&path, original)?;
        verdict
    }

    fn test(&self, package: &str, target: &[&str], test: &str) -> Result<Verdict> {
        let command = |tail: &[&str]| {
            let mut command = cargo(["test", "--package", package]);
            command.args(target).args(tail).current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.build);
            command.stderr(Stdio::piped());
            command
        };
        let mut build = command(&["--no-run"]);
        let built = capture(&mut build)?;
        if !built.success {
            bail!("`{}` does not compile\n{}", line(&build), built.stderr);
        }
        let result = capture(&mut command(&["--", "--exact", test]))?;
        verdict(&result).with_context(|| format!("{package}: {test}\n{}{}", result.stdout, result.stderr))
    }
}

/// Reads the verdict from the lines that the test harness prints.
fn verdict(result: &Captured) -> Result<Verdict> {
    let output = result.stdout.as_str();
    if !output.lines().any(|line| line == "running 1 test") {
        bail!("the name selects no test");
    }
    match output.lines().find_map(|line| line.strip_prefix("test result: ")) {
        Some(result) if result.starts_with("FAILED") => Ok(Verdict::Failed),
        Some(_) if output.contains("1 passed") => Ok(Verdict::Passed),
        // An abort or a signal prints no result: the error was noticed, though not by an assertion.
        None if !result.success => Ok(Verdict::Failed),
        None => bail!("the harness printed no result"),
        Some(_) => bail!("the test is ignored"),
    }
}

fn mutate(text: &str, mutant: &Mutant) -> Result<String> {
    match text.matches(mutant.snippet).count() {
        1 => Ok(text.replacen(mutant.snippet, mutant.replacement, 1)),
        count => {
            bail!("{}: expected the snippet {:?} once, found {count} times", mutant.file, mutant.snippet)
        }
    }
}

/// Lists the files of the working tree that git tracks or would offer to track.
fn tracked_files(root: &Path) -> Result<BTreeSet<String>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listing = capture(command.stderr(Stdio::inherit()))?;
    if !listing.success {
        bail!("`git ls-files` failed");
    }
    let files = listing.stdout.split('\0').filter(|file| !file.is_empty() && root.join(file).is_file());
    Ok(files.map(str::to_owned).collect())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn remove_others(tree: &Path, folder: &Path, wanted: &BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, wanted)?;
            continue;
        }
        let relative = path.strip_prefix(tree)?.to_string_lossy().replace('\\', "/");
        if !wanted.contains(&relative) && relative != "Cargo.lock" {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Mutant = Mutant {
        name: "sum",
        file: "a.rs",
        snippet: "a + b",
        replacement: "a - b",
        package: "p",
        target: &["--lib"],
        test: "t",
    };

    #[test]
    fn a_snippet_must_occur_exactly_once() {
        assert_eq!(mutate("(a + b)", &ROW).unwrap(), "(a - b)");
        assert!(mutate("a", &ROW).is_err());
        assert!(mutate("a + b, a + b", &ROW).is_err());
    }

    #[test]
    fn verdicts_come_from_the_harness_and_need_one_test() {
        let judge = |stdout: String, success| verdict(&Captured { success, stdout, stderr: String::new() });
        let ran =
            |result: &str| judge(format!("running 1 test\ntest t ... x\ntest result: {result}\n"), true);
        assert_eq!(ran("ok. 1 passed; 0 failed; 0 ignored").unwrap(), Verdict::Passed);
        assert_eq!(ran("FAILED. 0 passed; 1 failed").unwrap(), Verdict::Failed);
        assert!(ran("ok. 0 passed; 0 failed; 1 ignored").is_err());
        assert!(judge("running 0 tests\ntest result: ok. 0 passed".into(), true).is_err());
        assert_eq!(judge("running 1 test\n".into(), false).unwrap(), Verdict::Failed);
        assert!(judge("running 1 test\n".into(), true).is_err());
    }

    #[test]
    fn every_row_of_the_table_still_applies() {
        for mutant in table::MUTANTS {
            let text = fs::read_to_string(root().join(mutant.file)).unwrap();
            mutate(&text, mutant).unwrap_or_else(|error| panic!("{}: {error}", mutant.name));
            assert_ne!(mutant.snippet, mutant.replacement, "{}", mutant.name);
        }
    }
}
