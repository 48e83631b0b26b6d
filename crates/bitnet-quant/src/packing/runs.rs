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
//! about `1 - p` bytes each: 8.5 times less than a byte a weight from 88 % zeros on, 12.3 times from 92 %.

use super::codec::Fault;

const SHORT_RUN: usize = 31;
const LONG_RUN: usize = 32;
/// Zeros that a value's own token can hold.
const BEFORE: usize = 62;

/// Appends the tokens of ternary values.
pub(crate) fn encode(values: &[i8], out: &mut Vec<u8>) {
    let mut at = 0;
    loop {
        let zeros = zeros(&values[at..]);
        at += zeros;
        let Some(&value) = values.get(at) else {
            run(1, zeros, out);
            return;
        };
        let sign = u8::from(value < 0);
        let rest = skip(zeros, out);
        let same = equal(&values[at..], value);
        if rest == 0 && same > 1 {
            run((value + 1) as u8, same, out);
            at += same;
        } else {
            out.push((rest as u8) << 1 | sign);
            at += 1;
        }
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
