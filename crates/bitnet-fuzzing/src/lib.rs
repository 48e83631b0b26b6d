//! One function a parser: it feeds the parser any bytes and panics where the parser breaks its promise.
//!
//! The promise is the same everywhere: an answer or one line of error that names the file, never a panic, and
//! never memory out of proportion to the bytes. `cargo test` runs every [`Target`] for a moment on damaged
//! valid files, `cargo xtask nightly` for minutes, and the folder `fuzz` hands the same functions to libFuzzer.
//!
//! To add a parser: a function in `targets.rs`, a row in [`TARGETS`], its valid files in `seeds.rs`, and five
//! lines in `fuzz/fuzz_targets` (a test compares the lists).

mod damage;
mod seeds;
pub mod targets;

use bitnet_testing::rng::Rng;

pub use damage::damage;

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of the fuzz target.
    pub name: &'static str,
    /// Feeds it bytes; panics where it breaks its promise.
    pub body: fn(&[u8]),
    /// Valid inputs, from which damaged ones are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Damaged inputs that a test of about a second tries.
    pub smoke: usize,
}

/// Every parser.
pub const TARGETS: [Target; 16] = [
    target("safetensors_header", targets::safetensors_header, seeds::safetensors_header, 3000),
    target("safetensors_folder", targets::safetensors_folder, seeds::safetensors_folder, 300),
    target("shard_index", targets::shard_index, seeds::shard_index, 2000),
    target("config_json", targets::config_json, seeds::config_json, 10_000),
    target("gguf_container", targets::gguf_container, seeds::gguf_container, 6000),
    target("gguf_parts", targets::gguf_parts, seeds::gguf_parts, 1500),
    target("gguf_model", targets::gguf_model, seeds::gguf_model, 200),
    target("bitnet_file", targets::bitnet_file, seeds::bitnet_file, 400),
    target("gguf_vocabulary", targets::gguf_vocabulary, seeds::gguf_vocabulary, 600),
    target("tokenizer_json", targets::tokenizer_json, seeds::tokenizer_json, 600),
    target("tokenizer_model", targets::tokenizer_model, seeds::tokenizer_model, 600),
    target("tokenizer_config", targets::tokenizer_config, seeds::tokenizer_config, 3000),
    target("chat_template", targets::chat_template, seeds::chat_template, 3000),
    target("saved_chat", targets::saved_chat, seeds::saved_chat, 10_000),
    target("tensor_file", targets::tensor_file, seeds::tensor_file, 3000),
    target("pool_snapshot", targets::pool_snapshot, seeds::pool_snapshot, 10_000),
];

/// Keeps panics that the tokenizer catches and returns as errors from whoever watches for panics, as the command
/// line does: a fuzzer would take them for findings.
pub fn ignore_contained_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !bitnet_core::tokenizer::in_library_call() {
            previous(panic);
        }
    }));
}

const fn target(name: &'static str, body: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, smoke: usize) -> Target {
    Target { name, body, seeds, smoke }
}

impl Target {
    /// Feeds the valid inputs, then damaged ones as long as `more` says so; the same seed makes the same ones.
    ///
    /// `more` gets the number of inputs so far and the bytes of the next one.
    pub fn run(&self, seed: u64, mut more: impl FnMut(usize, usize) -> bool) {
        let seeds = (self.seeds)();
        assert!(!seeds.is_empty(), "{}: no valid input", self.name);
        seeds.iter().for_each(|bytes| (self.body)(bytes));
        let mut rng = Rng::named(seed, self.name);
        for count in 0.. {
            let mut bytes = seeds[rng.below(seeds.len())].clone();
            for _ in 0..=rng.below(3) {
                damage(&mut rng, &mut bytes);
            }
            if !more(count, bytes.len()) {
                return;
            }
            (self.body)(&bytes);
        }
    }
}
