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
    /// Activations stay floats, as TriLM was trained: said by files of ours alone (`activations`).
    pub float_activations: bool,
}

impl Default for QuantisationConfig {
    fn default() -> Self {
        QuantisationConfig {
            linear_class: None,
            mode: None,
            use_rms_norm: false,
            rms_norm_eps: 1e-6,
            modules_to_not_convert: Vec::new(),
            float_activations: false,
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
        let float_activations = match fields.string("activations")? {
            None | Some("int8") => false,
            Some("float") => true,
            Some(other) => return Err(unknown("activations", "int8 or float", other)),
        };
        Ok(QuantisationConfig {
            linear_class,
            mode,
            use_rms_norm: fields.boolean("use_rms_norm")?.unwrap_or(default.use_rms_norm),
            rms_norm_eps: fields
                .float("rms_norm_eps", super::EPS_RANGE)?
                .map_or(default.rms_norm_eps, |eps| eps as f32),
            modules_to_not_convert: modules(fields)?,
            float_activations,
        })
    }

    /// Reports whether a module, such as `model.layers.0.mlp.down_proj`, stays float.
    ///
    /// An entry names a module by its full name, by how it ends (`down_proj`, but `proj` too), by a module
    /// around it (`model.layers.1`), or by how it begins where the entry ends with a dot
    /// (`model.layers.1.`). `.*` in front of an entry lets it stand anywhere in the name.
    ///
    /// Source: `transformers/quantizers/quantizers_utils.py`, `should_convert_module`.
    pub fn keeps_float(&self, module: &str) -> bool {
        self.modules_to_not_convert.iter().any(|entry| {
            // What matched ends where a component of the name does.
            let ends = |rest: &str| rest.is_empty() || rest.starts_with('.') || entry.ends_with('.');
            match entry.strip_prefix(ANYWHERE) {
                Some(part) => module.match_indices(part).any(|(at, _)| ends(&module[at + part.len()..])),
                None => {
                    module.strip_prefix(entry.as_str()).is_some_and(ends) || module.ends_with(entry.as_str())
                }
            }
        })
    }
}

/// The one pattern that is read: anything may stand in front.
const ANYWHERE: &str = ".*";

/// Reads the names of modules that stay float. The reference takes them for regular expressions: one that
/// is more than a name would keep modules that a comparison of names does not find, and is refused.
fn modules(fields: &Fields<'_>) -> Result<Vec<String>, LoadError> {
    const NAME: &str = "modules_to_not_convert";
    let entries = fields.strings(NAME)?.unwrap_or_default();
    let is_name = |entry: &str| {
        let part = entry.strip_prefix(ANYWHERE).unwrap_or(entry);
        let pattern = part.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\']);
        !part.is_empty() && !pattern && !part.starts_with("re:")
    };
    match entries.iter().find(|entry| !is_name(entry)) {
        Some(entry) => Err(fields.refuse(
            NAME,
            "names of modules, or their ends (regular expressions are not read)",
            format_args!("{entry:?}"),
        )),
        None => Ok(entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_matched_by_name_beginning_and_end() {
        let kept = |entry: &str, module: &str| {
            let modules_to_not_convert = vec![entry.to_owned()];
            QuantisationConfig { modules_to_not_convert, ..Default::default() }.keeps_float(module)
        };
        let module = "model.layers.1.mlp.down_proj";
        for entry in [
            module,
            "model.layers.1",
            "model.layers.1.",
            "model.",
            "model",
            "mlp.down_proj",
            "down_proj",
            ".down_proj",
            "proj",
            "n_proj",
            ".*down_proj",
            ".*.mlp",
        ] {
            assert!(kept(entry, module), "{entry}");
        }
        for entry in [
            "lm_head",
            "model.layers.1.mlp.down",
            "model.layers.11",
            "layers.1",
            "mlp",
            "mlp.",
            ".*up_proj",
            ".*down",
        ] {
            assert!(!kept(entry, module), "{entry}");
        }
        assert!(!kept("model.layers.1", "model.layers.10.mlp.down_proj"));
        assert!(!kept("model.layers.1.", "model.layers.10.mlp.down_proj"));
    }
}
