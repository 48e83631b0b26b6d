//! Hugging Face folders: model.safetensors, config.json, and the tokenizer's files as they are.

use std::io::Write as _;

use bitnet_core::backend::{LinearWeights, WeightStorage};
use bitnet_quant::ggml::GgmlType;
use bitnet_quant::packing::row_quarters;

use super::encode::{Encoder, exact_type, factor, float_type, is_ternary, vector_bytes};
use super::hf_config::{ScaleSense, config_json, sense_of};
use super::names::{Item, folder_name, items};
use super::safetensors_file::SafetensorsWriter;
use super::{ConvertError, Finished, Output, OutputFile, Start, Target, Writer, tokenizer};
use crate::config::QuantisationMode;
use crate::family::{ActivationMode, Family};
use crate::weights::{Head, Layer, NormWeights};

const WEIGHTS: &str = "model.safetensors";
/// What a reader of unpacked weights has to know.
const QUANTISED: &str =
    "the master weights are quantised: ternary values with scales are written in their place, not to be trained further";

struct HfWriter<'a> {
    file: SafetensorsWriter<Box<dyn OutputFile + 'a>>,
    encoder: Encoder,
    target: Target,
    sense: Option<ScaleSense>,
    notes: Vec<String>,
}

/// Writes everything but the layers, and returns the writer of those.
pub(super) fn start<'a>(
    start: &Start<'_>,
    output: &'a mut dyn Output,
) -> Result<Box<dyn Writer + 'a>, ConvertError> {
    let ternary = start.first.projections().iter().any(|p| is_ternary(&p.weights));
    let float = start.activations() == ActivationMode::Float;
    let packed = start.target == Target::HfPacked;
    if packed && (float || !ternary) {
        return Err(start.refuse(
            "expected ternary weights with int8 activations, which is all that packed folders can say, found a model \
             with float activations: use hf-master",
        ));
    }
    let sense = match (float, packed) {
        (true, _) => None,
        (false, true) => Some(sense_of(start.first)),
        // Only the class of multiplying scales takes ternary values as floats.
        (false, false) => Some(ScaleSense::Multiply),
    };
    let mut notes = Vec::new();
    let online = start.config.quantisation.as_ref().and_then(|q| q.mode) == Some(QuantisationMode::Online);
    let masters = online || matches!(start.family, Family::BitNetB158Master | Family::OneBitLlm);
    if !packed && ternary && masters && start.files.gguf().is_none() && start.files.bitnet().is_none() {
        notes.push(QUANTISED.into());
    }
    let mut put = |name: &str, bytes: &[u8]| -> Result<(), ConvertError> {
        let mut file = output.create(name).map_err(ConvertError::write(name))?;
        file.write_all(bytes).and_then(|()| file.flush()).map_err(ConvertError::write(name))
    };
    put("config.json", config_json(start, sense).as_bytes())?;
    for (name, bytes) in tokenizer::folder_files(start, &mut notes)? {
        put(&name, &bytes)?;
    }
    let file = output.create(WEIGHTS).map_err(ConvertError::write(WEIGHTS))?;
    let file = SafetensorsWriter::new(file, &names(start)).map_err(ConvertError::write(WEIGHTS))?;
    let encoder = Encoder::new(WEIGHTS)?;
    let mut writer = HfWriter { file, encoder, target: start.target, sense, notes };
    writer.matrix("model.embed_tokens", &start.outside.embedding)?;
    if let Head::Separate(head) = &start.outside.head {
        writer.matrix("lm_head", head)?;
    }
    writer.norm("model.norm.weight", &start.outside.final_norm)?;
    Ok(Box::new(writer))
}

/// Lists every name that may be written.
fn names(start: &Start<'_>) -> Vec<String> {
    let mut names =
        vec!["model.embed_tokens.weight".into(), "lm_head.weight".into(), "model.norm.weight".into()];
    for layer in 0..start.config.layers {
        for named in items(start.first) {
            let name = folder_name(layer, &named);
            let endings = [".weight", ".weight_scale", ".bias", ".rms_norm.weight"];
            names.extend(endings.map(|ending| format!("{name}{ending}")));
        }
    }
    names
}

fn dtype_name(ty: GgmlType) -> &'static str {
    match ty {
        GgmlType::F16 => "F16",
        GgmlType::BF16 => "BF16",
        _ => "F32",
    }
}

impl HfWriter<'_> {
    fn matrix(&mut self, module: &str, weights: &LinearWeights) -> Result<(), ConvertError> {
        let (name, rows, cols) = (format!("{module}.weight"), weights.rows, weights.cols);
        let HfWriter { file, encoder, .. } = self;
        let scale = match (&weights.storage, self.sense) {
            (WeightStorage::Ternary { bytes, scale, .. }, Some(sense)) => {
                if self.target == Target::HfPacked {
                    file.begin(&name, "U8", &[row_quarters::quads(rows), cols]);
                    encoder.quarters(weights, bytes, &mut |bytes| file.write(bytes))?;
                } else {
                    file.begin(&name, "BF16", &[rows, cols]);
                    let unit = LinearWeights { storage: unit_scale(&weights.storage), ..weights.clone() };
                    encoder.rows(&unit, GgmlType::BF16, |row| row, &mut |bytes| file.write(bytes))?;
                }
                Some(in_sense(*scale, sense))
            }
            (WeightStorage::Ternary { scale, .. }, None) => {
                let ty = exact_type(&[factor(*scale)]);
                file.begin(&name, dtype_name(ty), &[rows, cols]);
                encoder.rows(weights, ty, |row| row, &mut |bytes| file.write(bytes))?;
                None
            }
            (WeightStorage::Dense { dtype, .. }, _) => {
                let ty = float_type(*dtype);
                file.begin(&name, dtype_name(ty), &[rows, cols]);
                encoder.rows(weights, ty, |row| row, &mut |bytes| file.write(bytes))?;
                None
            }
            (other, _) => {
                return Err(ConvertError::tensor(
                    &name,
                    format!("expected codes or floats, found {other:?}"),
                ));
            }
        };
        if let Some(scale) = scale {
            self.vector(&format!("{name}_scale"), &[scale])?;
        }
        Ok(())
    }

    /// Writes a vector in the shortest type that keeps it exactly.
    fn vector(&mut self, name: &str, values: &[f32]) -> Result<(), ConvertError> {
        let ty = exact_type(values);
        self.file.begin(name, dtype_name(ty), &[values.len()]);
        self.file.write(&vector_bytes(ty, values)).map_err(ConvertError::write(WEIGHTS))
    }

    fn norm(&mut self, name: &str, norm: &NormWeights) -> Result<(), ConvertError> {
        self.vector(name, &norm.values)
    }
}

/// Turns a scale into the sense that the configuration states.
pub(super) fn in_sense(scale: bitnet_core::backend::WeightScale, sense: ScaleSense) -> f32 {
    use bitnet_core::backend::WeightScale::{Divide, Multiply};
    match (scale, sense) {
        (Multiply(value), ScaleSense::Multiply) | (Divide(value), ScaleSense::Divide) => value,
        (Multiply(value) | Divide(value), _) => 1.0 / value,
    }
}

fn unit_scale(storage: &WeightStorage) -> WeightStorage {
    match storage.clone() {
        WeightStorage::Ternary { wire, bytes, .. } => {
            let scale = bitnet_core::backend::WeightScale::Multiply(1.0);
            WeightStorage::Ternary { wire, bytes, scale }
        }
        other => other,
    }
}

impl Writer for HfWriter<'_> {
    fn layer(&mut self, index: usize, layer: &Layer) -> Result<(), ConvertError> {
        for named in items(layer) {
            let name = folder_name(index, &named);
            match named.item {
                Item::Norm(norm) => self.norm(&format!("{name}.weight"), norm)?,
                Item::Projection(projection) => {
                    self.matrix(&name, &projection.weights)?;
                    if let Some(bias) = &projection.weights.bias {
                        self.vector(&format!("{name}.bias"), bias)?;
                    }
                    if let Some(norm) = &projection.norm {
                        self.norm(&format!("{name}.rms_norm.weight"), norm)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Finished, ConvertError> {
        let (tensors, bytes) = self.file.finish().map_err(ConvertError::write(WEIGHTS))?;
        Ok(Finished { tensors, bytes, notes: self.notes })
    }
}

impl Start<'_> {
    /// Returns how activations enter the products, as far as the first layer tells.
    pub(super) fn activations(&self) -> ActivationMode {
        self.family.activations()
    }

    /// Makes an error about what the target cannot hold.
    pub(super) fn refuse(&self, what: impl Into<String>) -> ConvertError {
        ConvertError::Unsupported { target: self.target.name(), what: what.into() }
    }
}
