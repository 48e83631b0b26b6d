//! Files and folders that appear whole or not at all.
//!
//! The contents go to a temporary file or folder beside the target, are forced to the disk, and then take the name.
//! What ends the program by a signal that can be caught removes them; what a killed program left is removed by the
//! next one that writes to the same target.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};

/// Temporary files and folders in the making, for the handler of Ctrl-C.
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
        let temporary = target.with_file_name(temporary_name(name));
        remove_stale(target);
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

    /// Writes everything to the temporary file, and returns its path.
    pub fn flushed(&mut self) -> Result<&Path> {
        if let Some(sink) = &mut self.sink {
            sink.flush().with_context(|| format!("{}: cannot write", self.target.display()))?;
        }
        Ok(&self.temporary)
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

/// A folder that is being written.
pub struct AtomicFolder {
    target: PathBuf,
    temporary: PathBuf,
}

impl AtomicFolder {
    /// Starts a folder that is to become `target`, which has to be absent or an empty folder.
    pub fn create(target: &Path) -> Result<Self> {
        let shown = target.display();
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(anyhow!("{shown}: expected an absent or empty folder, found one with files"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(anyhow!("{shown}: expected an absent or empty folder, found a file"));
            }
            Err(error) => return Err(error).with_context(|| format!("{shown}: cannot write")),
        }
        // A name that ends in a separator or in dots has no last component to write beside.
        let name = target.file_name().with_context(|| format!("{shown}: expected a folder's name"))?;
        let temporary = target.with_file_name(temporary_name(name));
        remove_stale(target);
        std::fs::create_dir(&temporary).with_context(|| format!("{shown}: cannot write"))?;
        lock().push(temporary.clone());
        Ok(AtomicFolder { target: target.to_owned(), temporary })
    }

    /// Returns the path of the folder while it is being written.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Starts a file in the folder.
    pub fn file(&self, name: &str) -> io::Result<BufWriter<File>> {
        let file = OpenOptions::new().write(true).create_new(true).open(self.temporary.join(name))?;
        Ok(BufWriter::with_capacity(1 << 16, file))
    }

    /// Gives the finished folder its name.
    pub fn commit(self) -> Result<()> {
        self.finish().with_context(|| format!("{}: cannot write", self.target.display()))
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
        lock().retain(|path| *path != self.temporary);
        sync_folder(&self.target)
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        let mut unfinished = lock();
        if unfinished.contains(&self.temporary) {
            remove(&self.temporary);
            unfinished.retain(|path| *path != self.temporary);
        }
    }
}

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

/// Removes every temporary file and folder, when the program is about to end in the middle.
pub fn discard_unfinished() {
    for path in lock().drain(..) {
        remove(&path);
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
    fn a_folder_appears_whole_and_an_abandoned_one_leaves_nothing() {
        let folder = TempDir::new("atomic-folder");
        let target = folder.path().join("out");
        let half = AtomicFolder::create(&target).unwrap();
        half.file("a").unwrap().write_all(b"x").unwrap();
        drop(half);
        assert_eq!(names(folder.path()).len(), 0);
        std::fs::create_dir(&target).unwrap();
        let whole = AtomicFolder::create(&target).unwrap();
        whole.file("a").unwrap().write_all(b"x").unwrap();
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
        let running = folder.path().join(format!(".out.{}.tmp", std::process::id()));
        std::fs::write(&stale, "x").unwrap();
        std::fs::write(folder.path().join(".out.txt.tmp"), "x").unwrap();
        let file = AtomicFile::create(&folder.path().join("out")).unwrap();
        assert!(!stale.exists() && running.exists());
        drop(file);
        assert_eq!(names(folder.path()), [".out.txt.tmp"]);
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
