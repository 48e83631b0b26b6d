//! `quantization_config` of a BitNet checkpoint.
//!
//! Source: `transformers/utils/quantization_config.py`, `BitNetQuantConfig`.

use super::fields::{Fields, shorten};
use crate::error::LoadError;

/// What a stored weight scale means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearClass {
    /// `bitlinear`, also where none is named: the scale is 1 / mean |W|, results are divided by it.
    BitLinear,
    /// `autobitlinear`: the scale is mean |W|, results are multiplied by it.
    AutoBitLinear,
}

/// When weights are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantisationMode {
    /// Before they were saved.
    Offline,
    /// When they are loaded.
    Online,
}

/// `quantization_config` with `quant_method` `bitnet`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisationConfig {
    /// The meaning of scales; `None` when the file names none.
    pub linear_class: Option<LinearClass>,
    /// Offline or online; `None` when the file names none.
    pub mode: Option<QuantisationMode>,
    /// Every quantised projection has an RMS norm of its own.
    pub use_rms_norm: bool,
    /// Epsilon of those norms, 1e-6 unless stated.
    pub rms_norm_eps: f32,
    /// Modules that stay float, as the file names them.
    pub modules_to_not_convert: Vec<String>,
}

impl Default for QuantisationConfig {
    fn default() -> Self {
        QuantisationConfig {
            linear_class: None,
            mode: None,
            use_rms_norm: false,
            rms_norm_eps: 1e-6,
            modules_to_not_convert: Vec::new(),
        }
    }
}

impl QuantisationConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, LoadError> {
        let default = QuantisationConfig::default();
        match fields.raw("quant_method") {
            Some(value) if value.as_str() == Some("bitnet") => {}
            other => {
                let found = other.map_or("nothing".into(), shorten);
                return Err(fields.unsupported("quant_method", "\"bitnet\"", found));
            }
        }
        let unknown = |name: &str, expected: &str, found: &str| fields.unsupported(name, expected, found);
        let linear_class = match fields.string("linear_class")? {
            None => None,
            Some("bitlinear") => Some(LinearClass::BitLinear),
            Some("autobitlinear") => Some(LinearClass::AutoBitLinear),
            Some(other) => return Err(unknown("linear_class", "bitlinear or autobitlinear", other)),
        };
        let mode = match fields.string("quantization_mode")? {
            None => None,
            Some("offline") => Some(QuantisationMode::Offline),
            Some("online") => Some(QuantisationMode::Online),
            Some(other) => return Err(unknown("quantization_mode", "offline or online", other)),
        };
        Ok(QuantisationConfig {
            linear_class,
            mode,
            use_rms_norm: fields.boolean("use_rms_norm")?.unwrap_or(default.use_rms_norm),
            rms_norm_eps: fields
                .float("rms_norm_eps", super::EPS_RANGE)?
                .map_or(default.rms_norm_eps, |eps| eps as f32),
            modules_to_not_convert: fields.strings("modules_to_not_convert")?.unwrap_or_default(),
        })
    }

    /// Reports whether a module, such as `model.layers.0.mlp.down_proj`, stays float.
    ///
    /// An entry names a module by its full name, by its leading components (everything below it) or by
    /// its trailing ones.
    pub fn keeps_float(&self, module: &str) -> bool {
        self.modules_to_not_convert.iter().filter(|entry| !entry.is_empty()).any(|entry| {
            let below = module.strip_prefix(entry.as_str()).is_some_and(|rest| rest.starts_with('.'));
            let trailing = module.strip_suffix(entry.as_str()).is_some_and(|rest| rest.ends_with('.'));
            module == entry || below || trailing
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_matched_by_whole_components() {
        let kept = |entry: &str, module: &str| {
            let modules_to_not_convert = vec![entry.to_owned()];
            QuantisationConfig { modules_to_not_convert, ..Default::default() }.keeps_float(module)
        };
        let module = "model.layers.1.mlp.down_proj";
        for entry in [module, "model.layers.1", "mlp.down_proj", "down_proj", "model"] {
            assert!(kept(entry, module), "{entry}");
        }
        for entry in ["", "lm_head", "model.layers.1.mlp.down", "proj", "model.layers.11", "layers.1"] {
            assert!(!kept(entry, module), "{entry}");
        }
        assert!(!kept("model.layers.1", "model.layers.10.mlp.down_proj"));
    }
}
