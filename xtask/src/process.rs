//! Child processes: cargo in the workspace root, with the command line printed before it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Returns the root of the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Returns a `cargo` command in the workspace root, from the toolchain that built this program.
pub fn cargo<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Renders a command as one would type it, with the variables it sets.
pub fn line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(key, value)| {
        value.map(|value| format!("{}={}", key.to_string_lossy(), value.to_string_lossy()))
    });
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    variables.chain(words).map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: String) -> String {
    if word.is_empty() || word.contains([' ', '"', '\'']) { format!("{word:?}") } else { word }
}

/// Runs a command with this process's streams.
///
/// # Errors
/// A command that cannot start or exits with another status than 0.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", line(command));
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// What a captured command wrote, and whether it succeeded.
pub struct Captured {
    /// Exit status 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error; empty when it was inherited.
    pub stderr: String,
}

/// Runs a command, keeping what it writes to standard output; standard error passes through.
///
/// # Errors
/// A command that cannot start or exits with another status than 0.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    eprintln!("$ {}", line(command));
    let captured = capture(command.stderr(Stdio::inherit()))?;
    if !captured.success {
        bail!("`{}` failed\n{}", line(command), captured.stdout);
    }
    Ok(captured.stdout)
}

/// Runs a command to its end, keeping both streams whatever its status.
///
/// # Errors
/// A command that cannot start.
pub fn capture(command: &mut Command) -> Result<Captured> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = output.spawn().with_context(|| format!("cannot start {}", line(command)))?;
    let output = child.wait_with_output()?;
    Ok(Captured {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Reports whether `program` can be started.
pub fn has_program(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_show_variables_and_quotes() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["run", "--", "Once upon"]).env("BITNET_ISA", "scalar");
        assert_eq!(line(&command), "BITNET_ISA=scalar cargo run -- \"Once upon\"");
    }

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(&mut cargo(["no-such-subcommand"])).unwrap_err().to_string();
        assert!(error.contains("cargo no-such-subcommand"), "{error}");
    }
}
