//! Whether weights are worth a copy on huge pages: what `--weights auto` does.
//!
//! Copying takes time once, and each decoded token then misses fewer translations of addresses. Both grow with the
//! file, so whether it pays depends on the number of tokens alone; `docs/performance.md` has the figures.

use bitnet_core::device::MachineInfo;
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::model::{ModelFiles, ModelSource, StoredDType, WeightAccess};

use crate::args::WeightsArg;
use crate::output::{bytes, note};

/// Tokens to decode from which the copy is made.
const TOKENS: usize = 512;
/// Bytes of weights from which it matters.
const LEAST: u64 = 64 << 20;

/// Resolves `--weights` for a command that decodes up to `tokens` tokens, and says so where it copies unasked.
pub fn access(wanted: WeightsArg, source: &ModelSource, tokens: usize) -> WeightAccess {
    if wanted != WeightsArg::Auto || cfg!(not(all(feature = "mmap", target_os = "linux"))) {
        return wanted.into();
    }
    // What cannot be opened is reported when it is loaded.
    let Some(size) = Some(tokens).filter(|&tokens| tokens >= TOKENS).and_then(|_| in_place(source)) else {
        return WeightAccess::Auto;
    };
    if !pays(size, tokens, MachineInfo::read().memory_available) {
        return WeightAccess::Auto;
    }
    let size = bytes(size);
    note(&format!(
        "weights: {size} copied to huge pages, for up to {tokens} tokens (--weights mmap starts sooner)"
    ));
    WeightAccess::Copy
}

/// Reports whether a copy of `size` bytes pays for `tokens` tokens, and leaves as much memory again.
fn pays(size: u64, tokens: usize, available: Option<u64>) -> bool {
    tokens >= TOKENS && size >= LEAST && available.is_some_and(|available| available / 2 >= size)
}

/// Returns the bytes of a model's weight files where they are used as they are; `None` where loading makes another
/// form of them in memory anyway, and for models in the binary.
fn in_place(source: &ModelSource) -> Option<u64> {
    if matches!(source, ModelSource::Embedded { .. } | ModelSource::Gguf(_)) {
        return None;
    }
    let checkpoint = ModelFiles::open(source).ok()?.open_checkpoint(WeightAccess::Auto).ok()?;
    let codes = StoredDType::Known(BitNetDType::U8);
    let is_packed = matches!(source, ModelSource::Bitnet(_))
        || checkpoint.tensors().any(|(_, tensor)| tensor.dtype == codes);
    is_packed.then(|| checkpoint.file_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_for_many_tokens_large_files_and_free_memory() {
        let gib = 1 << 30;
        assert!(pays(gib, TOKENS, Some(2 * gib)));
        for (size, tokens, available) in [
            (gib, TOKENS - 1, Some(8 * gib)),
            (LEAST - 1, 10_000, Some(8 * gib)),
            (gib, 10_000, Some(2 * gib - 2)),
            (gib, 10_000, None),
        ] {
            assert!(!pays(size, tokens, available), "{size} {tokens} {available:?}");
        }
    }

    #[test]
    fn packed_folders_run_in_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bitnet-model-fairytales/model");
        let size = in_place(&ModelSource::at(folder)).unwrap();
        let file = std::fs::metadata(format!("{folder}/model.safetensors")).unwrap();
        assert_eq!(size, file.len());
        assert_eq!(in_place(&ModelSource::at("no such folder")), None);
        // Small: mapped, whatever is asked of it.
        assert_eq!(access(WeightsArg::Auto, &ModelSource::at(folder), 100_000), WeightAccess::Auto);
        assert_eq!(access(WeightsArg::Copy, &ModelSource::at(folder), 1), WeightAccess::Copy);
    }
}
