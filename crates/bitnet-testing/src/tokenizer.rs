//! A small byte-level BPE tokenizer.json of any vocabulary size.
//!
//! Ids: 0..256 are the bytes in GPT-2's byte-to-unicode alphabet, then the results of a few merges,
//! then fillers; the special tokens come last, or at Llama 3's ids when the vocabulary is Llama 3's.

use std::io;
use std::path::Path;

use crate::json::Json;

/// Pieces that merge, in rank order; the left part may itself be a merged token.
const MERGES: [(&str, &str); 16] = [
    ("Ġ", "t"),
    ("Ġ", "a"),
    ("h", "e"),
    ("i", "n"),
    ("r", "e"),
    ("o", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("Ġ", "s"),
    ("Ġ", "w"),
    ("n", "d"),
    ("Ġa", "nd"),
    ("e", "d"),
    ("Ġ", "o"),
    ("in", "g"),
    ("o", "u"),
];

/// The pre-split pattern of the Llama 3 tokeniser.
const SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const LLAMA3_VOCAB: usize = 128_256;

/// Gives the ids of the special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<|begin_of_text|>`.
    pub begin_of_text: u32,
    /// `<|end_of_text|>`.
    pub end_of_text: u32,
    /// `<|eot_id|>`, the end of a turn.
    pub end_of_turn: u32,
}

impl SpecialIds {
    fn named(self) -> [(u32, &'static str); 3] {
        [
            (self.begin_of_text, "<|begin_of_text|>"),
            (self.end_of_text, "<|end_of_text|>"),
            (self.end_of_turn, "<|eot_id|>"),
        ]
    }
}

/// Returns the special ids of a vocabulary: its last three, or Llama 3's own for 128,256 tokens.
///
/// Panics for fewer than three tokens.
pub fn special_ids(vocab: usize) -> SpecialIds {
    assert!(vocab >= 3, "a vocabulary of {vocab} has no room for three special tokens");
    if vocab == LLAMA3_VOCAB {
        return SpecialIds { begin_of_text: 128_000, end_of_text: 128_001, end_of_turn: 128_009 };
    }
    let first = (vocab - 3) as u32;
    SpecialIds { begin_of_text: first, end_of_text: first + 1, end_of_turn: first + 2 }
}

/// Returns the character that stands for each byte: itself where it is visible Latin-1, else the next
/// unused one from U+0100 on.
pub fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let visible = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if visible { byte as u32 } else { next };
        next += u32::from(!visible);
        char::from_u32(code).expect("codes below U+0144 are characters")
    })
}

/// Writes `tokenizer.json` with `vocab` tokens into `dir`.
///
/// Encoding prepends `<|begin_of_text|>`. Panics for fewer than 259 tokens (bytes and specials).
pub fn write_tokenizer(dir: &Path, vocab: usize) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("tokenizer.json"), tokenizer_json(vocab).to_string())
}

/// Builds the document.
fn tokenizer_json(vocab: usize) -> Json {
    assert!(vocab >= 259, "a vocabulary of {vocab} has no room for 256 bytes and three special tokens");
    let merges = &MERGES[..MERGES.len().min(vocab - 259)];
    let specials = special_ids(vocab).named();
    let added = specials.iter().map(|(id, content)| added_token(*id, content)).collect();
    let merge_texts = merges.iter().map(|(a, b)| Json::str(format!("{a} {b}"))).collect();
    let model = Json::object([
        ("type", Json::str("BPE")),
        ("dropout", Json::Null),
        ("unk_token", Json::Null),
        ("continuing_subword_prefix", Json::Null),
        ("end_of_word_suffix", Json::Null),
        ("fuse_unk", Json::Bool(false)),
        ("byte_fallback", Json::Bool(false)),
        ("ignore_merges", Json::Bool(true)),
        ("vocab", vocabulary(vocab, merges, &specials)),
        ("merges", Json::Array(merge_texts)),
    ]);
    Json::object([
        ("version", Json::str("1.0")),
        ("truncation", Json::Null),
        ("padding", Json::Null),
        ("added_tokens", Json::Array(added)),
        ("normalizer", Json::Null),
        ("pre_tokenizer", pre_tokenizer()),
        ("post_processor", post_processor(specials[0])),
        ("decoder", byte_level()),
        ("model", model),
    ])
}

fn vocabulary(vocab: usize, merges: &[(&str, &str)], specials: &[(u32, &str)]) -> Json {
    let bytes = byte_alphabet().map(String::from).into_iter();
    let mut plain = bytes.chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let members = (0..vocab as u32).map(|id| {
        let special = specials.iter().find(|(s, _)| *s == id).map(|(_, text)| (*text).to_owned());
        let token = special.or_else(|| plain.next()).unwrap_or_else(|| format!("<filler_{id}>"));
        (token, Json::Int(i64::from(id)))
    });
    Json::Object(members.collect())
}

fn added_token(id: u32, content: &str) -> Json {
    let off = || Json::Bool(false);
    Json::object([
        ("id", Json::Int(i64::from(id))),
        ("content", Json::str(content)),
        ("single_word", off()),
        ("lstrip", off()),
        ("rstrip", off()),
        ("normalized", off()),
        ("special", Json::Bool(true)),
    ])
}

fn byte_level() -> Json {
    Json::object([
        ("type", Json::str("ByteLevel")),
        ("add_prefix_space", Json::Bool(false)),
        ("trim_offsets", Json::Bool(true)),
        ("use_regex", Json::Bool(false)),
    ])
}

fn pre_tokenizer() -> Json {
    let split = Json::object([
        ("type", Json::str("Split")),
        ("pattern", Json::object([("Regex", Json::str(SPLIT))])),
        ("behavior", Json::str("Isolated")),
        ("invert", Json::Bool(false)),
    ]);
    Json::object([("type", Json::str("Sequence")), ("pretokenizers", Json::Array(vec![split, byte_level()]))])
}

fn post_processor((id, begin): (u32, &str)) -> Json {
    let part = |kind: &str, name: &str, type_id: i64| {
        let body = Json::object([("id", Json::str(name)), ("type_id", Json::Int(type_id))]);
        Json::object([(kind, body)])
    };
    let with_begin =
        |name: &str, type_id| vec![part("SpecialToken", begin, type_id), part("Sequence", name, type_id)];
    let pair = [with_begin("A", 0), with_begin("B", 1)].concat();
    let special = Json::object([
        ("id", Json::str(begin)),
        ("ids", Json::Array(vec![Json::Int(i64::from(id))])),
        ("tokens", Json::Array(vec![Json::str(begin)])),
    ]);
    Json::object([
        ("type", Json::str("TemplateProcessing")),
        ("single", Json::Array(with_begin("A", 0))),
        ("pair", Json::Array(pair)),
        ("special_tokens", Json::object([(begin, special)])),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn the_file_parses_and_numbers_every_token_once() {
        for vocab in [259, 260, 320, 4096, LLAMA3_VOCAB] {
            let dir = TempDir::new("tokenizer");
            write_tokenizer(dir.path(), vocab).unwrap();
            let json =
                Json::parse(&std::fs::read_to_string(dir.path().join("tokenizer.json")).unwrap()).unwrap();
            let model = json.get("model").unwrap();
            let entries = model.get("vocab").unwrap().members();
            let ids: Vec<usize> = entries.iter().map(|(_, id)| id.as_usize().unwrap()).collect();
            assert_eq!(ids, (0..vocab).collect::<Vec<_>>());
            let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), vocab, "tokens are distinct");
            for token in json.get("added_tokens").unwrap().items() {
                let id = token.get("id").unwrap().as_usize().unwrap();
                assert_eq!(Some(entries[id].0.as_str()), token.get("content").unwrap().as_str());
            }
            for merge in model.get("merges").unwrap().items() {
                let (a, b) = merge.as_str().unwrap().split_once(' ').unwrap();
                assert!([a, b, &format!("{a}{b}")].iter().all(|t| names.binary_search(t).is_ok()), "{a} {b}");
            }
        }
    }

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        for (byte, c) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'a', 'a'), (0, 'Ā'), (0xad, 'Ń'), (0xff, 'ÿ')] {
            assert_eq!(alphabet[usize::from(byte)], c);
        }
    }

    #[test]
    fn llama3_ids_are_its_own() {
        let ids = special_ids(LLAMA3_VOCAB);
        assert_eq!((ids.begin_of_text, ids.end_of_text, ids.end_of_turn), (128_000, 128_001, 128_009));
        assert_eq!(special_ids(320).end_of_turn, 319);
    }
}
