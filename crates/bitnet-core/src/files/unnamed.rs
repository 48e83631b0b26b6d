//! Files without a name (`O_TMPFILE`): they vanish with the program, whatever ends it.
//!
//! Linux has them, on most of its file systems. A name is given through the link that `/proc` keeps for every open
//! file, so that no privilege is needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Makes a file without a name in the file system of `folder`; `None` where there are none.
#[cfg(target_os = "linux")]
pub fn create(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    // The permissions of any new file: what the mask of the process leaves of them.
    let file = File::from(open(folder, flags, Mode::from_raw_mode(0o666)).ok()?);
    path(&file).exists().then_some(file)
}

/// Returns a path that opens the file, as long as this process has it open.
#[cfg(target_os = "linux")]
pub fn path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives the file a name.
///
/// # Errors
/// `AlreadyExists` where the name is taken, and those of the system.
#[cfg(target_os = "linux")]
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    Ok(linkat(CWD, path(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// Makes no file: only Linux has such.
#[cfg(not(target_os = "linux"))]
pub fn create(_: &Path) -> Option<File> {
    None
}

/// Returns no path that could be opened.
#[cfg(not(target_os = "linux"))]
pub fn path(_: &File) -> PathBuf {
    PathBuf::new()
}

/// Refuses.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
