//! A build without the bundled model.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]
#![cfg(not(feature = "fairytales"))]

use std::process::{Command, Stdio};

#[test]
fn without_a_bundled_model_one_has_to_be_named() {
    for arguments in [&["run", "x"][..], &["chat"], &["eval", "--tokens", "absent"], &["inspect"]] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_bitnet"));
        let output = program.args(arguments).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.starts_with("error: --model: expected a model") && told.lines().count() == 1, "{told}");
    }
}
