//! The steps that are one or two cargo commands.

use anyhow::{Result, bail};

use crate::process::{capture, cargo, root, run};

/// Arguments of the command that runs all tests; the README promises exactly this one.
pub const TEST: [&str; 2] = ["test", "--workspace"];

/// Checks the formatting of every package.
pub fn fmt() -> Result<()> {
    run(&mut cargo(["fmt", "--all", "--check"]))
}

/// Lints all targets with default features, and the libraries and binaries with none.
pub fn clippy() -> Result<()> {
    run(&mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut cargo(["clippy", "--workspace", "--no-default-features", "--", "-D", "warnings"]))
}

/// Builds the documentation of the workspace's own crates.
pub fn doc() -> Result<()> {
    run(cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs all tests, and the suites of the speed of kernels and models as tests: once, on little data.
///
/// The whole workspace is selected, so that what [`TEST`] compiled serves again.
pub fn test() -> Result<()> {
    run(&mut cargo(TEST))?;
    run(&mut cargo(["test", "--workspace", "--bench", "kernels", "--bench", "decode", "--bench", "prefill"]))
}

/// Runs the tests with the scalar kernels forced.
///
/// The whole workspace is selected, so that the binaries of [`test()`] serve again; documentation tests
/// do not depend on the tier and are left out.
pub fn test_scalar() -> Result<()> {
    let args = ["test", "--workspace", "--exclude", "xtask", "--lib", "--bins", "--tests"];
    run(cargo(args).env("BITNET_ISA", "scalar"))
}

/// The tests that are too long for every change: package, test program, test.
const STRESS: [[&str; 3]; 5] = [
    ["bitnet-inference", "stress", "random_schedules_change_no_bit"],
    ["bitnet-inference", "stress", "the_whole_held_out_text_has_its_loss"],
    ["bitnet-model", "gguf_damage", "many_damaged_files_never_bring_loading_down"],
    ["bitnet-fuzzing", "smoke", "every_parser_for_minutes"],
    ["bitnet-kernels", "tiers", "casts::every_binary32_rounds_as_the_half_crate_does"],
];

/// Runs the tests that are too long for every change, by name: a test that has gone is an error here, where a
/// filter would select nothing.
pub fn stress() -> Result<()> {
    for [package, file, test] in STRESS {
        let stress = ["test", "--package", package, "--test", file, "--", "--ignored", "--exact", test];
        let output = capture(&mut cargo(stress))?;
        if !output.stdout.contains("1 passed") {
            bail!("{test} is not there");
        }
        println!("passed: {test}");
    }
    let long = "memory::tests::threads::memory_survives_a_long_stress";
    let memory = ["test", "--package", "bitnet-core", "--lib", "--", "--ignored", "--exact", long];
    if !capture(&mut cargo(memory))?.stdout.contains("1 passed") {
        bail!("{long} is not there");
    }
    println!("passed: {long}");
    loom()?;
    miri()
}

/// Parts of the memory pool that Miri runs: its bookkeeping, and a few blocks from request to return.
const MIRI_POOL: [&str; 13] = [
    "memory::word::",
    "memory::bias::",
    "memory::latch::",
    "memory::handle::",
    "memory::records::",
    "memory::counters::",
    "memory::planner::",
    "memory::tests::cleanup::moved_blocks",
    "memory::tests::memory_handles_die",
    "memory::tests::memory_handles_of_another_pool",
    "memory::tests::pinned_memory",
    "memory::tests::shrink::clones_of",
    "memory::tests::threads::racing_frees",
];

/// Parts of the tensors that Miri runs, on a big-endian machine too. Mappings, other processes and the assembly of `libm`
/// and `gemm` are beyond it; the tests of the shelf and of long tables of functions would take it minutes each.
const MIRI_TENSORS: [&str; 17] = [
    "memory::tensor::base3",
    "memory::tensor::file",
    "memory::tensor::handle",
    "memory::tensor::interop",
    "memory::tensor::bitnet_tensor",
    "memory::tensor::layout",
    "memory::tensor::views",
    "memory::tensor::creation",
    "memory::tensor::display",
    "memory::tensor::packed",
    "memory::tensor::compression::codec::tests::any_bytes",
    "memory::tensor::compression::codec::tests::elements",
    "tensor::arithmetic",
    "tensor::broadcast",
    "tensor::cast",
    "tensor::parallel",
    "tensor::tests::",
];
/// The features of their build: without default ones, so that the scalar kernels answer on one thread.
const MIRI_FEATURES: [&str; 3] = ["--no-default-features", "--features", "compression,ndarray"];

/// Interprets a part of the tests of memory and tensors, which finds undefined behaviour. Needs a nightly toolchain.
fn miri() -> Result<()> {
    let big_endian = [&MIRI_FEATURES[..], &["--target", "s390x-unknown-linux-gnu"]].concat();
    let runs: [(&str, &[&str], &[&str]); 3] = [
        ("the bookkeeping of the memory pool", &[], &MIRI_POOL),
        ("tensors", &MIRI_FEATURES, &MIRI_TENSORS),
        ("tensors on a big-endian machine", &big_endian, &MIRI_TENSORS),
    ];
    for (what, flags, tests) in runs {
        let args = ["run", "nightly", "cargo", "miri", "test", "--package", "bitnet-core", "--lib"];
        let mut command = std::process::Command::new("rustup");
        command.args(args).args(flags).arg("--").args(tests);
        command.current_dir(root()).env("CARGO_TARGET_DIR", "target/miri");
        // Memory of the pool is reached through addresses, and tests ask for the time and write files.
        command.env("MIRIFLAGS", "-Zmiri-permissive-provenance -Zmiri-disable-isolation");
        let output = capture(&mut command)?;
        if !output.success {
            bail!("{what}: not all tests passed under Miri\n{}{}", output.stdout, output.stderr);
        }
        if let Some(part) = tests.iter().find(|part| passed(&output.stdout, part) == 0) {
            bail!("{what}: no test of {part} ran under Miri");
        }
        println!("passed: {what} under Miri");
    }
    Ok(())
}

/// Folders of `bitnet-core` that have model checks.
const LOOM: [&str; 2] = ["memory", "cpu"];

/// Runs the model checks of the memory pool and of the team of workers, which replace their atomics and locks.
fn loom() -> Result<()> {
    let args = ["test", "--package", "bitnet-core", "--lib", "--release", "loom_tests"];
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = cargo(args);
    // A folder of its own: the flag would rebuild everything in the usual one.
    command.env("RUSTFLAGS", format!("{flags} --cfg loom")).env("CARGO_TARGET_DIR", "target/loom");
    let output = capture(&mut command)?;
    if !output.success {
        bail!("the model checks did not all pass\n{}{}", output.stdout, output.stderr);
    }
    for part in LOOM {
        let source = root().join(format!("crates/bitnet-core/src/{part}/loom_tests.rs"));
        let written = std::fs::read_to_string(source)?.matches("#[test]").count();
        let ran = passed(&output.stdout, &format!("{part}::loom_tests::"));
        if written == 0 || ran != written {
            bail!("model checks of {part}: expected {written}, found {ran} that passed");
        }
        println!("passed: {ran} model checks of {part}");
    }
    Ok(())
}

/// Counts the tests that passed, by what their names contain: a filter that selects nothing is no error to cargo.
fn passed(output: &str, part: &str) -> usize {
    let tests = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    tests.filter(|name| name.contains(part)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_by_name_and_only_if_they_passed() {
        let output = "running 3 tests\ntest a::b::one ... ok\ntest a::c::two ... FAILED\n\
                      test a::b::three - should panic ... ok\ntest result: FAILED. 2 passed; 1 failed\n";
        assert_eq!([passed(output, "a::b::"), passed(output, "a::c::"), passed(output, "d::")], [2, 0, 0]);
    }
}
