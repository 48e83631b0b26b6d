//! Files and folders that appear whole or not at all.
//!
//! The contents go to a temporary file or folder beside the target, are forced to the disk, and then take the name.
//! What ends the program by a signal that can be caught removes them, when its handler calls [`discard_unfinished`];
//! what a killed program left is removed by the next one that writes to the same target.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitnet_backend::{BitNetError, Result};

mod file;
mod folder;
#[cfg(test)]
mod tests;

pub use file::AtomicFile;
pub use folder::AtomicFolder;

/// Temporary files and folders in the making, for the handler of Ctrl-C.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Returns the name of what is being written.
fn temporary_name(name: &std::ffi::OsStr) -> String {
    format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id())
}

/// Removes a file or a folder, as far as that is possible.
fn remove(path: &Path) {
    // Best effort: the error that brought us here is the one to report.
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

/// Removes what a killed program left beside `target`, where the system tells which programs run.
fn remove_stale(target: &Path) {
    let (Some(name), true) = (target.file_name(), Path::new("/proc/self").exists()) else { return };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let front = format!(".{}.", name.to_string_lossy());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|found| found.strip_prefix(&front)?.strip_suffix(".tmp"));
        let process = process.and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            remove(&entry.path());
        }
    }
}

/// Follows links, and refuses what a file must not take the place of.
fn resolve(target: &Path) -> Result<PathBuf> {
    let Ok(found) = std::fs::symlink_metadata(target) else { return Ok(target.to_owned()) };
    let target = match found.is_symlink() {
        true => std::fs::canonicalize(target).map_err(cannot_write(target))?,
        false => target.to_owned(),
    };
    match std::fs::metadata(&target) {
        Ok(found) if found.is_dir() => Err(refuse(&target, "a file to write", "a folder")),
        Ok(found) if !found.is_file() => Err(refuse(&target, "a file to write", "a device or pipe")),
        _ => Ok(target),
    }
}

/// Removes every temporary file and folder, when the program is about to end in the middle.
pub fn discard_unfinished() {
    for path in unfinished().drain(..) {
        remove(&path);
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the new name durable, where folders can be synchronised.
fn sync_folder(target: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Some file systems refuse to synchronise a folder; the file itself is whole and on the disk.
    let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    Ok(())
}

/// Makes errors of the system name the file.
fn cannot_write(target: &Path) -> impl Fn(io::Error) -> BitNetError {
    |error| BitNetError::io(target, "write", &error)
}

fn refuse(target: &Path, expected: &str, found: &str) -> BitNetError {
    BitNetError::mismatch(target.display().to_string(), expected, found)
}
