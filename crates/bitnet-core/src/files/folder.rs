//! A folder of files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use bitnet_backend::Result;

use super::{cannot_write, refuse, remove, remove_stale, sync_folder, temporary_name, unfinished};

/// A folder that is being written.
pub struct AtomicFolder {
    target: PathBuf,
    temporary: PathBuf,
}

impl AtomicFolder {
    /// Starts a folder that is to become `target`, which has to be absent or an empty folder.
    ///
    /// # Errors
    /// `Mismatch` for a target that is there and not an empty folder; `Io` when the system refuses.
    pub fn create(target: &Path) -> Result<Self> {
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(refuse(target, "an absent or empty folder", "one with files"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(refuse(target, "an absent or empty folder", "a file"));
            }
            Err(error) => return Err(cannot_write(target)(error)),
        }
        // A name that ends in a separator or in dots has no last component to write beside.
        let name = target.file_name().ok_or_else(|| refuse(target, "a folder's name", "none"))?;
        let temporary = target.with_file_name(temporary_name(name));
        remove_stale(target);
        std::fs::create_dir(&temporary).map_err(cannot_write(target))?;
        unfinished().push(temporary.clone());
        Ok(AtomicFolder { target: target.to_owned(), temporary })
    }

    /// Returns the path of the folder while it is being written.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Starts a file in the folder.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn file(&self, name: &str) -> io::Result<BufWriter<File>> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.temporary.join(name))?;
        Ok(BufWriter::with_capacity(1 << 16, file))
    }

    /// Gives the finished folder its name.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn commit(self) -> Result<()> {
        self.finish().map_err(cannot_write(&self.target))
    }

    fn finish(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.temporary)? {
            // Some systems synchronise only what is open for writing.
            OpenOptions::new().write(true).open(entry?.path())?.sync_all()?;
        }
        // Only an empty folder can be removed so, and only one that was there.
        match std::fs::remove_dir(&self.target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::rename(&self.temporary, &self.target)?;
        unfinished().retain(|path| *path != self.temporary);
        sync_folder(&self.target)
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        let mut list = unfinished();
        if list.contains(&self.temporary) {
            remove(&self.temporary);
            list.retain(|path| *path != self.temporary);
        }
    }
}
