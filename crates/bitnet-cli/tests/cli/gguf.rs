//! GGUF files as MODEL, command by command.

use std::path::PathBuf;

use bitnet_testing::compare::{Tolerance, check_logits};
use bitnet_testing::gguf::GgufFile;
use bitnet_testing::golden_dir;
use bitnet_testing::safetensors::SafeTensors;
use bitnet_testing::temp::TempDir;

use crate::program::{output, text};

fn golden(name: &str) -> PathBuf {
    golden_dir("gguf").join(name)
}

#[test]
fn logits_of_a_file_are_those_of_the_reference() {
    let folder = TempDir::new("gguf-logits");
    let expected = SafeTensors::read(&golden("expected.safetensors"));
    for (name, ids, logits) in [
        ("bitnet_b158-i2_s-x86.gguf", "ids_bitnet", "logits_int8act"),
        ("llama-f16.gguf", "ids_llama", "logits_noactquant"),
    ] {
        let (model, out) = (golden(name), folder.path().join("logits.safetensors"));
        let ids: Vec<String> = expected.token_ids(ids).iter().map(u32::to_string).collect();
        output(&["logits", "--model", text(&model), "--ids", &ids.join(","), "--out", text(&out)]).ok();
        let found = SafeTensors::read(&out).f32s("logits");
        let wanted = expected.f32s(&format!("{name}.{logits}"));
        check_logits(&found, &wanted, wanted.len() / ids.len(), Tolerance::default()).unwrap();
    }
}

#[test]
fn inspect_names_types_as_the_file_has_them_and_as_they_are_kept() {
    let report =
        output(&["inspect", text(&golden("bitnet_b158-i2_s-x86.gguf")), "--why", "--json"]).ok().json();
    assert_eq!(
        (&report["family"], &report["config"]["architecture"]),
        (&"bitnet-b1.58 packed".into(), &"bitnet-b1.58".into())
    );
    assert_eq!(
        (&report["config"]["activation"], &report["config"]["tied_head"]),
        (&"squared relu".into(), &true.into())
    );
    let tensors = report["tensors"].as_array().unwrap();
    let named = |name: &str| tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
    let gate = named("blk.1.ffn_gate.weight");
    assert_eq!(
        (&gate["dtype"], &gate["kept_as"], &gate["shape"]),
        (&"I2_S".into(), &"ternary".into(), &serde_json::json!([512, 256]))
    );
    assert_eq!((&gate["bytes"], &gate["kept_bytes"]), (&32_800.into(), &32_768.into()));
    assert!(gate["rule"].as_str().unwrap().contains("row quarters"), "{gate}");
    assert_eq!(named("token_embd.weight")["kept_as"], "f16");
    let plain = output(&["inspect", text(&golden("bitnet_silu-tq2_0.gguf"))]).ok().stdout;
    assert!(plain.contains("architecture  bitnet\n") && plain.contains("(silu)"), "{plain}");
}

#[test]
fn the_order_of_i2s_is_an_option_with_two_values() {
    let folder = TempDir::new("gguf-order");
    let out = folder.path().join("logits.safetensors");
    let model = golden("bitnet_b158-i2_s-x86.gguf");
    let logits = |order: &str| {
        output(&[
            "logits",
            "--model",
            text(&model),
            "--ids",
            "1,2",
            "--out",
            text(&out),
            "--i2_s-layout",
            order,
        ])
        .ok();
        SafeTensors::read(&out).f32s("logits")
    };
    assert_ne!(logits("x86"), logits("arm"));
    assert_eq!(output(&["inspect", text(&model), "--i2_s-layout", "mips"]).code, Some(2));
}

#[test]
fn token_ids_need_no_vocabulary_and_text_does() {
    let folder = TempDir::new("gguf-bare");
    let (model, ids) = (folder.path().join("bare.gguf"), folder.path().join("ids.u16"));
    let mut file = GgufFile::read(&golden("bitnet_b158-tq2_0.gguf"));
    file.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
    std::fs::write(&model, file.to_bytes()).unwrap();
    std::fs::write(&ids, (0..65u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let eval =
        output(&["eval", "--model", text(&model), "--tokens", text(&ids), "--window", "32", "--json"]).ok();
    assert_eq!(eval.json()["windows"], 2);
    let run = output(&["run", "x", "--model", text(&model)]);
    assert!(run.failed(1).contains("bare.gguf: expected a tokenizer"), "{run:?}");
    let tokenize = output(&["tokenize", "x", "--model", text(&model)]);
    assert!(
        tokenize.failed(1).contains("bare.gguf: expected the model's tokenizer, found none"),
        "{tokenize:?}"
    );
}

#[test]
fn text_goes_in_and_comes_out_by_the_vocabulary_of_the_file() {
    let model = golden("bitnet_b158-tq2_0.gguf");
    let ids =
        output(&["tokenize", "the house", "--no-special", "--json", "--model", text(&model)]).ok().json();
    assert_eq!(ids["text"], "the house");
    let run = output(&["run", "the house", "--max-tokens", "4", "--json", "--model", text(&model)]).ok();
    assert_eq!(run.json()["schema"], 1);
    let bench = output(&["bench", "prefill", "--model", text(&model), "-p", "8", "-t", "1", "--json"]).ok();
    assert!(bench.json()["speed"][0]["prompt_tok_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn damaged_files_are_refused_on_one_line() {
    let folder = TempDir::new("gguf-damaged");
    let model = folder.path().join("model.gguf");
    let bytes = std::fs::read(golden("llama-f16.gguf")).unwrap();
    for length in [0, 3, 20, 5000, bytes.len() / 2, bytes.len() - 100] {
        std::fs::write(&model, &bytes[..length]).unwrap();
        let inspect = output(&["inspect", text(&model)]);
        let line = inspect.failed(1);
        assert!(
            line.contains("model.gguf: ") && line.contains("expected ") && line.contains("found "),
            "{line}"
        );
        assert!(inspect.stdout.is_empty() && inspect.stderr.lines().count() == 1, "{inspect:?}");
    }
}
