//! Files and folders that appear whole or not at all.
//!
//! The contents go to files that have no name yet (`unnamed`), are forced to the disk, and are given their names
//! then: what ends the program before, a signal that cannot be caught and a power failure too, leaves nothing. Where
//! system or file system have no such files they go to a hidden file or folder beside the target, which takes the
//! name at the end; signals that can be caught remove it, and what a killed program left is removed by the next one
//! that writes to the same target.
//!
//! A hidden name is needed for a moment all the same where a file is replaced, since a name can be given to a new
//! place only, and for every folder, while its files are named and as long as `--verify` reads them.

mod file;
mod folder;
#[cfg(test)]
mod tests;
mod unnamed;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bitnet_backend::BitNetError;

pub use file::AtomicFile;
pub use folder::AtomicFolder;

/// Hidden files and folders in the making, for the handler of Ctrl-C. Who makes one, fills it or renames it holds the
/// lock, so that nothing comes into being behind the handler's back.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A hidden name beside a target, removed with what it stands for unless it is given up.
#[derive(Debug)]
struct Hidden {
    path: PathBuf,
    /// Whether what stands there was made through this.
    made: Cell<bool>,
}

impl Hidden {
    /// Takes note of a name before anything gets it; `name` is the last part of `target`.
    fn beside(target: &Path, name: &std::ffi::OsStr) -> Self {
        let path = target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        Hidden { path, made: Cell::new(false) }
    }

    /// Makes what stands at the path, and takes note that it has to go unless it takes another name.
    fn make<T>(&self, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let mut unfinished = lock();
        let made = make(&self.path)?;
        unfinished.push(self.path.clone());
        self.made.set(true);
        Ok(made)
    }

    /// Completes what stands at the path and gives it its final name, at one go for a program that is interrupted.
    fn appear(&self, target: &Path, complete: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut unfinished = lock();
        if self.made.replace(false) {
            unfinished.retain(|path| *path != self.path);
        }
        let appeared = complete(&self.path).and_then(|()| std::fs::rename(&self.path, target));
        if appeared.is_err() {
            remove(&self.path);
        }
        appeared
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.made.get() {
            let mut unfinished = lock();
            remove(&self.path);
            unfinished.retain(|path| *path != self.path);
        }
    }
}

/// Returns the folder that a path lies in.
fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a file or a folder, as far as that is possible.
fn remove(path: &Path) {
    // Best effort: the error that brought us here is the one to report.
    let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
}

/// Removes what a killed program left beside `target`, where the system tells which programs run.
fn remove_stale(target: &Path) {
    let (Some(name), true) = (target.file_name(), Path::new("/proc/self").exists()) else { return };
    let front = format!(".{}.", name.to_string_lossy());
    for entry in std::fs::read_dir(folder_of(target)).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|found| found.strip_prefix(&front)?.strip_suffix(".tmp"));
        let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else { continue };
        // Numbers are given again, in containers the same ones each time: what has ours and is not ours is left over.
        let runs = match process == std::process::id() {
            true => is_unfinished(&entry.path()),
            false => Path::new("/proc").join(process.to_string()).exists(),
        };
        if !runs {
            remove(&entry.path());
        }
    }
}

/// Reports whether a file or a folder is in the making, however the path to it is spelled.
fn is_unfinished(path: &Path) -> bool {
    let place = |path: &Path| std::fs::canonicalize(path).ok();
    let found = place(path);
    // What cannot be found is not there to be removed.
    found.is_none() || lock().iter().any(|unfinished| place(unfinished) == found)
}

/// Removes every hidden file and folder, and keeps others from being made: the program is about to end in the middle.
///
/// For the handler of a signal that can be caught; what writes afterwards waits for ever.
pub fn discard_unfinished() {
    let mut unfinished = lock();
    for path in unfinished.drain(..) {
        remove(&path);
    }
    std::mem::forget(unfinished);
}

fn lock() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes new names in a folder durable, where folders can be synchronised.
fn sync_folder(folder: &Path) {
    if cfg!(unix) {
        // Some file systems refuse to synchronise a folder; the file itself is whole and on the disk.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// Makes errors of the system name the file.
fn cannot_write(target: &Path) -> impl Fn(io::Error) -> BitNetError {
    |error| BitNetError::io(target, "write", &error)
}

fn refuse(target: &Path, expected: &str, found: &str) -> BitNetError {
    BitNetError::mismatch(target.display().to_string(), expected, found)
}
