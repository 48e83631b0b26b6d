//! Configurations: spellings, defaults, ranges.

use super::*;
use serde_json::json;

fn parse(value: Value) -> Result<ModelConfig, LoadError> {
    ModelConfig::parse(Path::new("m/config.json"), value.to_string().as_bytes())
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 100,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
    })
}

fn with(mut config: Value, field: &str, value: Value) -> Value {
    config[field] = value;
    config
}

fn without(mut config: Value, field: &str) -> Value {
    config.as_object_mut().unwrap().remove(field);
    config
}

#[test]
fn a_complete_file_needs_no_assumption() {
    let config = parse(llama()).unwrap();
    assert_eq!(config.assumptions, [] as [String; 0]);
    assert_eq!((config.head_dim, config.q_width(), config.kv_width()), (16, 64, 32));
    assert_eq!((config.bos, config.eos, config.tied), (Some(1), vec![2], Some(false)));
    assert_eq!(config.activation, Activation::Silu);
}

#[test]
fn spellings_of_transformers_5_are_read() {
    let config = without(llama(), "rope_theta");
    let config = with(config, "rope_parameters", json!({"rope_type": "default", "rope_theta": 1000042.0}));
    let config = with(with(config, "dtype", json!("bfloat16")), "head_dim", json!(32));
    let config = parse(config).unwrap();
    assert_eq!((config.rope_theta, config.q_width()), (1_000_042.0, 128));
    assert_eq!(config.assumptions, [] as [String; 0]);
    let both = with(llama(), "rope_parameters", json!({"rope_type": "default", "rope_theta": 7.0}));
    let both = parse(both).unwrap();
    assert_eq!((both.rope_theta, both.assumptions.len()), (7.0, 1));
}

#[test]
fn absent_fields_take_the_class_default_and_say_so() {
    let bare = ["rope_theta", "rms_norm_eps", "hidden_act", "max_position_embeddings"];
    let strip = |config: Value| bare.iter().fold(config, |config, field| without(config, field));
    let config = parse(strip(llama())).unwrap();
    assert_eq!((config.rope_theta, config.rms_eps, config.activation), (10000.0, 1e-6, Activation::Silu));
    assert_eq!(config.assumptions.len(), 4);
    let bitnet = with(with(strip(llama()), "model_type", json!("bitnet")), "architectures", json!(null));
    let bitnet = parse(bitnet).unwrap();
    assert_eq!((bitnet.rope_theta, bitnet.rms_eps), (500_000.0, 1e-5));
    assert_eq!(bitnet.activation, Activation::SquaredRelu);
    let heads = parse(with(llama(), "num_key_value_heads", json!(null))).unwrap();
    assert_eq!(heads.kv_heads, 4);
    let heads = parse(without(llama(), "num_key_value_heads")).unwrap();
    assert_eq!(heads.kv_heads, 4);
}

#[test]
fn end_tokens_are_an_int_or_a_list_and_join_those_of_generation() {
    let mut config = parse(with(llama(), "eos_token_id", json!([2, 5, 2]))).unwrap();
    assert_eq!(config.eos, [2, 5]);
    let path = Path::new("m/generation_config.json");
    config.merge_generation(path, br#"{"eos_token_id": [9, 5], "bos_token_id": 3}"#).unwrap();
    assert_eq!((config.eos, config.bos), (vec![2, 5, 9], Some(1)));
    let mut config = parse(with(llama(), "eos_token_id", json!(null))).unwrap();
    config.merge_generation(path, br#"{"eos_token_id": 9}"#).unwrap();
    assert_eq!(config.eos, [9]);
    let error = config.merge_generation(path, br#"{"eos_token_id": -1}"#).unwrap_err().to_string();
    assert!(
        error.starts_with("m/generation_config.json: field eos_token_id: expected a token id"),
        "{error}"
    );
}

#[test]
fn tokens_outside_the_vocabulary_are_refused_by_file_and_field() {
    assert_eq!(parse(with(llama(), "eos_token_id", json!([99]))).unwrap().eos, [99]);
    parse(without(llama(), "bos_token_id")).unwrap();
    for field in ["eos_token_id", "bos_token_id"] {
        let text = format!("field {field}: expected a token id below vocab_size 100, found 100");
        let error = parse(with(llama(), field, json!(100))).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (LoadErrorKind::Config, format!("m/config.json: {text}"))
        );
        let path = Path::new("m/generation_config.json");
        let bytes = json!({ field: [3, 100] }).to_string();
        let error = parse(llama()).unwrap().merge_generation(path, bytes.as_bytes()).unwrap_err();
        let line = format!("m/generation_config.json: {text}");
        assert_eq!((error.kind(), error.to_string()), (LoadErrorKind::Config, line));
    }
}

#[test]
fn heads_are_as_wide_as_the_backends_take() {
    assert_eq!(parse(with(llama(), "head_dim", json!(512))).unwrap().head_dim, 512);
    let line = parse(with(llama(), "head_dim", json!(1024))).unwrap_err().to_string();
    assert_eq!(line, "m/config.json: field head_dim: expected an integer from 2 to 512, found 1024");
    let derived = with(llama(), "hidden_size", json!(4096));
    let line = parse(derived).unwrap_err().to_string();
    assert!(
        line.starts_with("m/config.json: field head_dim: expected an even number up to 512, stated or"),
        "{line}"
    );
    assert!(line.ends_with("found 1024"), "{line}");
}

#[test]
fn module_names_that_are_patterns_are_refused_by_name() {
    let parse = |entry: &str| {
        let modules = json!({"quant_method": "bitnet", "modules_to_not_convert": ["lm_head", entry]});
        parse(with(llama(), "quantization_config", modules))
    };
    for entry in ["lm_head", "model.layers.1", "model.layers.1.", ".*down_proj"] {
        let kept = parse(entry).unwrap().quantisation.unwrap().modules_to_not_convert;
        assert_eq!(kept, ["lm_head", entry]);
    }
    let meta = "*+?()[]{}|^$\\".chars().map(|c| format!("model{c}layers"));
    let others = ["model.layers.*", ".*k_proj.*", "re:.*proj", "re:proj", ".*", ""].map(String::from);
    for entry in meta.chain(others) {
        let error = parse(&entry).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::Config, "{error}");
        assert_eq!(error.item(), Some("quantization_config.modules_to_not_convert"), "{error}");
        let line = error.to_string();
        assert!(line.starts_with("m/config.json: field ") && line.contains("expected names"), "{line}");
        assert!(line.ends_with(&format!("found {entry:?}")), "{line}");
    }
}

#[test]
fn the_last_of_repeated_keys_stands() {
    let text = llama().to_string().replacen(
        '{',
        r#"{"vocab_size": 7, "quantization_config": {"quant_method": "gptq"}, "#,
        1,
    );
    let text = text.replacen(
        "\"vocab_size\":100",
        "\"vocab_size\":101, \"quantization_config\": {\"quant_method\": \"bitnet\"}",
        1,
    );
    let config = ModelConfig::parse(Path::new("c"), text.as_bytes()).unwrap();
    assert_eq!(config.vocab, 101);
    assert_eq!(config.quantisation, Some(QuantisationConfig::default()));
}

#[test]
fn harmless_rope_scalings_are_read() {
    for scaling in [
        json!(null),
        json!({"type": "default"}),
        json!({"rope_type": "default", "rope_theta": 5.0}),
        json!({"type": "linear", "factor": 1.0}),
    ] {
        parse(with(llama(), "rope_scaling", scaling)).unwrap();
    }
}

#[test]
fn unsupported_arithmetic_is_refused_by_name() {
    let cases = [
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "rope_scaling.factor: expected 1, found 2.0",
        ),
        ("rope_scaling", json!({"type": "linear"}), "rope_scaling.factor: expected 1, found nothing"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
            "rope_scaling.rope_type: expected default",
        ),
        ("rope_parameters", json!({"rope_type": "yarn"}), "rope_parameters.rope_type: expected default"),
        (
            "rope_parameters",
            json!({"full_attention": {}}),
            "rope_parameters.full_attention: expected one set",
        ),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor: expected 1"),
        ("sliding_window", json!(4096), "sliding_window: expected no sliding window, found 4096"),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types: expected full_attention",
        ),
        ("model_type", json!("qwen3"), "model_type: expected bitnet or llama, found qwen3"),
        ("model_type", json!("gemma3_text"), "found gemma3_text"),
        (
            "architectures",
            json!(["LlamaForSequenceClassification"]),
            "architectures: expected BitNetForCausalLM",
        ),
        ("hidden_act", json!("gelu"), "hidden_act: expected relu2 or silu, found gelu"),
        ("final_logit_softcapping", json!(30.0), "final_logit_softcapping: expected no such factor"),
        ("embedding_multiplier", json!(12.0), "embedding_multiplier"),
        ("num_local_experts", json!(8), "num_local_experts: expected no mixture"),
        ("input_bits", json!(4), "input_bits: expected 8, found 4"),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "quantization_config.quant_method: expected \"bitnet\"",
        ),
        ("quantization_config", json!({}), "quant_method: expected \"bitnet\", found nothing"),
        (
            "quantization_config",
            json!({"quant_method": "bitnet", "linear_class": "other"}),
            "quantization_config.linear_class: expected bitlinear or autobitlinear, found other",
        ),
    ];
    for (field, value, text) in cases {
        let error = parse(with(llama(), field, value)).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::UnsupportedArchitecture, "{error}");
        assert!(error.to_string().starts_with("m/config.json: field "), "{error}");
        assert!(error.to_string().contains(text), "{error}\n{text}");
    }
    parse(with(with(llama(), "sliding_window", json!(4096)), "use_sliding_window", json!(false))).unwrap();
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let cases = [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!(-4)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(64.5)),
        ("hidden_size", json!(66)),
        ("intermediate_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(1u64 << 33)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(8)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(0)),
        ("head_dim", json!(7)),
        ("head_dim", json!(514)),
        ("head_dim", json!(1u64 << 60)),
        ("vocab_size", json!(1u64 << 62)),
        ("vocab_size", json!(0)),
        ("max_position_embeddings", json!(1u64 << 63)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!(1e-300)),
        ("rms_norm_eps", json!("1e-5")),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(1e300)),
        ("bos_token_id", json!(1u64 << 40)),
        ("bos_token_id", json!(100)),
        ("eos_token_id", json!([99, 100])),
        ("eos_token_id", json!([1, "x"])),
        ("tie_word_embeddings", json!("yes")),
        ("quantization_config", json!([])),
        ("rope_scaling", json!("linear")),
    ];
    for (field, value) in cases {
        let error = parse(with(llama(), field, value.clone())).unwrap_err();
        let line = error.to_string();
        assert_eq!(error.kind(), LoadErrorKind::Config, "{line}");
        // An odd hidden size is reported at the field that it makes necessary.
        let named = if value == json!(66) { "head_dim" } else { field };
        assert_eq!(error.item(), Some(named), "{line}");
        assert!(line.contains("expected ") && line.contains(", found "), "{line}");
    }
    for field in
        ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    {
        let line = parse(without(llama(), field)).unwrap_err().to_string();
        assert!(line.contains(&format!("field {field}: expected an integer from 1")), "{line}");
        assert!(line.ends_with("found nothing"), "{line}");
    }
}

#[test]
fn what_is_no_json_object_is_refused_on_one_line() {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let bomb = "[".repeat(100_000);
    for text in ["", "{", "[]", "nul", "\u{feff}{}", "{\"a\":\"\n\"}", "{\"a\":1e999}", &deep, &bomb] {
        let error = ModelConfig::parse(Path::new("m/config.json"), text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::Format, "{error}");
        let line = error.to_string();
        assert!(line.starts_with("m/config.json: expected ") && !line.contains('\n'), "{line}");
    }
    let bytes = b"{\"a\":\"\xff\"}";
    assert!(ModelConfig::parse(Path::new("c"), bytes).is_err());
}
