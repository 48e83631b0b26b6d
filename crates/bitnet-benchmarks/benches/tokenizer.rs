//! Encoding speed: `cargo bench -p bitnet-benchmarks --bench tokenizer`.
//!
//! Runs on the golden vocabularies of the tests and a generated text. For others, `BITNET_BENCH_TOKENIZERS` names
//! models, `tokenizer.json` or vocabulary-only GGUF files, separated by commas, and `BITNET_BENCH_TEXT` a text.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

use bitnet_core::tokenizer::{EncodeOptions, Tokenizer, load_tokenizer};
use bitnet_inference::ModelText;
use bitnet_inference::model::{ModelFiles, ModelSource};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Bytes of text a round, unless a text is named.
const GENERATED: usize = 1 << 18;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-core/tests/data/tokenizer").join(name)
}

fn load(path: &Path) -> Tokenizer {
    if path.extension().is_none_or(|end| !end.eq_ignore_ascii_case("gguf")) {
        return load_tokenizer(path).unwrap_or_else(|error| panic!("{error}"));
    }
    let files = ModelFiles::open(&ModelSource::at(path)).unwrap_or_else(|error| panic!("{error}"));
    let text = ModelText::load(&files).unwrap_or_else(|error| panic!("{error}"));
    text.unwrap_or_else(|| panic!("{}: no vocabulary", path.display())).tokenizer
}

/// Words of varying length that repeat as in natural text, with digits, punctuation and some other script.
fn generated() -> String {
    let mut text = String::with_capacity(GENERATED + 16);
    let mut state = 1_u32;
    while text.len() < GENERATED {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(match state >> 27 {
            0..=7 => "the ",
            8..=13 => "king said, ",
            14..=18 => "further ",
            19..=23 => "proceeding ",
            24..=26 => "1984 ",
            27..=28 => "\u{4e2d}\u{6587} ",
            29 => "don't ",
            30 => "(x + y); ",
            _ => ".\n\n",
        });
    }
    text
}

fn encode(c: &mut Criterion) {
    let text = std::env::var_os("BITNET_BENCH_TEXT").map_or_else(generated, |path| {
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", Path::new(&path).display()))
    });
    let paths: Vec<PathBuf> = match std::env::var("BITNET_BENCH_TOKENIZERS") {
        Ok(list) => list.split(',').map(PathBuf::from).collect(),
        Err(_) => vec![golden("tokenizer.json"), golden("tokenizer.model")],
    };
    let mut group = c.benchmark_group("tokenizer/encode");
    group.throughput(Throughput::Bytes(text.len() as u64)).sample_size(10);
    for path in paths {
        let tokenizer = load(&path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        group.bench_function(name, |b| {
            b.iter(|| {
                tokenizer.encode(&text, EncodeOptions::default()).unwrap_or_else(|error| panic!("{error}"))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
