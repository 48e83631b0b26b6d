//! Packing of ternary weights: strategies, reports, streaming and random access.
//!
//! A *packing* stores a sequence of -1, 0, +1. [`TernaryPacker`] packs, [`TernaryPackedWeights`] holds what was packed
//! and can be cut anywhere, [`SimdUnpacker`](crate::SimdUnpacker) unpacks. Every layout is documented where it is
//! written:
//!
//! | strategy | layout | bits a weight |
//! |---|---|---|
//! | `Uncompressed` | a signed byte each | 8 |
//! | `BitPacked2Bit` | [`flat_two_bit`]: planar blocks of 128 | 2 |
//! | `Base3Packed` | [`flat_base3`]: planar blocks of 160 | 1.6 |
//! | `ByteAligned` | [`byte_aligned`]: blocks of 512 on 32-byte boundaries, with counts | 2.5 |
//! | `RunLengthEncoded` | [`runs`]: byte tokens | by the data |
//! | `CompressedSparse` | [`flat_sparse`]: bitmap and signs | 1 + share of non-zero values |
//! | `Hybrid` | [`hybrid`]: the best of four a block | by the data |
//! | `EntropyCoded` | [`entropy`]: eight interleaved rANS states over base-3 bytes | the entropy, within 1 % |
//!
//! The packings of fixed size can be entered at any block. The others are cut into chunks of [`CHUNK`] values
//! (`EntropyCoded`: [`entropy::CHUNK`]), whose lengths in bytes precede them as `u32`.
//! To add a packing, see `docs/adding-a-packing.md`.

pub mod byte_aligned;
mod codec;
pub mod entropy;
mod error;
pub mod hybrid;
mod packed;
mod report;
pub mod runs;
mod select;
mod sparse;
mod wire;
mod writer;

use bitnet_kernels::Kernels;
pub use bitnet_kernels::layout::{flat_base3, flat_sparse, flat_two_bit, row_quarters};

pub use error::PackError;
pub use packed::{Chunks, TernaryPackedWeights};
pub use report::{PackingReport, entropy_bits};
pub use select::{Candidate, best, candidates, candidates_of_counts};
pub use writer::TernaryPackWriter;

/// Values of a chunk: a multiple of every block, and small enough to stay in the first-level cache.
pub const CHUNK: usize = 15360;

/// How ternary weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TernaryPackingStrategy {
    /// A signed byte a weight.
    Uncompressed,
    /// Two bits a weight.
    BitPacked2Bit,
    /// Five weights a byte.
    Base3Packed,
    /// Two and a half bits a weight: two-bit codes on 32-byte boundaries, with counts of what is not zero.
    ByteAligned,
    /// Byte tokens for runs, and for single values behind zeros.
    RunLengthEncoded,
    /// A bit a weight, and one more for each that is not zero.
    CompressedSparse,
    /// The smallest of constant, base 3, bitmap and runs, block by block.
    Hybrid,
    /// An arithmetic-coded form within 1 % of the entropy, for files.
    EntropyCoded,
}

use TernaryPackingStrategy as Strategy;

impl TernaryPackingStrategy {
    /// Every strategy, fastest to unpack first.
    pub const ALL: [Strategy; 8] = [
        Strategy::Uncompressed,
        Strategy::BitPacked2Bit,
        Strategy::ByteAligned,
        Strategy::Base3Packed,
        Strategy::CompressedSparse,
        Strategy::Hybrid,
        Strategy::EntropyCoded,
        Strategy::RunLengthEncoded,
    ];

    /// Returns the number that stands for it in bytes.
    pub const fn tag(self) -> u8 {
        match self {
            Strategy::Uncompressed => 0,
            Strategy::BitPacked2Bit => 1,
            Strategy::Base3Packed => 2,
            Strategy::ByteAligned => 3,
            Strategy::RunLengthEncoded => 4,
            Strategy::CompressedSparse => 5,
            Strategy::Hybrid => 6,
            Strategy::EntropyCoded => 7,
        }
    }

    /// Returns the strategy of a number.
    pub fn from_tag(tag: u8) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.tag() == tag)
    }

    /// Returns the name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Uncompressed => "uncompressed",
            Strategy::BitPacked2Bit => "2-bit",
            Strategy::Base3Packed => "base-3",
            Strategy::ByteAligned => "byte-aligned",
            Strategy::RunLengthEncoded => "run-length",
            Strategy::CompressedSparse => "bitmap+sign",
            Strategy::Hybrid => "hybrid",
            Strategy::EntropyCoded => "entropy",
        }
    }

    /// Values between two places where unpacking can begin.
    pub const fn unit(self) -> usize {
        match self {
            Strategy::Uncompressed => 1,
            Strategy::BitPacked2Bit => flat_two_bit::BLOCK,
            Strategy::Base3Packed => flat_base3::BLOCK,
            Strategy::ByteAligned => byte_aligned::BLOCK,
            Strategy::RunLengthEncoded | Strategy::CompressedSparse | Strategy::Hybrid => CHUNK,
            Strategy::EntropyCoded => entropy::CHUNK,
        }
    }

    /// Returns the bytes of `values` values where they do not depend on the data.
    pub const fn fixed_len(self, values: usize) -> Option<usize> {
        match self {
            Strategy::Uncompressed => Some(values),
            Strategy::BitPacked2Bit => Some(flat_two_bit::packed_len(values)),
            Strategy::Base3Packed => Some(flat_base3::packed_len(values)),
            Strategy::ByteAligned => Some(byte_aligned::packed_len(values)),
            _ => None,
        }
    }
}

impl std::fmt::Display for TernaryPackingStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What packing may do.
#[derive(Debug, Clone, PartialEq)]
pub struct TernaryPackingConfig {
    /// How much larger than the smallest a packing may be that auto-selection takes because it unpacks faster: 0.01 is
    /// one per cent.
    pub size_tolerance: f64,
    /// Whether auto-selection considers [`TernaryPackingStrategy::EntropyCoded`].
    pub entropy_coding: bool,
    /// Values of a block of [`TernaryPackingStrategy::Hybrid`], one of [`hybrid::BLOCKS`]; `None` takes the best for
    /// each chunk.
    pub hybrid_block: Option<usize>,
}

impl Default for TernaryPackingConfig {
    fn default() -> Self {
        TernaryPackingConfig { size_tolerance: 0.01, entropy_coding: true, hybrid_block: None }
    }
}

/// Packs ternary weights by one strategy.
pub trait TernaryPacker: std::fmt::Debug + Send + Sync {
    /// Returns the strategy.
    fn strategy(&self) -> TernaryPackingStrategy;

    /// Packs weights.
    ///
    /// # Errors
    /// A weight that is not -1, 0 or +1; a block size that is none; a forced instruction set that is missing.
    fn pack(&self, weights: &[i8], config: &TernaryPackingConfig) -> Result<TernaryPackedWeights, PackError>;

    /// Says whether the packing takes no more than two bits a weight and can hold the weights at all; `Uncompressed` and
    /// `ByteAligned` suit any ternary weights. Nothing is suitable while a forced instruction set is missing.
    fn is_suitable(&self, weights: &[i8], config: &TernaryPackingConfig) -> bool;
}

/// Makes packers, and chooses between them.
#[derive(Debug, Clone, Copy)]
pub struct TernaryPackerFactory;

impl TernaryPackerFactory {
    /// Returns the packer of a strategy.
    pub fn create_packer(strategy: TernaryPackingStrategy) -> Box<dyn TernaryPacker> {
        Box::new(StrategyPacker(strategy))
    }

    /// Chooses the strategy that unpacks fastest among those within
    /// [`size_tolerance`](TernaryPackingConfig::size_tolerance) of the smallest real size.
    ///
    /// Weights that are not ternary, which no packer takes, give `Uncompressed`; so do all if `BITNET_ISA` named an
    /// instruction set that is not there when the process first looked, with which every packer refuses.
    pub fn auto_select_strategy(weights: &[i8], config: &TernaryPackingConfig) -> TernaryPackingStrategy {
        let candidates = candidates(weights, config).unwrap_or_default();
        best(&candidates, config).unwrap_or(Strategy::Uncompressed)
    }
}

#[derive(Debug)]
struct StrategyPacker(Strategy);

impl TernaryPacker for StrategyPacker {
    fn strategy(&self) -> Strategy {
        self.0
    }

    fn pack(&self, weights: &[i8], config: &TernaryPackingConfig) -> Result<TernaryPackedWeights, PackError> {
        let mut writer = TernaryPackWriter::new(self.0, config)?;
        writer.push(weights)?;
        Ok(writer.finish())
    }

    fn is_suitable(&self, weights: &[i8], config: &TernaryPackingConfig) -> bool {
        let Ok(kernels) = Kernels::select() else { return false };
        (kernels.flat.find_odd)(weights).is_none()
            && match self.0 {
                Strategy::Uncompressed | Strategy::ByteAligned => true,
                strategy => select::size(strategy, kernels, weights, config) <= weights.len().div_ceil(4),
            }
    }
}
