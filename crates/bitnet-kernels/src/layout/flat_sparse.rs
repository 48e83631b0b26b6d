//! Flat bitmap and signs: one bit a value, and one more for each that is not zero.
//!
//! `n` values take a bitmap of `ceil(n / 8)` bytes, bit `i % 8` of byte `i / 8` set where value `i` is not zero, and
//! then one sign bit for each set bit in the order of the values, 1 for -1, lowest bit first, in `ceil(k / 8)`
//! bytes for `k` non-zero values. Bits past the last are 0. At 50 % zeros this is 1.5 bits a value, the entropy of such
//! values; it is never below one.

/// Returns the bytes of the bitmap.
pub const fn bitmap_len(values: usize) -> usize {
    values.div_ceil(8)
}

/// Returns the packed size in bytes of `values` values of which `there` are not zero.
pub const fn packed_len(values: usize, there: usize) -> usize {
    bitmap_len(values) + there.div_ceil(8)
}

/// Counts the set bits of a bitmap.
#[inline(always)]
pub fn count(bitmap: &[u8]) -> usize {
    let (words, rest) = bitmap.as_chunks::<8>();
    let words = words.iter().map(|&word| u64::from_le_bytes(word).count_ones() as usize);
    words.sum::<usize>() + rest.iter().map(|byte| byte.count_ones() as usize).sum::<usize>()
}

/// Returns up to 32 sign bits from bit `at` on; those past the end are 0, those above the 32nd unspecified.
#[inline(always)]
pub fn sign_bits(signs: &[u8], at: usize) -> u64 {
    let first = at / 8;
    let word = match signs.get(first..first + 8) {
        Some(bytes) => u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8])),
        None => {
            let mut padded = [0; 8];
            let rest = signs.get(first..).unwrap_or(&[]);
            padded[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(padded)
        }
    };
    word >> (at % 8)
}

/// Returns 64 sign bits from bit `at` on; those past the end are 0.
#[inline(always)]
pub fn sign_word(signs: &[u8], at: usize) -> u64 {
    let first = at / 8;
    let bytes: [u8; 9] = match signs.get(first..first + 9) {
        Some(bytes) => bytes.try_into().unwrap_or([0; 9]),
        None => {
            let mut padded = [0; 9];
            let rest = signs.get(first..).unwrap_or(&[]);
            padded[..rest.len()].copy_from_slice(rest);
            padded
        }
    };
    let [low @ .., high] = bytes;
    u64::from_le_bytes(low) >> (at % 8) | u64::from(high) << 1 << (63 - at % 8)
}

/// For each byte of a bitmap, which of the next sign bits each of its values has; 0x80 for a zero.
pub static PLACES: [[u8; 8]; 256] = {
    let mut table = [[0x80; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut rank) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][bit] = rank;
                rank += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// For each byte of signs, the eight values: 1 for a clear bit, -1 for a set one.
pub static VALUES: [[i8; 8]; 256] = {
    let mut table = [[1; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][bit] = -1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Unpacks `out.len()` values. Sign bits that are missing count as 0.
///
/// # Panics
/// When `bitmap` is not [`bitmap_len`] long.
#[inline(always)]
pub fn unpack(bitmap: &[u8], signs: &[u8], out: &mut [i8]) {
    assert_eq!(bitmap.len(), bitmap_len(out.len()), "bitmap of {} values", out.len());
    unpack_from(bitmap, signs, 0, out);
}

/// Unpacks values whose first sign bit is bit `at`.
#[inline(always)]
pub fn unpack_from(bitmap: &[u8], signs: &[u8], mut at: usize, out: &mut [i8]) {
    let (eights, rest) = out.as_chunks_mut::<8>();
    for (out, &byte) in eights.iter_mut().zip(bitmap) {
        let values = &VALUES[(sign_bits(signs, at) & 0xff) as usize];
        let places = &PLACES[usize::from(byte)];
        for i in 0..8 {
            let there = i8::from(places[i] < 0x80);
            out[i] = values[usize::from(places[i] & 7)] * there;
        }
        at += byte.count_ones() as usize;
    }
    if let (Some(&byte), false) = (bitmap.get(eights.len()), rest.is_empty()) {
        let values = &VALUES[(sign_bits(signs, at) & 0xff) as usize];
        for (out, &place) in rest.iter_mut().zip(&PLACES[usize::from(byte)]) {
            *out = if place < 0x80 { values[usize::from(place)] } else { 0 };
        }
    }
}

/// Packs values that are all -1, 0 or +1 and returns the number of sign bits.
///
/// # Panics
/// When `bitmap` or `signs` is not [`bitmap_len`] long: signs take at most as much as the bitmap.
#[inline(always)]
pub fn pack(values: &[i8], bitmap: &mut [u8], signs: &mut [u8]) -> usize {
    let mut writer = SignWriter::new(signs);
    pack_into(values, bitmap, &mut writer);
    writer.finish()
}

/// Packs a part of a sequence.
#[inline(always)]
pub fn pack_into(values: &[i8], bitmap: &mut [u8], signs: &mut SignWriter<'_>) {
    assert_eq!(bitmap.len(), bitmap_len(values.len()), "bitmap of {} values", values.len());
    for (values, byte) in values.chunks(8).zip(bitmap) {
        let mut word = [0u8; 8];
        word.iter_mut().zip(values).for_each(|(byte, &value)| *byte = value as u8);
        let word = u64::from_le_bytes(word);
        // Both non-zero values have bit 0 set; the product gathers one bit of each byte at the top.
        let gather =
            |bits: u64| ((bits & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
        let (there, negative) = (gather(word), gather(word >> 7));
        *byte = there;
        let places = &PLACES[usize::from(there)];
        let mut bits = 0u64;
        for (i, place) in places.iter().enumerate() {
            bits |= u64::from(negative >> i & u8::from(*place < 0x80)) << (place & 7);
        }
        signs.push(bits, there.count_ones());
    }
}

/// Gathers sign bits into bytes.
#[derive(Debug)]
pub struct SignWriter<'a> {
    out: &'a mut [u8],
    at: usize,
    buffer: u64,
    fill: u32,
    total: usize,
}

impl<'a> SignWriter<'a> {
    /// Starts at bit 0 of `out`.
    pub fn new(out: &'a mut [u8]) -> Self {
        SignWriter { out, at: 0, buffer: 0, fill: 0, total: 0 }
    }

    /// Appends `count <= 32` bits; higher ones are 0.
    ///
    /// # Panics
    /// When the bits do not fit the slice.
    #[inline(always)]
    pub fn push(&mut self, bits: u64, count: u32) {
        self.buffer |= bits << self.fill;
        self.fill += count;
        self.total += count as usize;
        if self.fill >= 32 {
            self.out[self.at..self.at + 4].copy_from_slice(&(self.buffer as u32).to_le_bytes());
            self.at += 4;
            self.buffer >>= 32;
            self.fill -= 32;
        }
    }

    /// Writes what is left and returns the number of bits.
    ///
    /// # Panics
    /// When the bits do not fit the slice.
    #[inline(always)]
    pub fn finish(self) -> usize {
        let bytes = (self.fill as usize).div_ceil(8);
        self.out[self.at..self.at + bytes].copy_from_slice(&self.buffer.to_le_bytes()[..bytes]);
        self.total
    }
}
