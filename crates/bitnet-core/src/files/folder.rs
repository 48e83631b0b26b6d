//! A folder of files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use bitnet_backend::Result;

use super::{Hidden, cannot_write, folder_of, lock, refuse, remove, remove_stale, sync_folder, unnamed};

/// A folder that is being written.
///
/// Its files have no names until they are whole; then a hidden folder gets them all, and takes the name of the
/// target. Where there are no files without names, the hidden folder is there from the beginning.
pub struct AtomicFolder {
    target: PathBuf,
    hidden: Hidden,
    /// Files that wait for their names.
    unnamed: Vec<(String, File)>,
    /// Whether the hidden folder is there.
    made: bool,
}

impl AtomicFolder {
    /// Starts a folder that is to become `target`, which has to be absent or an empty folder.
    ///
    /// # Errors
    /// `Mismatch` for a target that is there and not an empty folder; `Io` when the system refuses.
    pub fn create(target: &Path) -> Result<Self> {
        Self::new(target, true)
    }

    /// Starts a folder, whose files have no names if that is wanted and can be.
    pub(super) fn new(target: &Path, without_names: bool) -> Result<Self> {
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(refuse(target, "an absent or empty folder", "one with files")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(refuse(target, "an absent or empty folder", "a file"));
            }
            Err(error) => return Err(cannot_write(target)(error)),
        }
        // A name that ends in a separator or in dots has no last component to write beside.
        let name = target.file_name().ok_or_else(|| refuse(target, "a folder's name", "none"))?;
        let hidden = Hidden::beside(target, name);
        remove_stale(target);
        let mut folder = AtomicFolder { target: target.to_owned(), hidden, unnamed: Vec::new(), made: false };
        if !without_names || unnamed::create(folder_of(target)).is_none() {
            folder.lay_out().map_err(cannot_write(target))?;
        }
        Ok(folder)
    }

    /// Starts a file in the folder.
    ///
    /// # Errors
    /// What the system refuses, and `AlreadyExists` for a name that was given before.
    pub fn file(&mut self, name: &str) -> io::Result<BufWriter<File>> {
        let file = if self.made {
            let _unfinished = lock();
            OpenOptions::new().write(true).create_new(true).open(self.hidden.path.join(name))?
        } else {
            if self.unnamed.iter().any(|(taken, _)| taken == name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let file = unnamed::create(folder_of(&self.target)).ok_or(io::ErrorKind::Unsupported)?;
            self.unnamed.push((name.to_owned(), file.try_clone()?));
            file
        };
        Ok(BufWriter::with_capacity(1 << 16, file))
    }

    /// Gives the files of the folder their names within it, and returns its path. What is started later has a name
    /// at once.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn laid_out(&mut self) -> Result<&Path> {
        self.lay_out().map_err(cannot_write(&self.target))?;
        Ok(&self.hidden.path)
    }

    fn lay_out(&mut self) -> io::Result<()> {
        if !self.made {
            let unnamed = std::mem::take(&mut self.unnamed);
            self.hidden.make(|path| {
                std::fs::create_dir(path)?;
                link_all(&unnamed, path).inspect_err(|_| remove(path))
            })?;
            self.made = true;
        }
        Ok(())
    }

    /// Gives the finished folder its name.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(cannot_write(&self.target))
    }

    fn finish(&mut self) -> io::Result<()> {
        // Before they have names: the disk may take its time.
        for (_, file) in &self.unnamed {
            file.sync_all()?;
        }
        if self.made {
            sync_files(&self.hidden.path)?;
        }
        self.hidden.appear(&self.target, |path| {
            if !self.made {
                std::fs::create_dir(path).and_then(|()| link_all(&self.unnamed, path))?;
            }
            // Who could not look into the empty folder cannot look into this one.
            #[cfg(unix)]
            if let Ok(replaced) = std::fs::metadata(&self.target) {
                super::file::keep_access(&File::open(path)?, &replaced)?;
            }
            sync_folder(path);
            // Only an empty folder can be removed so, and only one that was there.
            match std::fs::remove_dir(&self.target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })?;
        sync_folder(folder_of(&self.target));
        Ok(())
    }
}

/// Gives files without names their names in a folder.
fn link_all(files: &[(String, File)], folder: &Path) -> io::Result<()> {
    files.iter().try_for_each(|(name, file)| unnamed::link(file, &folder.join(name)))
}

/// Forces the files of a folder to the disk.
fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        // Some systems synchronise only what is open for writing.
        OpenOptions::new().write(true).open(entry?.path())?.sync_all()?;
    }
    Ok(())
}
