//! Requests to the hub.
//!
//! Redirections are followed here, not by the library: the answer that describes a large file is itself a
//! redirection, and the token goes to the host that it is for and to no other.

use std::time::Duration;

use anyhow::{Error, anyhow};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::{Agent, Body};

use super::cache::is_token;
use super::name::{HubName, is_relative};
use super::settings::Settings;

const REDIRECTIONS: usize = 10;
/// Attempts at a request before the last failure is reported.
pub const ATTEMPTS: u32 = 3;
/// Largest list of files read: some hundred bytes a file.
const LISTING_LIMIT: u64 = 64 << 20;
const CONNECT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(60);

/// Why a request came to nothing.
pub enum Failure {
    /// The network or the hub may do better next time.
    Passing(Error),
    /// Asking again is of no use.
    Final(Error),
}

impl Failure {
    /// Puts the place in front.
    pub fn at(self, place: &str) -> Self {
        let prefixed = |error: Error| anyhow!("{place}: {error:#}");
        match self {
            Failure::Passing(error) => Failure::Passing(prefixed(error)),
            Failure::Final(error) => Failure::Final(prefixed(error)),
        }
    }

    /// Drops the distinction.
    pub fn into_error(self) -> Error {
        match self {
            Failure::Passing(error) | Failure::Final(error) => error,
        }
    }
}

/// Repeats what failed in passing, with growing pauses.
pub fn persist<T>(mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Error> {
    let mut done = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure::Passing(_)) if done < ATTEMPTS => pause(done),
            Err(failure) => return Err(failure.into_error()),
        }
        done += 1;
    }
}

/// Waits before another attempt.
pub fn pause(attempt: u32) {
    std::thread::sleep(Duration::from_millis(200) * 2u32.pow(attempt.min(5) - 1));
}

/// A repository at one commit.
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// Its files, with `/` between folders.
    pub files: Vec<String>,
}

/// What the hub says of a file.
pub struct Metadata {
    /// The name of its content: of large files, their SHA-256.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

impl Metadata {
    /// Returns the SHA-256 of the content, where the hub gives it.
    pub fn sha256(&self) -> Option<&str> {
        let hex = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(&*self.etag)
    }
}

/// A connection to a hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// Prepares a client; proxies come from the environment.
    pub fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("bitnet/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .build();
        Client {
            agent: config.new_agent(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
        }
    }

    /// Asks for the commit of a revision and its files.
    ///
    /// # Errors
    /// What the hub or the network answered.
    pub fn listing(&self, name: &HubName) -> Result<Listing, Error> {
        let revision = encode(&name.revision);
        let url =
            format!("{}/api/models/{}/{}/revision/{revision}", self.endpoint, name.owner, name.repository);
        persist(|| {
            let mut reply = self.send(name, None, Method::GET, &url, 0, |_| true)?;
            self.expect(name, None, &reply, &[200])?;
            let body = reply.body_mut().with_config().limit(LISTING_LIMIT).read_to_vec();
            let body = body.map_err(|error| network(name, None, &self.endpoint, &error))?;
            parse_listing(&body).map_err(|found| {
                Failure::Final(anyhow!(
                    "{name}: expected a list of files from {}, found {found}",
                    self.endpoint
                ))
            })
        })
    }

    /// Asks for what a file is.
    ///
    /// # Errors
    /// What the hub or the network answered.
    pub fn metadata(&self, name: &HubName, commit: &str, file: &str) -> Result<Metadata, Error> {
        let url = self.url(name, commit, file);
        persist(|| {
            let describes = |headers: &HeaderMap| headers.contains_key("x-linked-etag");
            let reply = self.send(name, Some(file), Method::HEAD, &url, 0, |headers| !describes(headers))?;
            let headers = reply.headers();
            if !describes(headers) {
                self.expect(name, Some(file), &reply, &[200])?;
            }
            let lacks = |what: &str| {
                Failure::Final(anyhow!("{name}: {file}: expected {what} from the hub, found none"))
            };
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
            let etag = etag.ok_or_else(|| lacks("an ETag"))?;
            let etag = etag.trim_start_matches("W/").trim_matches('"');
            if !is_token(etag) {
                let found: String = etag.chars().take(80).collect();
                return Err(Failure::Final(anyhow!(
                    "{name}: {file}: expected an ETag of letters and digits, found {found:?}"
                )));
            }
            let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
            let size = size.and_then(|size| size.parse().ok()).ok_or_else(|| lacks("a Content-Length"))?;
            Ok(Metadata { etag: etag.to_owned(), size })
        })
    }

    /// Starts to read a file at an offset. The status is 200 for the whole file and 206 for the rest of it;
    /// 416 where there is no such offset.
    ///
    /// # Errors
    /// What the hub or the network answered.
    pub fn open(
        &self,
        name: &HubName,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<Response<Body>, Failure> {
        let reply =
            self.send(name, Some(file), Method::GET, &self.url(name, commit, file), from, |_| true)?;
        self.expect(name, Some(file), &reply, if from > 0 { &[200, 206, 416] } else { &[200] })?;
        Ok(reply)
    }

    fn url(&self, name: &HubName, commit: &str, file: &str) -> String {
        let path: Vec<_> = file.split('/').map(encode).collect();
        format!("{}/{}/{}/resolve/{commit}/{}", self.endpoint, name.owner, name.repository, path.join("/"))
    }

    /// Sends a request and follows redirections while `follow` says so.
    fn send(
        &self,
        name: &HubName,
        file: Option<&str>,
        method: Method,
        url: &str,
        from: u64,
        follow: impl Fn(&HeaderMap) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTIONS {
            let mut request =
                Request::builder().method(method.clone()).uri(&url).header("accept-encoding", "identity");
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let request = request.body(()).map_err(|_| {
                Failure::Final(anyhow!("{}: expected the address of a hub, found {url:?}", place(name, file)))
            })?;
            let reply = self.agent.run(request).map_err(|error| network(name, file, origin(&url), &error))?;
            let moved = matches!(reply.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved || !follow(reply.headers()) {
                return Ok(reply);
            }
            let target = text(reply.headers(), "location").and_then(|location| join(&url, location));
            url = target.ok_or_else(|| {
                Failure::Final(anyhow!("{}: expected an address to go on at, found none", place(name, file)))
            })?;
        }
        Err(Failure::Final(anyhow!(
            "{}: expected at most {REDIRECTIONS} redirections, found more",
            place(name, file)
        )))
    }

    /// Turns a status that was not expected into what the user has to know.
    fn expect(
        &self,
        name: &HubName,
        file: Option<&str>,
        reply: &Response<Body>,
        expected: &[u16],
    ) -> Result<(), Failure> {
        let status = reply.status().as_u16();
        if expected.contains(&status) {
            return Ok(());
        }
        let code = text(reply.headers(), "x-error-code").unwrap_or_default();
        let place = place(name, file);
        let (owner, repository, revision) = (&name.owner, &name.repository, &name.revision);
        let page = format!("{}/{owner}/{repository}", self.endpoint);
        let token = if self.token.is_some() {
            "the token in HF_TOKEN may not read it"
        } else {
            "HF_TOKEN is not set"
        };
        let message = match (status, code) {
            (401 | 403, "GatedRepo") => {
                format!(
                    "access refused ({status}): the repository is gated: accept its terms on {page}; {token}"
                )
            }
            (401, _) => {
                format!("access refused (401): no such repository, or it is private or gated; {token}")
            }
            (403, _) => {
                format!("access refused (403): the repository is gated or private, see {page}; {token}")
            }
            (404, "RevisionNotFound") => format!("the repository has no revision {revision} (404)"),
            (404, "RepoNotFound") => format!("no such repository at {} (404)", self.endpoint),
            (404, _) if file.is_some() => {
                format!("the repository has no such file at revision {revision} (404)")
            }
            (404, _) => format!("no such repository or revision at {} (404)", self.endpoint),
            (429, _) => "too many requests (429): try again later, or set HF_TOKEN".into(),
            _ => format!("{} answered {}", self.endpoint, reply.status()),
        };
        let error = anyhow!("{place}: {message}");
        Err(if status >= 500 { Failure::Passing(error) } else { Failure::Final(error) })
    }
}

fn place(name: &HubName, file: Option<&str>) -> String {
    file.map_or_else(|| name.to_string(), |file| format!("{name}: {file}"))
}

fn network(name: &HubName, file: Option<&str>, host: &str, error: &ureq::Error) -> Failure {
    let reason = match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".into()
        }
        ureq::Error::HostNotFound => "no such host".into(),
        other => other.to_string(),
    };
    let line = anyhow!("{}: cannot reach {host}: {reason}", place(name, file));
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => Failure::Final(line),
        _ => Failure::Passing(line),
    }
}

fn parse_listing(body: &[u8]) -> Result<Listing, String> {
    let json: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let commit = json.get("sha").and_then(Value::as_str).filter(|commit| is_token(commit));
    let commit = commit.ok_or("no sha that is a commit")?.to_owned();
    let siblings = json.get("siblings").and_then(Value::as_array).ok_or("no siblings")?;
    let names = siblings.iter().filter_map(|file| file.get("rfilename")?.as_str());
    // A name that would leave the snapshot is none that a model needs.
    let files = names.filter(|file| is_relative(file)).map(ToOwned::to_owned).collect();
    Ok(Listing { commit, files })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Returns the address that a redirection leads to; never from an encrypted connection to an open one.
fn join(url: &str, location: &str) -> Option<String> {
    let scheme = url.split_once("://")?.0;
    let target = match location {
        absolute if absolute.contains("://") => absolute.to_owned(),
        host if host.starts_with("//") => format!("{scheme}:{host}"),
        path if path.starts_with('/') => format!("{}{path}", origin(url)),
        beside => format!("{}/{beside}", url.split(['?', '#']).next()?.rsplit_once('/')?.0),
    };
    let allowed = target.starts_with("https://") || (target.starts_with("http://") && scheme == "http");
    allowed.then_some(target)
}

/// Writes a part of a path as it stands in an address.
fn encode(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_anywhere_but_out_of_encryption() {
        let from = "https://hub.org/a/resolve/x?y=1";
        assert_eq!(join(from, "https://cdn.org/z").as_deref(), Some("https://cdn.org/z"));
        assert_eq!(join(from, "//cdn.org/z").as_deref(), Some("https://cdn.org/z"));
        assert_eq!(join(from, "/b/c").as_deref(), Some("https://hub.org/b/c"));
        assert_eq!(join(from, "z").as_deref(), Some("https://hub.org/a/resolve/z"));
        assert_eq!(join(from, "http://hub.org/z"), None);
        assert_eq!(join(from, "file:///etc/passwd"), None);
        assert_eq!(join("http://localhost:1/a", "https://x/").as_deref(), Some("https://x/"));
    }

    #[test]
    fn the_token_is_for_one_origin() {
        assert_eq!(origin("https://hub.org/a"), origin("https://hub.org"));
        assert_ne!(origin("https://hub.org.evil.org/a"), origin("https://hub.org"));
        assert_ne!(origin("http://hub.org/a"), origin("https://hub.org"));
        assert_ne!(origin("http://127.0.0.1:81/a"), origin("http://127.0.0.1:8"));
    }

    #[test]
    fn lists_that_lie_are_refused_or_cut() {
        let parse = |text: &str| parse_listing(text.as_bytes());
        let good = parse(r#"{"sha":"c1","siblings":[{"rfilename":"a"},{"rfilename":"../b"},{"x":1}]}"#);
        assert_eq!(good.ok().unwrap().files, ["a"]);
        for text in ["", "[]", "{}", r#"{"sha":"../x","siblings":[]}"#, r#"{"sha":"c1"}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_full_hash_is_checked() {
        let sha256 = |etag: &str| Metadata { etag: etag.into(), size: 0 }.sha256().is_some();
        assert!(sha256(&"0aF".repeat(22)[..64]));
        assert!(!sha256(&"0a".repeat(20)) && !sha256(&"0g".repeat(32)));
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("refs/pr/1 \u{e9}"), "refs%2Fpr%2F1%20%C3%A9");
    }
}
