//! The direction of dependencies between crates, and the one home of processor intrinsics.
//!
//! [`ARROWS`] is the table of the architecture: what each crate builds on directly. Its transitive
//! closure is what the crate may name as a dependency. A crate or an edge outside the table is an error,
//! so a new crate begins with a row here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::metadata::{Package, packages};
use crate::process::root;

/// Each crate and the crates directly below it.
const ARROWS: &[(&str, &[&str])] = &[
    ("bitnet-cli", &["bitnet-benchmarks", "bitnet-inference", "bitnet-model-fairytales"]),
    ("bitnet-benchmarks", &["bitnet-inference", "bitnet-model-fairytales", "bitnet-testing"]),
    ("bitnet-fuzzing", &["bitnet-inference", "bitnet-testing"]),
    ("bitnet-model-fairytales", &[]),
    ("bitnet-inference", &["bitnet-model"]),
    ("bitnet-model", &["bitnet-quant", "bitnet-core"]),
    ("bitnet-quant", &["bitnet-core", "bitnet-kernels"]),
    (
        "bitnet-core",
        &["bitnet-backend", "bitnet-kernels", "bitnet-cuda", "bitnet-metal", "bitnet-mlx", "bitnet-wgpu"],
    ),
    ("bitnet-cuda", &["bitnet-backend"]),
    ("bitnet-metal", &["bitnet-backend"]),
    ("bitnet-mlx", &["bitnet-backend"]),
    ("bitnet-wgpu", &["bitnet-backend"]),
    ("bitnet-backend", &[]),
    ("bitnet-kernels", &[]),
    ("bitnet-testing", &[]),
    ("xtask", &["bitnet-testing"]),
];

/// The crate that may use processor intrinsics.
const INTRINSICS_HOME: &str = "bitnet-kernels";

/// Checks both rules.
///
/// # Errors
/// Every violation, one a line.
pub fn check() -> Result<()> {
    let allowed = closure(ARROWS)?;
    let mut violations = edges(&packages()?, &allowed);
    violations.extend(intrinsics_outside_home(&root())?);
    if !violations.is_empty() {
        bail!("{} violations\n{}", violations.len(), violations.join("\n"));
    }
    println!("dependencies point downward; intrinsics stay in {INTRINSICS_HOME}");
    Ok(())
}

type Allowed = BTreeMap<&'static str, BTreeSet<&'static str>>;

fn closure(table: &[(&'static str, &'static [&'static str])]) -> Result<Allowed> {
    let mut allowed: Allowed =
        table.iter().map(|(name, below)| (*name, below.iter().copied().collect())).collect();
    loop {
        let mut grown = false;
        for name in table.iter().map(|row| row.0) {
            let mut reach = allowed[name].clone();
            for below in &allowed[name] {
                reach.extend(allowed.get(below).with_context(|| format!("{below} has no row in the table"))?);
            }
            if reach.contains(name) {
                bail!("the table of crates has a cycle through {name}");
            }
            grown |= reach.len() > allowed[name].len();
            allowed.insert(name, reach);
        }
        if !grown {
            return Ok(allowed);
        }
    }
}

fn edges(packages: &[Package], allowed: &Allowed) -> Vec<String> {
    let mut violations = Vec::new();
    for package in packages {
        let Some(below) = allowed.get(package.name.as_str()) else {
            violations.push(format!("{}: unknown crate, add its row to xtask/src/arrows.rs", package.name));
            continue;
        };
        let upward = package.dependencies.iter().filter(|name| !below.contains(name.as_str()));
        violations
            .extend(upward.map(|name| format!("{} -> {name}: not an allowed dependency", package.name)));
    }
    violations
}

fn intrinsics_outside_home(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let entry = entry?;
        if entry.file_name() != INTRINSICS_HOME {
            rust_files(&entry.path(), &mut files)?;
        }
    }
    rust_files(&root.join("xtask"), &mut files)?;
    let mut violations = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        let lines = text.lines().enumerate().filter(|(_, line)| names_intrinsics(line));
        violations.extend(lines.map(|(i, line)| {
            format!("{shown}:{}: intrinsics outside {INTRINSICS_HOME}: {}", i + 1, line.trim())
        }));
    }
    violations.sort();
    Ok(violations)
}

/// Finds `core::arch` or `std::arch` in a line of code; prose in comments does not count.
fn names_intrinsics(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["core", "std"].iter().any(|library| code.contains(&format!("{library}::arch")))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|name| name.to_string()).collect();
        Package { name: name.into(), features: BTreeSet::new(), dependencies }
    }

    #[test]
    fn the_closure_reaches_the_bottom_and_never_upward() {
        let allowed = closure(ARROWS).unwrap();
        assert!(allowed["bitnet-cli"].contains("bitnet-kernels"));
        assert!(!allowed["bitnet-benchmarks"].contains("bitnet-cli"));
        assert!(!allowed["bitnet-kernels"].contains("bitnet-backend"));
    }

    #[test]
    fn cycles_and_missing_rows_are_refused() {
        assert!(closure(&[("a", &["b"]), ("b", &["a"])]).is_err());
        assert!(closure(&[("a", &["b"])]).is_err());
    }

    #[test]
    fn upward_edges_and_unknown_crates_are_violations() {
        let allowed = closure(ARROWS).unwrap();
        let packages = [
            package("bitnet-kernels", &["bitnet-core"]),
            package("bitnet-model", &["bitnet-kernels"]),
            package("bitnet-new", &[]),
        ];
        let violations = edges(&packages, &allowed);
        assert_eq!(violations.len(), 2, "{violations:?}");
        assert!(violations[0].starts_with("bitnet-kernels -> bitnet-core"));
        assert!(violations[1].starts_with("bitnet-new: unknown crate"));
    }

    #[test]
    fn intrinsics_are_seen_in_code_and_not_in_comments() {
        let code = format!("use {}::arch::x86_64::*;", "core");
        assert!(names_intrinsics(&code));
        assert!(!names_intrinsics(&format!("// {code}")));
        assert!(!names_intrinsics("let arch = 1;"));
    }
}
