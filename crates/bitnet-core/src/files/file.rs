//! One file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitnet_backend::Result;

use super::{cannot_write, refuse, remove_stale, resolve, sync_folder, temporary_name, unfinished};

/// A file that is being written.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    sink: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a file that is to become `target`.
    ///
    /// # Errors
    /// `Mismatch` for a target that is a folder or a device; `Io` when the system refuses.
    pub fn create(target: &Path) -> Result<Self> {
        let target = &resolve(target)?;
        let name = target.file_name().ok_or_else(|| refuse(target, "a file name", "none"))?;
        let temporary = target.with_file_name(temporary_name(name));
        remove_stale(target);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(cannot_write(target))?;
        unfinished().push(temporary.clone());
        Ok(AtomicFile {
            target: target.to_owned(),
            temporary,
            sink: Some(BufWriter::with_capacity(1 << 16, file)),
        })
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

    /// Writes everything to the temporary file, and returns its path.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn flushed(&mut self) -> Result<&Path> {
        if let Some(sink) = &mut self.sink {
            sink.flush().map_err(cannot_write(&self.target))?;
        }
        Ok(&self.temporary)
    }

    /// Gives the finished file its name, replacing what had it.
    ///
    /// # Errors
    /// `Io` when the system refuses; the target is as it was then.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(cannot_write(&self.target))
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
        unfinished().retain(|path| *path != self.temporary);
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.sink = None;
        if unfinished().contains(&self.temporary) {
            // Best effort: the error that brought us here is the one to report.
            let _ = std::fs::remove_file(&self.temporary);
            self.forget();
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
