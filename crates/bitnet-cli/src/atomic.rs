//! Files that appear whole or not at all.
//!
//! The contents go to a temporary file in the same folder, are forced to the disk, and then take the name.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};

/// Temporary files in the making, for the handler of Ctrl-C.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that is being written.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    sink: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a file that is to become `target`.
    pub fn create(target: &Path) -> Result<Self> {
        let target = &resolve(target)?;
        let name =
            target.file_name().with_context(|| format!("{}: expected a file name", target.display()))?;
        let temporary =
            target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.with_context(|| format!("{}: cannot write", target.display()))?;
        lock().push(temporary.clone());
        Ok(AtomicFile {
            target: target.to_owned(),
            temporary,
            sink: Some(BufWriter::with_capacity(1 << 16, file)),
        })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.sink {
            Some(sink) => {
                sink.write_all(bytes).with_context(|| format!("{}: cannot write", self.target.display()))
            }
            None => Ok(()),
        }
    }

    /// Gives the finished file its name, replacing what had it.
    pub fn commit(mut self) -> Result<()> {
        self.finish().with_context(|| format!("{}: cannot write", self.target.display()))
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(sink) = self.sink.take() {
            let file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
        }
        std::fs::rename(&self.temporary, &self.target)?;
        self.forget();
        sync_folder(&self.target)
    }

    fn forget(&self) {
        lock().retain(|path| *path != self.temporary);
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.sink = None;
        if lock().contains(&self.temporary) {
            // Best effort: the error that brought us here is the one to report.
            let _ = std::fs::remove_file(&self.temporary);
            self.forget();
        }
    }
}

/// Follows links, and refuses what a file must not take the place of.
fn resolve(target: &Path) -> Result<PathBuf> {
    let Ok(found) = std::fs::symlink_metadata(target) else { return Ok(target.to_owned()) };
    let target = match found.is_symlink() {
        true => {
            std::fs::canonicalize(target).with_context(|| format!("{}: cannot write", target.display()))?
        }
        false => target.to_owned(),
    };
    match std::fs::metadata(&target) {
        Ok(found) if found.is_dir() => {
            Err(anyhow!("{}: expected a file to write, found a folder", target.display()))
        }
        Ok(found) if !found.is_file() => {
            Err(anyhow!("{}: expected a file to write, found a device or pipe", target.display()))
        }
        _ => Ok(target),
    }
}

/// Removes every temporary file, when the program is about to end in the middle.
pub fn discard_unfinished() {
    for path in lock().drain(..) {
        let _ = std::fs::remove_file(path);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
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

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_finished_file_replaces_and_an_abandoned_one_leaves_nothing() {
        let folder = TempDir::new("atomic");
        let target = folder.path().join("out");
        std::fs::write(&target, "old").unwrap();
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(
            (std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()),
            ("old", 1)
        );
        let mut file = AtomicFile::create(&target).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(
            (std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()),
            ("new", 1)
        );
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
