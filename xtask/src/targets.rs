//! Other systems: macOS and Windows are type-checked, AArch64 is tested under user-mode emulation.
//!
//! A target or tool that cannot be installed here is skipped, and said to be; what can be installed must
//! pass.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::{cargo, has_program, root, run};

const CHECKED: [&str; 2] = ["aarch64-apple-darwin", "x86_64-pc-windows-gnu"];
/// The target whose programs run under emulation.
pub const EMULATED: &str = "aarch64-unknown-linux-gnu";
/// Its linker.
pub const LINKER: &str = "aarch64-linux-gnu-gcc";
/// Its emulator.
pub const EMULATOR: &str = "qemu-aarch64";
/// Where its system libraries are.
pub const SYSROOT: &str = "/usr/aarch64-linux-gnu";
/// With `-cpu max` the emulated processor has every extension that the emulator knows, `asimddp` and `i8mm`
/// among them, so that each AArch64 tier is available to the tests.
const RUNNER: &str = "qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu";
/// What these tests have to find: an emulator that lacks one fails a test of `bitnet-kernels`.
const TIERS: &str = "neon,dotprod,i8mm";

/// Checks every target that can be installed.
///
/// # Errors
/// Code that does not compile, or a failing test, on an installed target.
pub fn check() -> Result<()> {
    for target in CHECKED {
        match install_target(target) {
            Ok(()) => run(&mut cargo(["check", "--workspace", "--target", target]))?,
            Err(reason) => println!("SKIPPED {target}: {reason}"),
        }
    }
    match prepare_emulation() {
        Ok(()) => test_emulated(),
        Err(reason) => {
            println!("SKIPPED {EMULATED}: {reason}");
            Ok(())
        }
    }
}

fn test_emulated() -> Result<()> {
    let units = [
        "--package",
        "bitnet-kernels",
        "--package",
        "bitnet-core",
        "--package",
        "bitnet-quant",
        "--lib",
        "--tests",
    ];
    // An emulated program cannot start another emulated program without help from the kernel.
    let starting_others = [
        "--skip",
        "spec_sample_",
        "--skip",
        "pools_live_within_a_limited_address_space",
        "--skip",
        "two_processes_hold_weights_once",
        "--skip",
        "blocks_change_threads_where_the_kernel_takes_its_barrier_back",
        "--skip",
        "a_missing_instruction_set_is_an_error_everywhere",
    ];
    emulated(&units, &starting_others)?;
    // Whole models: among them the hashes of logits that were recorded on x86-64.
    emulated(&["--package", "bitnet-inference", "--test", "golden", "--test", "determinism"], &[])
}

fn emulated(select: &[&str], options: &[&str]) -> Result<()> {
    run(cargo(["test", "--target", EMULATED])
        .args(select)
        .arg("--")
        .args(options)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", RUNNER)
        .env("BITNET_EXPECT_ISA", TIERS))
}

/// Installs what emulated programs need.
///
/// # Errors
/// What is missing and could not be installed.
pub fn prepare_emulation() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("user-mode emulation needs Linux".into());
    }
    install_target(EMULATED)?;
    if !(has_program(LINKER) && has_program(EMULATOR)) {
        // The package lists of a fresh container are empty; an old list is better than none.
        quietly(Command::new("apt-get").args(["update"]));
        let packages = ["qemu-user", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
        quietly(Command::new("apt-get").args(["install", "-y", "--no-install-recommends"]).args(packages));
    }
    match [LINKER, EMULATOR].into_iter().find(|program| !has_program(program)) {
        Some(missing) => Err(format!("{missing} is not installed and apt-get could not install it")),
        None => Ok(()),
    }
}

fn install_target(target: &str) -> Result<(), String> {
    if has_standard_library(target) {
        return Ok(());
    }
    if !quietly(Command::new("rustup").args(["target", "add", target]).current_dir(root())) {
        return Err(format!("`rustup target add {target}` failed or rustup is not there"));
    }
    if has_standard_library(target) { Ok(()) } else { Err("the toolchain lacks its standard library".into()) }
}

fn has_standard_library(target: &str) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", target]).current_dir(root()).stderr(Stdio::null());
    let Ok(output) = command.output() else { return false };
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success() && std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
}

fn quietly(command: &mut Command) -> bool {
    eprintln!("$ {}", crate::process::line(command));
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).env("DEBIAN_FRONTEND", "noninteractive");
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_standard_library_and_an_invented_target_has_none() {
        assert!(!has_standard_library("pdp11-dec-unix"));
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        assert_eq!(has_standard_library(&host), cfg!(all(target_os = "linux", target_env = "gnu")));
    }
}
