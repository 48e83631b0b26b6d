//! What chunks of variable size have in common.

use bitnet_kernels::Kernels;

use super::{Strategy, entropy, hybrid, runs, sparse};

/// Bytes that a decoder cannot accept: where, and what may stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Offset from the start of the chunk.
    pub offset: usize,
    /// What may stand there.
    pub expected: &'static str,
}

impl Fault {
    pub(crate) fn new(offset: usize, expected: &'static str) -> Self {
        Fault { offset, expected }
    }

    pub(crate) fn short(offset: usize) -> Self {
        Fault::new(offset, "more bytes of the chunk")
    }

    pub(crate) fn moved(self, by: usize) -> Self {
        Fault { offset: self.offset + by, ..self }
    }
}

/// Memory that decoders use again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Values of a chunk.
    pub values: Vec<i8>,
    /// The entropy decoder's tables and bytes.
    pub entropy: entropy::Tables,
}

/// Appends a chunk of ternary values to `out`.
pub(crate) fn encode(
    strategy: Strategy,
    kernels: &Kernels,
    values: &[i8],
    hybrid_block: Option<usize>,
    out: &mut Vec<u8>,
) {
    match strategy {
        Strategy::CompressedSparse => sparse::encode(kernels, values, out),
        Strategy::RunLengthEncoded => {
            let bits = runs::Bitmaps::of(kernels, values);
            runs::encode(values, bits.part(0, values.len()), out);
        }
        Strategy::Hybrid => hybrid::encode(kernels, values, hybrid_block, out),
        Strategy::EntropyCoded => entropy::encode(kernels, values, out),
        _ => fixed_encode(strategy, kernels, values, out),
    }
}

/// Unpacks a chunk that takes all of `bytes`.
pub(crate) fn decode(
    strategy: Strategy,
    kernels: &Kernels,
    bytes: &[u8],
    tables: &mut entropy::Tables,
    out: &mut [i8],
) -> Result<(), Fault> {
    let taken = match strategy {
        Strategy::CompressedSparse => sparse::decode(kernels.flat.unpack_sparse, bytes, out)?,
        Strategy::RunLengthEncoded => runs::decode(bytes, out)?,
        Strategy::Hybrid => hybrid::decode(kernels, bytes, out)?,
        Strategy::EntropyCoded => entropy::decode(kernels, bytes, tables, out)?,
        _ => {
            fixed_decode(strategy, kernels, bytes, out);
            bytes.len()
        }
    };
    match taken == bytes.len() {
        true => Ok(()),
        false => Err(Fault::new(taken, "the end of the chunk")),
    }
}

fn fixed_encode(strategy: Strategy, kernels: &Kernels, values: &[i8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + strategy.fixed_len(values.len()).unwrap_or(0), 0);
    let out = &mut out[start..];
    match strategy {
        Strategy::BitPacked2Bit => (kernels.flat.pack_two_bit)(values, out),
        Strategy::Base3Packed => (kernels.flat.pack_base3)(values, out),
        Strategy::ByteAligned => super::byte_aligned::pack(kernels, values, out),
        _ => out.iter_mut().zip(values).for_each(|(out, &value)| *out = value as u8),
    }
}

/// Unpacks a packing of fixed size; `bytes` has that size.
pub(crate) fn fixed_decode(strategy: Strategy, kernels: &Kernels, bytes: &[u8], out: &mut [i8]) {
    match strategy {
        Strategy::BitPacked2Bit => (kernels.flat.unpack_two_bit)(bytes, out),
        Strategy::Base3Packed => (kernels.flat.unpack_base3)(bytes, out),
        Strategy::ByteAligned => super::byte_aligned::unpack(kernels, bytes, out),
        _ => out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = byte as i8),
    }
}

/// Finds the first byte of a packing of fixed size that packing does not write.
pub(crate) fn fixed_fault(
    strategy: Strategy,
    kernels: &Kernels,
    bytes: &[u8],
    values: usize,
) -> Option<Fault> {
    use super::{byte_aligned, flat_base3, flat_two_bit};
    let found = |offset: Option<usize>, expected| offset.map(|offset| Fault::new(offset, expected));
    match strategy {
        Strategy::BitPacked2Bit => {
            found(flat_two_bit::find_invalid(bytes, values), "codes 0, 1 or 2, and 1 past the last weight")
        }
        Strategy::Base3Packed => {
            found(flat_base3::find_invalid(bytes, values), "five digits, and 1 past the last weight")
        }
        Strategy::ByteAligned => byte_aligned::find_fault(kernels, bytes, values),
        _ => found(bytes.iter().position(|&byte| (byte as i8).wrapping_add(1) as u8 > 2), "-1, 0 or 1"),
    }
}
