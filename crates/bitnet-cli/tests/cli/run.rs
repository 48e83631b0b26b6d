//! `bitnet run`.

use bitnet_testing::temp::TempDir;
use serde_json::Value;

use crate::program::{bitnet, fairy_tales, finish, output, output_with_input, text};

const STORY: [&str; 7] = ["run", "Once upon a time", "--seed", "7", "--max-tokens", "40", "--threads"];

#[test]
fn a_seed_gives_one_text_whatever_the_threads_and_the_instruction_set() {
    let one = output(&[&STORY[..], &["1"]].concat()).ok();
    assert!(one.stdout.trim().len() > 40, "{one:?}");
    assert!(one.stdout.ends_with('\n') && !one.stdout.starts_with("Once upon"));
    let two = output(&[&STORY[..], &["2"]].concat()).ok();
    assert_eq!(two.stdout, one.stdout);
    let mut scalar = bitnet(&[&STORY[..], &["2"]].concat());
    scalar.env("BITNET_ISA", "scalar");
    assert_eq!(finish(scalar).ok().stdout, one.stdout);
    let mut other = STORY;
    other[3] = "8";
    assert_ne!(output(&[&other[..], &["2"]].concat()).ok().stdout, one.stdout);
}

#[test]
fn the_summary_and_the_bundled_model_are_told_on_standard_error() {
    let told = output(&["run", "The old king", "--max-tokens", "4", "--seed", "5"]).ok().stderr;
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].contains("bundled model fairy-tales"), "{told}");
    let parts: Vec<_> = lines[1].split(" | ").collect();
    assert!(parts[0].starts_with("prompt ") && parts[0].ends_with(" tok/s"), "{told}");
    assert!(parts[1].starts_with("decode 4 tokens, ") && parts[1].ends_with(" tok/s"), "{told}");
    assert!(parts[2].starts_with("peak memory ") && parts[2].contains(" as f16 (default)"), "{told}");
    for part in ["(weights ", ", kv ", ", activations ", ", scratch "] {
        assert!(parts[2].contains(part), "{part}: {told}");
    }
    assert_eq!(parts[3..], ["length (--max-tokens)", "seed 5"], "{told}");
    // A named model is not announced.
    let named = output(&["run", "x", "--max-tokens", "1", "--model", text(&fairy_tales("model"))]).ok();
    assert_eq!(named.stderr.lines().count(), 1, "{named:?}");
}

#[test]
fn the_printed_seed_gives_the_text_again() {
    let first = output(&["run", "The sea", "--max-tokens", "12", "--json"]).ok().json();
    let seed = first["seed"].to_string();
    let again = output(&["run", "The sea", "--max-tokens", "12", "--json", "--seed", &seed]).ok().json();
    assert_eq!(again["ids"], first["ids"]);
}

#[test]
fn json_is_one_object_and_jsonl_one_event_a_line() {
    let arguments = ["run", "The wolf said", "--max-tokens", "9", "--seed", "3"];
    let plain = output(&arguments).ok().stdout;
    let whole = output(&[&arguments[..], &["--json"]].concat()).ok().json();
    let mut keys: Vec<_> = whole.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let wanted = "decode_tok_per_s finish_reason generated_tokens ids kv_by kv_type peak_memory_bytes prompt_tok_per_s \
                  prompt_tokens schema seed text";
    assert_eq!(keys.join(" "), wanted);
    assert_eq!(format!("{}\n", whole["text"].as_str().unwrap()), plain);
    assert_eq!((&whole["finish_reason"], &whole["generated_tokens"]), (&"length".into(), &9.into()));
    let lines = output(&[&arguments[..], &["--jsonl"]].concat()).ok().stdout;
    let mut events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.pop().unwrap();
    assert_eq!((&last["event"], &last["finish_reason"]), (&"finish".into(), &"length".into()));
    assert!(events.iter().all(|event| event["event"] == "token" && event["schema"] == 1));
    let ids: Vec<_> = events.iter().map(|event| event["id"].clone()).filter(|id| !id.is_null()).collect();
    assert_eq!(Value::from(ids), whole["ids"]);
    let joined: String = events.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(joined, whole["text"].as_str().unwrap());
}

#[test]
fn a_rate_without_tokens_is_null() {
    let one = output(&["run", "x", "--max-tokens", "1", "--json"]).ok().json();
    assert_eq!((&one["decode_tok_per_s"], one["generated_tokens"].as_u64()), (&Value::Null, Some(1)));
    let none = output(&["run", "x", "--max-tokens", "0", "--json"]).ok().json();
    assert_eq!((none["text"].as_str(), none["finish_reason"].as_str()), (Some(""), Some("length")));
}

#[test]
fn prompts_come_from_arguments_files_and_standard_input() {
    let tail = ["--max-tokens", "6", "--seed", "1", "--json"];
    let ids = |head: &[&str], input: &str| {
        let result = output_with_input(&[&["run"], head, &tail[..]].concat(), input).ok().json();
        (result["ids"].clone(), result["prompt_tokens"].as_u64().unwrap())
    };
    let folder = TempDir::new("prompt");
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "The bear\n").unwrap();
    let wanted = ids(&["The bear"], "");
    assert_eq!(ids(&["--file", text(&file)], ""), wanted);
    assert_eq!(ids(&["-"], "The bear\n"), wanted);
    assert_eq!(ids(&[], "The bear"), wanted);
    // Nothing to continue: the begin token alone.
    assert_eq!(ids(&[""], "").1, 1);
    assert_eq!(ids(&[], "").1, 1);
}

#[test]
fn special_tokens_in_a_prompt_are_text_unless_asked_for() {
    let count = |more: &[&str]| {
        let arguments = [&["run", "<|end_of_text|>", "--max-tokens", "1", "--json"], more].concat();
        output(&arguments).ok().json()["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(count(&["--parse-special"]), 2);
    assert!(count(&[]) > 5);
}

#[test]
fn a_stop_string_and_a_full_context_end_the_text() {
    let free =
        output(&["run", "Once upon a time", "--seed", "7", "--max-tokens", "40", "--json"]).ok().json();
    let story = free["text"].as_str().unwrap();
    let stop = story.split_whitespace().nth(5).unwrap();
    let cut = ["run", "Once upon a time", "--seed", "7", "--max-tokens", "40", "--json", "--stop", stop];
    let cut = output(&cut).ok().json();
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &story[..story.find(stop).unwrap()]);
    let full = output(&["run", "Once upon a time", "--ctx", "12", "--json"]).ok();
    assert_eq!(full.json()["finish_reason"], "context");
    assert!(full.stderr.contains("context is full"), "{full:?}");
}

#[test]
fn chat_lays_the_prompt_out_and_says_which_template_it_took() {
    let told =
        output(&["run", "Hello", "--chat", "--system", "Be kind.", "--max-tokens", "3", "--seed", "1"]).ok();
    assert!(told.stderr.contains("no chat template"), "{told:?}");
    let folder = TempDir::new("template");
    crate::program::copy_model(folder.path());
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let own = output(&["run", "Hello", "--chat", "--max-tokens", "3", "--model", text(folder.path())]).ok();
    assert!(!own.stderr.contains("template"), "{own:?}");
}

#[test]
fn weights_are_mapped_or_copied_to_the_same_effect() {
    let model = fairy_tales("model");
    let with = |how| {
        let arguments =
            ["run", "The fox", "--max-tokens", "5", "--seed", "2", "--model", text(&model), "--weights", how];
        output(&arguments).ok().stdout
    };
    assert_eq!(with("copy"), with("auto"));
    #[cfg(feature = "mmap")]
    assert_eq!(with("mmap"), with("auto"));
}
