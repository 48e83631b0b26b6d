//! A hub on this machine: the list of a repository, its files with hashes and ranges, and a second address for
//! large ones. It can break connections, lie about hashes and refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

/// The commit of the repository.
pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
/// Files above this size are large: described by a redirection and kept at the other address.
const LARGE: usize = 100_000;

/// What the hub holds and how it behaves.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files whose hash is given wrongly.
    pub lies: BTreeSet<String>,
    /// Bytes of a large file after which each connection breaks.
    pub cut: Option<usize>,
    /// How many connections break; the rest are whole.
    pub cuts: usize,
    /// Hold the connection open after the cut instead of breaking it.
    pub stall: bool,
    /// Answer requests for a rest with the whole.
    pub no_ranges: bool,
    /// The token that is needed.
    pub token: Option<String>,
    /// A status and error code in place of every answer.
    pub refusal: Option<(u16, &'static str)>,
    /// Answers of 503 before others.
    pub busy: usize,
    /// Every request: method, path, range, and whether a token came.
    pub log: Vec<String>,
}

/// A running hub, for the repository org/name with the branch main and the tag refs/pr/1.
pub struct Hub {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Hub {
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let (hub, store) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, store_address) = (hub.local_addr().unwrap(), store.local_addr().unwrap());
        for listener in [hub, store] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // The program may go away in the middle: that ends its connection, not the hub.
                    std::thread::spawn(move || serve(&stream, &state, store_address));
                }
            });
        }
        Hub { state, address }
    }

    /// Serves the files of a folder.
    pub fn of(folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let files = entries
            .map(|file| (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap()));
        let files: Vec<_> = files.collect();
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        Hub::new(&files)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Takes the requests so far.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    token: Option<String>,
    host: String,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, range: None, token: None, host: String::new() };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "authorization" => request.token = value.strip_prefix("Bearer ").map(Into::into),
            "host" => request.host = value.into(),
            _ => {}
        }
    }
    Some(request)
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>, store: SocketAddr) {
    let Some(request) = read(stream) else { return };
    let (answer, stall) = {
        let mut state = state.lock().unwrap();
        let range = request.range.map_or(String::new(), |range| format!(" {range}-"));
        let token = if request.token.is_some() { " token" } else { "" };
        state.log.push(format!("{} {}{range}{token}", request.method, request.path));
        (answer(&request, &mut state, store), state.stall)
    };
    let _ = stream.write_all(&answer.bytes);
    if stall && answer.cut {
        std::thread::sleep(std::time::Duration::from_secs(120));
    }
}

struct Answer {
    bytes: Vec<u8>,
    cut: bool,
}

fn reply(status: &str, headers: &[(&str, String)], body: &[u8]) -> Answer {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut bytes = format!("{head}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    Answer { bytes, cut: false }
}

fn empty(status: &str, headers: &[(&str, String)]) -> Answer {
    reply(status, &[headers, &[("Content-Length", "0".into())]].concat(), b"")
}

fn answer(request: &Request, state: &mut State, store: SocketAddr) -> Answer {
    if let Some((status, code)) = state.refusal {
        return empty(&format!("{status} No"), &[("X-Error-Code", code.into())]);
    }
    if state.busy > 0 {
        state.busy -= 1;
        return empty("503 Busy", &[]);
    }
    if let Some(name) = request.path.strip_prefix("/store/") {
        assert_eq!(request.host, store.to_string());
        return content(request, state, name);
    }
    if state.token.is_some() && state.token != request.token {
        return empty("401 Unauthorized", &[]);
    }
    if let Some(revision) = request.path.strip_prefix("/api/models/org/name/revision/") {
        if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return empty("404 Not Found", &[("X-Error-Code", "RevisionNotFound".into())]);
        }
        let siblings: Vec<_> =
            state.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let list = serde_json::json!({"id": "org/name", "sha": COMMIT, "siblings": siblings}).to_string();
        return reply("200 OK", &[("Content-Length", list.len().to_string())], list.as_bytes());
    }
    // A repository that was renamed: the old name leads to the new one, on the same host.
    if let Some(rest) = request.path.strip_prefix("/api/models/org/old/") {
        return empty("307 Moved", &[("Location", format!("/api/models/org/name/{rest}"))]);
    }
    if let Some(rest) = request.path.strip_prefix("/org/old/") {
        return empty("307 Moved", &[("Location", format!("/org/name/{rest}"))]);
    }
    let Some(name) = request.path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) else {
        return empty("404 Not Found", &[("X-Error-Code", "RepoNotFound".into())]);
    };
    let Some(bytes) = state.files.get(name) else {
        return empty("404 Not Found", &[("X-Error-Code", "EntryNotFound".into())]);
    };
    if bytes.len() < LARGE {
        return content(request, state, name);
    }
    let hash = if state.lies.contains(name) { sha256(b"other") } else { sha256(bytes) };
    empty(
        "302 Found",
        &[
            ("X-Repo-Commit", COMMIT.into()),
            ("X-Linked-Etag", format!("\"{hash}\"")),
            ("X-Linked-Size", bytes.len().to_string()),
            ("Location", format!("http://{store}/store/{name}")),
        ],
    )
}

fn content(request: &Request, state: &mut State, name: &str) -> Answer {
    let bytes = &state.files[name];
    let from = request.range.filter(|_| !state.no_ranges).unwrap_or(0);
    if from > bytes.len() {
        return empty("416 Range Not Satisfiable", &[]);
    }
    let rest = &bytes[from..];
    let mut headers = vec![
        ("Content-Length", rest.len().to_string()),
        // As git names it: not the hash of the content alone.
        ("ETag", format!("\"{}\"", &sha256(name.as_bytes())[..40])),
        ("X-Repo-Commit", COMMIT.into()),
    ];
    if from > 0 {
        headers.push(("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())));
    }
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    if request.method == "HEAD" {
        return reply(status, &headers, b"");
    }
    match state.cut.filter(|cut| state.cuts > 0 && *cut < rest.len() && bytes.len() >= LARGE) {
        Some(cut) => {
            state.cuts -= 1;
            Answer { cut: true, ..reply(status, &headers, &rest[..cut]) }
        }
        None => reply(status, &headers, rest),
    }
}
