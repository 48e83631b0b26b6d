//! The cache that all programs of the hub share.
//!
//! ```text
//! models--ORG--NAME/refs/REVISION            a commit
//!                   snapshots/COMMIT/FILE    a link to ../../blobs/ETAG
//!                   blobs/ETAG               a whole file
//!                   blobs/ETAG.incomplete    what has arrived of one
//!                   .bitnet/COMMIT           the file of weights that is meant where none is named
//! .locks/models--ORG--NAME/ETAG.lock         held while a blob is written and gets its name
//! ```
//!
//! All but `.bitnet` is what other programs read and write too.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use bitnet_core::files::AtomicFile;

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
        let text = match short_text(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("{}: cannot read", path.display())),
        };
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

    /// Returns the file of weights that the repository's name stood for when it was fetched last, where it was.
    pub fn chosen(&self, commit: &str) -> Option<String> {
        // A record that cannot be read is none: the hub is asked again.
        short_text(&self.record(commit)).ok()
    }

    /// Records the file of weights that the repository's name stands for.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn choose(&self, commit: &str, file: &str) -> Result<()> {
        write(&self.record(commit), file)
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
        name_blob(Path::new(&format!("{up}blobs/{etag}")), &blob, &place).with_context(failed)
    }

    /// Reports whether a blob has its name in a snapshot.
    pub fn is_linked(&self, commit: &str, file: &str, etag: &str) -> bool {
        same_file(&self.snapshot(commit).join(file), &self.blob(etag))
    }

    /// Lets a branch or tag stand for a commit.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn point(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) { Ok(()) } else { write(&self.reference(revision), commit) }
    }

    fn record(&self, commit: &str) -> PathBuf {
        self.root.join(".bitnet").join(commit)
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

/// Reads a file of one line.
fn short_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(1024).read_to_string(&mut text)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    }
    let mut file = AtomicFile::create(path)?;
    file.write(text.as_bytes())?;
    Ok(file.commit()?)
}

/// Gives a blob a second name by a link to `target`, or as the system can.
fn name_blob(target: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    // Systems and file systems without symbolic links have hard links, or the file moves; not onto what another process
    // has put there.
    let named = match symlink(target, place) {
        Err(error) if !exists(&error) => fs::hard_link(blob, place),
        named => named,
    };
    match named {
        Err(error) if exists(&error) && same_file(place, blob) => Ok(()),
        Err(error) if !exists(&error) => fs::rename(blob, place),
        named => named,
    }
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
    fn a_name_that_another_process_gave_is_left_and_the_blob_stays() {
        let folder = TempDir::new("hub-race");
        let [blob, place, other] = ["blob", "place", "other"].map(|name| folder.path().join(name));
        fs::write(&blob, "x").unwrap();
        fs::write(&other, "y").unwrap();
        name_blob(Path::new("blob"), &blob, &place).unwrap();
        if cfg!(unix) {
            name_blob(Path::new("blob"), &blob, &place).unwrap();
        }
        let taken = name_blob(Path::new("blob"), &blob, &other).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!([&blob, &place, &other].map(|path| fs::read(path).unwrap()), [b"x", b"x", b"y"]);
    }

    #[test]
    fn what_a_name_stands_for_is_kept_by_commit() {
        let folder = TempDir::new("hub-chosen");
        let cache = repository(&folder);
        assert_eq!(cache.chosen("c1"), None);
        cache.choose("c1", "q/m.gguf").unwrap();
        assert_eq!((cache.chosen("c1").as_deref(), cache.chosen("c2")), (Some("q/m.gguf"), None));
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
