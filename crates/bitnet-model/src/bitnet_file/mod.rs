//! Our own file format, `.bitnet`: a GGUF v3 container whose matrices lie as kernels read them.
//!
//! ```text
//! 0        "GGUF" | 3 | tensors | keys | "bitnet.header_checksum" u64, the XXH64 of the header with these 8 bytes
//!          zero | other keys | table of tensors | zeros up to 64 KiB
//! n 64 KiB each matrix: ternary codes in row quarters, then 64 bytes: scale f32, zeros; or floats
//! last     "bitnet.vectors": norms and biases as f32, each at a multiple of 64 bytes
//! ```
//!
//! The file holds what a packed Hugging Face folder holds, by the same names: a reader sees config.json and the
//! tokenizer's files (`bitnet.file.*`), matrices as U8 tensors in place, `_scale` tensors, norms. So everything behind
//! [`Checkpoint`](crate::Checkpoint) is the same for both, and nothing is copied.
//!
//! A reader ignores keys that it does not know and refuses a `bitnet.reader_version` above its own, a layout or a tensor type
//! that it does not know by name, and any header whose checksum is another. `docs/bitnet-file.md` has the diagram.

mod precision;
mod read;

pub use precision::{KvUse, Precision};
pub use read::BitnetFile;
pub(crate) use read::View;

use crate::checksum::Xxh64;

/// `general.architecture`: other readers of GGUF refuse the file by this name.
pub(crate) const ARCHITECTURE: &str = "bitnet-core";
/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u32 = 1;
/// Alignment of tensors: the largest page in use, so that any part can be mapped or advised on its own.
pub(crate) const ALIGNMENT: u32 = 1 << 16;
/// Alignment of vectors within their tensor: a cache line.
pub(crate) const VECTOR_ALIGNMENT: u64 = 64;

/// Type id of ternary codes in row quarters with a tail. Ids of ours begin with the letters "BN".
pub(crate) const TERNARY_QUARTERS: u32 = 0x424e_0001;
/// Bytes behind the codes: the scale as f32, then zeros.
pub(crate) const TERNARY_TAIL: usize = 64;
/// Reserved type ids and their names: encodings that this version does not read.
pub(crate) const RESERVED: [(u32, &str); 2] =
    [(0x424e_0002, "ternary codes in row fifths"), (0x424e_0100, "entropy-coded ternary codes")];

/// Version of the writer.
pub(crate) const FORMAT_VERSION: &str = "bitnet.version";
/// The oldest version of a reader that understands the file.
pub(crate) const READER_VERSION: &str = "bitnet.reader_version";
/// The layout of ternary codes, by name.
pub(crate) const LAYOUT: &str = "bitnet.layout";
/// The one layout of version 1.
pub(crate) const ROW_QUARTERS: &str = "row-quarters";
/// Type of the embedding, and of the head, which may be [`TIED`].
pub(crate) const PRECISION_EMBEDDING: &str = "bitnet.precision.embedding";
pub(crate) const PRECISION_HEAD: &str = "bitnet.precision.head";
/// A head that is the embedding.
pub(crate) const TIED: &str = "tied";
/// Types of the KV cache, to generate and to measure with.
pub(crate) const PRECISION_KV: &str = "bitnet.precision.kv";
pub(crate) const PRECISION_KV_MEASURE: &str = "bitnet.precision.kv_measure";
/// Checksum of the header.
pub(crate) const HEADER_CHECKSUM: &str = "bitnet.header_checksum";
/// Checksums of the tensors, in their order.
pub(crate) const PAYLOAD_CHECKSUMS: &str = "bitnet.payload_checksums";
/// Names of the vectors.
pub(crate) const VECTOR_NAMES: &str = "bitnet.vectors.names";
/// Elements of the vectors.
pub(crate) const VECTOR_LENGTHS: &str = "bitnet.vectors.lengths";
/// The tensor of all vectors.
pub(crate) const VECTORS: &str = "bitnet.vectors";
/// Front of the keys that hold files, as arrays of bytes.
pub(crate) const FILES: &str = "bitnet.file.";

/// Where the header's checksum stands: behind magic, version and counts, its key and the type of its value.
const CHECKSUM_AT: usize = 4 + 4 + 8 + 8 + 8 + HEADER_CHECKSUM.len() + 4;

/// Computes the checksum of a header, its own bytes taken as zeros; `None` for one that is too short.
fn header_checksum(header: &[u8]) -> Option<u64> {
    let mut hash = Xxh64::new();
    hash.update(header.get(..CHECKSUM_AT)?);
    hash.update(&[0; 8]);
    hash.update(header.get(CHECKSUM_AT + 8..)?);
    Some(hash.finish())
}

/// Puts its checksum into a header.
pub(crate) fn seal(header: &mut [u8]) {
    if let Some(checksum) = header_checksum(header) {
        header[CHECKSUM_AT..CHECKSUM_AT + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}
