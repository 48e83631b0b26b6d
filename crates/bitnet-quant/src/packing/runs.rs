//! `RunLengthEncoded`: byte tokens for sparse values and for runs.
//!
//! A chunk is a sequence of tokens that describe its values in order, exactly as many as it has:
//!
//! ```text
//! 0zzzzzzs   z = 0..=62 zeros, then one value: +1 for s = 0, -1 for s = 1
//! 0111111s   63 zeros for s = 0, 126 for s = 1, and no value
//! 1vvnnnnn   n + 1 = 1..=31 times the value v - 1, v = 0, 1, 2
//! 1vv11111   two more bytes, a little-endian u16 m: 32 + m times the value
//! ```
//!
//! A value that is not zero costs one byte wherever zeros stand between, so that values with a share `p` of zeros take
//! about `1 - p` bytes each: 8.5 times less than a byte a weight from 88.5 % zeros on, 12.3 times from 92.2 %.

use bitnet_kernels::Kernels;

use super::codec::Fault;

const SHORT_RUN: usize = 31;
const LONG_RUN: usize = 32;
/// Zeros that a value's own token can hold.
const BEFORE: usize = 62;

/// Bits of ternary values, `i % 64` of word `i / 64`.
#[derive(Debug, Default)]
pub(crate) struct Bitmaps {
    there: Vec<u64>,
    negative: Vec<u64>,
}

impl Bitmaps {
    /// Reads the bits of values.
    pub(crate) fn of(kernels: &Kernels, values: &[i8]) -> Self {
        let words = values.len().div_ceil(64);
        let mut bits = Bitmaps { there: vec![0; words], negative: vec![0; words] };
        (kernels.flat.bitmaps)(values, &mut bits.there, &mut bits.negative);
        bits
    }

    /// Returns the bits of `len` values from value `first` on, a multiple of 64.
    pub(crate) fn part(&self, first: usize, len: usize) -> Bits<'_> {
        let words = first / 64..(first + len).div_ceil(64);
        Bits { there: &self.there[words.clone()], negative: &self.negative[words] }
    }
}

/// Bits of a part of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bits<'a> {
    there: &'a [u64],
    negative: &'a [u64],
}

impl Bits<'_> {
    /// Returns 64 bits of each from value `at` on; those past the end are 0.
    fn window(&self, at: usize) -> (u64, u64) {
        let word = |words: &[u64]| {
            let (low, high) = (words.get(at / 64), words.get(at / 64 + 1));
            low.map_or(0, |low| low >> (at % 64)) | high.map_or(0, |high| high << 1 << (63 - at % 64))
        };
        (word(self.there), word(self.negative))
    }

    /// Returns bytes that the tokens of the values take at least: one for each value that begins a token.
    pub(crate) fn tokens_at_least(&self) -> usize {
        // The last value of the word before: whether it is there, is -1, and is a token alone.
        let (mut there, mut negative, mut alone) = (0, 0, 0);
        let (mut count, mut first) = (0, 1);
        for (&t, &n) in self.there.iter().zip(self.negative) {
            let (t_before, n_before) = (t << 1 | there, n << 1 | negative);
            let same = t & t_before & !(n ^ n_before);
            let after_zero = t & !same & !t_before & !first;
            count += ((t & !same) | (same & (after_zero << 1 | alone))).count_ones() as usize;
            (there, negative, alone, first) = (t >> 63, n >> 63, after_zero >> 63, 0);
        }
        count
    }
}

/// Appends the tokens of ternary values, whose bits are given.
pub(crate) fn encode(values: &[i8], bits: Bits<'_>, out: &mut Vec<u8>) {
    let mut at = 0;
    while at < values.len() {
        at = match window(bits, at, out) {
            0 => token(values, at, out),
            taken => at + taken,
        };
    }
}

/// Appends the tokens that begin and end within 64 values from `at` on, where a token begins, and returns the values that
/// they stand for: none where the first is longer.
fn window(bits: Bits<'_>, at: usize, out: &mut Vec<u8>) -> usize {
    let (there, negative) = bits.window(at);
    let same = there & there << 1 & !(negative ^ negative << 1);
    // A value after zeros is a token with them; one after it and alike begins a run.
    let after_zero = there & !same & !(there << 1) & !1;
    let begins = (there & !same) | (same & after_zero << 1);
    let ends = begins | !there;
    let last = 63 - (ends | 1).leading_zeros();
    let mut left = begins & ((1 << last) - 1);
    let (mut tokens, mut count, mut taken) = ([0u8; 64], 0, 0);
    while left != 0 {
        let place = left.trailing_zeros();
        left &= left - 1;
        let length = (ends >> 1 >> place).trailing_zeros() + 1;
        if length > SHORT_RUN as u32 {
            break;
        }
        // Tokens follow each other: what lies between two is zero.
        let zeros = place - taken;
        let sign = negative >> place & 1;
        let alone = zeros << 1 | sign as u32;
        let run = 0x80 | (2 - 2 * sign as u32) << 5 | (length - 1);
        tokens[count] = if length > 1 { run } else { alone } as u8;
        count += 1;
        taken = place + length;
    }
    // A copy of one size is a few stores; what is too much is taken back.
    let end = out.len() + count;
    out.extend_from_slice(&tokens);
    out.truncate(end);
    taken as usize
}

/// Appends the tokens up to the next value's, or the zeros that are left, and returns where they end.
fn token(values: &[i8], mut at: usize, out: &mut Vec<u8>) -> usize {
    let zeros = zeros(&values[at..]);
    at += zeros;
    let Some(&value) = values.get(at) else {
        run(1, zeros, out);
        return at;
    };
    let rest = skip(zeros, out);
    let same = equal(&values[at..], value);
    if rest == 0 && same > 1 {
        run((value + 1) as u8, same, out);
        at + same
    } else {
        out.push((rest as u8) << 1 | u8::from(value < 0));
        at + 1
    }
}

/// Counts the zeros at the front.
fn zeros(values: &[i8]) -> usize {
    let (words, rest) = values.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(word.map(|value| value as u8));
        if word != 0 {
            return index * 8 + word.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().take_while(|&&value| value == 0).count()
}

fn equal(values: &[i8], to: i8) -> usize {
    values.iter().take_while(|&&value| value == to).count()
}

/// Writes tokens for zeros until at most as many are left as a value's token holds.
fn skip(mut zeros: usize, out: &mut Vec<u8>) -> usize {
    if zeros > BEFORE + 3 * 126 {
        run(1, zeros, out);
        return 0;
    }
    while zeros >= 126 {
        out.push(0x7f);
        zeros -= 126;
    }
    if zeros > BEFORE {
        out.push(0x7e);
        zeros -= 63;
    }
    zeros
}

fn run(code: u8, mut length: usize, out: &mut Vec<u8>) {
    while length > 0 {
        let now = length.min(LONG_RUN + usize::from(u16::MAX));
        if now <= SHORT_RUN {
            out.push(0x80 | code << 5 | (now - 1) as u8);
        } else {
            let [low, high] = ((now - LONG_RUN) as u16).to_le_bytes();
            out.extend([0x80 | code << 5 | SHORT_RUN as u8, low, high]);
        }
        length -= now;
    }
}

/// Unpacks `out.len()` values and returns the bytes that they took.
pub(crate) fn decode(bytes: &[u8], out: &mut [i8]) -> Result<usize, Fault> {
    out.fill(0);
    let (mut at, mut next) = (0, 0);
    while at < out.len() {
        let start = next;
        let Some(&token) = bytes.get(next) else { return Err(Fault::short(next)) };
        next += 1;
        let past_end = Fault::new(start, "a run within the chunk");
        if token < 0x7e {
            at += usize::from(token >> 1);
            *out.get_mut(at).ok_or(past_end)? = 1 - 2 * (token & 1) as i8;
            at += 1;
        } else if token < 0x80 {
            at += 63 << (token & 1);
        } else {
            let (code, mut length) = (token >> 5 & 3, usize::from(token & 31) + 1);
            if code == 3 {
                return Err(Fault::new(start, "value 0, 1 or 2 of a run"));
            }
            if length > SHORT_RUN {
                let Some(&[low, high]) = bytes.get(next..next + 2) else { return Err(Fault::short(next)) };
                length = LONG_RUN + usize::from(u16::from_le_bytes([low, high]));
                next += 2;
            }
            let run = out.get_mut(at..at + length).ok_or(past_end)?;
            if code != 1 {
                run.fill(code as i8 - 1);
            }
            at += length;
        }
        if at > out.len() {
            return Err(past_end);
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with a share of zeros, runs of what came before with another, from a seed.
    fn values(len: usize, zeros: u64, repeats: u64, mut state: u64) -> Vec<i8> {
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 20
        };
        let mut before = 0;
        let mut value = || {
            if next() % 100 >= repeats {
                before = if next() % 100 < zeros { 0 } else { 1 - 2 * (next() % 2) as i8 };
            }
            before
        };
        (0..len).map(|_| value()).collect()
    }

    #[test]
    fn tokens_of_windows_are_the_tokens_one_by_one_and_no_fewer_than_their_bound() {
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        for zeros in [0, 10, 33, 50, 80, 95, 99, 100] {
            for repeats in [0, 50, 90, 97, 99] {
                for len in [1, 63, 64, 65, 127, 960, 3001] {
                    seed = seed.wrapping_mul(3) | 1;
                    let values = values(len, zeros, repeats, seed);
                    let (mut expected, mut at) = (Vec::new(), 0);
                    while at < len {
                        at = token(&values, at, &mut expected);
                    }
                    let bits = Bitmaps::of(Kernels::select().unwrap(), &values);
                    let bits = bits.part(0, len);
                    let mut found = Vec::new();
                    encode(&values, bits, &mut found);
                    assert_eq!(found, expected, "{zeros} {repeats} {len}");
                    assert!(bits.tokens_at_least() <= found.len(), "{zeros} {repeats} {len}");
                }
            }
        }
    }
}
