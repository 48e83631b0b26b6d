//! The cache that all programs of the hub share.
//!
//! ```text
//! models--ORG--NAME/refs/REVISION            a commit
//!                   snapshots/COMMIT/FILE    a link to ../../blobs/ETAG
//!                   blobs/ETAG               a whole file
//!                   blobs/ETAG.incomplete    what has arrived of one
//! .locks/models--ORG--NAME/ETAG.lock         held while a blob is written
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::name::HubName;
use crate::output::note;

/// Folders below a snapshot that are looked into.
const DEPTH: usize = 3;
/// Files of a snapshot that are looked at.
const MOST_FILES: usize = 10_000;

/// The part of the cache that belongs to one repository.
pub struct Repository {
    root: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// Names the part of a repository; nothing is created.
    pub fn new(cache: &Path, name: &HubName) -> Self {
        let folder = format!("models--{}--{}", name.owner, name.repository);
        Repository { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// Returns the commit that a revision stands for, where the cache knows it.
    ///
    /// # Errors
    /// A reference that cannot be read or holds something else.
    pub fn commit(&self, revision: &str) -> Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.reference(revision);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("{}: cannot read", path.display())),
        };
        let mut text = String::new();
        let read = file.take(1024).read_to_string(&mut text);
        read.with_context(|| format!("{}: cannot read", path.display()))?;
        match text.trim() {
            commit if is_token(commit) => Ok(Some(commit.to_owned())),
            other => Err(anyhow!("{}: expected a commit, found {other:?}", path.display())),
        }
    }

    /// Returns the folder of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Lists the files of a commit that are whole, with `/` between folders.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn files(&self, commit: &str) -> Result<Vec<String>> {
        let mut files = Vec::new();
        list(&self.snapshot(commit), "", DEPTH, &mut files)?;
        files.sort();
        Ok(files)
    }

    /// Returns where a whole file lies.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Returns where the beginning of a file lies.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process writes this blob; released when the file is dropped.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn lock(&self, etag: &str, file: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        let failed = || format!("{}: cannot write", path.display());
        for folder in [&self.locks, &self.root.join("blobs")] {
            fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
        }
        let lock = File::options().create(true).append(true).open(&path).with_context(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                note(&format!("waiting for another process that fetches {file}"));
                lock.lock().with_context(failed)?;
                Ok(lock)
            }
            // Some file systems have no locks; two writers would then meet in the check of the hash.
            Err(TryLockError::Error(_)) => Ok(lock),
        }
    }

    /// Gives a blob its name in a snapshot.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let place = self.snapshot(commit).join(file);
        let failed = || format!("{}: cannot write", place.display());
        let blob = self.blob(etag);
        if same_file(&place, &blob) {
            return Ok(());
        }
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).with_context(failed)?;
        }
        if fs::symlink_metadata(&place).is_ok() {
            fs::remove_file(&place).with_context(failed)?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let link = symlink(Path::new(&format!("{up}blobs/{etag}")), &place);
        // Systems and file systems without symbolic links have hard links, or the file moves.
        let link = link.or_else(|_| fs::hard_link(&blob, &place)).or_else(|_| fs::rename(&blob, &place));
        link.with_context(failed)
    }

    /// Lets a branch or tag stand for a commit.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn point(&self, revision: &str, commit: &str) -> io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        fs::write(&temporary, commit)?;
        fs::rename(&temporary, &path)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }
}

/// Reports whether a revision is a commit rather than a branch or tag.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reports whether a word of the hub can be the name of a file here: commits and etags are.
pub fn is_token(word: &str) -> bool {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&word.len()) && !word.starts_with('.') && word.bytes().all(letters)
}

fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot read", folder.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("{}: cannot read", folder.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Through the link: one whose blob is gone is no file.
        match fs::metadata(entry.path()) {
            Ok(found) if found.is_file() && files.len() < MOST_FILES => files.push(format!("{prefix}{name}")),
            Ok(found) if found.is_dir() && depth > 0 => {
                list(&entry.path(), &format!("{prefix}{name}/"), depth - 1, files)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn same_file(place: &Path, blob: &Path) -> bool {
    matches!((fs::canonicalize(place), fs::canonicalize(blob)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.to_string_lossy().replace('/', "\\"), link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    fn repository(folder: &TempDir) -> Repository {
        Repository::new(folder.path(), &HubName::parse("hf:org/name").unwrap())
    }

    #[test]
    fn a_linked_blob_is_a_file_of_the_snapshot_until_it_is_gone() {
        let folder = TempDir::new("hub-cache");
        let cache = repository(&folder);
        drop(cache.lock("e1", "a/b.gguf").unwrap());
        fs::write(cache.blob("e1"), "x").unwrap();
        assert!(cache.files("c1").unwrap().is_empty());
        cache.link("c1", "a/b.gguf", "e1").unwrap();
        cache.link("c1", "a/b.gguf", "e1").unwrap();
        assert_eq!(cache.files("c1").unwrap(), ["a/b.gguf"]);
        assert_eq!(fs::read(cache.snapshot("c1").join("a/b.gguf")).unwrap(), b"x");
        if cfg!(unix) {
            fs::remove_file(cache.blob("e1")).unwrap();
            assert!(cache.files("c1").unwrap().is_empty());
        }
    }

    #[test]
    fn references_lead_to_commits_and_nowhere_else() {
        let folder = TempDir::new("hub-refs");
        let cache = repository(&folder);
        assert_eq!(cache.commit("main").unwrap(), None);
        cache.point("refs/pr/1", "c1").unwrap();
        assert_eq!(cache.commit("refs/pr/1").unwrap().as_deref(), Some("c1"));
        let full = "0123456789abcdef0123456789abcdef01234567";
        cache.point(full, full).unwrap();
        assert_eq!(cache.commit(full).unwrap().as_deref(), Some(full));
        assert!(!folder.path().join("models--org--name/refs").join(full).exists());
        fs::write(folder.path().join("models--org--name/refs/main"), "../../elsewhere").unwrap();
        assert!(cache.commit("main").unwrap_err().to_string().contains("expected a commit"));
    }

    #[test]
    fn words_of_the_hub_cannot_leave_the_cache() {
        assert!(is_token("5ab3-x_y.z") && is_token(&"a".repeat(128)));
        for word in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\0", &"a".repeat(129)] {
            assert!(!is_token(word), "{word:?}");
        }
    }
}
