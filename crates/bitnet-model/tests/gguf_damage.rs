//! GGUF files with random damage: whatever the bytes, loading answers with a model or with one line.
//!
//! The smoke of `cargo test` takes a second; `cargo xtask nightly` runs the long one.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;

use bitnet_model::{Gguf, LoadError, LoadOptions, ModelFiles, ModelSource, WeightAccess};
use bitnet_testing::gguf::GgufFile;
use bitnet_testing::golden_dir;
use bitnet_testing::temp::TempDir;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Files to damage: all types that the loader turns into something else.
const FILES: [&str; 4] = ["bitnet_b158-i2_s-x86", "bitnet_b158-tq2_0", "bitnet_silu-tq2_0", "llama-f16"];

/// One change of a file.
#[derive(Debug, Clone)]
enum Damage {
    /// A byte.
    Byte(prop::sample::Index, u8),
    /// A length, count, extent, id or offset: any eight bytes.
    Number(prop::sample::Index, u64),
    /// Bytes put in between.
    Insert(prop::sample::Index, Vec<u8>),
    /// Bytes taken out.
    Remove(prop::sample::Index, usize),
    /// The end.
    Truncate(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let numbers = prop_oneof![
        0..70u64,
        Just(1 << 16),
        Just(u64::from(u32::MAX)),
        (30..64u32).prop_map(|bits| 1 << bits),
        (0..64u64).prop_map(|less| u64::MAX - less),
        any::<u64>(),
    ];
    prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        6 => (at(), numbers).prop_map(|(at, number)| Damage::Number(at, number)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (at(), 1..40usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => at().prop_map(Damage::Truncate),
    ]
}

/// Damages the header and, by every eighth place, the data.
fn apply(bytes: &mut Vec<u8>, header: usize, damage: &Damage) {
    let place = |index: &prop::sample::Index, length: usize| match index.index(8) {
        0 => index.index(length),
        _ => index.index(header.min(length)),
    };
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match damage {
        Damage::Byte(at, byte) => bytes[place(at, length)] = *byte,
        Damage::Number(at, number) => {
            let at = place(at, length);
            let end = (at + 8).min(length);
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        Damage::Insert(at, more) => {
            let at = place(at, length);
            bytes.splice(at..at, more.iter().copied());
        }
        Damage::Remove(at, count) => {
            let at = place(at, length);
            bytes.drain(at..(at + count).min(length));
        }
        Damage::Truncate(at) => bytes.truncate(at.index(length)),
    }
}

fn check_line(error: &LoadError, path: &Path) {
    let line = error.to_string();
    assert!(line.starts_with(&*path.to_string_lossy()), "{line}");
    assert!(!line.chars().any(char::is_control) && line.len() < 1500, "{line}");
    assert!(line.contains("expected ") && line.contains("found"), "{line}");
}

/// Walks over everything that a file holds.
fn walk(gguf: &Gguf) {
    let metadata = gguf.metadata();
    for key in metadata.keys() {
        let value = metadata.get(key).expect("a key that was read");
        if let Some(array) = value.as_array() {
            assert_eq!(array.values().count(), array.len(), "{key}");
        }
    }
    gguf.tensors().iter().for_each(|tensor| assert_eq!(gguf.bytes_of(tensor).len(), tensor.range.len()));
}

fn run(cases: u32) {
    let dir = TempDir::new("gguf-damage");
    let path = dir.path().join("m.gguf");
    for name in FILES {
        let file = GgufFile::read(&golden_dir("gguf").join(format!("{name}.gguf"))).to_bytes();
        let header = Gguf::from_bytes(&path, file.clone()).unwrap().tensors()[0].range.start;
        let damages = prop::collection::vec(damage(), 1..4);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&damages, |damages| {
                let mut bytes = file.clone();
                damages.iter().for_each(|damage| apply(&mut bytes, header, damage));
                std::fs::write(&path, &bytes).unwrap();
                match Gguf::open(&path, WeightAccess::Copy) {
                    Ok(gguf) => walk(&gguf),
                    Err(error) => check_line(&error, &path),
                }
                let loaded = ModelFiles::open(&ModelSource::Gguf(path.clone()))
                    .and_then(|files| bitnet_model::load(&files, &mut LoadOptions::default()));
                if let Err(error) = loaded {
                    check_line(&error, &path);
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn damaged_files_never_bring_loading_down() {
    run(150);
}

/// The long run of `cargo xtask nightly`.
#[test]
#[ignore = "minutes: run by cargo xtask nightly"]
fn many_damaged_files_never_bring_loading_down() {
    run(20_000);
}
