//! Text to ids and back, with a word list and, where a path is given, with a model's tokenizer:
//!
//! ```text
//! cargo run -p bitnet-core --example tokenizer_demo --features tokenizers -- path/to/tokenizer.json
//! ```

use std::collections::HashMap;

use bitnet_core::tokenizer::{
    EncodeOptions, add_special_tokens, create_simple_tokenizer, decode_tokens, encode_text, load_tokenizer,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words = ["once", "upon", "a", "time", "<unk>"];
    let vocab: HashMap<String, u32> = words.into_iter().map(String::from).zip(0..).collect();
    let mut tokenizer = create_simple_tokenizer(vocab);
    add_special_tokens(&mut tokenizer, &[("<s>", 10)]);
    let ids = encode_text(&tokenizer, "<s> once upon a rainy time")?;
    println!("words: {ids:?} -> {:?}", decode_tokens(&tokenizer, &ids)?);

    let Some(path) = std::env::args().nth(1) else { return Ok(()) };
    let tokenizer = load_tokenizer(path)?;
    let options = EncodeOptions { add_special: true, parse_special: false };
    let ids = tokenizer.encode("Once upon a time 🐉", options)?;
    println!("{} tokens, special: {:?}", tokenizer.vocab_size(), tokenizer.special_tokens());
    println!("ids: {ids:?}");
    let mut stream = tokenizer.stream(true);
    for id in ids {
        if let Some(text) = stream.push(id) {
            println!("{id:>8} {text:?}");
        }
    }
    print!("{}", stream.finish());
    Ok(())
}
