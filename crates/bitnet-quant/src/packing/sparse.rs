//! Chunks of the layout [`flat_sparse`]: the bitmap, then the signs.

use bitnet_kernels::Kernels;

use super::codec::Fault;
use super::flat_sparse::{bitmap_len, count};

/// Appends a chunk.
pub(crate) fn encode(kernels: &Kernels, values: &[i8], out: &mut Vec<u8>) {
    let (start, len) = (out.len(), bitmap_len(values.len()));
    out.resize(start + 2 * len, 0);
    let (bitmap, signs) = out[start..].split_at_mut(len);
    let bits = (kernels.flat.pack_sparse)(values, bitmap, signs);
    out.truncate(start + len + bits.div_ceil(8));
}

/// Unpacks a chunk by `unpack`, a kernel of the layout, and returns the bytes that it took.
pub(crate) fn decode(
    unpack: fn(bitmap: &[u8], signs: &[u8], out: &mut [i8]),
    bytes: &[u8],
    out: &mut [i8],
) -> Result<usize, Fault> {
    let len = bitmap_len(out.len());
    let Some((bitmap, rest)) = bytes.split_at_checked(len) else { return Err(Fault::short(bytes.len())) };
    if let (Some(&last), bits @ 1..) = (bitmap.last(), out.len() % 8)
        && last >> bits != 0
    {
        return Err(Fault::new(len - 1, "clear bits past the last weight"));
    }
    let bits = count(bitmap);
    let Some(signs) = rest.get(..bits.div_ceil(8)) else { return Err(Fault::short(bytes.len())) };
    if let (Some(&last), used @ 1..) = (signs.last(), bits % 8)
        && last >> used != 0
    {
        return Err(Fault::new(len + signs.len() - 1, "clear bits past the last sign"));
    }
    unpack(bitmap, signs, out);
    Ok(len + signs.len())
}
