//! The specification's functions on the tokenizer that needs no feature.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use bitnet_core::tokenizer::{
    EncodeOptions, Piece, Tokenizer, TokenizerError, add_special_tokens, create_simple_tokenizer,
    decode_tokens, encode_batch, encode_text, get_special_token_id, load_tokenizer,
};

fn words(list: &[&str]) -> HashMap<String, u32> {
    list.iter().zip(0..).map(|(word, id)| (word.to_string(), id)).collect()
}

fn sample() -> Tokenizer {
    let mut tokenizer =
        create_simple_tokenizer(words(&["hello", "world", "bitnet", "is", "awesome", "<unk>"]));
    let special = vec![("[CLS]", 100), ("[SEP]", 101), ("[PAD]", 102), ("[MASK]", 103)];
    assert_eq!(add_special_tokens(&mut tokenizer, &special), 4);
    tokenizer
}

#[test]
fn the_sample_of_the_specification_holds() -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = sample();
    let text = "hello world bitnet is awesome";
    let tokens = encode_text(&tokenizer, text)?;
    assert_eq!(tokens, [0, 1, 2, 3, 4]);
    assert_eq!(decode_tokens(&tokenizer, &tokens)?, text);
    let batch = encode_batch(&tokenizer, &["hello world", "bitnet is awesome", "hello bitnet"])?;
    assert_eq!(batch, [vec![0, 1], vec![2, 3, 4], vec![0, 2]]);
    assert_eq!(encode_batch(&tokenizer, &Vec::from(["is"]))?, [[3]]);
    assert_eq!(get_special_token_id(&tokenizer, "[CLS]"), Some(100));
    assert_eq!(get_special_token_id(&tokenizer, "[NONE]"), None);
    assert_eq!(get_special_token_id(&tokenizer, "hello"), None);
    assert_eq!(tokenizer.vocab_size(), 104);
    Ok(())
}

#[test]
fn unknown_words_take_the_unknown_token_or_fail() {
    assert_eq!(encode_text(&sample(), "hello there").unwrap(), [0, 5]);
    let without = create_simple_tokenizer(words(&["hello"]));
    let error = encode_text(&without, "hello there").unwrap_err();
    assert_eq!(error, TokenizerError::UnknownWord { word: "there".to_string(), unknown: "<unk>" });
}

#[test]
fn special_words_are_parsed_only_when_asked_for() {
    let tokenizer = sample();
    assert_eq!(encode_text(&tokenizer, "[CLS] hello [SEP]").unwrap(), [100, 0, 101]);
    assert_eq!(tokenizer.encode("[CLS] hello", EncodeOptions::default()).unwrap(), [5, 0]);
    assert_eq!(tokenizer.decode(&[100, 0, 77, 101], true).unwrap(), "hello");
    assert_eq!(tokenizer.decode(&[100, 0, 77, 101], false).unwrap(), "[CLS] hello [SEP]");
    let pieces = tokenizer.split_special("[CLS] hello [SEP]");
    assert_eq!(pieces, [Piece::Special(100), Piece::Text(" hello "), Piece::Special(101)]);
    let mut stream = tokenizer.stream(false);
    let shown: String = [100, 0, 77, 101].iter().filter_map(|&id| stream.push(id)).collect();
    assert_eq!(shown + &stream.finish(), "[CLS] hello [SEP]");
}

#[test]
fn conflicting_special_tokens_are_refused() {
    let mut tokenizer = sample();
    let untouched = tokenizer.clone();
    assert_eq!(add_special_tokens(&mut tokenizer, &[("[A]", 0), ("[CLS]", 7), ("[B]", 8), ("[ C]", 9)]), 1);
    assert_eq!((tokenizer.token_to_id("[A]"), tokenizer.token_to_id("[B]")), (None, Some(8)));
    assert_eq!(untouched.token_to_id("[B]"), None);
    let error = tokenizer.add_special_tokens(&[("[A]", 0)]).unwrap_err().to_string();
    assert_eq!(error, "special token \"[A]\": id 0 is not possible: it belongs to \"hello\"");
}

#[test]
fn words_with_one_id_decode_to_the_least() {
    let vocab = ["b", "a", "c"].map(|word| (word.to_string(), 3)).into();
    assert_eq!(decode_tokens(&create_simple_tokenizer(vocab), &[3]).unwrap(), "a");
}

#[test]
fn missing_files_are_named() {
    let error = load_tokenizer("no/such/folder").unwrap_err();
    assert!(matches!(&error, TokenizerError::Io { path, .. } if path == "no/such/folder"), "{error}");
}

#[test]
fn tokenizers_cross_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Tokenizer>();
}

#[cfg(not(feature = "tokenizers"))]
#[test]
fn files_need_their_feature() {
    let error = Tokenizer::from_bytes(b"{}", "t.json").unwrap_err();
    assert_eq!(
        error,
        TokenizerError::FeatureDisabled { origin: "t.json".to_string(), feature: "tokenizers" }
    );
}
