//! One file from the hub into the cache.
//!
//! Bytes are appended to `ETAG.incomplete`, whose name is the name of the content: what arrived before a
//! broken connection, a full disk or Ctrl-C is the beginning of the same file, and the next attempt asks for
//! the rest. Only when all bytes are there does the file take its place, and only if they hash to what the hub says where
//! it gives a SHA-256: for large files. Small ones have a name of git's, and their length is what is compared.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::cache::Repository;
use super::client::{ATTEMPTS, Client, Failure, Metadata, pause};
use super::name::HubName;
use crate::output::{bytes, note};
use crate::progress::Progress;

const CHUNK: usize = 1 << 18;

/// Fetches a file of a commit, unless the cache has it.
///
/// # Errors
/// One line that names model and file, and what the hub, the network or the disk answered.
pub fn file(client: &Client, cache: &Repository, name: &HubName, commit: &str, file: &str) -> Result<()> {
    let wanted = client.metadata(name, commit, file)?;
    let blob = cache.blob(&wanted.etag);
    let whole = || fs::metadata(&blob).is_ok_and(|found| found.is_file() && found.len() == wanted.size);
    if whole() && cache.is_linked(commit, file, &wanted.etag) {
        return Ok(());
    }
    let _lock = cache.lock(&wanted.etag, file)?;
    // Whoever held the lock may have brought it.
    if !whole() {
        let part = Part::open(cache.incomplete(&wanted.etag), &wanted)?;
        let part = complete(client, name, commit, file, &wanted, part)?;
        part.place(&blob)?;
    }
    cache.link(commit, file, &wanted.etag)
}

/// Reads the rest of a file, through as many connections as it takes while each brings some of it.
fn complete(
    client: &Client,
    name: &HubName,
    commit: &str,
    file: &str,
    wanted: &Metadata,
    mut part: Part,
) -> Result<Part> {
    let resumed = if part.length > 0 { format!(", {} are here", bytes(part.length)) } else { String::new() };
    note(&format!("fetching {file}, {}{resumed}", bytes(wanted.size)));
    let mut progress = Progress::fetching();
    let mut failures = 0;
    while part.length < wanted.size {
        let before = part.length;
        let mut seen = |length| progress.update(length, wanted.size);
        let place = format!("{name}: {file}");
        let outcome = client.open(name, commit, file, part.length).and_then(|reply| {
            part.receive(reply, wanted.size, &mut seen).map_err(|failure| failure.at(&place))
        });
        let reason = match outcome {
            Ok(()) => continue,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) => error,
        };
        failures = if part.length > before { 1 } else { failures + 1 };
        if failures >= ATTEMPTS {
            let (size, length) = (wanted.size, part.length);
            return Err(anyhow!(
                "{reason:#}; expected {size} bytes, {length} are here, and the next run goes on from there"
            ));
        }
        pause(failures);
    }
    drop(progress);
    part.check(name, file, wanted)
}

/// The beginning of a file.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    hash: Sha256,
}

impl Part {
    /// Takes up what is there, or starts anew.
    fn open(path: PathBuf, wanted: &Metadata) -> Result<Self> {
        let failed = || format!("{}: cannot write", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut part =
            Part { file: file.with_context(failed)?, path: path.clone(), length: 0, hash: Sha256::new() };
        part.take_up(wanted.size).with_context(failed)?;
        Ok(part)
    }

    fn take_up(&mut self, size: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > size {
            return self.restart();
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                count => {
                    self.hash.update(&buffer[..count]);
                    self.length += count as u64;
                }
            }
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Appends what an answer brings.
    fn receive(
        &mut self,
        reply: Response<Body>,
        size: u64,
        seen: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let disk = |path: &Path, length: u64, error: io::Error| {
            Failure::Final(disk_error(path, size - length, error))
        };
        let range = reply.headers().get("content-range").and_then(|range| range.to_str().ok());
        let goes_on = range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.length)));
        match reply.status().as_u16() {
            206 if goes_on => {}
            200 if self.length == 0 => {}
            status => {
                self.restart().map_err(|error| disk(&self.path, 0, error))?;
                if status != 200 {
                    return Err(Failure::Passing(anyhow!("the hub cannot go on at the offset asked for")));
                }
            }
        }
        let mut body = reply.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(anyhow!("the connection broke: {error}"))),
            };
            if count == 0 {
                break;
            }
            if count as u64 > size - self.length {
                self.restart().map_err(|error| disk(&self.path, 0, error))?;
                return Err(Failure::Final(anyhow!("expected {size} bytes, found more")));
            }
            self.file.write_all(&buffer[..count]).map_err(|error| disk(&self.path, self.length, error))?;
            self.hash.update(&buffer[..count]);
            self.length += count as u64;
            seen(self.length);
        }
        if self.length < size { Err(Failure::Passing(anyhow!("the connection ended early"))) } else { Ok(()) }
    }

    /// Compares the hash; a file whose hash is wrong is removed.
    fn check(mut self, name: &HubName, file: &str, wanted: &Metadata) -> Result<Self> {
        let Some(expected) = wanted.sha256() else { return Ok(self) };
        let found: String =
            std::mem::take(&mut self.hash).finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found.eq_ignore_ascii_case(expected) {
            return Ok(self);
        }
        drop(self.file);
        fs::remove_file(&self.path).with_context(|| format!("{}: cannot remove", self.path.display()))?;
        Err(anyhow!("{name}: {file}: expected SHA-256 {expected}, found {found}; what arrived is removed"))
    }

    /// Lets the whole file take its place.
    fn place(self, blob: &Path) -> Result<()> {
        let placed = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        placed.map_err(|error| disk_error(&self.path, 0, error))
    }
}

/// Says what the disk refused, and how much space is missing.
fn disk_error(path: &Path, missing: u64, error: io::Error) -> Error {
    let place = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => anyhow!(
            "{place}: no space left, {} more are needed; what arrived is kept, HF_HUB_CACHE names another place",
            bytes(missing)
        ),
        _ => anyhow!("{place}: cannot write: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    fn wanted(content: &[u8]) -> Metadata {
        let etag = Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect();
        Metadata { etag, size: content.len() as u64 }
    }

    fn reply(status: u16, range: Option<&str>, body: &[u8]) -> Response<Body> {
        let mut reply = Response::builder().status(status);
        if let Some(range) = range {
            reply = reply.header("content-range", range);
        }
        reply.body(Body::builder().data(body.to_vec())).unwrap()
    }

    #[test]
    fn a_part_goes_on_where_it_ended_or_starts_anew() {
        let folder = TempDir::new("hub-part");
        let path = folder.path().join("e.incomplete");
        let whole = wanted(b"0123456789");
        let name = HubName::parse("hf:o/n").unwrap();
        for (start, reply) in [
            ("0123", reply(206, Some("bytes 4-9/10"), b"456789")),
            ("", reply(200, None, b"0123456789")),
            ("0123", reply(200, None, b"0123456789")),
            ("0123456789ab", reply(200, None, b"0123456789")),
        ] {
            fs::write(&path, start).unwrap();
            let mut part = Part::open(path.clone(), &whole).unwrap();
            assert!(part.receive(reply, 10, &mut |_| {}).is_ok(), "{start}");
            part.check(&name, "f", &whole).unwrap().place(&folder.path().join("e")).unwrap();
            assert_eq!(fs::read(folder.path().join("e")).unwrap(), b"0123456789");
            assert!(!path.exists());
        }
    }

    #[test]
    fn answers_that_do_not_fit_leave_nothing_wrong_behind() {
        let folder = TempDir::new("hub-misfit");
        let path = folder.path().join("e.incomplete");
        let whole = wanted(b"0123456789");
        for (reply, left) in [
            (reply(206, Some("bytes 5-9/10"), b"56789"), ""),
            (reply(416, None, b""), ""),
            (reply(206, Some("bytes 4-9/10"), b"4567890"), ""),
            (reply(206, Some("bytes 4-9/10"), b"45"), "012345"),
        ] {
            fs::write(&path, "0123").unwrap();
            let mut part = Part::open(path.clone(), &whole).unwrap();
            assert!(part.receive(reply, 10, &mut |_| {}).is_err());
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), part.length), (left, left.len() as u64));
        }
        fs::write(&path, "0123x").unwrap();
        let mut part = Part::open(path.clone(), &whole).unwrap();
        part.receive(reply(206, Some("bytes 5-9/10"), b"56789"), 10, &mut |_| {}).ok().unwrap();
        let error = part.check(&HubName::parse("hf:o/n").unwrap(), "f", &whole).err().unwrap().to_string();
        assert!(error.contains(&whole.etag) && error.contains("found") && !path.exists(), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_with_what_is_missing() {
        let error = disk_error(Path::new("x"), 3 << 20, io::ErrorKind::StorageFull.into());
        assert_eq!(
            error.to_string(),
            "x: no space left, 3.0 MiB more are needed; what arrived is kept, HF_HUB_CACHE names another place"
        );
    }

    /// A real full disk, where the system has one to offer.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_part_on_a_full_disk_fails_in_one_line() {
        let full = Path::new("/dev/full");
        let file = File::options().read(true).write(true).open(full).unwrap();
        let mut part = Part { path: full.into(), file, length: 0, hash: Sha256::new() };
        let Err(Failure::Final(error)) = part.receive(reply(200, None, b"0123"), 4, &mut |_| {}) else {
            panic!("the disk is not full")
        };
        assert!(error.to_string().contains("no space left, 4 B more"), "{error}");
    }
}
