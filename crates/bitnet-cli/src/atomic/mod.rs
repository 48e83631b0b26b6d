//! Files and folders that appear whole or not at all.
//!
//! The contents go to files that have no name yet ([`unnamed`]), are forced to the disk, and are given their names
//! then: what ends the program before, a signal that cannot be caught and a power failure too, leaves nothing. Where
//! system or file system have no such files they go to a hidden file or folder beside the target, which takes the
//! name at the end; signals that can be caught remove it, and what a killed program left is removed by the next one
//! that writes to the same target.
//!
//! A hidden name is needed for a moment all the same where a file is replaced, since a name can be given to a new
//! place only, and for every folder, while its files are named and as long as `--verify` reads them.

mod file;
mod folder;
mod unnamed;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
            true => lock().contains(&entry.path()),
            false => Path::new("/proc").join(process.to_string()).exists(),
        };
        if !runs {
            remove(&entry.path());
        }
    }
}

/// Removes every hidden file and folder, and keeps others from being made: the program is about to end in the middle.
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bitnet_testing::temp::TempDir;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_finished_file_replaces_and_an_abandoned_one_leaves_nothing() {
        [true, false].into_iter().for_each(file_replaces);
    }

    fn file_replaces(unnamed: bool) {
        let folder = TempDir::new("atomic");
        let target = folder.path().join("out");
        std::fs::write(&target, "old").unwrap();
        let mut file = AtomicFile::new(&target, unnamed).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(
            (std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()),
            ("old", 1)
        );
        let mut file = AtomicFile::new(&target, unnamed).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(
            (std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()),
            ("new", 1)
        );
        let mut fresh = AtomicFile::new(&folder.path().join("fresh"), unnamed).unwrap();
        fresh.write(b"whole").unwrap();
        assert_eq!(std::fs::read_to_string(fresh.flushed().unwrap()).unwrap(), "whole");
        fresh.commit().unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("fresh")).unwrap(), "whole");
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_folder_appears_whole_and_an_abandoned_one_leaves_nothing() {
        [true, false].into_iter().for_each(folder_appears);
    }

    fn folder_appears(unnamed: bool) {
        let folder = TempDir::new("atomic-folder");
        let target = folder.path().join("out");
        let mut half = AtomicFolder::new(&target, unnamed).unwrap();
        half.file("a").unwrap().write_all(b"x").unwrap();
        drop(half);
        assert_eq!(names(folder.path()).len(), 0);
        std::fs::create_dir(&target).unwrap();
        let mut whole = AtomicFolder::new(&target, unnamed).unwrap();
        whole.file("a").unwrap().write_all(b"x").unwrap();
        assert_eq!(whole.file("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(whole.laid_out().unwrap().join("a")).unwrap(), b"x");
        whole.commit().unwrap();
        assert_eq!((names(folder.path()), names(&target)), (vec!["out".to_owned()], vec!["a".to_owned()]));
        let error = AtomicFolder::create(&target).err().unwrap().to_string();
        assert!(error.contains("empty folder"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_killed_program_left_is_removed() {
        let folder = TempDir::new("atomic-stale");
        let stale = folder.path().join(format!(".out.{}.tmp", u32::MAX));
        let running = folder.path().join(format!(".out.{}.tmp", std::os::unix::process::parent_id()));
        let earlier = folder.path().join(format!(".out.{}.tmp", std::process::id()));
        std::fs::write(&earlier, "x").unwrap();
        std::fs::write(&stale, "x").unwrap();
        std::fs::write(&running, "x").unwrap();
        std::fs::write(folder.path().join(".out.txt.tmp"), "x").unwrap();
        let file = AtomicFile::new(&folder.path().join("out"), false).unwrap();
        assert!(!stale.exists() && running.exists() && earlier.exists());
        // What this process is writing is no leftover.
        drop(AtomicFile::create(&folder.path().join("out")).unwrap());
        assert!(earlier.exists());
        drop(file);
        // A folder that a killed program left goes as well.
        std::fs::create_dir(&stale).unwrap();
        std::fs::write(stale.join("model.safetensors"), "x").unwrap();
        drop(AtomicFolder::create(&folder.path().join("out")).unwrap());
        std::fs::remove_file(running).unwrap();
        assert_eq!(names(folder.path()), [".out.txt.tmp"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_has_a_name_before_it_is_whole() {
        let folder = TempDir::new("atomic-unnamed");
        if unnamed::create(folder.path()).is_none() {
            println!("SKIPPED: no files without a name in {}", folder.path().display());
            return;
        }
        let mut file = AtomicFile::create(&folder.path().join("out")).unwrap();
        file.write(&[7; 1 << 20]).unwrap();
        let mut whole = AtomicFolder::create(&folder.path().join("folder")).unwrap();
        whole.file("a").unwrap().write_all(b"x").unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
        file.commit().unwrap();
        whole.commit().unwrap();
        assert_eq!(names(&folder.path().join("folder")), ["a"]);
        assert_eq!(std::fs::metadata(folder.path().join("out")).unwrap().len(), 1 << 20);
    }

    #[test]
    #[cfg(unix)]
    fn links_are_followed_and_devices_left_alone() {
        let folder = TempDir::new("atomic-link");
        let (target, link) = (folder.path().join("out"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/full", &device).unwrap();
        let message = AtomicFile::create(&device).err().unwrap().to_string();
        assert!(message.contains("/dev/full") && message.contains("device"), "{message}");
    }

    #[test]
    fn a_target_that_cannot_be_is_refused_by_name() {
        let folder = TempDir::new("atomic-refused");
        for target in [folder.path().to_owned(), folder.path().join("absent/out")] {
            let error = AtomicFile::create(&target).err().unwrap();
            assert!(format!("{error:#}").contains(&target.display().to_string()), "{error:#}");
        }
        assert_eq!(names(folder.path()).len(), 0);
    }
}
