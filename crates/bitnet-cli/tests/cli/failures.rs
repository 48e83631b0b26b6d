//! Exit statuses, error lines, closed pipes and Ctrl-C.

use std::io::Read;
use std::path::Path;

use bitnet_testing::temp::TempDir;
use serde_json::Value;

use crate::program::{bitnet, copy_model, finish, output, text};

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &["run", "--no-such-option"][..],
        &["no-such-command"],
        &[],
        &["run", "x", "--threads", "0"],
        &["run", "x", "--device", "toaster"],
        &["run", "x", "--kv", "i8"],
        &["run", "x", "--head", "i5"],
        &["run", "x", "--stop", ""],
        &["run", "x", "--system", "without --chat"],
        &["run", "x", "--json", "--jsonl"],
        &["eval", "--text", "a", "--tokens", "b"],
    ] {
        assert_eq!(output(arguments).code, Some(2), "{arguments:?}");
    }
    for (arguments, needle) in [
        (&["run", "x", "--device", "cuda:0"][..], "device cuda:0 is not available"),
        (&["run", "x", "--ctx", "513"], "expected 1 to 512"),
        (&["run", "x", "--ctx", "0"], "expected 1 to 512"),
        (&["run", "x", "--temperature", "-0.5"], "temperature"),
        (&["chat", "--top-p", "7"], "top_p"),
    ] {
        let outcome = output(arguments);
        assert!(outcome.failed(2).contains(needle), "{arguments:?}: {outcome:?}");
    }
    let mut command = bitnet(&["run", "x"]);
    command.env("BITNET_ISA", "nonsense");
    let outcome = finish(command);
    assert!(outcome.failed(2).contains("nonsense"), "{outcome:?}");
    // A tier that is known and that no processor of this architecture has.
    let (isa, reason) = match std::env::consts::ARCH {
        "aarch64" => ("avx2", "the processor is not x86-64"),
        _ => ("neon", "the processor is not AArch64"),
    };
    for arguments in [&["run", "x"][..], &["bench", "kernels"]] {
        let mut command = bitnet(arguments);
        command.env("BITNET_ISA", isa);
        let outcome = finish(command);
        let line = outcome.failed(2);
        assert!(line.contains(isa) && line.contains(reason), "{arguments:?}: {outcome:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let outcome = output(arguments).ok();
        assert!(outcome.stdout.contains("bitnet") && outcome.stderr.is_empty(), "{outcome:?}");
    }
}

/// Checks that a model folder is refused on one line, by every command that loads it.
fn refused(folder: &Path, needles: &[&str]) {
    refused_by(&[&["logits", "--ids", "1", "--out", "/absent/x", "--model"]], folder, needles);
    text_refused(folder, needles);
}

/// The same for what concerns text, by every command that loads the tokenizer.
fn text_refused(folder: &Path, needles: &[&str]) {
    refused_by(&[&["run", "x", "--model"], &["inspect"]], folder, needles);
}

fn refused_by(commands: &[&[&str]], folder: &Path, needles: &[&str]) {
    for command in commands {
        let outcome = output(&[command, &[text(folder)][..]].concat());
        let line = outcome.failed(1);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        for needle in needles {
            assert!(line.contains(needle), "{command:?}: {needle}: {line}");
        }
    }
}

#[test]
fn models_that_are_absent_or_of_other_formats_are_refused() {
    refused(Path::new("/no/such/model"), &["/no/such/model", "expected a folder"]);
    let folder = TempDir::new("no-model");
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, "GGUF").unwrap();
    refused(&file, &["model.gguf", "expected a version", "found 0 bytes"]);
    refused(folder.path(), &["config.json"]);
    if cfg!(not(feature = "hub")) {
        let hub = output(&["run", "x", "--model", "hf:some/model"]);
        assert!(hub.failed(2).contains("--features hub"), "{hub:?}");
    }
}

#[test]
fn truncated_weights_are_refused_by_name() {
    let folder = TempDir::new("truncated");
    copy_model(folder.path());
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for length in [bytes.len() / 2, bytes.len() - 1, 100, 7, 0] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        refused(folder.path(), &["model.safetensors"]);
    }
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_refused() {
    let folder = TempDir::new("large-tokenizer");
    copy_model(folder.path());
    let file = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let tokens = json["added_tokens"].as_array_mut().unwrap();
    let mut extra = tokens[0].clone();
    extra["id"] = 4096.into();
    extra["content"] = "<|extra|>".into();
    tokens.push(extra);
    std::fs::write(&file, json.to_string()).unwrap();
    text_refused(folder.path(), &["tokenizer.json", "below the model's vocab_size 4096", "found 4096"]);
}

#[test]
fn commands_on_token_ids_do_not_look_at_the_tokenizer() {
    let folder = TempDir::new("no-tokenizer");
    copy_model(folder.path());
    std::fs::write(folder.path().join("tokenizer.json"), "garbage").unwrap();
    let out = folder.path().join("logits.safetensors");
    let model = text(folder.path());
    output(&["logits", "--model", model, "--ids", "1,2", "--out", text(&out)]).ok();
    std::fs::write(folder.path().join("ids"), [1, 0, 2, 0, 3, 0]).unwrap();
    let ids = folder.path().join("ids");
    output(&["eval", "--model", model, "--tokens", text(&ids), "--window", "2"]).ok();
    text_refused(folder.path(), &["tokenizer.json"]);
}

#[test]
fn tokenizers_on_which_the_library_panics_are_refused_on_one_line() {
    let folder = TempDir::new("panicking-tokenizer");
    copy_model(folder.path());
    let file = folder.path().join("tokenizer.json");
    let honest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let template = |single: &str| {
        let single: Value = serde_json::from_str(single).unwrap();
        serde_json::json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}})
    };
    for (field, lie) in [
        ("post_processor", template(r#"[{"SpecialToken": {"id": "absent", "type_id": 0}}]"#)),
        ("post_processor", template(r#"[{"Sequence": {"id": "B", "type_id": 0}}]"#)),
        ("normalizer", serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("normalizer", serde_json::json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        ("pre_tokenizer", serde_json::json!({"type": "FixedLength", "length": 0})),
    ] {
        let mut json = honest.clone();
        json[field] = lie;
        std::fs::write(&file, json.to_string()).unwrap();
        let outcome = output(&["tokenize", "--model", text(folder.path()), "Once upon"]);
        assert!(outcome.failed(1).contains("tokenizer.json"), "{field}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{field}: {outcome:?}");
    }
}

#[test]
fn a_config_that_lies_is_refused_by_field() {
    let folder = TempDir::new("config");
    copy_model(folder.path());
    let file = folder.path().join("config.json");
    let honest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (field, value) in
        [("num_hidden_layers", 1_000_000_000_u64.into()), ("hidden_size", Value::from("wide\nline"))]
    {
        let mut config = honest.clone();
        config[field] = value;
        std::fs::write(&file, config.to_string()).unwrap();
        refused(folder.path(), &["config.json", field]);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = bitnet(&["run", "Once", "--max-tokens", "400", "--jsonl"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 8]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(!told.contains("error") && !told.contains("panicked"), "{told}");
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let mut command = bitnet(&["tokenize", "--model", text(&crate::program::fairy_tales("model")), "x"]);
    command.stdout(std::fs::File::create("/dev/full").unwrap());
    let outcome = finish(command);
    assert!(outcome.failed(1).contains("standard output: cannot write"), "{outcome:?}");
}

#[cfg(unix)]
mod signals {
    use std::process::{Child, Command};

    use super::*;
    use crate::program::fairy_tales;

    fn interrupt(child: &Child) {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    }

    #[test]
    fn ctrl_c_ends_a_text_with_what_was_written() {
        // The longest text that this model can write, on the slowest tier.
        let mut command =
            bitnet(&["run", "Once", "--max-tokens", "500", "--jsonl", "--threads", "1", "--seed", "3"]);
        let mut child = command.env("BITNET_ISA", "scalar").spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{told}");
        assert!(told.contains("| interrupted |") && !told.contains("error"), "{told}");
        let last = String::from_utf8(output.stdout).unwrap();
        let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
        assert_eq!((&last["event"], &last["finish_reason"]), (&"finish".into(), &"interrupted".into()));
    }

    #[test]
    fn ctrl_c_ends_a_measurement() {
        let tokens = fairy_tales("eval").join("valid.u16");
        let mut child = bitnet(&["eval", "--tokens", text(&tokens)]).spawn().unwrap();
        // The first note comes after the handler is there.
        child.stderr.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(output.stdout.is_empty());
    }
}
