//! Connections that break, hashes that are wrong, processes that end: what is half here never looks whole.

use std::time::{Duration, Instant};

use crate::program::{fairy_tales, finish};
use crate::server::sha256;
use crate::{COMMIT, Setting};

const INSPECT: [&str; 2] = ["inspect", "hf:org/name"];

fn weights() -> Vec<u8> {
    std::fs::read(fairy_tales("model").join("model.safetensors")).unwrap()
}

/// Checks that nothing of the weights looks whole.
fn nothing_looks_whole(setting: &Setting) {
    assert!(!setting.snapshot("model.safetensors").exists());
    assert!(!setting.path("refs/main").exists());
    assert!(!setting.path("blobs").join(sha256(&weights())).exists());
    for name in ["hf:org/name".to_owned(), format!("hf:org/name@{COMMIT}")] {
        let mut offline = setting.command(&["inspect", &name]);
        offline.env("HF_HUB_OFFLINE", "1");
        let offline = finish(offline);
        assert!(offline.failed(1).contains("not whole in the cache"), "{offline:?}");
    }
}

#[test]
fn a_broken_connection_goes_on_in_the_same_run() {
    let setting = Setting::fairy_tales();
    {
        let mut state = setting.hub.state();
        (state.cut, state.cuts) = (Some(1_000_000), 2);
    }
    setting.output(&INSPECT).ok();
    let requests = setting.hub.requests();
    for rest in ["GET /store/model.safetensors 1000000-", "GET /store/model.safetensors 2000000-"] {
        assert!(requests.iter().any(|line| line == rest), "{requests:?}");
    }
}

#[test]
fn a_broken_download_goes_on_in_the_next_run() {
    let setting = Setting::fairy_tales();
    {
        let mut state = setting.hub.state();
        (state.cut, state.cuts) = (Some(0), usize::MAX);
        // The tokenizer is large too, and comes first.
        state.files.remove("tokenizer.json");
    }
    let part = setting.path("blobs").join(format!("{}.incomplete", sha256(&weights())));
    let broken = setting.output(&INSPECT);
    let line = broken.failed(1);
    assert!(
        line.contains("model.safetensors: the connection") && line.contains("expected 3307564 bytes, 0"),
        "{line}"
    );
    nothing_looks_whole(&setting);
    std::fs::write(&part, &weights()[..123_456]).unwrap();
    setting.hub.state().cuts = 0;
    setting.hub.requests();
    let resumed = setting.output(&[
        "logits",
        "--model",
        "hf:org/name",
        "--ids",
        "1",
        "--out",
        crate::program::text(&setting.path("l")),
    ]);
    assert!(resumed.ok().stderr.contains("120.6 KiB are here"));
    assert!(setting.hub.requests().iter().any(|line| line == "GET /store/model.safetensors 123456-"));
    assert_eq!(std::fs::read(setting.snapshot("model.safetensors")).unwrap(), weights());
    assert!(!part.exists());
}

#[test]
fn a_hub_without_ranges_starts_anew() {
    let setting = Setting::fairy_tales();
    {
        let mut state = setting.hub.state();
        (state.cut, state.cuts, state.no_ranges) = (Some(1_000_000), 1, true);
    }
    setting.output(&INSPECT).ok();
    assert_eq!(std::fs::read(setting.snapshot("model.safetensors")).unwrap(), weights());
}

#[test]
fn a_wrong_hash_is_refused_and_removed() {
    let setting = Setting::fairy_tales();
    setting.hub.state().lies.insert("model.safetensors".into());
    let outcome = setting.output(&INSPECT);
    let line = outcome.failed(1);
    let (expected, found) = (sha256(b"other"), sha256(&weights()));
    let wanted = format!("hf:org/name: model.safetensors: expected SHA-256 {expected}, found {found}");
    assert!(line.contains(&wanted), "{line}");
    assert!(setting.blobs().iter().all(|name| !name.contains(&expected) && !name.contains(&found)));
    nothing_looks_whole(&setting);
    setting.hub.state().lies.clear();
    setting.output(&INSPECT).ok();
}

#[test]
fn a_damaged_beginning_is_found_by_the_hash() {
    let setting = Setting::fairy_tales();
    setting.output(&["tokenize", "--model", "hf:org/name", "x"]).ok();
    let part = setting.path("blobs").join(format!("{}.incomplete", sha256(&weights())));
    std::fs::write(&part, vec![7; 1000]).unwrap();
    let outcome = setting.output(&INSPECT);
    assert!(outcome.failed(1).contains("expected SHA-256"), "{outcome:?}");
    assert!(!part.exists());
    setting.output(&INSPECT).ok();
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    let setting = Setting::fairy_tales();
    setting.hub.state().busy = 2;
    setting.output(&INSPECT).ok();
    setting.hub.requests();
    let other = Setting::fairy_tales();
    other.hub.state().busy = 100;
    let outcome = other.output(&INSPECT);
    assert!(outcome.failed(1).contains("answered 503"), "{outcome:?}");
    assert_eq!(other.hub.requests().len(), 3);
}

#[test]
fn a_process_that_is_killed_leaves_a_beginning() {
    let setting = Setting::fairy_tales();
    {
        let mut state = setting.hub.state();
        (state.cut, state.cuts, state.stall) = (Some(600_000), 1, true);
        state.files.remove("tokenizer.json");
    }
    let mut child = setting.command(&INSPECT).spawn().unwrap();
    let part = setting.path("blobs").join(format!("{}.incomplete", sha256(&weights())));
    let begin = Instant::now();
    while std::fs::metadata(&part).map_or(0, |found| found.len()) < 400_000 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing arrives");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_looks_whole(&setting);
    setting.hub.requests();
    setting.output(&["bench", "prefill", "-p", "2", "-t", "1", "--model", "hf:org/name"]).ok();
    let requests = setting.hub.requests();
    let store: Vec<_> = requests.iter().filter(|line| line.contains("/store/")).collect();
    assert!(store.len() == 1 && store[0].ends_with('-'), "{requests:?}");
}

#[test]
fn two_processes_fetch_a_file_once() {
    let setting = Setting::fairy_tales();
    let children: Vec<_> = (0..2).map(|_| setting.command(&INSPECT).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let weights = setting.hub.requests().iter().filter(|line| line.contains("/store/model.safe")).count();
    assert_eq!(weights, 1);
}
