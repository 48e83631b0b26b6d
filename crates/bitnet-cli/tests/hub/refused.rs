//! What cannot be fetched is told in one line, and what is not asked for by `hf:` reaches no network.

use crate::program::{Outcome, finish};
use crate::server::Hub;
use crate::{Setting, names};

/// Checks for one line of error, and for no trace of a model.
fn refused(setting: &Setting, name: &str, needles: &[&str]) -> Outcome {
    let outcome = setting.output(&["inspect", name]);
    let line = outcome.failed(1);
    for needle in needles {
        assert!(line.contains(needle), "{needle}: {line}");
    }
    assert!(outcome.stdout.is_empty() && !setting.path("refs").exists(), "{outcome:?}");
    outcome
}

#[test]
fn absent_things_are_named() {
    let setting = Setting::fairy_tales();
    refused(&setting, "hf:org/other", &["hf:org/other: no such repository", "404"]);
    refused(&setting, "hf:org/name@v9", &["hf:org/name@v9: the repository has no revision v9"]);
    setting.hub.state().files.remove("model.safetensors");
    refused(
        &setting,
        "hf:org/name",
        &["hf:org/name: expected *.safetensors or a .gguf file", "found neither"],
    );
    setting.hub.state().files.remove("config.json");
    refused(&setting, "hf:org/name", &["hf:org/name: expected config.json"]);
}

#[test]
fn a_shard_that_is_not_there_is_named() {
    let index = r#"{"weight_map":{"a":"model-1.safetensors"}}"#;
    let hub = Hub::new(&[("config.json", b"{}".to_vec()), ("model.safetensors.index.json", index.into())]);
    let setting = Setting::new(hub);
    refused(
        &setting,
        "hf:org/name",
        &["hf:org/name: model-1.safetensors: the repository has no such file", "404"],
    );
}

#[test]
fn refusals_say_what_to_do() {
    for (status, code, needles) in [
        (401, "", &["access refused (401)", "private or gated", "HF_TOKEN is not set"][..]),
        (401, "RepoNotFound", &["no such repository, or it is private or gated"]),
        (403, "GatedRepo", &["is gated: accept its terms on", "/org/name", "HF_TOKEN is not set"]),
        (403, "", &["access refused (403)"]),
        (404, "", &["no such repository or revision", "404"]),
        (429, "", &["too many requests"]),
        (418, "", &["answered 418"]),
    ] {
        let setting = Setting::fairy_tales();
        setting.hub.state().refusal = Some((status, code));
        refused(&setting, "hf:org/name", needles);
        assert_eq!(setting.hub.requests().len(), 1, "{status}: asking again is of no use");
    }
}

#[test]
fn offline_nothing_is_asked() {
    let setting = Setting::fairy_tales();
    let mut command = setting.command(&["run", "x", "--model", "hf:org/name"]);
    command.env("HF_HUB_OFFLINE", "1");
    let outcome = finish(command);
    assert!(outcome.failed(1).contains("HF_HUB_OFFLINE"), "{outcome:?}");
    assert!(setting.hub.requests().is_empty() && names(setting.cache.path()).is_empty());
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let setting = Setting::fairy_tales();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = setting.command(&["run", "x", "--model", "hf:org/name"]);
    command.env("HF_ENDPOINT", format!("http://{free}"));
    let outcome = finish(command);
    let wanted = format!("hf:org/name: cannot reach http://{free}: connection refused");
    assert!(outcome.failed(1).contains(&wanted), "{outcome:?}");
}

/// Encryption is there: a hub that answers in the open is refused as such.
#[test]
fn a_hub_without_encryption_is_not_taken_for_one_with_it() {
    let setting = Setting::fairy_tales();
    let mut command = setting.command(&["inspect", "hf:org/name"]);
    command.env("HF_ENDPOINT", setting.hub.endpoint().replace("http:", "https:"));
    let outcome = finish(command);
    assert!(outcome.failed(1).contains("cannot reach https://127.0.0.1"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
}

#[test]
fn names_and_settings_that_cannot_be_are_usage_errors() {
    let setting = Setting::fairy_tales();
    for name in ["hf:name", "hf:org/..", "hf:org/name@", "hf:org/name/x.bin", "hf:org/name@../x"] {
        let outcome = setting.output(&["inspect", name]);
        assert!(outcome.failed(2).contains("expected hf:org/name"), "{name}: {outcome:?}");
    }
    for (variable, value) in [("HF_ENDPOINT", "huggingface.co"), ("HF_TOKEN", "a b")] {
        let mut command = setting.command(&["inspect", "hf:org/name"]);
        let outcome = finish({
            command.env(variable, value);
            command
        });
        assert!(outcome.failed(2).contains(variable), "{outcome:?}");
    }
    assert!(setting.hub.requests().is_empty());
}

#[test]
fn a_mistyped_path_reaches_no_network() {
    let setting = Setting::fairy_tales();
    for name in ["org/name", "HF:org/name", "./hf:org/name", "huggingface.co/org/name"] {
        assert!(setting.output(&["inspect", name]).failed(1).contains("expected a folder"));
    }
    assert!(setting.hub.requests().is_empty());
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let setting = Setting::fairy_tales();
    let mut command = setting.command(&["inspect", "hf:org/name"]);
    command.env("HF_HUB_CACHE", "/dev/null/cache");
    let outcome = finish(command);
    assert!(outcome.failed(1).contains("/dev/null/cache/"), "{outcome:?}");
}
