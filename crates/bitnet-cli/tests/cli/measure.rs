//! `bitnet eval` and `bitnet logits`.

use bitnet_testing::safetensors::SafeTensors;
use bitnet_testing::temp::TempDir;
use serde_json::Value;

use crate::program::{bitnet, copy_model, fairy_tales, finish, output, text};

/// Writes the first held-out tokens.
fn tokens(folder: &TempDir, count: usize) -> std::path::PathBuf {
    let bytes = std::fs::read(fairy_tales("eval").join("valid.u16")).unwrap();
    let file = folder.path().join("tokens.u16");
    std::fs::write(&file, &bytes[..2 * count]).unwrap();
    file
}

fn losses(report: &Value) -> Vec<f64> {
    report["nll_per_window"].as_array().unwrap().iter().map(|nll| nll.as_f64().unwrap()).collect()
}

#[test]
fn the_first_windows_lose_what_the_reference_loses() {
    let folder = TempDir::new("eval");
    // Eight windows, their last look-ahead token, and a partial window that is dropped.
    let file = tokens(&folder, 8 * 512 + 1 + 511);
    let arguments = ["eval", "--tokens", text(&file), "--window", "512", "--json", "--threads"];
    let report = output(&[&arguments[..], &["2"]].concat()).ok();
    assert!(report.stderr.contains("bundled model fairy-tales"), "{report:?}");
    let report = report.json();
    let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["mean_nll", "nll_per_window", "ppl", "schema", "tok_per_s", "tokens", "windows"]);
    assert_eq!((&report["windows"], &report["tokens"]), (&8.into(), &4096.into()));
    let oracle = std::fs::read_to_string(fairy_tales("eval").join("oracle.json")).unwrap();
    let oracle: Value = serde_json::from_str(&oracle).unwrap();
    let (found, wanted) = (losses(&report), &oracle["packed_f32"]["nll_first8"]);
    for (index, (found, wanted)) in found.iter().zip(wanted.as_array().unwrap()).enumerate() {
        assert!((found - wanted.as_f64().unwrap()).abs() < 0.005, "window {index}: {found} against {wanted}");
    }
    let mean = found.iter().sum::<f64>() / 8.0;
    assert!((report["mean_nll"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!((report["ppl"].as_f64().unwrap() - mean.exp()).abs() < 1e-9);
    let one = output(&[&arguments[..], &["1"]].concat()).ok().json();
    assert_eq!(losses(&one), found);
}

#[test]
fn the_loss_is_the_same_for_every_instruction_set_and_window_by_window() {
    let folder = TempDir::new("eval-isa");
    let file = tokens(&folder, 201);
    let arguments = ["eval", "--tokens", text(&file), "--window", "100", "--json"];
    let best = output(&arguments).ok().json();
    assert_eq!(losses(&best).len(), 2);
    let mut scalar = bitnet(&arguments);
    scalar.env("BITNET_ISA", "scalar");
    assert_eq!(losses(&finish(scalar).ok().json()), losses(&best));
    // The second window starts afresh where the first one's inputs end.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[200..]).unwrap();
    assert_eq!(losses(&output(&arguments).ok().json()), losses(&best)[1..]);
}

#[test]
fn text_and_both_widths_of_ids_are_measured_alike() {
    let folder = TempDir::new("eval-text");
    let model = fairy_tales("model");
    let prose = folder.path().join("prose.txt");
    std::fs::write(
        &prose,
        "The king had a daughter who was fair to see, and she lived in a tower by the sea.",
    )
    .unwrap();
    let ids = output(&["tokenize", "--model", text(&model), "--file", text(&prose), "--json"]).ok().json();
    let ids: Vec<u32> = serde_json::from_value(ids["ids"].clone()).unwrap();
    let (narrow, wide) = (folder.path().join("ids.u16"), folder.path().join("ids.u32"));
    std::fs::write(&narrow, ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect::<Vec<_>>())
        .unwrap();
    std::fs::write(&wide, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let measure =
        |input: &[&str]| losses(&output(&[&["eval", "--window", "5", "--json"], input].concat()).ok().json());
    let wanted = measure(&["--text", text(&prose)]);
    assert_eq!(wanted.len(), (ids.len() - 1) / 5);
    assert_eq!(measure(&["--tokens", text(&narrow)]), wanted);
    assert_eq!(measure(&["--tokens", text(&wide), "--tokens-type", "u32"]), wanted);
    let plain = output(&["eval", "--window", "5", "--text", text(&prose)]).ok().stdout;
    assert!(plain.contains("perplexity") && plain.contains("windows of 5"), "{plain}");
}

#[test]
fn inputs_that_cannot_be_measured_are_refused_by_name() {
    let folder = TempDir::new("eval-refused");
    let file = tokens(&folder, 512);
    let refused = |more: &[&str], code: i32| {
        output(&[&["eval", "--tokens", text(&file)], more].concat()).failed(code).to_owned()
    };
    let short = refused(&[], 1);
    assert!(
        short.contains("tokens.u16: expected at least 513 tokens") && short.ends_with("found 512"),
        "{short}"
    );
    assert!(refused(&["--window", "513"], 2).contains("--window: expected 1 to 512"));
    assert!(refused(&["--window", "0"], 2).contains("--window: expected 1 to 512"));
    assert!(
        refused(&["--tokens-type", "u32", "--window", "5"], 1)
            .contains("tokens.u16: expected ids below 4096")
    );
    std::fs::write(&file, [1, 2, 3]).unwrap();
    assert!(refused(&[], 1).contains("tokens.u16: expected a multiple of 2 bytes"));
    assert_eq!(output(&["eval"]).code, Some(2));
}

#[test]
fn logits_are_written_row_by_row_and_agree_with_the_next_token() {
    let folder = TempDir::new("logits");
    // No tokenizer is needed.
    copy_model(folder.path());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let ids = output(&["tokenize", "--model", text(&fairy_tales("model")), "Once upon a time"]).ok().stdout;
    let ids = ids.lines().next().unwrap();
    let out = folder.path().join("logits.safetensors");
    let arguments = ["logits", "--model", text(folder.path()), "--out", text(&out)];
    let report = output(&[&arguments[..], &["--ids", ids, "--json"]].concat()).ok().json();
    assert_eq!(report["vocab"], 4096);
    let rows = ids.split(',').count();
    let file = SafeTensors::read(&out);
    assert_eq!(file.shape("logits"), [rows, 4096]);
    let logits = file.f32s("logits");
    let last = &logits[(rows - 1) * 4096..];
    let best = (0..4096).max_by(|&a, &b| f32::total_cmp(&last[a], &last[b])).unwrap();
    let run = ["run", "Once upon a time", "--temperature", "0", "--max-tokens", "1", "--kv", "f32", "--json"];
    assert_eq!(output(&run).ok().json()["ids"], serde_json::json!([best]));
    // A list in a file, with other threads, gives the same bytes over the old file.
    let (before, list) = (std::fs::read(&out).unwrap(), folder.path().join("ids.txt"));
    std::fs::write(&list, format!("[{}]\n", ids.replace(',', ", "))).unwrap();
    output(&[&arguments[..], &["--ids-file", text(&list), "--threads", "2"]].concat()).ok();
    assert_eq!(std::fs::read(&out).unwrap(), before);
}

#[test]
fn logits_that_fail_leave_no_file() {
    let folder = TempDir::new("logits-refused");
    let out = folder.path().join("logits.safetensors");
    let model = fairy_tales("model");
    let refused = |ids: &str| {
        let arguments = ["logits", "--model", text(&model), "--out", text(&out), "--ids", ids];
        output(&arguments).failed(1).to_owned()
    };
    assert!(refused("1,4096").contains("--ids: expected ids below 4096, found 4096 at position 1"));
    assert!(refused(&vec!["5"; 513].join(",")).contains("at most 512 tokens, found 513"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(output(&["logits", "--model", text(&model), "--ids", "1"]).code, Some(2));
    assert_eq!(output(&["logits", "--ids", "1", "--out", text(&out)]).code, Some(2));
}
