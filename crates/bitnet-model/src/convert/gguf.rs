//! GGUF files as llama.cpp and bitnet.cpp read them.
//!
//! Architecture: `bitnet` for sub-norms with SiLU, `bitnet-b1.58` for sub-norms with squared ReLU, `llama` without
//! sub-norms; the rows of q and k of a `llama` are put in the order of adjacent rotary pairs. The first two
//! multiply by the embedding at the end, so a model with a head of its own is refused there.

use bitnet_core::backend::{Activation, LinearWeights};
use bitnet_quant::ggml::GgmlType;

use super::encode::{Encoder, is_ternary, vector_bytes};
use super::names::{Item, Named, items};
use super::{ConvertError, Finished, Output, OutputFile, Start, Writer, tokenizer};
use crate::config::ACTIVATIONS;
use crate::family::ActivationMode;
use crate::gguf::write::{GgufWriter, Meta, PlannedTensor};
use crate::weights::{Head, Layer};

/// Alignment of the files that are in circulation.
const ALIGNMENT: u32 = 32;
/// The name of the file in errors: the caller knows its path.
const FILE: &str = "the GGUF file";

struct TensorWriter<'a> {
    file: GgufWriter<Box<dyn OutputFile + 'a>>,
    encoder: Encoder,
    ty: GgmlType,
    /// Elements of a head where q and k are permuted.
    permuted: Option<usize>,
    notes: Vec<String>,
    tensors: usize,
}

/// Writes everything but the layers, and returns the writer of those.
pub(super) fn start<'a>(
    start: &Start<'_>,
    ty: GgmlType,
    output: &'a mut dyn Output,
) -> Result<Box<dyn Writer + 'a>, ConvertError> {
    let architecture = architecture(start)?;
    check(start, architecture, ty)?;
    let mut notes = Vec::new();
    let metadata = metadata(start, architecture, ty, &mut notes)?;
    let file = output.create("").map_err(ConvertError::write(FILE))?;
    let file = GgufWriter::new(file, metadata, ALIGNMENT, plan(start)).map_err(ConvertError::write(FILE))?;
    let permuted = (architecture == "llama").then_some(start.config.head_dim);
    let encoder = Encoder::new(FILE)?;
    let mut writer = TensorWriter { file, encoder, ty, permuted, notes, tensors: 0 };
    let table = |notes: &mut Vec<String>, weights: &LinearWeights| fitting(notes, start.embedding, weights);
    let ty = table(&mut writer.notes, &start.outside.embedding);
    writer.matrix("token_embd.weight", &start.outside.embedding, ty, None)?;
    if let Head::Separate(head) = &start.outside.head {
        let ty = table(&mut writer.notes, head);
        writer.matrix("output.weight", head, ty, None)?;
    }
    writer.vector("output_norm.weight", &start.outside.final_norm.values)?;
    Ok(Box::new(writer))
}

fn architecture(start: &Start<'_>) -> Result<&'static str, ConvertError> {
    match (start.first.attn_sub_norm.is_some(), start.config.activation) {
        (true, Activation::Silu) => Ok("bitnet"),
        (true, _) => Ok("bitnet-b1.58"),
        (false, Activation::Silu) => Ok("llama"),
        (false, _) => Err(start.refuse("expected SiLU in a model without sub-norms, found squared ReLU")),
    }
}

/// Refuses what the architecture has no place for.
fn check(start: &Start<'_>, architecture: &str, ty: GgmlType) -> Result<(), ConvertError> {
    let projections = start.first.projections();
    if projections.iter().any(|p| p.norm.is_some()) {
        return Err(start.refuse("expected projections without norms of their own, found rms_norm weights"));
    }
    if projections.iter().any(|p| p.weights.bias.is_some()) {
        return Err(start.refuse("expected projections without biases, found biases"));
    }
    if architecture != "llama" && matches!(start.outside.head, Head::Separate(_)) {
        return Err(start.refuse(format!(
            "expected a head tied to the embedding, by which readers of {architecture} multiply, found one of its own"
        )));
    }
    if ty.is_ternary() && !projections.iter().any(|p| is_ternary(&p.weights)) {
        return Err(start.refuse("expected ternary weights, found dense ones: use gguf-f16"));
    }
    if ty == GgmlType::I2_S && start.activations() == ActivationMode::Float {
        return Err(start.refuse(
            "expected int8 activations, with which I2_S is multiplied, found a model with float ones: use gguf-tq2_0",
        ));
    }
    Ok(())
}

fn metadata(
    start: &Start<'_>,
    architecture: &str,
    ty: GgmlType,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Meta)>, ConvertError> {
    let config = start.config;
    let number = |value: usize| Meta::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let file_type = match ty {
        GgmlType::I2_S => 40,
        GgmlType::TQ1_0 => 36,
        GgmlType::TQ2_0 => 37,
        _ => 1,
    };
    let name = start.files.root().file_stem().map(|name| name.to_string_lossy().into_owned());
    let mut out = vec![
        ("general.architecture".to_owned(), Meta::from(architecture)),
        ("general.name".to_owned(), Meta::Text(name.unwrap_or_else(|| "model".into()))),
        ("general.file_type".to_owned(), Meta::U32(file_type)),
        ("general.quantization_version".to_owned(), Meta::U32(2)),
    ];
    let fields = [
        ("vocab_size", number(config.vocab)),
        ("context_length", number(config.max_positions)),
        ("embedding_length", number(config.hidden)),
        ("block_count", number(config.layers)),
        ("feed_forward_length", number(config.intermediate)),
        ("attention.head_count", number(config.heads)),
        ("attention.head_count_kv", number(config.kv_heads)),
        ("attention.key_length", number(config.head_dim)),
        ("attention.value_length", number(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Meta::F32(config.rms_eps)),
        ("rope.dimension_count", number(config.head_dim)),
        ("rope.freq_base", Meta::F32(config.rope_theta)),
    ];
    out.extend(fields.map(|(key, value)| (format!("{architecture}.{key}"), value)));
    if architecture == "bitnet" {
        out.push(("bitnet.rope.scaling.type".into(), Meta::from("linear")));
        out.push(("bitnet.rope.scaling.factor".into(), Meta::F32(1.0)));
    }
    let activations = match start.activations() {
        ActivationMode::Int8PerToken => "int8",
        ActivationMode::Float => "float",
    };
    out.push((ACTIVATIONS.into(), Meta::from(activations)));
    out.extend(tokenizer::gguf_metadata(start, notes)?);
    Ok(out)
}

fn plan(start: &Start<'_>) -> Vec<PlannedTensor> {
    let matrix = |name: String, weights: &LinearWeights| {
        let shape = vec![weights.rows, weights.cols];
        PlannedTensor { name, shape }
    };
    let vector = |name: String, len: usize| PlannedTensor { name, shape: vec![len] };
    let outside = start.outside;
    let mut plan = vec![matrix("token_embd.weight".into(), &outside.embedding)];
    if let Head::Separate(head) = &outside.head {
        plan.push(matrix("output.weight".into(), head));
    }
    plan.push(vector("output_norm.weight".into(), outside.final_norm.values.len()));
    for layer in 0..start.config.layers {
        for named in items(start.first) {
            let name = gguf_name(layer, &named);
            plan.push(match named.item {
                Item::Norm(norm) => vector(name, norm.values.len()),
                Item::Projection(projection) => matrix(name, &projection.weights),
            });
        }
    }
    plan
}

fn gguf_name(layer: usize, named: &Named<'_>) -> String {
    format!("blk.{layer}.{}.weight", named.gguf)
}

/// Returns the type wanted, or F16 where it does not divide the rows, with a note.
fn fitting(notes: &mut Vec<String>, wanted: GgmlType, weights: &LinearWeights) -> GgmlType {
    let block = if wanted == GgmlType::I2_S { 128 } else { wanted.block_len() };
    if weights.cols.is_multiple_of(block) {
        return wanted;
    }
    notes.push(format!(
        "{}: rows of {} elements are no multiple of {block}: stored as F16 instead of {wanted}",
        weights.name, weights.cols
    ));
    GgmlType::F16
}

/// Returns which of our rows becomes row `row` of a `llama` file: the halves of each head interleaved.
pub(crate) fn adjacent_pairs(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    head * head_dim + at % 2 * (head_dim / 2) + at / 2
}

impl TensorWriter<'_> {
    fn matrix(
        &mut self,
        name: &str,
        weights: &LinearWeights,
        ty: GgmlType,
        head_dim: Option<usize>,
    ) -> Result<(), ConvertError> {
        self.file.begin(name, ty.id()).map_err(ConvertError::write(FILE))?;
        self.tensors += 1;
        let order = |row| head_dim.map_or(row, |head_dim| adjacent_pairs(row, head_dim));
        let TensorWriter { file, encoder, .. } = self;
        encoder.rows(weights, ty, order, &mut |bytes| file.write(bytes))
    }

    fn vector(&mut self, name: &str, values: &[f32]) -> Result<(), ConvertError> {
        self.tensors += 1;
        let bytes = vector_bytes(GgmlType::F32, values);
        let written = self.file.begin(name, GgmlType::F32.id()).and_then(|()| self.file.write(&bytes));
        written.map_err(ConvertError::write(FILE))
    }
}

impl Writer for TensorWriter<'_> {
    fn layer(&mut self, index: usize, layer: &Layer) -> Result<(), ConvertError> {
        for named in items(layer) {
            let name = gguf_name(index, &named);
            match named.item {
                Item::Norm(norm) => self.vector(&name, &norm.values)?,
                Item::Projection(projection) => {
                    let weights = &projection.weights;
                    if projection.norm.is_some() || weights.bias.is_some() {
                        return Err(ConvertError::tensor(
                            &name,
                            "expected no bias and no norm, as in layer 0",
                        ));
                    }
                    let ty = match is_ternary(weights) {
                        true => fitting(&mut self.notes, self.ty, weights),
                        false => GgmlType::F16,
                    };
                    let head_dim = self.permuted.filter(|_| matches!(named.gguf, "attn_q" | "attn_k"));
                    self.matrix(&name, weights, ty, head_dim)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Finished, ConvertError> {
        let bytes = self.file.finish(|_| ()).map_err(ConvertError::write(FILE))?;
        Ok(Finished { tensors: self.tensors, bytes, notes: self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::adjacent_pairs;

    #[test]
    fn halves_of_a_head_become_adjacent() {
        let rows: Vec<usize> = (0..8).map(|row| adjacent_pairs(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
