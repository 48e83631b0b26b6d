//! One file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitnet_backend::Result;

use super::{Hidden, cannot_write, folder_of, refuse, remove_stale, sync_folder, unnamed};

/// A file that is being written. One that replaces another takes over who may read and write it.
pub struct AtomicFile {
    target: PathBuf,
    /// The name beside the target: of the file while it is written, or for the moment in which it replaces another.
    hidden: Hidden,
    /// The path that opens the file while it is written.
    path: PathBuf,
    sink: BufWriter<File>,
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
        let (target, replaced) = resolve(target)?;
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
        if let Some(replaced) = replaced {
            keep_access(&file, &replaced).map_err(cannot_write(&target))?;
        }
        let sink = BufWriter::with_capacity(1 << 16, file);
        Ok(AtomicFile { target, hidden, path, sink })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(cannot_write(&self.target))
    }

    /// Writes everything to the file, and returns a path that opens it.
    ///
    /// # Errors
    /// `Io` when the system refuses.
    pub fn flushed(&mut self) -> Result<&Path> {
        self.sink.flush().map_err(cannot_write(&self.target))?;
        Ok(&self.path)
    }

    /// Gives the finished file its name, replacing what had it.
    ///
    /// # Errors
    /// `Io` when the system refuses; the target is as it was then.
    pub fn commit(self) -> Result<()> {
        let AtomicFile { target, hidden, path, sink } = self;
        let finish = || {
            let file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            if path == hidden.path {
                hidden.appear(&target, |_| Ok(()))?;
            } else {
                name(&file, &hidden, &target)?;
            }
            sync_folder(folder_of(&target));
            Ok(())
        };
        finish().map_err(cannot_write(&target))
    }
}

/// Gives a file without a name that of the target.
fn name(file: &File, hidden: &Hidden, target: &Path) -> io::Result<()> {
    match unnamed::link(file, target) {
        // A link replaces nothing, a renamed file does.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            hidden.appear(target, |path| unnamed::link(file, path))
        }
        named => named,
    }
}

/// Lets nobody at a new file or folder who could not get at the one that it is to replace.
#[cfg(unix)]
pub(super) fn keep_access(file: &File, replaced: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    // A folder also says whose group its files get, and who may delete them.
    let mut mode = replaced.mode() & if replaced.is_dir() { 0o3777 } else { 0o777 };
    let other_group = file.metadata()?.gid() != replaced.gid();
    if other_group && fchown(file, None, Some(replaced.gid())).is_err() {
        // What was for that group is for no other.
        mode &= 0o5707;
    }
    // Some file systems let nobody change a mode.
    if file.metadata()?.mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Leaves the file to the rules of its folder.
#[cfg(not(unix))]
pub(super) fn keep_access(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.sink.seek(to)
    }
}

/// Follows links, and refuses what a file must not take the place of; describes what it is to replace.
fn resolve(target: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let Ok(found) = std::fs::symlink_metadata(target) else { return Ok((target.to_owned(), None)) };
    let target = match found.is_symlink() {
        true => std::fs::canonicalize(target).map_err(cannot_write(target))?,
        false => target.to_owned(),
    };
    match std::fs::metadata(&target) {
        Ok(found) if found.is_dir() => Err(refuse(&target, "a file to write", "a folder")),
        Ok(found) if !found.is_file() => Err(refuse(&target, "a file to write", "a device or pipe")),
        found => Ok((target, found.ok())),
    }
}
