//! Starts the program and collects what it says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a finished program left.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    /// `None`: a signal ended it.
    pub code: Option<i32>,
}

impl Outcome {
    /// Checks that it succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Reads standard output as one JSON object of the current schema.
    pub fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(value["schema"], 1);
        value
    }

    /// Checks the exit status, and that the error is the last line of standard error and the only one of its kind.
    pub fn failed(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<_> = self.stderr.lines().collect();
        let errors = lines.iter().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(
            (errors, lines.last().is_some_and(|line| line.starts_with("error: "))),
            (1, true),
            "{self:?}"
        );
        lines[lines.len() - 1]
    }
}

/// Prepares the program. A tier that `BITNET_ISA` forces on the tests is theirs too.
pub fn bitnet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(arguments).env_remove("COLUMNS").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a prepared program to its end.
pub fn finish(mut command: Command) -> Outcome {
    outcome(command.spawn().unwrap().wait_with_output().unwrap())
}

/// Runs the program to its end.
pub fn output(arguments: &[&str]) -> Outcome {
    finish(bitnet(arguments))
}

/// Runs the program with `input` on standard input.
pub fn output_with_input(arguments: &[&str], input: &str) -> Outcome {
    let mut child = bitnet(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    outcome(child.wait_with_output().unwrap())
}

fn outcome(output: std::process::Output) -> Outcome {
    Outcome {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

/// Returns a folder of the bundled model: `model` or `eval`.
pub fn fairy_tales(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales").join(folder)
}

/// Copies the bundled model into a folder.
pub fn copy_model(to: &Path) {
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fairy_tales("model").join(file), to.join(file)).unwrap();
    }
}

/// Returns a path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Lists a folder, hidden files too.
pub fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
