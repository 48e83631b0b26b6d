#![no_main]

use bitnet_fuzzing::{ignore_contained_panics, targets};

libfuzzer_sys::fuzz_target!(init: ignore_contained_panics(), |bytes: &[u8]| targets::gguf_parts(bytes));
