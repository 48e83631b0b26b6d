#![no_main]

use bitnet_fuzzing::targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::bitnet_file(bytes));
