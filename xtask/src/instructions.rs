//! Instructions per weight of the ternary products and of flat passes, counted under user-mode emulation.
//!
//! A count says what a kernel costs where no processor of its architecture is at hand, and compares tiers of
//! different architectures: both run in the same emulator, one instruction a block, and the log of executed
//! blocks is counted. Two sizes of the same product are run; their difference is free of the program's start.
//! The emulator knows SSE and AVX2 but not AVX-512, so that the wider tiers are not in the table.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{capture, cargo, line, root, run};
use crate::targets;

/// Lines of the two products: every executed instruction is a line of a log, so few.
const LINES: [usize; 2] = [4, 8];
const COLS: usize = 2560;
/// Layouts, the weights in a byte of each, and the tokens: one, a tile, several tiles, and so many that codes are spread
/// once for all of them, which is done of quarters alone.
const LAYOUTS: [(&str, usize, &[usize]); 2] = [("quarters", 4, &[1, 4, 32, 128]), ("fifths", 5, &[1, 4, 32])];

/// Flat passes, and the values of two runs of each.
const PASSES: [&str; 8] = [
    "unpack-two-bit",
    "unpack-base-3",
    "unpack-bitmap",
    "pack-two-bit",
    "pack-base-3",
    "pack-bitmap",
    "magnitudes",
    "absmean",
];
const VALUES: [usize; 2] = [1280, 2560];

struct Machine {
    target: &'static str,
    emulator: &'static str,
    tiers: &'static [&'static str],
}

const MACHINES: [Machine; 2] = [
    Machine {
        target: "x86_64-unknown-linux-gnu",
        emulator: "qemu-x86_64",
        tiers: &["sse2", "ssse3", "avx2"],
    },
    Machine { target: targets::EMULATED, emulator: targets::EMULATOR, tiers: &["neon", "dotprod", "i8mm"] },
];

/// Prints the table.
///
/// # Errors
/// An emulator or a target that is not there and cannot be installed, or a program that fails.
pub fn count() -> Result<()> {
    if let Err(reason) = targets::prepare_emulation() {
        bail!("cannot emulate {}: {reason}", targets::EMULATED);
    }
    println!("instructions for 128 weights and one token");
    let heads = ["1 token", "4 tokens", "32 tokens", "128 tokens"].map(|head| format!(" {head:>10}"));
    println!("{:<10} {:<10}{}", "tier", "layout", heads.concat());
    for machine in &MACHINES {
        let program = build(machine.target, "product")?;
        let single = single_step_flag(machine.emulator)?;
        for tier in machine.tiers {
            for (layout, packed, counts) in LAYOUTS {
                let mut row = format!("{tier:<10} {layout:<10}");
                for &tokens in counts {
                    let [small, large] = LINES.map(|lines| {
                        executed(machine, single, &program, &[tier, layout], &[lines, COLS, tokens])
                    });
                    let weights = (LINES[1] - LINES[0]) * COLS * packed * tokens;
                    row += &format!(" {:>10.1}", (large? - small?) as f64 * 128.0 / weights as f64);
                }
                println!("{row}");
            }
        }
    }
    println!("\ninstructions for 128 values");
    for machine in &MACHINES {
        let program = build(machine.target, "flat")?;
        let single = single_step_flag(machine.emulator)?;
        // Tiers of AArch64 above the first take its flat passes over.
        let tiers = if machine.target == targets::EMULATED { &machine.tiers[..1] } else { machine.tiers };
        for tier in tiers {
            for pass in PASSES {
                let [small, large] =
                    VALUES.map(|values| executed(machine, single, &program, &[tier, pass], &[values]));
                let values = (VALUES[1] - VALUES[0]) as f64;
                println!("{tier:<10} {pass:<16} {:>9.1}", (large? - small?) as f64 * 128.0 / values);
            }
        }
    }
    Ok(())
}

/// Builds an example and returns its path.
fn build(target: &str, example: &str) -> Result<PathBuf> {
    let args = ["build", "--release", "--package", "bitnet-kernels", "--example", example];
    run(cargo(args)
        .args(["--target", target])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", targets::LINKER))?;
    Ok(root().join("target").join(target).join("release/examples").join(example))
}

/// Returns how this version of the emulator is told to run one instruction a block.
fn single_step_flag(emulator: &str) -> Result<&'static str> {
    let help = capture(Command::new(emulator).arg("-help"))?.stdout;
    Ok(if help.contains("one-insn-per-tb") { "-one-insn-per-tb" } else { "-singlestep" })
}

/// Returns the instructions that a run of the program executes.
fn executed(machine: &Machine, single: &str, program: &Path, names: &[&str], sizes: &[usize]) -> Result<u64> {
    let log = root().join("target/xtask/instructions.log");
    std::fs::create_dir_all(root().join("target/xtask"))?;
    let mut command = Command::new(machine.emulator);
    command.args(["-cpu", "max", single, "-d", "exec,nochain", "-D"]).arg(&log);
    if machine.target == targets::EMULATED {
        command.args(["-L", targets::SYSROOT]);
    }
    command.arg(program).args(names).args(sizes.iter().map(usize::to_string));
    let output = command.stdout(Stdio::null()).output().with_context(|| line(&command))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut count = 0;
    for entry in BufReader::new(File::open(&log)?).split(b'\n') {
        count += u64::from(entry?.starts_with(b"Trace"));
    }
    std::fs::remove_file(&log)?;
    Ok(count)
}
