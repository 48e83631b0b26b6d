//! From a name to an answer: every command, every form of a model, and the cache that is left.

use bitnet_testing::gguf::{GgufFile, part_name};
use bitnet_testing::temp::TempDir;
use bitnet_testing::{SyntheticFamily, SyntheticModel, golden_dir, shapes, tokenizer};

use crate::program::{fairy_tales, output, output_with_input, text};
use crate::server::{COMMIT, Hub, sha256};
use crate::{Setting, names};

const RUN: [&str; 6] = ["run", "Once upon", "--temperature", "0", "--max-tokens", "8"];

fn run_with(model: &str) -> Vec<&str> {
    [&RUN[..], &["--model", model]].concat()
}

#[test]
fn a_name_runs_as_the_folder_does_and_then_from_the_cache() {
    let setting = Setting::fairy_tales();
    let expected = output(&run_with(text(&fairy_tales("model")))).ok().stdout;
    let first = setting.output(&run_with("hf:org/name")).ok();
    assert_eq!(first.stdout, expected);
    assert!(first.stderr.contains("fetching model.safetensors, 3.2 MiB"), "{}", first.stderr);
    let weights = std::fs::read(fairy_tales("model").join("model.safetensors")).unwrap();
    assert_eq!(std::fs::read_to_string(setting.path("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(setting.path("blobs").join(sha256(&weights))).unwrap(), weights);
    assert_eq!(names(&setting.snapshot("")), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(setting.blobs().len(), 3);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(setting.snapshot("model.safetensors")).unwrap(),
        std::path::Path::new("../../blobs").join(sha256(&weights))
    );
    let requests = setting.hub.requests();
    assert_eq!(requests[0], "GET /api/models/org/name/revision/main");
    assert!(requests.last().unwrap().starts_with("GET /store/model.safetensors"), "{requests:?}");

    // By now the cache is enough: by branch and by commit, with and without a network.
    for name in ["hf:org/name".to_owned(), format!("hf:org/name@{COMMIT}")] {
        assert_eq!(setting.output(&run_with(&name)).ok().stdout, expected);
        let mut offline = setting.command(&run_with(&name));
        offline.env("HF_HUB_OFFLINE", "1");
        assert_eq!(crate::finish(offline).ok().stdout, expected);
    }
    assert!(setting.hub.requests().is_empty());
}

#[test]
fn every_command_takes_a_name() {
    let setting = Setting::fairy_tales();
    let folder = TempDir::new("hub-commands");
    let (ids, out) = (folder.path().join("ids"), folder.path().join("logits.safetensors"));
    let packed = folder.path().join("packed");
    std::fs::write(&ids, (0..33u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    // The tokenizer alone comes first: no weights for a question about text.
    let tokens = setting.output(&["tokenize", "--model", "hf:org/name", "Once upon"]).ok();
    let local = output(&["tokenize", "--model", text(&fairy_tales("model")), "Once upon"]).ok();
    assert_eq!(tokens.stdout, local.stdout);
    assert_eq!(names(&setting.snapshot("")), ["config.json", "tokenizer.json"]);
    for arguments in [
        &["eval", "--tokens", text(&ids), "--window", "16", "--json", "--model"][..],
        &["logits", "--ids", "1,2,3", "--out", text(&out), "--model"],
        &["inspect", "--json"],
        &["bench", "prefill", "-p", "4", "-t", "1", "--json", "--model"],
    ] {
        let found = setting.output(&[arguments, &["hf:org/name"]].concat()).ok();
        assert!(!arguments.contains(&"--json") || found.json()["schema"] == 1);
    }
    let convert = ["convert", "hf:org/name", text(&packed), "--to", "hf-packed", "--json"];
    assert_eq!(setting.output(&convert).ok().json()["format"], "hf-packed");
    let mut chat = setting.command(&["chat", "--model", "hf:org/name", "--max-tokens", "4"]);
    chat.stdin(std::process::Stdio::piped());
    let mut child = chat.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"Hello\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!output_with_input(&["chat", "--max-tokens", "1"], "Hi\n").ok().stdout.is_empty());
    let weights = setting.hub.requests().iter().filter(|line| line.contains("/store/model.safe")).count();
    assert_eq!(weights, 1, "weights come once");
}

#[test]
fn shards_come_by_their_index() {
    let folder = TempDir::new("hub-shards");
    let model = SyntheticModel::new(shapes::tiny(), SyntheticFamily::BitNetPacked, 3).with_shards(3);
    model.write_folder(folder.path()).unwrap();
    tokenizer::write_tokenizer(folder.path(), shapes::tiny().vocab).unwrap();
    let setting = Setting::new(Hub::of(folder.path()));
    let out = folder.path().join("out");
    let logits = |model: &str| {
        let outcome = setting.output(&["logits", "--model", model, "--ids", "1,2,3", "--out", text(&out)]);
        outcome.ok();
        std::fs::read(&out).unwrap()
    };
    assert_eq!(logits("hf:org/name@refs/pr/1"), logits(text(folder.path())));
    assert_eq!(std::fs::read_to_string(setting.path("refs/refs/pr/1")).unwrap(), COMMIT);
    let shards = names(&setting.snapshot("")).iter().filter(|name| name.ends_with(".safetensors")).count();
    assert_eq!(shards, 3);
    // One shard less is a model that is not whole.
    std::fs::remove_file(setting.snapshot("model-00002-of-00003.safetensors")).unwrap();
    setting.hub.requests();
    assert_eq!(logits("hf:org/name@refs/pr/1"), logits(text(folder.path())));
    assert!(setting.hub.requests()[0].starts_with("GET /api/"));
}

#[test]
fn gguf_files_come_alone_or_by_name() {
    let read = |name: &str| std::fs::read(golden_dir("gguf").join(name)).unwrap();
    let (ternary, dense) = (read("bitnet_b158-tq2_0.gguf"), read("llama-f16.gguf"));
    let one = Setting::new(Hub::new(&[("README.md", b"x".to_vec()), ("m.gguf", ternary.clone())]));
    one.output(&["run", "the house", "--max-tokens", "2", "--model", "hf:org/name"]).ok();
    assert_eq!(names(&one.snapshot("")), ["m.gguf"]);
    one.hub.requests();
    let again = one.output(&["run", "the house", "--max-tokens", "2", "--model", "hf:org/name"]).ok();
    assert!(again.stderr.contains("using m.gguf of the cached snapshot"), "{}", again.stderr);
    assert!(one.hub.requests().is_empty());

    let two = Setting::new(Hub::new(&[("q/m.gguf", ternary), ("f.gguf", dense.clone()), ("g.gguf", dense)]));
    let several = two.output(&["inspect", "hf:org/name"]);
    assert!(
        several.failed(1).contains("expected one .gguf or .bitnet file, found 2, f.gguf first"),
        "{several:?}"
    );
    two.output(&["inspect", "hf:org/name/q/m.gguf"]).ok();
    assert_eq!(names(&two.snapshot("q")), ["m.gguf"]);
    let absent = two.output(&["inspect", "hf:org/name/h.gguf"]);
    assert!(absent.failed(1).contains("expected the file h.gguf"), "{absent:?}");
}

#[test]
fn a_model_in_several_gguf_files_comes_whole() {
    let whole = golden_dir("gguf").join("bitnet_b158-tq2_0.gguf");
    let expected = output(&["inspect", text(&whole), "--json"]).ok().json()["tensors"].clone();
    let parts: Vec<_> = (0..3).map(|part| part_name("m", part, 3)).collect();
    let bytes = GgufFile::read(&whole).in_parts(3).into_iter().map(|file| file.to_bytes());
    let files: Vec<_> = parts.iter().map(String::as_str).zip(bytes).collect();
    for name in ["hf:org/name", "hf:org/name/m-00001-of-00003.gguf"] {
        let setting = Setting::new(Hub::new(&files));
        let tensors = || setting.output(&["inspect", name, "--json"]).ok().json()["tensors"].clone();
        let count = tensors().as_array().unwrap().len();
        assert_eq!(count, expected.as_array().unwrap().len());
        assert_eq!(names(&setting.snapshot("")), parts);
        setting.hub.requests();
        tensors();
        assert!(setting.hub.requests().is_empty(), "whole in the cache");
        std::fs::remove_file(setting.snapshot(&parts[1])).unwrap();
        tensors();
        assert!(setting.hub.requests()[0].starts_with("GET /api/"), "a part is missing");
        assert_eq!(names(&setting.snapshot("")), parts);
    }
    let setting = Setting::new(Hub::new(&files));
    let second = setting.output(&["inspect", "hf:org/name/m-00002-of-00003.gguf"]);
    assert!(second.failed(1).contains("expected the first part of the model, m-00001-of"), "{second:?}");
}

/// What is in the cache may have come by another name, or by another program.
#[test]
fn what_the_repository_has_decides_and_not_what_is_here() {
    let read = |name: &str| std::fs::read(golden_dir("gguf").join(name)).unwrap();
    let (ternary, dense) = (read("bitnet_b158-tq2_0.gguf"), read("llama-f16.gguf"));
    let setting = Setting::new(Hub::new(&[("f.gguf", ternary), ("g.gguf", dense)]));
    setting.output(&["inspect", "hf:org/name/f.gguf"]).ok();
    let several = setting.output(&["inspect", "hf:org/name"]);
    assert!(several.failed(1).contains("found 2, f.gguf first"), "{several:?}");
    // Out of reach of the hub, what is here has to do.
    let mut offline = setting.command(&["inspect", "hf:org/name"]);
    offline.env("HF_HUB_OFFLINE", "1");
    assert!(crate::finish(offline).ok().stderr.contains("using f.gguf of the cached snapshot"));

    // A repository that gained model.safetensors beside what another program took of it.
    let folder = Setting::fairy_tales();
    folder.output(&["inspect", "hf:org/name"]).ok();
    std::fs::rename(folder.snapshot("model.safetensors"), folder.snapshot("other.safetensors")).unwrap();
    folder.hub.requests();
    folder.output(&["inspect", "hf:org/name"]).ok();
    assert!(folder.hub.requests()[0].starts_with("GET /api/"));
    assert!(folder.snapshot("model.safetensors").is_file());
}

/// The only file of another name is known to be all once it was fetched as such.
#[test]
fn safetensors_of_another_name_are_asked_for_once() {
    let folder = fairy_tales("model");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let setting = Setting::new(Hub::new(&[
        ("config.json", read("config.json")),
        ("tokenizer.json", read("tokenizer.json")),
        ("fairy.safetensors", read("model.safetensors")),
    ]));
    setting.output(&["inspect", "hf:org/name"]).ok();
    setting.hub.requests();
    setting.output(&["inspect", "hf:org/name"]).ok();
    assert!(setting.hub.requests().is_empty());
}

#[test]
fn a_renamed_repository_is_followed() {
    let setting = Setting::fairy_tales();
    setting.output(&["tokenize", "--model", "hf:org/old", "x"]).ok();
    assert!(setting.cache.path().join("models--org--old/refs/main").is_file());
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let setting = Setting::fairy_tales();
    setting.hub.state().token = Some("hf_secret".into());
    let refused = setting.output(&["inspect", "hf:org/name"]);
    assert!(refused.failed(1).contains("access refused (401)"), "{refused:?}");
    assert!(refused.stderr.contains("HF_TOKEN is not set"), "{refused:?}");
    setting.hub.requests();
    let mut command = setting.command(&["inspect", "hf:org/name"]);
    command.env("HF_TOKEN", "hf_secret");
    let outcome = crate::finish(command).ok();
    assert!(!outcome.stderr.contains("hf_secret") && !outcome.stdout.contains("hf_secret"));
    let requests = setting.hub.requests();
    let (store, hub): (Vec<_>, Vec<_>) = requests.iter().partition(|line| line.contains("/store/"));
    assert!(hub.len() > 3 && hub.iter().all(|line| line.ends_with(" token")), "{requests:?}");
    assert!(!store.is_empty() && store.iter().all(|line| !line.ends_with(" token")), "{requests:?}");
}
