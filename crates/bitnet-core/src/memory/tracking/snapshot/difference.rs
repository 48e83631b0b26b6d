//! What changed between two snapshots.

use std::collections::BTreeMap;
use std::fmt;

use super::PoolSnapshot;

/// What changed from one snapshot to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotDifference {
    /// Settings that differ: name, before, after.
    pub settings: Vec<(&'static str, String, String)>,
    /// Bytes allocated more, or less.
    pub current_bytes: i128,
    /// Bytes by which the peak is higher, or lower.
    pub peak_bytes: i128,
    /// Live blocks more, or less.
    pub blocks: i128,
    /// By scope tag: bytes and blocks more, or less; tags that did not change are left out, the greatest change is
    /// first. Empty where one of the two does not know its blocks.
    pub by_tag: Vec<(String, i128, i128)>,
}

impl SnapshotDifference {
    /// Reports whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == SnapshotDifference::default()
    }
}

impl PoolSnapshot {
    /// Returns what changed from this snapshot to a later one, or one of another pool.
    pub fn difference(&self, later: &PoolSnapshot) -> SnapshotDifference {
        let delta = |before: u64, after: u64| i128::from(after) - i128::from(before);
        let (before, after) = (&self.metrics, &later.metrics);
        SnapshotDifference {
            settings: settings(self, later),
            current_bytes: delta(before.current_allocated, after.current_allocated),
            peak_bytes: delta(before.peak_allocated, after.peak_allocated),
            blocks: delta(before.active_allocations(), after.active_allocations()),
            by_tag: by_tag(self, later),
        }
    }
}

fn settings(before: &PoolSnapshot, after: &PoolSnapshot) -> Vec<(&'static str, String, String)> {
    let list = |snapshot: &PoolSnapshot| {
        let config = &snapshot.config;
        let limit = |bytes: usize| if bytes == usize::MAX { "none".into() } else { bytes.to_string() };
        [
            ("initial_small_pool_size", config.initial_small_pool_size.to_string()),
            ("max_small_pool_size", limit(config.max_small_pool_size)),
            ("initial_large_pool_size", config.initial_large_pool_size.to_string()),
            ("max_large_pool_size", limit(config.max_large_pool_size)),
            ("large_strategy", format!("{:?}", snapshot.large_strategy)),
            ("enable_advanced_tracking", config.enable_advanced_tracking.to_string()),
            ("tracking_config", format!("{:?}", config.tracking_config)),
            ("enable_automatic_cleanup", config.enable_automatic_cleanup.to_string()),
            ("cleanup_config", format!("{:?}", config.cleanup_config)),
        ]
    };
    let pairs = list(before).into_iter().zip(list(after));
    pairs.filter(|(a, b)| a.1 != b.1).map(|((name, a), (_, b))| (name, a, b)).collect()
}

fn by_tag(before: &PoolSnapshot, after: &PoolSnapshot) -> Vec<(String, i128, i128)> {
    let (Some(before), Some(after)) = (&before.blocks, &after.blocks) else { return Vec::new() };
    let mut sums: BTreeMap<&str, (i128, i128)> = BTreeMap::new();
    for (blocks, sign) in [(before, -1), (after, 1)] {
        for block in blocks {
            let sum = sums.entry(&block.tag).or_default();
            sum.0 += sign * i128::from(block.size);
            sum.1 += sign;
        }
    }
    let mut out: Vec<_> = sums
        .into_iter()
        .filter(|(_, sum)| *sum != (0, 0))
        .map(|(tag, (bytes, blocks))| (tag.to_owned(), bytes, blocks))
        .collect();
    out.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(bytes.unsigned_abs()));
    out
}

impl fmt::Display for SnapshotDifference {
    /// Prints a line for each change; nothing for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, before, after) in &self.settings {
            writeln!(f, "{name}: {before} -> {after}")?;
        }
        if (self.current_bytes, self.blocks, self.peak_bytes) != (0, 0, 0) {
            let SnapshotDifference { current_bytes, blocks, peak_bytes, .. } = self;
            writeln!(f, "allocated: {current_bytes:+} bytes, {blocks:+} blocks; peak: {peak_bytes:+} bytes")?;
        }
        for (tag, bytes, blocks) in &self.by_tag {
            writeln!(f, "{tag:?}: {bytes:+} bytes, {blocks:+} blocks")?;
        }
        Ok(())
    }
}
