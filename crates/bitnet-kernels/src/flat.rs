//! The kernels of flat packed sequences, and of the passes that make them.

use crate::layout::{flat_base3, flat_sparse, flat_two_bit};
use crate::scalar::flat;

/// Packing and unpacking of one tier. Contracts and shapes stand at the functions of [`layout`](crate::layout) and of
/// [`scalar::flat`](crate::scalar::flat).
#[derive(Debug, Clone, Copy)]
#[expect(clippy::type_complexity, reason = "the names of the arguments say more than an alias would")]
pub struct FlatKernels {
    /// [`flat_two_bit::unpack`].
    pub unpack_two_bit: fn(packed: &[u8], out: &mut [i8]),
    /// [`flat_two_bit::pack`].
    pub pack_two_bit: fn(values: &[i8], out: &mut [u8]),
    /// [`flat_base3::unpack`].
    pub unpack_base3: fn(packed: &[u8], out: &mut [i8]),
    /// [`flat_base3::pack`].
    pub pack_base3: fn(values: &[i8], out: &mut [u8]),
    /// [`flat_two_bit::unpack`] past the caches, where `out` begins at a multiple of 16 bytes. `None` on tiers that write
    /// past them by `stream` alone, or not at all.
    pub stream_two_bit: Option<fn(packed: &[u8], out: &mut [i8])>,
    /// [`flat_base3::unpack`], as `stream_two_bit`.
    pub stream_base3: Option<fn(packed: &[u8], out: &mut [i8])>,
    /// [`flat_sparse::unpack`].
    pub unpack_sparse: fn(bitmap: &[u8], signs: &[u8], out: &mut [i8]),
    /// [`flat_sparse::unpack`], as `stream_two_bit`.
    pub stream_sparse: Option<fn(bitmap: &[u8], signs: &[u8], out: &mut [i8])>,
    /// [`flat_sparse::pack`].
    pub pack_sparse: fn(values: &[i8], bitmap: &mut [u8], signs: &mut [u8]) -> usize,
    /// [`flat::bitmaps`].
    pub bitmaps: fn(values: &[i8], there: &mut [u64], negative: &mut [u64]),
    /// [`flat::find_odd`].
    pub find_odd: fn(values: &[i8]) -> Option<usize>,
    /// [`flat::count`].
    pub count: fn(values: &[i8]) -> (usize, usize),
    /// [`flat::stream`].
    pub stream: fn(pieces: &mut dyn flat::Pieces, out: &mut [i8]) -> usize,
    /// Whether `stream` writes past the caches.
    pub streams: bool,
    /// [`flat::add_magnitudes`].
    pub add_magnitudes: fn(rows: [&[f32]; 4], sums: &mut [[f64; 8]; 4]),
    /// [`flat::pack_quarters`].
    pub pack_quarters: fn(rows: [&[f32]; 4], inverse: f32, out: &mut [u8]),
    /// [`flat::ternary`].
    pub ternary: fn(weights: &[f32], inverse: f32, out: &mut [i8]),
}

/// The scalar text.
pub(crate) const SCALAR: FlatKernels = FlatKernels {
    unpack_two_bit: flat_two_bit::unpack,
    pack_two_bit: flat_two_bit::pack,
    unpack_base3: flat_base3::unpack,
    pack_base3: flat_base3::pack,
    stream_two_bit: None,
    stream_base3: None,
    unpack_sparse: flat_sparse::unpack,
    stream_sparse: None,
    pack_sparse: flat_sparse::pack,
    bitmaps: flat::bitmaps,
    find_odd: flat::find_odd,
    count: flat::count,
    stream: flat::stream,
    streams: false,
    add_magnitudes: flat::add_magnitudes,
    pack_quarters: flat::pack_quarters,
    ternary: flat::ternary,
};
