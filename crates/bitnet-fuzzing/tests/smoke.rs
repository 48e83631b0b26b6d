//! Every parser on damaged files: about a second each here, minutes each in `cargo xtask nightly`.
//!
//! `BITNET_FUZZ_SECONDS` sets the time of the long run for each parser, `BITNET_FUZZ_SEED` its seed.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitnet_fuzzing::{TARGETS, Target};
use bitnet_testing::held::{Held, held, reset_peak};

#[global_allocator]
static ALLOCATOR: Held = Held;

/// One parser at a time: what others hold would be counted too.
static ALONE: Mutex<()> = Mutex::new(());

/// What a parser may hold beside twice the file.
const ALLOWANCE: usize = 64 << 20;

fn find(name: &str) -> Target {
    TARGETS.into_iter().find(|target| target.name == name).unwrap()
}

/// Runs damaged inputs and holds the memory of each against its size.
fn run(target: Target, seed: u64, mut more: impl FnMut(usize) -> bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut before, mut size) = (held(), usize::MAX >> 2);
    target.run(seed, |count, bytes| {
        let peak = reset_peak().saturating_sub(before);
        assert!(peak < 2 * size + ALLOWANCE, "{}: {peak} bytes held for {size} of a file", target.name);
        (before, size) = (held(), bytes);
        more(count)
    });
}

fn smoke(name: &str) {
    let target = find(name);
    run(target, 1, |count| count < target.smoke);
}

/// One test a parser, so that a failure has its name.
macro_rules! smokes {
    ($($name:ident)*) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })*
        const SMOKES: &[&str] = &[$(stringify!($name)),*];
    };
}

smokes! {
    safetensors_header safetensors_folder shard_index config_json gguf_container gguf_parts gguf_model bitnet_file
    gguf_vocabulary tokenizer_json tokenizer_model tokenizer_config chat_template saved_chat tensor_file pool_snapshot
}

#[test]
fn every_target_has_its_smoke_and_its_fuzzer() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, SMOKES);
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let target = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("targets::{name}(")), "{name}");
    }
}

/// The long run of `cargo xtask nightly`.
#[test]
#[ignore = "minutes: run by cargo xtask nightly"]
fn every_parser_for_minutes() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let time = Duration::from_secs(number("BITNET_FUZZ_SECONDS", 120));
    let seed = number("BITNET_FUZZ_SEED", 2);
    for target in TARGETS {
        let begin = Instant::now();
        let mut inputs = 0;
        run(target, seed, |count| {
            inputs = count;
            begin.elapsed() < time
        });
        println!("{}: {inputs} inputs in {:.0} s", target.name, begin.elapsed().as_secs_f64());
    }
}
