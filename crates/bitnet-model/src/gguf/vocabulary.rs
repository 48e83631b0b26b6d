//! The keys `tokenizer.*` of a file as a [`Vocabulary`].
//!
//! Only the types of the values are checked here; whether they agree with each other is the tokenizer's matter.
//! What is collected are elements that were walked over when the file was opened.

use bitnet_core::tokenizer::Vocabulary;

use super::{Gguf, Value};
use crate::error::LoadError;

impl Gguf {
    /// Reads the vocabulary; `None` for a file that has none.
    ///
    /// # Errors
    /// `Config` for a key of another type than the format gives it, or a model without tokens.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, LoadError> {
        let metadata = self.metadata();
        let Some(model) = metadata.str("tokenizer.ggml.model")? else { return Ok(None) };
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let texts = |name: &str| -> Result<Option<Vec<String>>, LoadError> {
            Ok(metadata.strs(&key(name))?.map(|items| items.map(str::to_owned).collect()))
        };
        let id = |name: &str| metadata.u32(&key(name));
        let bytes = |name: &str| -> Result<Option<Vec<u8>>, LoadError> {
            let Some(array) = metadata.array(&key(name))? else { return Ok(None) };
            let byte = |value: Value<'_>| {
                let value = value.as_integer()?;
                // Written as signed bytes by some.
                u8::try_from(value).ok().or_else(|| i8::try_from(value).ok().map(|value| value as u8))
            };
            let bytes: Option<Vec<u8>> = match array.as_u8s() {
                Some(bytes) => Some(bytes.to_vec()),
                None => array.values().map(byte).collect(),
            };
            bytes.map(Some).ok_or_else(|| metadata.refuse(&key(name), "an array of bytes"))
        };
        let flag = |name: &str| metadata.bool(&key(name));
        let tokens =
            texts("tokens")?.ok_or_else(|| metadata.refuse(&key("tokens"), "an array of strings"))?;
        Ok(Some(Vocabulary {
            model: model.to_owned(),
            pre: metadata.str(&key("pre"))?.map(str::to_owned),
            tokens,
            scores: metadata.f32s(&key("scores"))?.map(Iterator::collect),
            token_types: metadata.i32s(&key("token_type"))?.map(Iterator::collect),
            merges: texts("merges")?,
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            unknown: id("unknown_token_id")?,
            eot: id("eot_token_id")?,
            padding: id("padding_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            fewer_spaces: flag("remove_extra_whitespaces")?.filter(|_| model == "t5"),
            charsmap: bytes("precompiled_charsmap")?,
            chat_template: metadata.str("tokenizer.chat_template")?.map(str::to_owned),
        }))
    }
}
