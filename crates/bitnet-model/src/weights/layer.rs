//! The tensors of one decoder layer.

use crate::error::LoadError;
use crate::family::Family;
use crate::names::{Naming, Part};

use super::model::{Layer, NormWeights};
use super::reader::Reader;
use super::rows::RowOrder;

/// Reads layer `index`.
pub(super) fn read(reader: &mut Reader<'_, '_>, index: usize) -> Result<Layer, LoadError> {
    let config = reader.config;
    let (hidden, inner, eps) = (config.hidden, config.intermediate, config.rms_eps);
    let (q_width, kv_width) = (config.q_width(), config.kv_width());
    let (attention, mlp) = (config.attention_bias, config.mlp_bias);
    let naming = reader.naming();
    let order = match naming {
        // Writers of llama files permute query and key for a rotation of neighbours.
        Naming::Gguf if config.architecture == "llama" => RowOrder::Interleaved { head_dim: config.head_dim },
        _ => RowOrder::AsStored,
    };
    let module = |part| naming.module(index, part);
    let norm =
        |reader: &mut Reader<'_, '_>, part| reader.norm(&format!("{}.weight", module(part)), hidden, eps);
    let stored = RowOrder::AsStored;
    Ok(Layer {
        input_norm: norm(reader, Part::InputNorm)?,
        q: reader.projection(&module(Part::Q), [q_width, hidden], attention, order)?,
        k: reader.projection(&module(Part::K), [kv_width, hidden], attention, order)?,
        v: reader.projection(&module(Part::V), [kv_width, hidden], attention, stored)?,
        attn_sub_norm: sub_norm(reader, index, Part::AttnSubNorm, q_width)?,
        o: reader.projection(&module(Part::O), [hidden, q_width], attention, stored)?,
        post_norm: norm(reader, Part::PostNorm)?,
        gate: reader.projection(&module(Part::Gate), [inner, hidden], mlp, stored)?,
        up: reader.projection(&module(Part::Up), [inner, hidden], mlp, stored)?,
        ffn_sub_norm: sub_norm(reader, index, Part::FfnSubNorm, inner)?,
        down: reader.projection(&module(Part::Down), [hidden, inner], mlp, stored)?,
    })
}

/// Reads a sub-norm, by the name of the 1bitLLM layout where the file has that one.
fn sub_norm(
    reader: &mut Reader<'_, '_>,
    index: usize,
    part: Part,
    width: usize,
) -> Result<Option<NormWeights>, LoadError> {
    if !reader.detection.family.has_sub_norms() {
        return Ok(None);
    }
    let naming = reader.naming();
    let mut name = format!("{}.weight", naming.module(index, part));
    if naming == Naming::HuggingFace
        && !reader.has(&name)
        && let Some(old) = part.old_name().map(|old| format!("model.layers.{index}.{old}.weight"))
        && (reader.has(&old) || reader.detection.family == Family::OneBitLlm)
    {
        name = old;
    }
    reader.norm(&name, width, reader.config.rms_eps).map(Some)
}
