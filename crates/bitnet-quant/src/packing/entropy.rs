//! `EntropyCoded`: asymmetric numeral systems over base-3 bytes, within 1 % of the entropy.
//!
//! A chunk of [`CHUNK`] values is packed in base 3 ([`flat_base3`]), and those bytes are the symbols: five
//! weights for one step of the decoder. A chunk is
//!
//! ```text
//! u16  share of -1 in 2^-16      u16  share of +1        u8  scale bits b, 12 to 16
//! u32 x 8  states, as the decoder begins                 u16 ...  words, all little-endian
//! ```
//!
//! Zeros have the remaining share; where that is 2^16 itself, both others are 0. A symbol's frequency out of `2^b` is the
//! product of the shares of its five digits, at least 1 where none is 0, by the integer rule of `Model::new`; symbols
//! follow each other by the number of -1, then of +1, then by number. Symbol `i` belongs to state `i mod 8`. To decode one
//! from state `x`: `slot = x mod 2^b` names the symbol; `x = freq (x >> b) + slot - start`; below `2^16`, `x` becomes
//! `x 2^16` + the next word. At the end of a chunk all words are used and all states are `2^16`, which is checked.
//!
//! The states of a chunk are 16 bytes more than their information, and no frequency is below `2^-16`: the size stays
//! within 1 % of the entropy up to 97 % zeros (`docs/performance.md`). Source: J. Duda, Asymmetric numeral systems (2013).

use bitnet_kernels::Kernels;

use super::codec::Fault;
use super::{CHUNK as SMALL, flat_base3};

/// Values of a chunk: many, so that the states weigh little.
pub const CHUNK: usize = 24 * SMALL;

const STATES: usize = 8;
/// The least value of a state between two symbols.
const LEAST: u32 = 1 << 16;
const HEADER: usize = 5 + 4 * STATES;
const SCALES: std::ops::RangeInclusive<u32> = 12..=16;

/// The frequencies of base-3 bytes, from the shares of the digits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    /// Shares of -1 and +1 in 2^-16.
    shares: [u16; 2],
    bits: u32,
    /// First slot and number of slots of each byte.
    symbols: Box<[[u32; 2]; 256]>,
}

/// Whether a symbol of this product out of `2^80` has the least frequency.
fn is_rare(product: u128, bits: u32) -> bool {
    product * ((1 << bits) - flat_base3::NUMBERS as u128) < 1 << 80
}

/// Numbers of digits 0 and 2 (values -1 and +1) that a symbol can have, and the symbols that do.
fn groups() -> impl Iterator<Item = (u32, u32)> {
    (0..=5).flat_map(|minus| (0..=5 - minus).map(move |plus| (minus, plus)))
}

/// The numbers below 243 with so many digits 0 and 2.
static MEMBERS: [[([u8; 30], usize); 6]; 6] = {
    let mut table = [[([0; 30], 0); 6]; 6];
    let mut number = 0;
    while number < 243 {
        let (mut rest, mut minus, mut plus, mut digit) = (number, 0, 0, 0);
        while digit < 5 {
            minus += (rest % 3 == 0) as usize;
            plus += (rest % 3 == 2) as usize;
            rest /= 3;
            digit += 1;
        }
        let (members, count) = &mut table[minus][plus];
        members[*count] = number as u8;
        *count += 1;
        number += 1;
    }
    table
};

impl Model {
    /// Builds the frequencies for shares `[minus, plus]` in 2^-16.
    ///
    /// With `P` the product of a symbol's five shares out of `2^80`: where `P (2^b - 243) < 2^80` the frequency is 1, or 0
    /// for `P = 0`. The others share the `T` slots that remain in proportion: `floor(P T / S)`, `S` the sum of their `P`;
    /// since `T >= 2^b - 243` this is at least 1. What is left goes one slot each to the symbols of the groups with
    /// the greatest remainders of that division, the first group among equals.
    fn new(shares: [u16; 2], bits: u32) -> Option<Model> {
        let [minus, plus] = shares.map(u128::from);
        let zero = (1u128 << 16).checked_sub(minus + plus)?;
        if !SCALES.contains(&bits) {
            return None;
        }
        let product = |m: u32, p: u32| minus.pow(m) * plus.pow(p) * zero.pow(5 - m - p);
        let size = |m: u32, p: u32| MEMBERS[m as usize][p as usize].1 as u128;
        let (mut sum, mut slots) = (0u128, 1u128 << bits);
        for (m, p) in groups() {
            match product(m, p) {
                0 => {}
                rare if is_rare(rare, bits) => slots -= size(m, p),
                common => sum += common * size(m, p),
            }
        }
        let mut frequency = [[0u32; 6]; 6];
        let mut remainders = Vec::with_capacity(21);
        let mut left = 1i64 << bits;
        for (m, p) in groups() {
            let (product, slot) = (product(m, p), &mut frequency[m as usize][p as usize]);
            if product > 0 {
                *slot = 1;
                if !is_rare(product, bits) {
                    *slot = (product * slots / sum) as u32;
                    remainders.push((product * slots % sum, m, p));
                }
            }
            left -= i64::from(*slot) * size(m, p) as i64;
        }
        remainders.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut model = Model { shares, bits, symbols: Box::new([[0; 2]; 256]) };
        let mut extra = [[0usize; 6]; 6];
        for &(_, m, p) in &remainders {
            let take = left.clamp(0, size(m, p) as i64);
            extra[m as usize][p as usize] = take as usize;
            left -= take;
        }
        if left != 0 {
            return None;
        }
        let mut start = 0;
        for (m, p) in groups() {
            let (members, count) = &MEMBERS[m as usize][p as usize];
            for (rank, &number) in members[..*count].iter().enumerate() {
                let more = u32::from(rank < extra[m as usize][p as usize]);
                let frequency = frequency[m as usize][p as usize] + more;
                model.symbols[usize::from(flat_base3::byte_of(number))] = [start, frequency];
                start += frequency;
            }
        }
        Some(model)
    }

    /// Chooses shares and scale for counts of -1, 0, +1.
    fn for_counts(counts: [u64; 3]) -> Model {
        let total = counts.iter().sum::<u64>().max(1);
        let share = |count: u64| match count {
            0 => 0,
            // A value that occurs needs a share, and leaves one to the others.
            _ => ((count as u128 * 65536 + u128::from(total) / 2) / u128::from(total)).clamp(1, 65534) as u16,
        };
        let mut shares = [share(counts[0]), share(counts[2])];
        let least_zero = u32::from(counts[1] > 0);
        let over = (u32::from(shares[0]) + u32::from(shares[1]) + least_zero).saturating_sub(65536) as u16;
        shares[usize::from(shares[1] > shares[0])] -= over;
        if counts[1] == 0 {
            // All of 2^16 is for the two others; one alone cannot have it in a u16, so zeros keep the least share.
            let rest = 65536 - u32::from(shares[0]) - u32::from(shares[1]);
            let larger = usize::from(shares[1] > shares[0]);
            shares[larger] = (u32::from(shares[larger]) + rest).min(65535) as u16;
        }
        let models = || SCALES.filter_map(|bits| Model::new(shares, bits));
        let cost = |model: &Model| model.bits_of(counts);
        let least = models().map(|model| cost(&model)).fold(f64::INFINITY, f64::min);
        models()
            .find(|model| cost(model) <= least * 1.001)
            .unwrap_or_else(|| unreachable!("shares {shares:?} are at most 2^16 together"))
    }

    /// Estimates the bits of values with these counts.
    fn bits_of(&self, counts: [u64; 3]) -> f64 {
        let total = counts.iter().sum::<u64>() as f64;
        let [minus, zero, plus] = counts.map(|count| count as f64 / total.max(1.0));
        let mut bits = 0.0;
        for (m, p) in groups() {
            let share = minus.powi(m as i32) * plus.powi(p as i32) * zero.powi(5 - (m + p) as i32);
            let (members, count) = &MEMBERS[m as usize][p as usize];
            for &number in &members[..*count] {
                let frequency = self.symbols[usize::from(flat_base3::byte_of(number))][1];
                if share > 0.0 {
                    bits += share * (f64::from(self.bits) - f64::from(frequency).log2());
                }
            }
        }
        bits * total / 5.0
    }
}

/// Returns the bytes that values with these counts of -1, 0, +1 take, chunk lengths included, within a few bytes a chunk.
pub(crate) fn estimate(counts: [u64; 3]) -> u64 {
    let values = counts.iter().sum::<u64>();
    let chunks = values.div_ceil(CHUNK as u64);
    // Half of a state is information already counted.
    let bytes = Model::for_counts(counts).bits_of(counts) / 8.0;
    bytes.ceil() as u64 + chunks * (4 + HEADER as u64 - 2 * STATES as u64)
}

/// Appends a chunk.
pub(crate) fn encode(kernels: &Kernels, values: &[i8], out: &mut Vec<u8>) {
    let (there, negative) = (kernels.flat.count)(values);
    let mut symbols = vec![0; flat_base3::packed_len(values.len())];
    (kernels.flat.pack_base3)(values, &mut symbols);
    // Places past the last value count: they are coded as well.
    let zeros = 5 * symbols.len() - there;
    let counts = [negative, zeros, there - negative].map(|count| count as u64);
    let model = Model::for_counts(counts);
    let mut states = [LEAST; STATES];
    let mut words = Vec::with_capacity(symbols.len() / 2 + 8);
    for (index, &symbol) in symbols.iter().enumerate().rev() {
        let [start, frequency] = model.symbols[usize::from(symbol)];
        let state = &mut states[index % STATES];
        if u64::from(*state) >= u64::from(frequency) << (32 - model.bits) {
            words.push(*state as u16);
            *state >>= 16;
        }
        *state = ((*state / frequency) << model.bits) + *state % frequency + start;
    }
    let [minus, plus] = model.shares.map(u16::to_le_bytes);
    out.extend(minus.into_iter().chain(plus).chain([model.bits as u8]));
    states.iter().for_each(|state| out.extend(state.to_le_bytes()));
    words.iter().rev().for_each(|word| out.extend(word.to_le_bytes()));
}

/// What the decoder keeps from one chunk to the next.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    model: Option<Model>,
    /// The byte of every slot.
    slots: Vec<u8>,
    symbols: Vec<u8>,
}

impl Tables {
    /// Makes the tables of a model, unless they are there.
    fn prepare(&mut self, shares: [u16; 2], bits: u32) -> Option<()> {
        if self.model.as_ref().is_some_and(|model| model.shares == shares && model.bits == bits) {
            return Some(());
        }
        let model = Model::new(shares, bits)?;
        // As long as any slot that 16 bits can name: indexing needs no check then.
        self.slots.resize(1 << 16, 0);
        for (byte, &[start, frequency]) in model.symbols.iter().enumerate() {
            self.slots[start as usize..(start + frequency) as usize].fill(byte as u8);
        }
        self.model = Some(model);
        Some(())
    }
}

/// Unpacks a chunk and returns the bytes that it took.
pub(crate) fn decode(
    kernels: &Kernels,
    bytes: &[u8],
    tables: &mut Tables,
    out: &mut [i8],
) -> Result<usize, Fault> {
    let Some((header, words)) = bytes.split_at_checked(HEADER) else { return Err(Fault::short(bytes.len())) };
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let shares = [word(0), word(2)];
    if tables.prepare(shares, u32::from(header[4])).is_none() {
        return Err(Fault::new(0, "shares of at most 2^16 together, and 12 to 16 scale bits"));
    }
    let mut states: [u32; STATES] = std::array::from_fn(|i| {
        let at = 5 + 4 * i;
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    });
    if let Some(low) = states.iter().position(|&state| state < LEAST) {
        return Err(Fault::new(5 + 4 * low, "a state of at least 2^16"));
    }
    let Tables { model: Some(model), slots, symbols } = tables else { return Err(Fault::short(0)) };
    symbols.resize(flat_base3::packed_len(out.len()), 0);
    let Some(slots) = slots.first_chunk::<65536>() else { return Err(Fault::short(0)) };
    let taken = decode_symbols(model, slots, &mut states, words, symbols).ok_or(Fault::short(bytes.len()))?;
    if let Some(state) = states.iter().position(|&state| state != LEAST) {
        return Err(Fault::new(5 + 4 * state, "states and words that end together"));
    }
    if let Some(at) = flat_base3::find_invalid(symbols, out.len()) {
        return Err(Fault::new(
            HEADER + taken,
            if at + 1 < symbols.len() { "a symbol" } else { "zeros past the last weight" },
        ));
    }
    (kernels.flat.unpack_base3)(symbols, out);
    Ok(HEADER + taken)
}

/// Decodes all symbols and returns the bytes of words used; `None` when there are too few.
fn decode_symbols(
    model: &Model,
    slots: &[u8; 65536],
    states: &mut [u32; STATES],
    words: &[u8],
    symbols: &mut [u8],
) -> Option<usize> {
    let (table, bits) = (&*model.symbols, model.bits);
    let mask = (1u32 << bits) - 1;
    let mut at = 0;
    let mut local = *states;
    let (rounds, rest) = symbols.as_chunks_mut::<STATES>();
    for round in rounds {
        // Words that a whole round can use: one bound for all of it.
        let Some(window) = words.get(at..at + 2 * STATES) else {
            step(table, slots, (bits, mask), &mut local, words, &mut at, round)?;
            continue;
        };
        let mut used = 0;
        for i in 0..STATES {
            let slot = local[i] & mask;
            let symbol = slots[slot as usize & 0xffff];
            let [start, frequency] = table[usize::from(symbol)];
            let state = frequency.wrapping_mul(local[i] >> bits).wrapping_add(slot).wrapping_sub(start);
            let word = u32::from(u16::from_le_bytes([window[used & 15], window[(used + 1) & 15]]));
            // A jump on what random data decides would be mispredicted half of the time: masks instead.
            let low = u32::from(state < LEAST);
            local[i] = state << (16 * low) | word & low.wrapping_neg();
            used += 2 * low as usize;
            round[i] = symbol;
        }
        at += used;
    }
    step(table, slots, (bits, mask), &mut local, words, &mut at, rest)?;
    *states = local;
    Some(at)
}

/// Decodes up to one symbol a state where the words are nearly used up.
fn step(
    table: &[[u32; 2]; 256],
    slots: &[u8; 65536],
    (bits, mask): (u32, u32),
    states: &mut [u32; STATES],
    words: &[u8],
    at: &mut usize,
    symbols: &mut [u8],
) -> Option<()> {
    for (state, out) in states.iter_mut().zip(symbols) {
        let slot = *state & mask;
        let symbol = slots[slot as usize & 0xffff];
        let [start, frequency] = table[usize::from(symbol)];
        *state = frequency.wrapping_mul(*state >> bits).wrapping_add(slot).wrapping_sub(start);
        if *state < LEAST {
            let &[low, high] = words.get(*at..*at + 2)? else { return None };
            *state = *state << 16 | u32::from(u16::from_le_bytes([low, high]));
            *at += 2;
        }
        *out = symbol;
    }
    Some(())
}
