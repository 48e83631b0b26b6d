//! One file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitnet_backend::Result;

use super::{Hidden, cannot_write, folder_of, refuse, remove_stale, sync_folder, unnamed};

/// A file that is being written.
pub struct AtomicFile {
    target: PathBuf,
    /// The name beside the target: of the file while it is written, or for the moment in which it replaces another.
    hidden: Hidden,
    /// The path that opens the file while it is written.
    path: PathBuf,
    sink: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a file that is to become `target`.
    ///
    /// # Errors
    /// `Mismatch` for a target that is a folder or a device; `Io` when the system refuses.
    pub fn create(target: &Path) -> Result<Self> {
        Self::new(target, true)
    }

    /// Starts a file, without a name if that is wanted and can be.
    pub(super) fn new(target: &Path, without_name: bool) -> Result<Self> {
        let target = resolve(target)?;
        let name = target.file_name().ok_or_else(|| refuse(&target, "a file name", "none"))?;
        let hidden = Hidden::beside(&target, name);
        remove_stale(&target);
        let unnamed = without_name.then(|| unnamed::create(folder_of(&target))).flatten();
        let (file, path) = match unnamed {
            Some(file) => {
                let path = unnamed::path(&file);
                (file, path)
            }
            None => {
                let file = hidden.make(|path| OpenOptions::new().write(true).create_new(true).open(path));
                (file.map_err(cannot_write(&target))?, hidden.path.clone())
            }
        };
        let sink = Some(BufWriter::with_capacity(1 << 16, file));
        Ok(AtomicFile { target, hidden, path, sink })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.sink {
            Some(sink) => sink.write_all(bytes).map_err(cannot_write(&self.target)),
            None => Ok(()),
        }
    }

    /// Writes everything to the file, and returns a path that opens it.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn flushed(&mut self) -> Result<&Path> {
        if let Some(sink) = &mut self.sink {
            sink.flush().map_err(cannot_write(&self.target))?;
        }
        Ok(&self.path)
    }

    /// Gives the finished file its name, replacing what had it.
    ///
    /// # Errors
    /// `Io` when the system refuses; the target is as it was then.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(cannot_write(&self.target))
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(sink) = self.sink.take() else { return Ok(()) };
        let file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        if self.path == self.hidden.path {
            self.hidden.appear(&self.target, |_| Ok(()))?;
        } else {
            self.name(&file)?;
        }
        sync_folder(folder_of(&self.target));
        Ok(())
    }

    /// Gives a file without a name that of the target.
    fn name(&self, file: &File) -> io::Result<()> {
        match unnamed::link(file, &self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A link replaces nothing, a renamed file does.
                self.hidden.appear(&self.target, |path| unnamed::link(file, path))
            }
            named => named,
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Some(sink) => sink.write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.sink {
            Some(sink) => sink.seek(to),
            None => Err(io::ErrorKind::NotConnected.into()),
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
