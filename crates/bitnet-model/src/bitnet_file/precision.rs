//! What a file records of the precision of its model.
//!
//! The types of embedding and head are facts that the tensors bear out, and a record that says otherwise is refused.
//! The type of the KV cache is a wish: it holds unless whoever runs the model asks for another.

use std::fmt;

use bitnet_core::backend::BitNetDType;
use bitnet_quant::ggml::GgmlType;

use super::{
    BitnetFile, PRECISION_EMBEDDING, PRECISION_HEAD, PRECISION_KV, PRECISION_KV_MEASURE, TERNARY_QUARTERS,
    TIED,
};
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::gguf::{Gguf, TypeId};

/// What a KV cache is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvUse {
    /// To generate text: half precision unless a file says otherwise.
    #[default]
    Generate,
    /// To measure losses and logits: single precision unless a file says otherwise.
    Measure,
}

impl KvUse {
    /// Returns the type where neither file nor user names one.
    pub fn default_type(self) -> BitNetDType {
        match self {
            KvUse::Generate => BitNetDType::F16,
            KvUse::Measure => BitNetDType::F32,
        }
    }
}

/// The precision that a `.bitnet` file records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precision {
    /// Type of the embedding.
    pub embedding: String,
    /// Type of the head, or `tied`.
    pub head: String,
    /// Type of the KV cache to generate with.
    pub kv: Option<BitNetDType>,
    /// Type of the KV cache to measure with.
    pub kv_measure: Option<BitNetDType>,
}

impl Precision {
    /// Returns the type of the KV cache for a use.
    pub fn kv(&self, wanted: KvUse) -> Option<BitNetDType> {
        match wanted {
            KvUse::Generate => self.kv,
            KvUse::Measure => self.kv_measure,
        }
    }

    /// Reads the record, and holds it against the tensors.
    ///
    /// # Errors
    /// `UnsupportedFormat` for a type of cache that there is none of, `Format` for a record that the tensors belie.
    pub(super) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let embedding = type_of(gguf, "model.embed_tokens.weight").unwrap_or_else(|| "none".into());
        let head = type_of(gguf, "lm_head.weight").unwrap_or_else(|| TIED.into());
        for (key, found) in [(PRECISION_EMBEDDING, &embedding), (PRECISION_HEAD, &head)] {
            match gguf.metadata().str(key)? {
                Some(stated) if stated != found.as_str() => {
                    let expected = format_args!("{found:?}, as the tensors have it");
                    return Err(refuse(
                        gguf,
                        LoadErrorKind::Format,
                        key,
                        expected,
                        format_args!("{stated:?}"),
                    ));
                }
                _ => {}
            }
        }
        let (kv, kv_measure) = (kv_type(gguf, PRECISION_KV)?, kv_type(gguf, PRECISION_KV_MEASURE)?);
        Ok(Precision { embedding, head, kv, kv_measure })
    }
}

impl BitnetFile {
    /// Returns the precision that the file records.
    pub fn precision(&self) -> &Precision {
        &self.precision
    }
}

fn type_of(gguf: &Gguf, name: &str) -> Option<String> {
    let tensor = gguf.tensors().iter().find(|tensor| tensor.name == name)?;
    Some(match (tensor.type_id, tensor.type_id.known()) {
        (TypeId(TERNARY_QUARTERS), _) => "ternary".into(),
        (_, Some(ty)) => GgmlType::name(ty).into(),
        (id, None) => id.to_string(),
    })
}

fn kv_type(gguf: &Gguf, key: &str) -> Result<Option<BitNetDType>, LoadError> {
    match gguf.metadata().str(key)? {
        None => Ok(None),
        Some("F16") => Ok(Some(BitNetDType::F16)),
        Some("F32") => Ok(Some(BitNetDType::F32)),
        Some(other) => {
            let kind = LoadErrorKind::UnsupportedFormat;
            Err(refuse(gguf, kind, key, "\"F16\" or \"F32\"", format_args!("{other:?}")))
        }
    }
}

fn refuse(
    gguf: &Gguf,
    kind: LoadErrorKind,
    key: &str,
    expected: impl fmt::Display,
    found: impl fmt::Display,
) -> LoadError {
    LoadError::mismatch(kind, gguf.path(), Item::Field(key.to_owned()), expected, found)
}
