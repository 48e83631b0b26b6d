//! The bytes of the bundled fairy-tale model: a small, trained BitNet b1.58 network.
//!
//! A Hugging Face folder as constants: configuration, tokenizer and packed weights. Parsing is the
//! caller's part; this crate has no code to speak of, no dependencies and no need of `std`. What the
//! model is and how good it is stands in the crate's `README.md`.

#![no_std]

/// Names the model, as messages and reports print it.
pub const NAME: &str = "fairy-tales";

/// Holds the model's `config.json`.
pub static CONFIG: &[u8] = include_bytes!("../model/config.json");

/// Holds the model's `tokenizer.json`.
pub static TOKENIZER: &[u8] = include_bytes!("../model/tokenizer.json");

/// Places bytes at the start of a cache line, which `include_bytes!` alone does not promise.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../model/model.safetensors"));

/// Returns the model's `model.safetensors`, aligned to 64 bytes.
///
/// The alignment is the file's, as that of a memory map would be: tensors lie in it at the offsets
/// that its header states.
pub fn weights() -> &'static [u8] {
    &WEIGHTS.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_aligned() {
        assert_eq!(weights().as_ptr().align_offset(64), 0);
    }

    #[test]
    fn the_header_lies_within_the_file_and_is_an_object() {
        let (length, rest) = weights().split_first_chunk().unwrap();
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        let (header, data) = rest.split_at_checked(length).unwrap();
        assert!(length > 0 && length.is_multiple_of(8), "header of {length} bytes");
        assert_eq!(header.first(), Some(&b'{'));
        assert_eq!(header.trim_ascii_end().last(), Some(&b'}'));
        // 4.72 million ternary weights at two bits each are the least that the data can hold.
        assert!(data.len() > 4_720_000 / 4, "{} bytes of data", data.len());
    }

    #[test]
    fn configuration_and_tokenizer_are_json_objects_of_this_model() {
        for json in [CONFIG, TOKENIZER] {
            assert_eq!((json.first(), json.trim_ascii_end().last()), (Some(&b'{'), Some(&b'}')));
        }
        let config = core::str::from_utf8(CONFIG).unwrap();
        assert!(config.contains("\"BitNetForCausalLM\""));
        assert!(config.contains("\"vocab_size\": 4096"));
    }

    #[test]
    fn the_held_out_tokens_fill_the_windows_of_the_reference() {
        let tokens = include_bytes!("../eval/valid.u16");
        let oracle = include_str!("../eval/oracle.json");
        let (pairs, rest) = tokens.as_chunks::<2>();
        assert!(rest.is_empty());
        assert!(pairs.iter().all(|pair| u16::from_le_bytes(*pair) < 4096));
        // Each window predicts one token past its own last, so one more token has to follow.
        assert_eq!((pairs.len() - 1) / 512, 186);
        assert_eq!(oracle.matches("\"windows\": 186").count(), 2);
        assert_eq!(oracle.matches("\"window\": 512").count(), 2);
    }
}
