//! `Hybrid`: the smallest of four forms, block by block.
//!
//! A chunk begins with a byte `k`, an index into [`BLOCKS`]: the values of each of its blocks but the last, which holds the
//! rest. A block is a tag and what it stands for:
//!
//! | tag | then |
//! |---|---|
//! | 0, 1, 2 | nothing: every value is -1, 0, +1 |
//! | 3 | the values in base 3 ([`flat_base3`]) |
//! | 4 | bitmap and signs ([`flat_sparse`]) |
//! | 5 | tokens ([`runs`]) |
//!
//! All of them end by themselves, so that no lengths are stored. The encoder takes the block size that is smallest for
//! the chunk, unless told one.

use bitnet_kernels::Kernels;

use super::codec::Fault;
use super::runs::{Bitmaps, Bits};
use super::{CHUNK, flat_base3, flat_sparse, runs, sparse};

/// Values that a block can have.
pub const BLOCKS: [usize; 3] = [CHUNK, CHUNK / 4, CHUNK / 16];

const BASE3: u8 = 3;
const SPARSE: u8 = 4;
const RUNS: u8 = 5;

/// Appends a chunk.
pub(crate) fn encode(kernels: &Kernels, values: &[i8], block: Option<usize>, out: &mut Vec<u8>) {
    let index = block.and_then(|block| BLOCKS.iter().position(|&size| size == block));
    let start = out.len();
    let (bits, mut trial) = (Bitmaps::of(kernels, values), Vec::new());
    for k in index.map_or(0..BLOCKS.len(), |k| k..k + 1) {
        trial.clear();
        trial.push(k as u8);
        for (index, values) in values.chunks(BLOCKS[k]).enumerate() {
            encode_block(kernels, values, bits.part(index * BLOCKS[k], values.len()), &mut trial);
        }
        if out.len() == start || trial.len() < out.len() - start {
            out.truncate(start);
            out.extend_from_slice(&trial);
        }
    }
}

fn encode_block(kernels: &Kernels, values: &[i8], bits: Bits<'_>, out: &mut Vec<u8>) {
    let (there, negative) = (kernels.flat.count)(values);
    let constant = match (there, negative) {
        (0, _) => Some(1),
        (all, 0) if all == values.len() => Some(2),
        (_, all) if all == values.len() => Some(0),
        _ => None,
    };
    if let Some(tag) = constant {
        out.push(tag);
        return;
    }
    let base3 = flat_base3::packed_len(values.len());
    let bitmap = flat_sparse::packed_len(values.len(), there);
    let start = out.len();
    // Runs cost nearly a byte a value at worst; they are tried where they may pay, and taken back when they do not.
    if bits.tokens_at_least() <= base3.min(bitmap) {
        out.push(RUNS);
        runs::encode(values, bits, out);
        if out.len() - start - 1 <= base3.min(bitmap) {
            return;
        }
        out.truncate(start);
    }
    if bitmap < base3 {
        out.push(SPARSE);
        sparse::encode(kernels, values, out);
    } else {
        out.push(BASE3);
        out.resize(start + 1 + base3, 0);
        (kernels.flat.pack_base3)(values, &mut out[start + 1..]);
    }
}

/// Unpacks a chunk and returns the bytes that it took.
pub(crate) fn decode(kernels: &Kernels, bytes: &[u8], out: &mut [i8]) -> Result<usize, Fault> {
    let Some(&size) = bytes.first().and_then(|&k| BLOCKS.get(usize::from(k))) else {
        return Err(Fault::new(0, "index 0, 1 or 2 of a block size"));
    };
    let mut at = 1;
    for out in out.chunks_mut(size) {
        let Some((&tag, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) else {
            return Err(Fault::short(at));
        };
        at += 1;
        at += match tag {
            0..=2 => {
                out.fill(tag as i8 - 1);
                0
            }
            BASE3 => {
                let len = flat_base3::packed_len(out.len());
                let Some(packed) = rest.get(..len) else { return Err(Fault::short(bytes.len())) };
                if let Some(offset) = flat_base3::find_invalid(packed, out.len()) {
                    return Err(Fault::new(at + offset, "five digits, and 1 past the last weight"));
                }
                (kernels.flat.unpack_base3)(packed, out);
                len
            }
            SPARSE => {
                sparse::decode(kernels.flat.unpack_sparse, rest, out).map_err(|fault| fault.moved(at))?
            }
            RUNS => runs::decode(rest, out).map_err(|fault| fault.moved(at))?,
            _ => return Err(Fault::new(at - 1, "tag 0 to 5 of a block")),
        };
    }
    Ok(at)
}
