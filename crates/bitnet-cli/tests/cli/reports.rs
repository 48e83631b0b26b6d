//! `bitnet tokenize`, `bitnet inspect` and `bitnet doctor`.

use bitnet_testing::temp::TempDir;

use crate::program::{bitnet, copy_model, fairy_tales, finish, output, output_with_input, text};

#[test]
fn tokens_decode_to_the_text_they_came_from() {
    let model = fairy_tales("model");
    let model = text(&model);
    let prose = "\u{201c}Who\u{2019}s there?\u{201d}\n\t the wolf <|end_of_text|> \u{1f43a}\n";
    let bare = output(&["tokenize", "--model", model, "--no-special", "--json", prose]).ok().json();
    assert_eq!(bare["text"], prose);
    let ids = bare["ids"].as_array().unwrap();
    // The end token is 1: spelled in a text, it is no token.
    assert!(!ids.contains(&1.into()));
    let folder = TempDir::new("tokenize");
    let file = folder.path().join("text");
    std::fs::write(&file, prose).unwrap();
    for (more, input) in [(&["--file", text(&file)][..], ""), (&["-"], prose), (&[], prose)] {
        let whole =
            output_with_input(&[&["tokenize", "--model", model, "--json"], more].concat(), input).ok().json();
        let whole_ids = whole["ids"].as_array().unwrap();
        assert_eq!((&whole_ids[0], &whole_ids[1..]), (&0.into(), &ids[..]), "{more:?}");
        assert_eq!(whole["text"], format!("<|begin_of_text|>{prose}"));
    }
    let parsed =
        output(&["tokenize", "--model", model, "--parse-special", "--json", "a<|end_of_text|>"]).ok().json();
    assert_eq!(parsed["ids"].as_array().unwrap().last(), Some(&1.into()));
}

#[test]
fn a_tokenizer_file_will_do_and_weights_are_not_read() {
    let folder = TempDir::new("tokenizer-only");
    copy_model(folder.path());
    std::fs::write(folder.path().join("model.safetensors"), "damaged").unwrap();
    let file = folder.path().join("tokenizer.json");
    let plain = output(&["tokenize", "--model", text(folder.path()), "The king"]).ok().stdout;
    assert_eq!(output(&["tokenize", "--model", text(&file), "The king"]).ok().stdout, plain);
    let lines: Vec<_> = plain.lines().collect();
    assert!(lines[0].starts_with("0,") && lines[0].split(',').all(|id| id.parse::<u32>().is_ok()), "{plain}");
    assert_eq!(lines[1], "<|begin_of_text|>The king");
    std::fs::remove_file(&file).unwrap();
    let missing = output(&["tokenize", "--model", text(folder.path()), "x"]);
    assert!(missing.failed(1).contains("tokenizer.json"), "{missing:?}");
    // Only run, chat, eval and inspect have a model to fall back to.
    assert_eq!(output(&["tokenize", "x"]).code, Some(2));
}

#[test]
fn inspect_accounts_for_every_tensor() {
    let report = output(&["inspect", "--json", "--why"]).ok().json();
    assert_eq!(report["family"], "bitnet-b1.58 packed");
    assert_eq!((&report["config"]["layers"], &report["config"]["vocab"]), (&6.into(), &4096.into()));
    let tensors = report["tensors"].as_array().unwrap();
    let sum = |key: &str| tensors.iter().map(|tensor| tensor[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(report["totals"]["bytes"], sum("bytes"));
    let file = std::fs::metadata(fairy_tales("model").join("model.safetensors")).unwrap().len();
    assert!(sum("bytes") < file && sum("bytes") > file * 9 / 10);
    let ternary: Vec<_> = tensors.iter().filter(|tensor| tensor["kept_as"] == "ternary").collect();
    assert_eq!(ternary.len(), 6 * 7);
    for tensor in &ternary {
        let share = |key: &str| tensor[key].as_f64().unwrap();
        assert!((share("minus") + share("zero") + share("plus") - 1.0).abs() < 1e-9);
        assert!(share("best_packing_bits") >= share("entropy_bits") && share("best_packing_bits") < 1.62);
        assert!(share("entropy_bits") > 1.0 && share("entropy_bits") <= 3f64.log2() + 1e-9);
        assert_eq!(tensor["bits_per_weight"], 2.0);
        let (i8, f16) = (share("best_packing_ratio_i8"), share("best_packing_ratio_f16"));
        assert!(
            (i8 * share("best_packing_bits") - 8.0).abs() < 1e-9 && (f16 - 2.0 * i8).abs() < 1e-9,
            "{tensor}"
        );
    }
    assert_eq!(report["totals"]["ternary_parameters"], 4_718_592);
    assert!(tensors.iter().all(|tensor| !tensor["rule"].as_str().unwrap().is_empty()));
    // f16 keys and values of two heads of 64 in six layers.
    assert_eq!(report["memory"]["kv_bytes_per_token"], 6 * 2 * 2 * 64 * 2);
    assert_eq!(report["memory"]["kv_bytes_at_full_context"], 512 * 6 * 2 * 2 * 64 * 2);
    let parts = report["memory"]["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|part| part["part"].as_str().unwrap()).collect();
    assert_eq!(names, ["weights", "kv", "activations", "scratch"]);
    assert!(
        parts.iter().all(|part| part["part"] == "kv" || part["bytes"].as_u64().unwrap() > 0),
        "{parts:?}"
    );
    let weights = parts.iter().find(|part| part["part"] == "weights").unwrap()["bytes"].as_u64().unwrap();
    assert!(weights >= sum("kept_bytes") && weights < file + (1 << 20), "{weights}");
}

#[test]
fn inspect_measures_what_quantising_master_weights_loses() {
    let model = bitnet_testing::golden_dir("bitnet_master");
    let report = output(&["inspect", text(&model), "--quality", "--json"]).ok().json();
    let tensors =
        report["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["kept_as"] == "ternary");
    let mut count = 0;
    for tensor in tensors {
        // Random weights with heavy tails, in three values.
        let number = |key: &str| tensor["quality"][key].as_f64().unwrap();
        assert!((1.0..15.0).contains(&number("sqnr_db")), "{tensor}");
        assert!(
            (0.6..1.0).contains(&number("cosine")) && (0.03..0.8).contains(&number("output_error")),
            "{tensor}"
        );
        // By definition of the two: the error over the signal.
        assert!((10f64.powf(-number("sqnr_db") / 10.0) - number("output_error")).abs() < 1e-9, "{tensor}");
        count += 1;
    }
    assert!(count > 0);
    let plain = output(&["inspect", text(&model), "--quality"]).ok().stdout;
    assert!(plain.contains(" dB, cosine 0."), "{plain}");
    let packed = output(&["inspect", text(&fairy_tales("model")), "--quality"]).ok();
    assert!(packed.stderr.contains("no tensor of master weights"), "{}", packed.stderr);
}

#[test]
fn inspect_prints_a_named_model_and_the_rules_on_demand() {
    let model = fairy_tales("model");
    let plain = output(&["inspect", text(&model)]).ok();
    assert_eq!(plain.stderr, "");
    assert!(
        plain.stdout.contains("family        bitnet-b1.58 packed")
            && plain.stdout.contains("entropy bound")
            && plain.stdout.contains("best packed as base-3: 1.6")
            && plain.stdout.contains("x against i8, ")
            && plain.stdout.contains("x against f16")
    );
    assert!(!plain.stdout.contains("left in place"), "{}", plain.stdout);
    let why = output(&["inspect", text(&model), "--why"]).ok().stdout;
    assert!(why.contains("packed, left in place") && why.lines().count() == plain.stdout.lines().count());
}

#[test]
fn doctor_knows_the_machine_and_what_it_lacks() {
    let mut command = bitnet(&["doctor", "--json"]);
    command.env("BITNET_ISA", "scalar");
    let report = finish(command).ok().json();
    assert_eq!(report["isa"]["selected"], "scalar");
    let tiers = report["isa"]["tiers"].as_array().unwrap();
    assert!(tiers.iter().all(|tier| tier["available"] == tier["reason"].is_null()), "{tiers:?}");
    assert_eq!((&tiers[0]["name"], &tiers[0]["available"]), (&"scalar".into(), &true.into()));
    let devices = report["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["device"] == "cpu" && device["available"] == true));
    assert!(devices.iter().all(|device| device["available"] == device["reason"].is_null()), "{devices:?}");
    let bandwidth = report["bandwidth"].as_array().unwrap();
    assert_eq!(bandwidth[0]["threads"], 1);
    assert!(bandwidth.iter().all(|found| found["bytes_per_s"].as_f64().unwrap() > 1e8), "{bandwidth:?}");
    assert_eq!(report["machine"]["os"], std::env::consts::OS);
    assert!(report["machine"]["logical_cores"].as_u64().unwrap() > 0);
    let knob = &report["knobs"][0];
    assert_eq!((&knob["name"], &knob["value"]), (&"BITNET_ISA".into(), &"scalar".into()));
    let features = report["features"].as_array().unwrap();
    assert!(features.iter().any(|feature| feature["name"] == "fairytales" && feature["on"] == true));
}

#[test]
fn doctor_reports_before_it_refuses_a_forced_instruction_set() {
    let mut command = bitnet(&["doctor"]);
    command.env("BITNET_ISA", "nonsense");
    let report = finish(command);
    assert!(report.failed(2).contains("nonsense"), "{report:?}");
    for needle in [
        "BITNET_ISA = \"nonsense\"",
        "bandwidth",
        "isa        scalar: available",
        "device     cpu: available",
    ] {
        assert!(report.stdout.contains(needle), "{needle}: {report:?}");
    }
}
