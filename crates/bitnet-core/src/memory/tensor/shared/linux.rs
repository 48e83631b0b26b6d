//! Shared memory of Linux: files of the memory file system.
//!
//! A named one lies in `/dev/shm`, mode 0600:
//!
//! ```text
//! 0   magic | 8 length of the data | 16 state: 1 when filled | zeros up to 4096 | the data
//! ```
//!
//! Whoever uses it holds a shared lock (`flock`), whoever fills it the exclusive one, so a process that was killed
//! holds none: what it left half filled is filled again, what it left whole is used on. The last user removes the name.
#![allow(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnet_backend::{BitNetError, ErrorKind, Result};
use memmap2::{Mmap, MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, SealFlags};
use rustix::{fs, shm};

const HEADER: usize = 4096;
const MAGIC: [u8; 8] = *b"bitnet\0\x01";
/// Longest name of a user.
const NAME_LIMIT: usize = 200;
/// Times that another process may come in between.
const TRIES: u32 = 1000;

/// Read-only memory that processes of one user share.
pub struct SharedMemory {
    map: Mmap,
    file: File,
    /// The name to remove with the last user.
    name: Option<String>,
}

impl SharedMemory {
    /// Maps the memory of this name and user, `len` bytes; the first process makes it and lets `fill` write the bytes,
    /// which are zeros before. The others wait meanwhile and do not call `fill`.
    ///
    /// The name has to say what the bytes are, so that all who know it mean the same; it consists of letters, digits,
    /// `-`, `_` and `.`. Processes of the same user are trusted not to write to it.
    ///
    /// # Errors
    /// `Mismatch` for other names, a length of 0, and memory of this name that has another length or is not this
    /// user's alone; `Io` when the system refuses, with too little shared memory left for instance; what `fill`
    /// returns.
    pub fn publish_or_attach(
        name: &str,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        check_name(name)?;
        let user = rustix::process::geteuid().as_raw();
        let name = format!("/bitnet-{user}-{name}");
        let path = PathBuf::from(format!("/dev/shm{name}"));
        let failed = |error: io::Error| BitNetError::io(&path, "share", &error);
        let total = len.checked_add(HEADER).filter(|_| len > 0);
        let total =
            total.ok_or_else(|| BitNetError::mismatch("length of shared memory", "1 or more bytes", len))?;
        for round in 0..TRIES {
            give_way(round);
            let flags = shm::OFlags::CREATE | shm::OFlags::RDWR;
            let file =
                File::from(shm::open(&name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?);
            // Waits for one who fills it.
            fs::flock(&file, FlockOperation::LockShared).map_err(|error| failed(error.into()))?;
            let found = file.metadata().map_err(failed)?;
            if found.nlink() == 0 {
                // The last user removed the name before the lock was ours.
                continue;
            }
            if found.uid() != user || found.mode() & 0o077 != 0 {
                let what = path.display().to_string();
                let found = format!("user {}, mode {:o}", found.uid(), found.mode() & 0o777);
                return Err(BitNetError::mismatch(what, format!("memory of user {user} alone"), found));
            }
            if let Some(stored) = filled_len(&file).map_err(failed)? {
                if stored != len as u64 || found.len() != total as u64 {
                    let what = path.display().to_string();
                    return Err(BitNetError::mismatch(what, format!("{len} bytes"), stored));
                }
                let map = map(&file, HEADER, len).map_err(failed)?;
                return Ok(SharedMemory { map, file, name: Some(name) });
            }
            // Fails while others have the shared lock, who want to fill it too: all let go, and come back one by one.
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                Err(error) => return Err(failed(error.into())),
            }
            // Somebody may have filled it between the two locks.
            if filled_len(&file).map_err(failed)?.is_some() || file.metadata().map_err(failed)?.nlink() == 0 {
                continue;
            }
            return Self::fill(file, name, &path, len, fill);
        }
        let error = io::Error::new(io::ErrorKind::ResourceBusy, "others make and remove it all the time");
        Err(failed(error))
    }

    fn fill(
        file: File,
        name: String,
        path: &Path,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let write = || -> Result<()> {
            let failed = |error: io::Error| BitNetError::io(path, "share", &error);
            file.set_len(0).map_err(failed)?;
            reserve(&file, HEADER + len).map_err(failed)?;
            let mut map = map_for_filling(&file, HEADER, len).map_err(failed)?;
            fill(&mut map)?;
            drop(map);
            let mut header = [0; 24];
            header[..8].copy_from_slice(&MAGIC);
            header[8..16].copy_from_slice(&(len as u64).to_le_bytes());
            header[16] = 1;
            file.write_all_at(&header, 0).map_err(failed)?;
            fs::flock(&file, FlockOperation::LockShared).map_err(|error| failed(error.into()))
        };
        let mapped = write()
            .and_then(|()| map(&file, HEADER, len).map_err(|error| BitNetError::io(path, "share", &error)));
        match mapped {
            Ok(map) => Ok(SharedMemory { map, file, name: Some(name) }),
            Err(error) => {
                remove_if_last(&file, &name);
                Err(error)
            }
        }
    }

    /// Makes memory without a name, lets `fill` write it, and seals it: from then on nobody can write or shrink it,
    /// this process neither. It is handed on as the open file of [`as_fd`](Self::as_fd), by inheritance, a socket, or
    /// `/proc/PID/fd/N`, and goes with its last user.
    ///
    /// # Errors
    /// `Mismatch` for a length of 0; `Io` when the system refuses; what `fill` returns.
    pub fn sealed(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        if len == 0 {
            return Err(BitNetError::mismatch("length of shared memory", "1 or more bytes", 0));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(fs::memfd_create("bitnet", flags).map_err(|error| unnamed(error.into()))?);
        reserve(&file, len).map_err(unnamed)?;
        let mut map = map_for_filling(&file, 0, len).map_err(unnamed)?;
        fill(&mut map)?;
        drop(map);
        fs::fcntl_add_seals(&file, SEALS | SealFlags::SEAL).map_err(|error| unnamed(error.into()))?;
        Self::from_fd(file.into())
    }

    /// Maps memory that another process made with [`sealed`](Self::sealed).
    ///
    /// # Errors
    /// `Mismatch` for a file that is not sealed against writing and shrinking; `Io` when the system refuses.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let file = File::from(fd);
        // Files that cannot be sealed answer with an error.
        let seals = fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        if !seals.contains(SEALS) {
            let what = "seals of shared memory";
            return Err(BitNetError::mismatch(what, "against writing and shrinking", format!("{seals:?}")));
        }
        let len = usize::try_from(file.metadata().map_err(unnamed)?.len());
        let len = len.map_err(|error| unnamed(io::Error::other(error)))?;
        if len == 0 {
            return Err(BitNetError::mismatch("length of shared memory", "1 or more bytes", 0));
        }
        let map = map_sealed(&file, len).map_err(unnamed)?;
        Ok(SharedMemory { map, file, name: None })
    }

    /// Returns the open file, to hand it on. Only memory without a name is accepted by [`from_fd`](Self::from_fd).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            remove_if_last(&self.file, name);
        }
    }
}

/// What makes mapped memory immutable.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK);

fn unnamed(error: io::Error) -> BitNetError {
    BitNetError::new(ErrorKind::Io {
        path: "memory without a name".into(),
        action: "share",
        kind: error.kind(),
        message: error.to_string(),
    })
}

fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !name.is_empty() && name.len() <= NAME_LIMIT && name.bytes().all(plain) {
        return Ok(());
    }
    let expected = format!("1 to {NAME_LIMIT} letters, digits, -, _ and .");
    Err(BitNetError::mismatch("name of shared memory", expected, format!("{name:?}")))
}

/// Waits before another round, without a lock and each time longer; for how long is left to chance, so that
/// those who began together part.
fn give_way(round: u32) {
    const LONGEST: u64 = 10_000;
    if round == 0 {
        return;
    }
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(round);
    let most = (20u64 << round.min(20)).min(LONGEST);
    std::thread::sleep(Duration::from_micros(hasher.finish() % most));
}

/// Returns the length of the data of memory that was filled.
fn filled_len(file: &File) -> io::Result<Option<u64>> {
    let mut header = [0; 24];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut len = [0; 8];
    len.copy_from_slice(&header[8..16]);
    Ok((header[..8] == MAGIC && header[16] == 1).then(|| u64::from_le_bytes(len)))
}

/// Reserves the memory, so that running out of it is an error here and not a bus error in the middle of filling.
fn reserve(file: &File, len: usize) -> io::Result<()> {
    // A signal, as when the process is stopped for a while, undoes what was reserved.
    Ok(rustix::io::retry_on_intr(|| fs::fallocate(file, FallocateFlags::empty(), 0, len as u64))?)
}

/// Removes the name when nobody else uses the memory.
fn remove_if_last(file: &File, name: &str) {
    // The shared lock is given up first, whether the exclusive one is granted or not: of several who let go at once,
    // the last one succeeds.
    let last = fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // Without a link the name is another's by now.
    if last && file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
        // Best effort: what stays is used by the next one who asks for it.
        let _ = shm::unlink(name);
    }
}

fn map(file: &File, offset: usize, len: usize) -> io::Result<Mmap> {
    // SAFETY:
    // - The mapping is read-only, and of memory that is filled.
    // - Memory with a name belongs to this user alone, as was checked, and no part of this crate writes it once it is
    //   filled: `fill` runs under the exclusive lock, which nobody gets while others have it mapped. Another program of
    //   the same user that writes it all the same changes plain numbers, of which every pattern is a value.
    unsafe { MmapOptions::new().offset(offset as u64).len(len).map(file) }
}

fn map_sealed(file: &File, len: usize) -> io::Result<Mmap> {
    // A shared mapping could be made writable later, for which Linux before 6.7 refuses it of sealed memory. Pages of a
    // private one that nobody writes are those of the file: it takes no memory of its own.
    // SAFETY: the mapping is read-only, and nobody can write or shrink the memory, as its seals were checked.
    unsafe { MmapOptions::new().len(len).map_copy_read_only(file) }
}

fn map_for_filling(file: &File, offset: usize, len: usize) -> io::Result<MmapMut> {
    // SAFETY: the caller made the file, or has the exclusive lock of one that is not filled; no other mapping of it is
    // made before it is. Its length was reserved.
    let map = unsafe { MmapOptions::new().offset(offset as u64).len(len).map_mut(file)? };
    // A refusal costs speed and nothing else.
    drop(map.advise(memmap2::Advice::HugePage));
    Ok(map)
}
