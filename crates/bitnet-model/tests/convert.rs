//! Conversions: what every format keeps, that bytes are determined, what is refused, and hostile `.bitnet` files.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use bitnet_core::backend::{BitNetDType, LinearWeights, WeightScale, WeightStorage};
use bitnet_model::convert::{
    ConvertError, ConvertOptions, ConvertReport, Output, OutputFile, Target, convert,
};
use bitnet_model::ggml::GgmlType;
use bitnet_model::{
    BitnetFile, Family, Gguf, KvUse, LoadErrorKind, LoadOptions, Model, ModelFiles, ModelSource, WeightAccess,
};
use bitnet_testing::gguf::{GgufFile, Value};
use bitnet_testing::golden::golden_dir;
use bitnet_testing::model::Activation;
use bitnet_testing::safetensors::Dtype;
use bitnet_testing::temp::TempDir;
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, shapes};
use serde_json::json;
use support::Draft;

const TARGETS: [Target; 7] = [
    Target::HfPacked,
    Target::HfMaster,
    Target::Gguf(GgmlType::I2_S),
    Target::Gguf(GgmlType::TQ1_0),
    Target::Gguf(GgmlType::TQ2_0),
    Target::Gguf(GgmlType::F16),
    Target::Bitnet,
];

/// Writes to a path, or into a folder.
struct Place(PathBuf);

impl Output for Place {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn OutputFile + '_>> {
        let path = if name.is_empty() { self.0.clone() } else { self.0.join(name) };
        std::fs::create_dir_all(path.parent().unwrap())?;
        Ok(Box::new(BufWriter::new(File::create(path)?)))
    }
}

fn try_convert(from: &Path, to: &Path, target: Target) -> Result<ConvertReport, ConvertError> {
    let files = ModelFiles::open(&ModelSource::at(from)).unwrap();
    convert(&files, &mut ConvertOptions::new(target), &mut Place(to.to_owned()))
}

fn run(from: &Path, to: &Path, target: Target) -> ConvertReport {
    try_convert(from, to, target).unwrap_or_else(|error| panic!("{} to {target}: {error}", from.display()))
}

fn load(path: &Path) -> Model {
    let files = ModelFiles::open(&ModelSource::at(path)).unwrap();
    bitnet_model::load(&files, &mut LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn file_name(target: Target) -> String {
    match target {
        Target::Gguf(_) => format!("{target}.gguf"),
        Target::Bitnet => "model.bitnet".into(),
        _ => target.name().into(),
    }
}

fn factor(scale: WeightScale) -> f32 {
    match scale {
        WeightScale::Multiply(scale) => scale,
        WeightScale::Divide(scale) => 1.0 / scale,
    }
}

fn dense(weights: &LinearWeights) -> Vec<f32> {
    let WeightStorage::Dense { dtype, bytes } = &weights.storage else { panic!("{}", weights.name) };
    let ty = GgmlType::all().find(|ty| ty.name().eq_ignore_ascii_case(&dtype.to_string())).unwrap();
    let mut out = vec![0.0; weights.rows * weights.cols];
    bitnet_model::ggml::dequantize(ty, bytes, &mut out).unwrap();
    out
}

/// Codes bit-equal; scales within `tolerance`; norms equal; floats within a rounding to f16.
fn assert_same(a: &Model, b: &Model, tolerance: f32, what: &str) {
    assert_eq!(a.matrices().count(), b.matrices().count(), "{what}");
    for (a, b) in a.matrices().zip(b.matrices()) {
        match (&a.storage, &b.storage) {
            (
                WeightStorage::Ternary { bytes, scale, .. },
                WeightStorage::Ternary { bytes: other, scale: found, .. },
            ) => {
                assert!(**bytes == **other, "{what}: codes of {}", a.name);
                let (scale, found) = (factor(*scale), factor(*found));
                assert!((scale - found).abs() <= tolerance * scale, "{what}: {} {scale} {found}", a.name);
            }
            _ => {
                let close = |(a, b): (f32, f32)| (a - b).abs() <= a.abs() / 2048.0 + 1e-7;
                assert!(dense(a).into_iter().zip(dense(b)).all(close), "{what}: {}", a.name);
            }
        }
    }
    assert_eq!(a.final_norm.values, b.final_norm.values, "{what}");
    for (a, b) in a.layers.iter().zip(&b.layers) {
        assert_eq!(a.input_norm.values, b.input_norm.values, "{what}");
        let values = |norm: &Option<bitnet_model::NormWeights>| norm.as_ref().map(|norm| norm.values.clone());
        assert_eq!(values(&a.attn_sub_norm), values(&b.attn_sub_norm), "{what}");
        assert_eq!(values(&a.ffn_sub_norm), values(&b.ffn_sub_norm), "{what}");
        assert_eq!(values(&a.q.norm), values(&b.q.norm), "{what}");
    }
    let config = |model: &Model| {
        let c = &model.config;
        let shape = (c.hidden, c.intermediate, c.layers, c.heads, c.kv_heads, c.head_dim, c.vocab);
        (shape, c.rms_eps, c.rope_theta, c.activation, model.activations)
    };
    assert_eq!(config(a), config(b), "{what}");
}

#[test]
fn every_family_survives_every_format_and_the_way_back() {
    let dir = TempDir::new("convert");
    for model in ["bitnet_packed", "bitnet_master", "llama_bitlinear", "bitnet_1bitllm"] {
        let source = golden_dir(model);
        let original = load(&source);
        for target in TARGETS {
            let what = format!("{model} as {target}");
            let out = dir.path().join(model).join(file_name(target));
            let report = run(&source, &out, target);
            // Rows of 128 are no whole block of TQ: stored as F16, with a note for each matrix.
            let tq = matches!(target, Target::Gguf(GgmlType::TQ1_0 | GgmlType::TQ2_0));
            let fell_back = report.notes.iter().any(|note| note.contains("stored as F16 instead of"));
            assert_eq!(fell_back, tq && model == "llama_bitlinear", "{what}: {:?}", report.notes);
            let told = report.notes.iter().any(|note| note.contains("the master weights are quantised"));
            let master = matches!(model, "bitnet_master" | "bitnet_1bitllm");
            assert_eq!(told, master && target == Target::HfMaster, "{what}: {:?}", report.notes);
            let rounded = matches!(target, Target::Gguf(ty) if ty != GgmlType::I2_S);
            let tolerance = if rounded { 1.0 / 2048.0 } else { 3e-7 };
            assert_same(&original, &load(&out), tolerance, &what);
            let back = dir.path().join(model).join(format!("{target}-back"));
            run(&out, &back, Target::HfPacked);
            assert_same(&original, &load(&back), tolerance, &format!("{what} and back"));
        }
    }
}

#[test]
fn norms_of_projections_travel_where_there_is_room() {
    let dir = TempDir::new("convert-norms");
    let source = golden_dir("llama_rmsnorm_bitlinear");
    for target in [Target::HfPacked, Target::HfMaster, Target::Bitnet] {
        let out = dir.path().join(file_name(target));
        run(&source, &out, target);
        assert_same(&load(&source), &load(&out), 3e-7, target.name());
    }
    let error = try_convert(&source, &dir.path().join("x.gguf"), Target::Gguf(GgmlType::F16)).unwrap_err();
    assert!(error.to_string().contains("rms_norm"), "{error}");
}

#[test]
fn bytes_are_determined() {
    let dir = TempDir::new("convert-bytes");
    let source = golden_dir("bitnet_master");
    for target in TARGETS {
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name).join(file_name(target)));
        run(&source, &a, target);
        run(&source, &b, target);
        let files = match target.is_folder() {
            true => vec!["config.json", "model.safetensors"],
            false => vec![""],
        };
        for file in files {
            let read =
                |path: &Path| std::fs::read(if file.is_empty() { path.into() } else { path.join(file) });
            assert!(read(&a).unwrap() == read(&b).unwrap(), "{target} {file}");
        }
    }
}

#[test]
fn architecture_and_metadata_follow_the_model() {
    let dir = TempDir::new("convert-arch");
    for (model, architecture, heads) in [
        ("bitnet_packed", "bitnet-b1.58", 4),
        ("bitnet_1bitllm", "bitnet", 8),
        ("llama_bitlinear", "llama", 4),
    ] {
        let out = dir.path().join(format!("{model}.gguf"));
        run(&golden_dir(model), &out, Target::Gguf(GgmlType::I2_S));
        let gguf = Gguf::open(&out, WeightAccess::Auto).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.str("general.architecture").unwrap(), Some(architecture));
        assert_eq!(metadata.u32("general.file_type").unwrap(), Some(40));
        assert_eq!(metadata.u32(&format!("{architecture}.attention.head_count")).unwrap(), Some(heads));
        assert_eq!(metadata.str("bitnet.activations").unwrap(), Some("int8"));
    }
}

#[test]
fn what_a_format_has_no_place_for_is_refused_by_name() {
    let dir = TempDir::new("convert-refused");
    let draft = Draft::golden("bitnet_packed").field("tie_word_embeddings", json!(false));
    let untied = draft.set("lm_head.weight", Dtype::BF16, &[320, 256], vec![0; 320 * 256 * 2]).save();
    let gguf = |from: &Path| try_convert(from, &dir.path().join("x.gguf"), Target::Gguf(GgmlType::TQ2_0));
    let error = gguf(untied.root()).unwrap_err().to_string();
    assert!(error.contains("tied to the embedding") && error.contains("gguf-tq2_0"), "{error}");
    run(untied.root(), &dir.path().join("untied.bitnet"), Target::Bitnet);
    let quantize = |model: &str| {
        let files = ModelFiles::open(&ModelSource::at(golden_dir(model))).unwrap();
        let mut options = ConvertOptions { masters_only: true, ..ConvertOptions::new(Target::HfPacked) };
        convert(&files, &mut options, &mut Place(dir.path().join("q"))).map_err(|error| error.to_string())
    };
    for model in
        ["bitnet_packed", "llama_bitlinear", "gguf/bitnet_silu-tq2_0.gguf", "gguf/bitnet_b158-i2_s-x86.gguf"]
    {
        let error = if model.contains('/') { refuse_gguf(&dir, model) } else { quantize(model).unwrap_err() };
        assert!(error.contains("quantised already"), "{model}: {error}");
    }
    for model in ["bitnet_master", "bitnet_1bitllm"] {
        assert!(quantize(model).is_ok(), "{model}");
    }
}

fn refuse_gguf(dir: &TempDir, model: &str) -> String {
    let files = ModelFiles::open(&ModelSource::at(golden_dir("gguf").join(&model[5..]))).unwrap();
    let mut options = ConvertOptions { masters_only: true, ..ConvertOptions::new(Target::HfPacked) };
    convert(&files, &mut options, &mut Place(dir.path().join("q"))).unwrap_err().to_string()
}

#[test]
fn an_output_that_fails_is_an_error_by_name() {
    struct Full;
    impl Output for Full {
        fn create(&mut self, _: &str) -> io::Result<Box<dyn OutputFile + '_>> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let files = ModelFiles::open(&ModelSource::at(golden_dir("bitnet_packed"))).unwrap();
    for target in TARGETS {
        let error = convert(&files, &mut ConvertOptions::new(target), &mut Full).unwrap_err();
        assert!(matches!(error, ConvertError::Write { .. }), "{target}: {error}");
    }
}

fn bitnet_bytes(dir: &TempDir) -> Vec<u8> {
    let out = dir.path().join("good.bitnet");
    run(&golden_dir("bitnet_packed"), &out, Target::Bitnet);
    std::fs::read(out).unwrap()
}

fn open(dir: &TempDir, bytes: &[u8]) -> Result<BitnetFile, bitnet_model::LoadError> {
    let path = dir.path().join("bad.bitnet");
    std::fs::write(&path, bytes).unwrap();
    BitnetFile::open(&path, WeightAccess::Copy)
}

#[test]
fn a_bitnet_file_runs_in_place_and_is_aligned() {
    let dir = TempDir::new("bitnet-file");
    let bytes = bitnet_bytes(&dir);
    let file = open(&dir, &bytes).unwrap();
    file.check_payloads().unwrap();
    assert!(file.container().tensors().iter().all(|tensor| tensor.range.start.is_multiple_of(1 << 16)));
    let model = load(&dir.path().join("good.bitnet"));
    let packed: Vec<_> = model.matrices().skip(1).collect();
    for weights in packed {
        let WeightStorage::Ternary { bytes, .. } = &weights.storage else { panic!("{}", weights.name) };
        assert!((bytes.as_ptr() as usize).is_multiple_of(4096), "{}: not the file's own bytes", weights.name);
    }
}

#[test]
fn a_damaged_header_is_refused_whichever_byte_it_is() {
    let dir = TempDir::new("bitnet-header");
    let bytes = bitnet_bytes(&dir);
    let end = open(&dir, &bytes).unwrap().container().tensors()[0].range.start;
    let interesting = bytes[..end].iter().rposition(|&byte| byte != 0).unwrap() + 64;
    for at in (0..interesting).step_by(7).chain([interesting - 1]) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(open(&dir, &damaged).is_err(), "byte {at}");
    }
    for length in [0, 3, 4, 23, 24, 57, 66, 1000, end - 1, end, end + 1, bytes.len() - (1 << 16)] {
        let error = open(&dir, &bytes[..length]).map(|_| ()).unwrap_err();
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn versions_layouts_and_payloads_are_told_apart() {
    let dir = TempDir::new("bitnet-version");
    let bytes = bitnet_bytes(&dir);
    let find = |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let mut newer = bytes.clone();
    newer[find("bitnet.reader_version") + "bitnet.reader_version".len() + 4] = 2;
    let error = open(&dir, &newer).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::UnsupportedFormat, "{error}");
    assert!(error.to_string().contains("at most 1"), "{error}");
    // A payload is not looked at when the file is opened, but by its checksum when asked.
    let file = open(&dir, &bytes).unwrap();
    let tensor = file.container().tensors()[3].clone();
    let mut damaged = bytes.clone();
    damaged[tensor.range.start + 5] ^= 1;
    let error = open(&dir, &damaged).unwrap().check_payloads().unwrap_err();
    assert_eq!((error.kind(), error.item()), (LoadErrorKind::Format, Some(tensor.name.as_str())), "{error}");
}

/// Its tensors are ranges of one file.
#[test]
fn a_bitnet_file_is_no_part_of_several() {
    let dir = TempDir::new("bitnet-split");
    let file = GgufFile::parse(&bitnet_bytes(&dir)).key("split.count", Value::new(2, 2u16.to_le_bytes()));
    for name in ["m.bitnet", "m-00001-of-00002.gguf"] {
        let path = dir.path().join(name);
        std::fs::write(&path, file.to_bytes()).unwrap();
        let error = BitnetFile::open(&path, WeightAccess::Copy).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::UnsupportedArchitecture, "{error}");
    }
}

/// Puts the checksum into a header that it ought to have, as the line that refuses it says.
fn sealed(dir: &TempDir, mut bytes: Vec<u8>) -> Vec<u8> {
    if let Err(error) = open(dir, &bytes) {
        let line = error.to_string();
        let (_, sum) = line.split_once("the checksum of the header, 0x").unwrap_or_else(|| panic!("{line}"));
        bytes[58..66].copy_from_slice(&u64::from_str_radix(&sum[..16], 16).unwrap().to_le_bytes());
    }
    bytes
}

#[test]
fn a_bitnet_file_records_its_precision_and_is_held_to_it() {
    let dir = TempDir::new("bitnet-precision");
    let bytes = bitnet_bytes(&dir);
    let recorded = |bytes: &[u8]| open(&dir, bytes).unwrap().precision().clone();
    let (f16, f32) = (Some(BitNetDType::F16), Some(BitNetDType::F32));
    let precision = recorded(&bytes);
    assert_eq!((precision.embedding.as_str(), precision.head.as_str()), ("BF16", "tied"));
    assert_eq!((precision.kv, precision.kv_measure), (f16, f32));
    assert_eq!((precision.kv(KvUse::Generate), precision.kv(KvUse::Measure)), (f16, f32));
    // What is asked for is recorded for every use, and a copy keeps it.
    let mut from = golden_dir("bitnet_packed");
    for (asked, name) in [(f32, "asked.bitnet"), (None, "copied.bitnet")] {
        let out = dir.path().join(name);
        let files = ModelFiles::open(&ModelSource::at(&from)).unwrap();
        let mut options = ConvertOptions { kv: asked, ..ConvertOptions::new(Target::Bitnet) };
        convert(&files, &mut options, &mut Place(out.clone())).unwrap();
        let precision = recorded(&std::fs::read(&out).unwrap());
        assert_eq!((precision.kv, precision.kv_measure), (f32, f32), "{name}");
        let files = ModelFiles::open(&ModelSource::at(&out)).unwrap();
        assert_eq!(files.recorded_kv(KvUse::Generate), f32);
        from = out;
    }
    let value_of = |key: &str| {
        let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        at + key.len() + 4 + 8
    };
    for (key, value, kind, text) in [
        (
            "bitnet.precision.kv",
            "I16",
            LoadErrorKind::UnsupportedFormat,
            "expected \"F16\" or \"F32\", found \"I16\"",
        ),
        (
            "bitnet.precision.embedding",
            "Q800",
            LoadErrorKind::Format,
            "expected \"BF16\", as the tensors have it",
        ),
        ("bitnet.precision.head", "BF16", LoadErrorKind::Format, "expected \"tied\", as the tensors have it"),
    ] {
        let mut lying = bytes.clone();
        lying[value_of(key)..][..value.len()].copy_from_slice(value.as_bytes());
        let error = open(&dir, &sealed(&dir, lying)).unwrap_err();
        assert_eq!((error.kind(), error.item()), (kind, Some(key)), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(sealed(&dir, bytes.clone()), bytes);
}

#[test]
fn a_trilm_travels_wherever_float_activations_can_be_said() {
    let dir = TempDir::new("convert-trilm");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let shape = ModelShape { activation: Activation::Silu, sub_norms: false, layers: 2, ..shapes::tiny() };
    SyntheticModel::new(shape, SyntheticFamily::TriLm, 5).write_folder(&source).unwrap();
    let original = load(&source);
    assert_eq!(original.family, Family::TriLm);
    for target in
        [Target::Bitnet, Target::HfMaster, Target::Gguf(GgmlType::TQ2_0), Target::Gguf(GgmlType::TQ1_0)]
    {
        let out = dir.path().join(file_name(target));
        run(&source, &out, target);
        let found = load(&out);
        assert_eq!(found.family, Family::TriLm, "{target}");
        assert_same(&original, &found, 1.0 / 2048.0, target.name());
        run(&out, &dir.path().join(format!("{target}.bitnet")), Target::Bitnet);
        assert_same(
            &original,
            &load(&dir.path().join(format!("{target}.bitnet"))),
            1.0 / 2048.0,
            target.name(),
        );
    }
    for target in [Target::HfPacked, Target::Gguf(GgmlType::I2_S)] {
        let error = try_convert(&source, &dir.path().join("refused"), target).unwrap_err().to_string();
        assert!(error.contains("int8 activations") && error.contains("float"), "{error}");
    }
    // Only a llama can say so.
    let quantisation = json!({"quant_method": "bitnet", "activations": "float"});
    let lying = Draft::golden("bitnet_packed").field("quantization_config", quantisation);
    lying.refuse(LoadErrorKind::UnsupportedArchitecture, &["activations: expected int8", "found float"]);
}
