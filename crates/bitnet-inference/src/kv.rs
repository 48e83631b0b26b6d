//! Which type the KV cache has, and who chose it: what is asked for goes before what the model's file records, and that
//! before the default of the use.

use bitnet_core::memory::tensor::BitNetDType;
use bitnet_model::{KvUse, ModelFiles};

/// The type of the KV cache, and who chose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kv {
    /// Element type of keys and values.
    pub dtype: BitNetDType,
    /// Who chose it.
    pub by: KvChoice,
}

/// Who chose the type of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvChoice {
    /// The caller.
    Caller,
    /// The model's file.
    File,
    /// Nobody: the default of the use.
    Default,
}

impl KvChoice {
    /// Returns the word that reports print.
    pub fn name(self) -> &'static str {
        match self {
            KvChoice::Caller => "option",
            KvChoice::File => "file",
            KvChoice::Default => "default",
        }
    }
}

impl Kv {
    /// Chooses: what is asked for goes before what the file records, and that before the default.
    pub fn choose(asked: Option<BitNetDType>, kv_use: KvUse, files: Option<&ModelFiles>) -> Self {
        let recorded = files.and_then(|files| files.recorded_kv(kv_use));
        match (asked, recorded) {
            (Some(dtype), _) => Kv { dtype, by: KvChoice::Caller },
            (None, Some(dtype)) => Kv { dtype, by: KvChoice::File },
            (None, None) => Kv { dtype: kv_use.default_type(), by: KvChoice::Default },
        }
    }
}
