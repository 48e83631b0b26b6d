//! Conversions that end half-way: by a signal, or by a disk without room.
#![cfg(target_os = "linux")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use bitnet_testing::temp::TempDir;

use crate::program::{bitnet, entries, fairy_tales, finish, output, text};

/// What a conversion has open in a folder: bytes written so far, and whether the file has a name.
fn open_file(process: u32, folder: &Path) -> Option<(u64, bool)> {
    let links = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    let files = links.filter_map(|entry| {
        let path = std::fs::read_link(entry.path()).ok()?;
        let named = !path.to_string_lossy().ends_with("(deleted)");
        path.starts_with(folder).then_some((std::fs::metadata(entry.path()).ok()?.len(), named))
    });
    files.max()
}

/// Sends a signal; a program that has ended already is no failure.
fn send(signal: &str, child: &mut Child) {
    if signal == "KILL" {
        child.kill().unwrap();
    } else {
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    }
}

/// Starts a conversion, and ends it once its file has so many bytes. Returns its status, and whether the file had
/// a name then; `None` when it was done before the signal came.
fn interrupted(format: &str, out: &Path, signal: &str, bytes: u64) -> Option<(ExitStatus, bool)> {
    let model = fairy_tales("model");
    let mut child = bitnet(&["convert", text(&model), text(out), "--to", format]).spawn().unwrap();
    let named = loop {
        match open_file(child.id(), out.parent().unwrap()) {
            Some((written, named)) if written >= bytes => break named,
            _ if child.try_wait().unwrap().is_some() => return None,
            _ => {}
        }
    };
    send(signal, &mut child);
    let status = child.wait_with_output().unwrap().status;
    if !status.success() && !is_there(out) { Some((status, named)) } else { None }
}

/// Reports whether there is a result: not what a test put there before.
fn is_there(out: &Path) -> bool {
    std::fs::metadata(out).is_ok_and(|found| found.is_dir() || found.len() > 3)
}

/// Removes a result, and checks that it is whole.
fn take(out: &Path, size: u64) {
    let weights = if out.is_dir() { out.join("model.safetensors") } else { out.to_owned() };
    assert_eq!(std::fs::metadata(weights).unwrap().len(), size);
    if out.is_dir() { std::fs::remove_dir_all(out) } else { std::fs::remove_file(out) }.unwrap();
}

#[test]
fn a_conversion_that_is_killed_leaves_nothing() {
    let dir = TempDir::new("cli-killed");
    let folder = dir.path().canonicalize().unwrap();
    for (format, name) in [("bitnet", "x.bitnet"), ("gguf-tq2_0", "x.gguf"), ("hf-packed", "x")] {
        let whole = dir.path().join(format!("whole-{name}"));
        output(&["convert", text(&fairy_tales("model")), text(&whole), "--to", format]).ok();
        let weights = if whole.is_dir() { whole.join("model.safetensors") } else { whole.clone() };
        let size = std::fs::metadata(&weights).unwrap().len();
        take(&whole, size);
        let out = folder.join(name);
        for (signal, quarter) in
            [("KILL", 0), ("KILL", 1), ("KILL", 2), ("KILL", 3), ("TERM", 1), ("INT", 2), ("HUP", 3)]
        {
            // A machine under load may get to it only when the conversion is done.
            let attempt = || {
                let attempt = interrupted(format, &out, signal, 1 + size * quarter / 4);
                if attempt.is_none() {
                    take(&out, size);
                }
                attempt
            };
            let found = (0..50).find_map(|_| attempt());
            let (status, named) = found.expect("a signal that comes half-way");
            let expected = if signal == "KILL" { (Some(9), None) } else { (None, Some(130)) };
            assert_eq!((status.signal(), status.code()), expected, "{format} {signal}");
            let left = entries(&folder);
            if signal == "KILL" && named {
                println!("SKIPPED: {} has no files without a name", folder.display());
                assert!(left.iter().all(|left| left.starts_with(&format!(".{name}."))), "{left:?}");
            } else {
                assert_eq!(left, [""; 0], "{format} {signal} at quarter {quarter}");
            }
        }
        // The next one is not in the way of anything, and clears up where something was left.
        output(&["convert", text(&fairy_tales("model")), text(&out), "--to", format]).ok();
        assert_eq!(entries(&folder), [name], "{format}");
        take(&out, size);
    }
}

#[test]
fn a_file_that_was_there_outlives_a_killed_conversion() {
    let dir = TempDir::new("cli-killed-old");
    let out = dir.path().canonicalize().unwrap().join("x.bitnet");
    let attempt = || {
        std::fs::write(&out, "old").unwrap();
        interrupted("bitnet", &out, "KILL", 1 << 20)
    };
    assert!((0..50).find_map(|_| attempt()).is_some());
    assert_eq!(std::fs::read(&out).unwrap(), b"old");
    output(&["convert", text(&fairy_tales("model")), text(&out), "--to", "bitnet"]).ok();
    assert_eq!(entries(dir.path()), ["x.bitnet"]);
    assert!(std::fs::metadata(&out).unwrap().len() > 1 << 20);
}

/// Runs a conversion, or whatever else, by a shell.
fn shell(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const FORMATS: [(&str, &str); 3] = [("bitnet", "x.bitnet"), ("gguf-i2_s", "x.gguf"), ("hf-packed", "x")];

#[test]
fn a_limit_on_files_is_a_clear_error_and_leaves_nothing() {
    let dir = TempDir::new("cli-limit");
    let model = fairy_tales("model");
    for (format, name) in FORMATS {
        // A limit on the size of files fails as a full disk does, once its signal is ignored.
        let script = "trap '' XFSZ; ulimit -f 1000; exec \"$@\"";
        let out = dir.path().join(name);
        let arguments = [env!("CARGO_BIN_EXE_bitnet"), "convert", text(&model), text(&out), "--to", format];
        let outcome = finish(shell(script, &arguments));
        let message = outcome.failed(1);
        assert!(message.contains("cannot write") && message.contains(name), "{format}: {outcome:?}");
        assert_eq!(entries(dir.path()), [""; 0], "{format}");
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let dir = TempDir::new("cli-full");
    let (model, disk) = (fairy_tales("model"), dir.path().join("disk"));
    std::fs::create_dir(&disk).unwrap();
    // A file system of one megabyte that only the shell and what it starts can see.
    let mount = "mount -t tmpfs -o size=1m none \"$0\"";
    let inside = |script: &str, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg(format!("{mount} && {script}")).arg(&disk).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    if !inside("true", &[]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: no file system may be mounted here");
        return;
    }
    for (format, name) in FORMATS {
        let out: PathBuf = disk.join(name);
        let arguments = [env!("CARGO_BIN_EXE_bitnet"), "convert", text(&model), text(&out), "--to", format];
        // The listing comes last on standard output; the status is that of the conversion.
        let outcome = finish(inside("{ \"$@\"; status=$?; ls -A \"$0\"; exit $status; }", &arguments));
        let message = outcome.failed(1);
        assert!(message.contains("cannot write") && message.contains(name), "{format}: {outcome:?}");
        assert!(message.contains("No space left"), "{format}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{format}");
    }
}
