//! Our own file: everything of a model in one GGUF container whose matrices run where they lie.
//!
//! The layout of the file is that of [`bitnet_file`](crate::bitnet_file).

use bitnet_core::backend::{LinearWeights, WeightStorage};
use bitnet_quant::ggml::GgmlType;

use super::encode::{Encoder, float_type, is_ternary, vector_bytes};
use super::hf::in_sense;
use super::hf_config::{ScaleSense, config_json, sense_of};
use super::names::{Item, folder_name, items, vector_names};
use super::{ConvertError, Finished, Output, OutputFile, Start, Writer, tokenizer};
use crate::bitnet_file::{self as format, KvUse};
use crate::gguf::write::{GgufWriter, Meta, PlannedTensor};
use crate::weights::{Head, Layer};

/// The name of the file in errors: the caller knows its path.
const FILE: &str = "the .bitnet file";

struct OwnWriter<'a> {
    file: GgufWriter<Box<dyn OutputFile + 'a>>,
    encoder: Encoder,
    sense: ScaleSense,
    vectors: Vec<u8>,
    /// Names of the vectors of layer 0: every layer has to have the same.
    first: Vec<String>,
    tensors: usize,
    notes: Vec<String>,
}

/// Writes everything but the layers, and returns the writer of those.
pub(super) fn start<'a>(
    start: &Start<'_>,
    output: &'a mut dyn Output,
) -> Result<Box<dyn Writer + 'a>, ConvertError> {
    let ternary = start.first.projections().iter().any(|p| is_ternary(&p.weights));
    let sense = sense_of(start.first);
    let mut notes = Vec::new();
    let vectors = Vectors::of(start);
    let metadata = metadata(start, ternary.then_some(sense), &vectors, &mut notes)?;
    let file = output.create("").map_err(ConvertError::write(FILE))?;
    let plan = plan(start, vectors.bytes());
    let file = GgufWriter::new(file, metadata, format::ALIGNMENT, plan).map_err(ConvertError::write(FILE))?;
    let encoder = Encoder::new(FILE)?;
    let first = vector_names(0, start.first);
    let mut writer = OwnWriter { file, encoder, sense, vectors: Vec::new(), first, tensors: 0, notes };
    writer.matrix(EMBEDDING, &start.outside.embedding)?;
    if let Head::Separate(head) = &start.outside.head {
        writer.matrix(HEAD, head)?;
    }
    writer.vector(&start.outside.final_norm.values);
    Ok(Box::new(writer))
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Names and lengths of all vectors, in the order in which they lie in their tensor.
struct Vectors {
    names: Vec<String>,
    lengths: Vec<u64>,
}

impl Vectors {
    fn of(start: &Start<'_>) -> Self {
        let mut names = vec!["model.norm.weight".to_owned()];
        let mut lengths = vec![start.outside.final_norm.values.len() as u64];
        for layer in 0..start.config.layers {
            names.extend(vector_names(layer, start.first));
            lengths.extend(vectors(start.first).iter().map(|values| values.len() as u64));
        }
        Vectors { names, lengths }
    }

    fn bytes(&self) -> u64 {
        self.lengths.iter().map(|length| (length * 4).next_multiple_of(format::VECTOR_ALIGNMENT)).sum()
    }
}

/// Lists the vectors of a layer in the order of [`vector_names`].
fn vectors(layer: &Layer) -> Vec<&[f32]> {
    let mut out: Vec<&[f32]> = Vec::new();
    for named in items(layer) {
        match named.item {
            Item::Norm(norm) => out.push(&norm.values),
            Item::Projection(projection) => {
                out.extend(projection.weights.bias.as_deref());
                out.extend(projection.norm.as_ref().map(|norm| norm.values.as_slice()));
            }
        }
    }
    out
}

fn metadata(
    start: &Start<'_>,
    sense: Option<ScaleSense>,
    vectors: &Vectors,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Meta)>, ConvertError> {
    let matrices = plan(start, 0).len();
    let precision = |weights: &LinearWeights| match &weights.storage {
        WeightStorage::Dense { dtype, .. } => float_type(*dtype).name(),
        _ => "ternary",
    };
    let head = match &start.outside.head {
        Head::Tied => format::TIED,
        Head::Separate(head) => precision(head),
    };
    let kv = |wanted| {
        let recorded = start.kv.or_else(|| start.files.recorded_kv(wanted));
        float_type(recorded.unwrap_or_else(|| KvUse::default_type(wanted))).name()
    };
    let mut out = vec![
        // First, so that its place in the file does not depend on anything.
        (format::HEADER_CHECKSUM.to_owned(), Meta::U64(0)),
        ("general.architecture".to_owned(), Meta::from(format::ARCHITECTURE)),
        (format::FORMAT_VERSION.to_owned(), Meta::U32(format::VERSION)),
        (format::READER_VERSION.to_owned(), Meta::U32(format::VERSION)),
        (format::LAYOUT.to_owned(), Meta::from(format::ROW_QUARTERS)),
        (format::PRECISION_EMBEDDING.to_owned(), Meta::from(precision(&start.outside.embedding))),
        (format::PRECISION_HEAD.to_owned(), Meta::from(head)),
        (format::PRECISION_KV.to_owned(), Meta::from(kv(KvUse::Generate))),
        (format::PRECISION_KV_MEASURE.to_owned(), Meta::from(kv(KvUse::Measure))),
        (format::PAYLOAD_CHECKSUMS.to_owned(), Meta::U64s(vec![0; matrices])),
        (format::VECTOR_NAMES.to_owned(), Meta::Texts(vectors.names.clone())),
        (format::VECTOR_LENGTHS.to_owned(), Meta::U64s(vectors.lengths.clone())),
        (format!("{}config.json", format::FILES), Meta::Bytes(config_json(start, sense).into_bytes())),
    ];
    for (name, bytes) in tokenizer::folder_files(start, notes)? {
        out.push((format!("{}{name}", format::FILES), Meta::Bytes(bytes)));
    }
    Ok(out)
}

fn plan(start: &Start<'_>, vector_bytes: u64) -> Vec<PlannedTensor> {
    let matrix = |name: String, weights: &LinearWeights| {
        let shape = vec![weights.rows, weights.cols];
        PlannedTensor { name, shape }
    };
    let mut plan = vec![matrix(EMBEDDING.into(), &start.outside.embedding)];
    if let Head::Separate(head) = &start.outside.head {
        plan.push(matrix(HEAD.into(), head));
    }
    for layer in 0..start.config.layers {
        for named in items(start.first) {
            if let Item::Projection(projection) = &named.item {
                plan.push(matrix(format!("{}.weight", folder_name(layer, &named)), &projection.weights));
            }
        }
    }
    plan.push(PlannedTensor { name: format::VECTORS.into(), shape: vec![(vector_bytes / 4) as usize] });
    plan
}

impl OwnWriter<'_> {
    fn matrix(&mut self, name: &str, weights: &LinearWeights) -> Result<(), ConvertError> {
        self.tensors += 1;
        let OwnWriter { file, encoder, sense, .. } = self;
        let begin = |file: &mut GgufWriter<_>, id| file.begin(name, id).map_err(ConvertError::write(FILE));
        match &weights.storage {
            WeightStorage::Ternary { bytes, scale, .. } => {
                begin(file, format::TERNARY_QUARTERS)?;
                encoder.quarters(weights, bytes, &mut |bytes| file.write(bytes))?;
                let mut tail = [0u8; format::TERNARY_TAIL];
                tail[..4].copy_from_slice(&in_sense(*scale, *sense).to_le_bytes());
                file.write(&tail).map_err(ConvertError::write(FILE))
            }
            WeightStorage::Dense { dtype, .. } => {
                let ty = float_type(*dtype);
                begin(file, ty.id())?;
                encoder.rows(weights, ty, |row| row, &mut |bytes| file.write(bytes))
            }
            other => Err(ConvertError::tensor(name, format!("expected codes or floats, found {other:?}"))),
        }
    }

    fn vector(&mut self, values: &[f32]) {
        self.vectors.extend(vector_bytes(GgmlType::F32, values));
        self.vectors.resize(self.vectors.len().next_multiple_of(format::VECTOR_ALIGNMENT as usize), 0);
    }
}

impl Writer for OwnWriter<'_> {
    fn layer(&mut self, index: usize, layer: &Layer) -> Result<(), ConvertError> {
        if vector_names(0, layer) != self.first {
            let message = "expected the biases and norms of layer 0, found others";
            return Err(ConvertError::tensor(&format!("model.layers.{index}"), message));
        }
        for named in items(layer) {
            if let Item::Projection(projection) = &named.item {
                self.matrix(&format!("{}.weight", folder_name(index, &named)), &projection.weights)?;
            }
        }
        for values in vectors(layer) {
            self.vector(values);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, ConvertError> {
        let failed = |error| ConvertError::write(FILE)(error);
        self.file.begin(format::VECTORS, GgmlType::F32.id()).map_err(failed)?;
        self.file.write(&self.vectors).map_err(failed)?;
        let checksums = self.file.checksums();
        self.file.replace(format::PAYLOAD_CHECKSUMS, Meta::U64s(checksums));
        let bytes = self.file.finish(format::seal).map_err(failed)?;
        Ok(Finished { tensors: self.tensors + 1, bytes, notes: self.notes })
    }
}
