//! `bitnet bench` as a user runs it.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitnet")).arg("bench").args(args).output().unwrap()
}

#[test]
fn speed_of_a_synthetic_model_is_one_json_object() {
    let suites: [&[&str]; 3] = [&["-p", "8", "-n", "4"], &["decode", "-n", "4"], &["prefill", "-p", "8"]];
    for suite in suites {
        let is_prefill = suite[0] == "prefill";
        let common = ["--shape", "tiny", "-t", "1,2", "--head", "i8", "--json"];
        let output = bench(&[suite, &common].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["schema"], 1);
        let lines = report["speed"].as_array().unwrap();
        assert_eq!(lines.iter().map(|line| line["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
        for line in lines {
            // 12 layers of 7.1 M weights in two bits, 24.6 M of int8 head, keys and values.
            let bytes = line["bytes_per_token"].as_u64().unwrap();
            assert!((46_000_000..48_000_000).contains(&bytes), "{bytes}");
            assert!(line["prompt_tok_per_s"].as_f64().unwrap() > 0.0);
            // 12 layers of 7.1 M weights, two operations each.
            let operations =
                line["prompt_gops"].as_f64().unwrap() / line["prompt_tok_per_s"].as_f64().unwrap();
            assert!((0.169..0.171).contains(&operations), "{line}");
            if !is_prefill {
                let read =
                    line["decode_gb_per_s"].as_f64().unwrap() / line["decode_tok_per_s"].as_f64().unwrap();
                assert!((read * 1e9 / bytes as f64 - 1.0).abs() < 1e-9, "{line}");
            }
            assert_eq!(line["decode_tok_per_s"].is_null(), is_prefill, "{line}");
            assert_eq!(line["share"].is_null(), is_prefill, "{line}");
            let number = |key: &str| line[key].as_u64().unwrap();
            assert_eq!(number("weight_bytes_per_token") + number("kv_bytes_per_token"), bytes);
            assert_eq!(line["prompt_share"].is_null(), report["compute_probe"].is_null(), "{line}");
            let [least, most] = [0, 1].map(|end| line["prompt_tok_per_s_range"][end].as_f64().unwrap());
            assert!(least <= most, "{line}");
        }
    }
}

#[test]
fn decoding_beside_busy_threads_is_a_share_of_decoding_alone() {
    let output = bench(&["decode", "--shape", "tiny", "-n", "2", "-t", "2", "--busy", "2", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let beside = &report["speed"][0]["beside"];
    let number = |key: &str| beside[key].as_f64().unwrap();
    assert_eq!(number("busy_threads"), 2.0);
    assert!(
        number("idle_tok_per_s") > 0.0 && number("busy_tok_per_s") > 0.0 && number("share") > 0.0,
        "{beside}"
    );
}

#[test]
fn what_cannot_be_measured_is_a_usage_error() {
    let cases: [&[&str]; 14] = [
        &["kernels", "--busy", "2"],
        &["prefill", "--shape", "tiny", "--busy", "2"],
        &["--shape", "9b"],
        &["kernels", "--shape", "9b"],
        &["cpu"],
        &["-p", "0"],
        &["--shape", "tiny", "-p", "4096", "-n", "64"],
        &["-t", "0"],
        // Nothing there that a floor could judge.
        &["prefill", "--shape", "tiny", "--assert"],
        &["--shape", "tiny", "-n", "0", "--assert"],
        &["kernels", "--weights", "shared"],
        &["decode", "--shape", "tiny", "-n", "0"],
        &["decode", "--shape", "tiny", "-p", "0"],
        &["--shape", "tiny", "-p", "18446744073709551615", "-n", "64"],
    ];
    for args in cases {
        let output = bench(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(
            output.stdout.is_empty() && (message.contains("expected") || message.contains("error")),
            "{message}"
        );
    }
}

#[test]
fn options_without_effect_are_said_and_a_context_is_decoded_after() {
    let output = bench(&["prefill", "--shape", "tiny", "-p", "8", "-n", "64", "-t", "1"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && message.contains("-n has no effect on prefill"), "{message}");
    let output = bench(&["decode", "--shape", "tiny", "-p", "70", "-n", "4", "-t", "1", "--json"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !message.contains("no effect"), "{message}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = &report["speed"][0];
    assert_eq!((&line["prompt_tokens"], &line["decode_tokens"]), (&70.into(), &4.into()), "{line}");
}

#[test]
fn a_share_below_its_floor_fails_after_the_report() {
    // The scalar tier, one thread: a small fraction of what memory gives.
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(["bench", "decode", "--shape", "tiny", "-n", "4", "-t", "1", "--assert", "--json"]);
    let output = command.env("BITNET_ISA", "scalar").output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("expected 0.5 of the roofline, found 0."), "{message}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["isa"], &report["compute_probe"]), (&"scalar".into(), &serde_json::Value::Null));
}
