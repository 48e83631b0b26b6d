//! The memory suite: the pool beside general allocators, in one run, by the same measurements.
//!
//! Every figure is the median of batches, the candidates taking turns batch by batch. Without the feature
//! `memory-peers` the one peer is the system's allocator; with it mimalloc, jemalloc and snmalloc are built
//! (they need a C compiler, snmalloc a C++ one and cmake).

mod candidates;
mod measure;
mod space;

use std::fmt::Write;

pub use self::candidates::{Candidate, candidates, pool_of, tracked_pool};
pub use self::measure::Effort;
use self::measure::{cross_thread, fill, large_pairs, small_batches, small_pairs, two_threads};
pub use self::space::{Space, space};

/// A row of the report: a measurement and what each candidate took, nanoseconds.
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Candidates and their medians.
    pub nanoseconds: Vec<(&'static str, f64)>,
}

/// Runs the measurements of time.
pub fn times(effort: Effort) -> Vec<Row> {
    let small = candidates(false);
    let large = candidates(true);
    let levels = [
        ("tracking off", tracked_pool(None, false)),
        ("basic", tracked_pool(Some(bitnet_core::memory::TrackingLevel::Basic), false)),
        ("standard", tracked_pool(Some(bitnet_core::memory::TrackingLevel::Standard), false)),
        ("detailed", tracked_pool(Some(bitnet_core::memory::TrackingLevel::Detailed), false)),
        ("detailed, precise", tracked_pool(Some(bitnet_core::memory::TrackingLevel::Detailed), true)),
    ];
    vec![
        Row { name: "small pair, 64 B-512 KB", nanoseconds: small_pairs(&small, effort) },
        Row { name: "small, 64 live at once", nanoseconds: small_batches(&small, effort) },
        Row { name: "small pair, two threads", nanoseconds: two_threads(&small, effort) },
        Row { name: "freed by another thread", nanoseconds: cross_thread(&small, effort) },
        Row { name: "large pair, 1 MB-2 GB", nanoseconds: large_pairs(&large, effort) },
        Row { name: "64 MiB: allocate, fill, free", nanoseconds: fill(&large, effort) },
        Row { name: "small pair by tracking level", nanoseconds: small_pairs(&levels, effort) },
    ]
}

/// Writes rows as a table.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    for Row { name, nanoseconds } in rows {
        let _ = writeln!(out, "{name}");
        for (candidate, nanoseconds) in nanoseconds {
            let _ = writeln!(out, "    {candidate:<20} {nanoseconds:>14.1} ns");
        }
    }
    out
}
