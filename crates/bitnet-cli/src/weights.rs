//! Whether weights are worth a copy on huge pages: what `--weights auto` does.
//!
//! Copying takes time once, and each decoded token then misses fewer translations of addresses. Both grow with the
//! file, so whether it pays depends on the number of tokens alone; `docs/performance.md` has the figures.

use bitnet_core::device::MachineInfo;
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::model::{ModelFiles, ModelSource, StoredDType, WeightAccess};

use crate::args::{LayoutArg, WeightsArg};
use crate::output::{bytes, note};

/// Tokens to decode from which the copy is made.
const TOKENS: usize = 512;
/// Bytes of weights from which it matters.
const LEAST: u64 = 64 << 20;

/// Resolves `--weights` for a command that decodes up to `tokens` tokens, and says so where it copies unasked.
pub fn access(wanted: WeightsArg, layout: LayoutArg, source: &ModelSource, tokens: usize) -> WeightAccess {
    let copies = is_copied(wanted, layout, tokens, || in_place(source));
    if copies { WeightAccess::Copy } else { wanted.into() }
}

/// Reports whether weights of `size` bytes, `None` where they are not used where they lie, are to be copied, and says so
/// where that was not asked for.
pub fn is_copied(
    wanted: WeightsArg,
    layout: LayoutArg,
    tokens: usize,
    size: impl FnOnce() -> Option<u64>,
) -> bool {
    let is_possible = cfg!(all(feature = "mmap", target_os = "linux"));
    // Five rows a byte are a copy already.
    if wanted != WeightsArg::Auto || !is_possible || layout != LayoutArg::Quarters || tokens < TOKENS {
        return wanted == WeightsArg::Copy;
    }
    // What cannot be opened is reported when it is loaded.
    let Some(size) = size() else { return false };
    let pays = pays(size, tokens, MachineInfo::read().memory_available);
    if pays {
        let size = bytes(size);
        note(&format!(
            "weights: {size} copied to huge pages, for up to {tokens} tokens (--weights mmap starts sooner)"
        ));
    }
    pays
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
        let access = |wanted, tokens| access(wanted, LayoutArg::Quarters, &ModelSource::at(folder), tokens);
        assert_eq!(access(WeightsArg::Auto, 100_000), WeightAccess::Auto);
        assert_eq!(access(WeightsArg::Copy, 1), WeightAccess::Copy);
        assert_eq!(access(WeightsArg::Shared, 100_000), WeightAccess::Shared);
    }

    #[cfg(all(feature = "mmap", target_os = "linux"))]
    #[test]
    fn what_is_repacked_when_it_is_loaded_is_not_copied_before() {
        let copies = |wanted, layout, tokens| is_copied(wanted, layout, tokens, || Some(LEAST));
        assert!(copies(WeightsArg::Auto, LayoutArg::Quarters, TOKENS));
        assert!(!copies(WeightsArg::Auto, LayoutArg::Fifths, TOKENS));
        assert!(!copies(WeightsArg::Auto, LayoutArg::Quarters, TOKENS - 1));
        assert!(!copies(WeightsArg::Mmap, LayoutArg::Quarters, TOKENS));
        assert!(copies(WeightsArg::Copy, LayoutArg::Fifths, 1));
    }
}
