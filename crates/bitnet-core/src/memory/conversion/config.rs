//! What a conversion computes, and how.

use std::fmt;

/// What a conversion computes where the target cannot hold every value. See `docs/conversion.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ConversionStrategy {
    /// The nearest value of the target, ties to even: floats overflow to infinity, integers saturate, NaN becomes
    /// integer 0.
    #[default]
    Direct,
    /// A scale for the tensor: the greatest magnitude over the greatest code for `i8` and `i4`, the mean magnitude for
    /// ternary types, and for `f16` the least power of two at which nothing overflows. Other targets as `Direct`.
    Scaled,
    /// The scale of least squared error for `i8`, `i4` and ternary types, which may clip; other targets as `Direct`.
    QuantizationAware,
    /// One of the two neighbours, the nearer one more probably, so that the expected result is the value: floats, and
    /// integers with the scale of the greatest magnitude for `i8`, `i4` and ternary types.
    StochasticRounding,
}

impl ConversionStrategy {
    /// Every strategy.
    pub const ALL: [ConversionStrategy; 4] = [
        ConversionStrategy::Direct,
        ConversionStrategy::Scaled,
        ConversionStrategy::QuantizationAware,
        ConversionStrategy::StochasticRounding,
    ];

    /// Returns the lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            ConversionStrategy::Direct => "direct",
            ConversionStrategy::Scaled => "scaled",
            ConversionStrategy::QuantizationAware => "quantization-aware",
            ConversionStrategy::StochasticRounding => "stochastic-rounding",
        }
    }
}

impl fmt::Display for ConversionStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Arithmetic of the strategies that have a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Arithmetic {
    /// A value is multiplied by the reciprocal of the scale in f32: two roundings before that to an integer, so that a
    /// value within a few units in the last place of a tie may go the other way.
    #[default]
    Single,
    /// A value is divided by the scale in f64, so that its code is the nearest one.
    Double,
}

/// How tensors are converted.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversionConfig {
    /// What is computed.
    pub strategy: ConversionStrategy,
    /// Whether scales are part of tensors: that of the source is multiplied in, that of the result is stated in its
    /// metadata. Without it stored numbers are converted as they are, and results state no scale.
    pub preserve_metadata: bool,
    /// Whether results are read back: errors are measured, and values that the target cannot hold (overflow,
    /// saturation without a scale, NaN and infinity on the way to an integer) are refused by element.
    pub validate_results: bool,
    /// Arithmetic of scales.
    pub arithmetic: Arithmetic,
    /// Whether large conversions run on all cores.
    pub parallel: bool,
    /// Bytes of source that a thread takes at a time; in-place conversions and pipelines hold no more beside the
    /// tensors.
    pub chunk_bytes: usize,
    /// Whether [`convert_owned`](super::ConversionEngine::convert_owned) works in the memory of its source.
    pub prefer_in_place: bool,
    /// Bytes of output from which on it is written past the caches, where the processor can.
    pub past_caches_from: usize,
    /// Seed of stochastic rounding: a result depends on it and on the index of the element, on nothing else.
    pub seed: u64,
}

impl ConversionConfig {
    /// Balanced: all cores, chunks of 1 MiB, f32 arithmetic. The default.
    pub fn balanced() -> Self {
        ConversionConfig {
            strategy: ConversionStrategy::Direct,
            preserve_metadata: true,
            validate_results: false,
            arithmetic: Arithmetic::Single,
            parallel: true,
            chunk_bytes: 1 << 20,
            prefer_in_place: false,
            past_caches_from: 8 << 20,
            seed: 0,
        }
    }

    /// For speed: [`balanced`](Self::balanced) with chunks of 256 KiB, so that all cores take part from smaller tensors
    /// on.
    pub fn high_performance() -> Self {
        ConversionConfig { chunk_bytes: 256 << 10, ..Self::balanced() }
    }

    /// For little memory: in the memory of the source where that is given up, through chunks of 64 KiB on one thread.
    pub fn low_memory() -> Self {
        ConversionConfig { parallel: false, chunk_bytes: 64 << 10, prefer_in_place: true, ..Self::balanced() }
    }

    /// For small errors: the scale of least squared error, f64 arithmetic, every result read back.
    pub fn high_precision() -> Self {
        ConversionConfig {
            strategy: ConversionStrategy::QuantizationAware,
            validate_results: true,
            arithmetic: Arithmetic::Double,
            ..Self::balanced()
        }
    }

    /// The same with another strategy.
    pub fn with_strategy(self, strategy: ConversionStrategy) -> Self {
        ConversionConfig { strategy, ..self }
    }
}

impl Default for ConversionConfig {
    /// As [`balanced`](ConversionConfig::balanced).
    fn default() -> Self {
        Self::balanced()
    }
}
