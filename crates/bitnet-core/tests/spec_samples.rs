//! The specification's samples, run as the programs that a user would run.
//!
//! `cargo test` has built the examples beside this test's own binary; when it was asked for this test
//! alone, the missing one is built first.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bitnet_testing::temp::TempDir;

/// Features that this test was built with, for building an example in the same way.
const FEATURES: [(&str, bool); 3] = [
    ("simd", cfg!(feature = "simd")),
    ("parallel", cfg!(feature = "parallel")),
    ("tokenizers", cfg!(feature = "tokenizers")),
];

fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        let features: Vec<_> = FEATURES.iter().filter(|feature| feature.1).map(|feature| feature.0).collect();
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--package", "bitnet-core", "--no-default-features", "--example", name]);
        command.arg("--features").arg(features.join(","));
        command.arg("--target-dir").arg(profile.parent().unwrap());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(command.status().unwrap().success(), "{name} does not build");
    }
    path
}

/// Runs an example in `folder` and returns what it printed.
fn printed(name: &str, folder: &Path) -> String {
    let output = Command::new(example(name)).current_dir(folder).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Returns what stands behind `label` in the output.
fn value<'a>(output: &'a str, label: &str) -> &'a str {
    let line = output.lines().find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no line {label:?} in\n{output}")).trim()
}

#[test]
fn spec_sample_memory_pool_counts_its_megabyte() {
    let folder = TempDir::new("spec-memory");
    let output = printed("spec_09_memory_pool", folder.path());
    for label in ["Total allocated:", "Peak usage:"] {
        let bytes: usize = value(&output, label).trim_end_matches(" bytes").parse().unwrap();
        assert!((1 << 20..1 << 21).contains(&bytes), "{label} {bytes}");
    }
}

#[test]
fn spec_sample_memory_tracking_measures_pressure_and_fragmentation() {
    let folder = TempDir::new("spec-tracking");
    let output = printed("spec_11_memory_tracking", folder.path());
    let level = value(&output, "Pressure level:");
    assert!(["None", "Low", "Medium", "High", "Critical"].contains(&level), "{level}");
    assert_eq!(value(&output, "Fragmentation:"), "0.00%");
}

#[test]
fn the_demonstrations_of_tracking_and_cleanup_come_to_their_ends() {
    let folder = TempDir::new("spec-demos");
    let tracking = printed("memory_tracking_demo", folder.path());
    assert!(tracking.contains("tag weights: 3.0 MiB now, 3.0 MiB peak"), "{tracking}");
    assert_eq!(tracking.matches("not given back: 1 blocks").count(), 2, "{tracking}");
    assert_eq!(value(&tracking, "at the end"), "0 blocks are allocated");
    let cleanup = printed("cleanup_system_demo", folder.path());
    for line in ["Idle: ", "Pressure: ", "Periodic: ", "Generational: "] {
        value(&cleanup, line);
    }
    assert!(cleanup.contains("every block kept its bytes"), "{cleanup}");
    assert!(cleanup.trim_end().ends_with("left 0 bytes reserved"), "{cleanup}");
}

#[test]
fn spec_sample_conversions_compress_and_save_what_f16_leaves() {
    let folder = TempDir::new("spec-conversions");
    let output = printed("spec_04_memory_efficient_conversions", folder.path());
    assert_eq!(value(&output, "Compression:"), "2.0x");
    assert!(output.contains("Zero-copy conversion completed"), "{output}");
    assert_eq!(value(&output, "Memory saved:"), "8192 bytes");
    assert_eq!(value(&output, "Batch converted"), "5 tensors");
    // One each of the first four kinds, and five of a batch.
    assert_eq!(value(&output, "Total conversions:"), "9");
    assert_eq!(value(&output, "Success rate:"), "100.0%");
    let time = value(&output, "Average time:").trim_end_matches("ms");
    assert!(time.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{output}");
}

#[test]
fn spec_sample_data_conversion_runs_every_way_of_the_engine() {
    let folder = TempDir::new("spec-data-conversion");
    assert_eq!(printed("spec_10_data_conversion", folder.path()), "");
}

#[test]
fn spec_sample_memory_configuration_makes_a_pool() {
    let folder = TempDir::new("spec-configuration");
    printed("spec_16_memory_pool_configuration", folder.path());
}

#[test]
fn spec_sample_device_selects_a_device_that_is_there() {
    let folder = TempDir::new("spec-device");
    let output = printed("spec_13_device", folder.path());
    assert!(!value(&output, "Selected device:").is_empty());
    assert!(value(&output, "CPU available:").starts_with("true, Metal available: "), "{output}");
}

#[test]
fn spec_sample_tensor_has_the_shape_and_device_it_was_given() {
    let folder = TempDir::new("spec-tensor");
    let output = printed("spec_14_tensor", folder.path());
    assert_eq!(value(&output, "Tensor shape:"), "[128, 256]");
    assert!(!value(&output, "Tensor device:").is_empty());
}

#[test]
fn spec_sample_simd_unpacking_selects_packs_and_unpacks() {
    let folder = TempDir::new("spec-unpacking");
    let output = printed("spec_05_simd_unpacking", folder.path());
    assert!(value(&output, "SIMD capabilities:").starts_with("SimdCapabilities { tier: Some("), "{output}");
    // Equal thirds: five weights a byte are within a hundredth of the entropy.
    assert_eq!(value(&output, "Optimal strategy:"), "Base3Packed");
    assert_eq!(value(&output, "Compression ratio:"), "5.00x");
    assert_eq!(value(&output, "Memory footprint:"), "2000 bytes");
    assert!(value(&output, "BitPacked2Bit:").starts_with("4.00x compression"));
    assert!(value(&output, "CompressedSparse:").starts_with("4.7"));
}

#[cfg(feature = "tokenizers")]
mod tokenizer {
    use serde_json::json;

    use super::*;

    /// A byte-level vocabulary that merges `hello` and ` world` into one token each.
    fn vocabulary() -> (serde_json::Value, Vec<&'static str>) {
        let merges = vec!["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"];
        let letters = ["h", "e", "l", "o", "w", "r", "d", "Ġ", "H", ",", "!"].map(str::to_owned);
        let merged = merges.iter().map(|merge| merge.replace(' ', ""));
        let tokens = letters.into_iter().chain(merged).enumerate();
        (tokens.map(|(id, token)| (token, json!(id))).collect::<serde_json::Map<_, _>>().into(), merges)
    }

    fn write_files(folder: &Path) {
        let (vocab, merges) = vocabulary();
        std::fs::write(folder.join("vocab.json"), vocab.to_string()).unwrap();
        std::fs::write(folder.join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "vocab": vocab, "merges": merges,
            },
        });
        std::fs::create_dir(folder.join("path")).unwrap();
        std::fs::create_dir(folder.join("path/to")).unwrap();
        std::fs::write(folder.join("path/to/tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    #[test]
    fn spec_sample_tokenizer_prints_the_ids_of_its_comments() {
        let folder = TempDir::new("spec-tokenizer");
        write_files(folder.path());
        let output = printed("spec_06_tokenization", folder.path());
        assert_eq!(value(&output, "Tokens:"), "[0, 1, 2, 3, 4]");
        assert_eq!(value(&output, "Decoded:"), "hello world bitnet is awesome");
        assert_eq!(value(&output, "Batch tokens:"), "[[0, 1], [2, 3, 4], [0, 2]]");
        assert_eq!(value(&output, "CLS token ID:"), "Some(100)");
        // H, e, ll, o, comma, " world", exclamation mark; then "hello" and " world".
        assert_eq!(value(&output, "HF tokens:"), "[8, 1, 12, 3, 9, 19, 10]");
        assert_eq!(value(&output, "BPE tokens:"), "[14, 19]");
    }

    #[test]
    fn spec_sample_tokenizer_names_the_file_that_is_missing() {
        let folder = TempDir::new("spec-no-tokenizer");
        let output =
            Command::new(example("spec_06_tokenization")).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("tokenizer.json"));
    }
}
