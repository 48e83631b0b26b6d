//! Changes of valid files that a parser has to survive.

use bitnet_testing::rng::Rng;

/// Numbers at which lengths, counts and offsets go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    3,
    31,
    64,
    255,
    1 << 16,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Pieces of the grammars of text files.
const WORDS: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ":",
    ",",
    "-",
    "null",
    "true",
    "1e999",
    "18446744073709551615",
    "-1",
    "0",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if",
    "| tojson",
    "range(",
    "99999999",
    "messages",
    "../",
    "\u{2581}",
    "\u{fffd}",
];

/// Most bytes of a file whose front is damaged more often than the rest: headers come first.
const FRONT: usize = 4096;

/// Changes a file in one place.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(rng.next_u64() as u8);
        return;
    }
    let length = bytes.len();
    let front = length.min(FRONT);
    let at = if rng.below(4) == 0 { rng.below(length) } else { rng.below(front) };
    match rng.below(10) {
        0 => bytes[at] = rng.next_u64() as u8,
        1 => bytes[at] ^= 1 << rng.below(8),
        2 | 3 => {
            let number = match rng.below(4) {
                0 => rng.next_u64() >> rng.below(64),
                1 => length as u64 + rng.below(3) as u64,
                _ => NUMBERS[rng.below(NUMBERS.len())],
            };
            let width = [1, 2, 4, 8][rng.below(4)].min(length - at);
            bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        4 | 5 => {
            let word = WORDS[rng.below(WORDS.len())];
            bytes.splice(at..at, word.bytes());
        }
        6 => {
            let word = WORDS[rng.below(WORDS.len())];
            let end = (at + word.len()).min(length);
            bytes.splice(at..end, word.bytes());
        }
        7 => {
            bytes.drain(at..(at + 1 + rng.below(40)).min(length));
        }
        8 => {
            let from = rng.below(length);
            let piece = bytes[from..(from + 1 + rng.below(200)).min(length)].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => bytes.truncate(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_determined_and_does_something() {
        let make = || {
            let mut rng = Rng::new(5);
            let mut bytes = b"{\"a\": [1, 2, 3]}".to_vec();
            (0..50).for_each(|_| damage(&mut rng, &mut bytes));
            bytes
        };
        assert_eq!(make(), make());
        assert_ne!(make(), b"{\"a\": [1, 2, 3]}");
    }
}
