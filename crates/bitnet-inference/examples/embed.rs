//! The ten lines of the README: load, generate with a callback, iterate tokens.

use bitnet_inference::{Engine, GenerateOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut engine = Engine::load("crates/bitnet-model-fairytales/model")?;
    let options = GenerateOptions { max_tokens: Some(64), ..Default::default() };
    let story = engine.generate("Once upon a time", &options, |text| print!("{text}"))?;
    println!("\n{} tokens, {:?}", story.ids.len(), story.finish);
    for token in engine.tokens("The old king", &options)? {
        print!("{}", token?.text);
    }
    Ok(())
}
