//! Conversion of elements from one type to another: of tensors, of streams, of the elements of a checkpoint.
//!
//! [`ConversionEngine`] is the door. What a conversion computes is decided by the [`ConversionStrategy`] of its
//! [`ConversionConfig`], how it is computed by the other fields; `docs/conversion.md` has the mathematics.
//!
//! From the inside out: `number` turns blocks of one type into numbers and back, `cast` is a conversion with
//! everything decided, `scale` decides the scale, `source` is where elements come from (memory, a strided view, an
//! earlier conversion), `fill` writes a range of them on all cores. On these stand the ways of the engine: to a new
//! tensor, in place (`in_place`), through a bounded buffer ([`streaming`]), several at a time, and chains (`pipeline`).
//! Nothing here holds a whole intermediate.

mod cast;
mod config;
mod engine;
mod fill;
mod in_place;
mod number;
mod pipeline;
mod reinterpret;
mod scale;
mod source;
mod statistics;
pub mod streaming;

pub use config::{Arithmetic, ConversionConfig, ConversionStrategy};
pub use engine::{ConversionEngine, machine_order, to_file_order};
pub use in_place::Placement;
pub(crate) use number::{narrow_odd, narrow_odd_integer};
pub use pipeline::ConversionPipeline;
pub use statistics::{ConversionStats, ErrorFigures, StrategyStats};
pub use streaming::Streaming;
