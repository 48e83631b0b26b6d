//! The README's Rust is an example that compiles, and it runs.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::path::Path;

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let example = include_str!("../examples/embed.rs");
    let code = &example[example.find("use ").unwrap()..];
    let shown: Vec<&str> =
        readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(shown, [code]);
}

#[test]
fn the_example_generates() {
    let model = workspace().join("crates/bitnet-model-fairytales/model");
    let mut engine = bitnet_inference::Engine::load(model).unwrap();
    let options = bitnet_inference::GenerateOptions { max_tokens: Some(16), ..Default::default() };
    let mut streamed = String::new();
    let story = engine.generate("Once upon a time", &options, |text| streamed.push_str(text)).unwrap();
    assert_eq!((story.ids.len(), &story.text), (16, &streamed));
    let again: String =
        engine.tokens("Once upon a time", &options).unwrap().map(|token| token.unwrap().text).collect();
    assert_eq!(again, streamed);
}
