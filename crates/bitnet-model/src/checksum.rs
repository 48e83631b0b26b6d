//! XXH64, the checksum of our own file format: fast, and the same on every machine.
//!
//! It detects damage, not malice. Source: the specification of xxHash (`xxhash_spec.md`), seed 0.

const P1: u64 = 0x9e37_79b1_85eb_ca87;
const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P3: u64 = 0x1656_67b1_9e37_79f9;
const P4: u64 = 0x85eb_ca77_c2b2_ae63;
const P5: u64 = 0x27d4_eb2f_1656_67c5;
const STRIPE: usize = 32;

/// A checksum in the making.
#[derive(Debug, Clone)]
pub(crate) struct Xxh64 {
    lanes: [u64; 4],
    pending: [u8; STRIPE],
    pending_len: usize,
    total: u64,
}

impl Xxh64 {
    /// Starts with no bytes.
    pub(crate) fn new() -> Self {
        let lanes = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
        Xxh64 { lanes, pending: [0; STRIPE], pending_len: 0, total: 0 }
    }

    /// Returns the checksum of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Xxh64::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Appends bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.pending_len > 0 {
            let taken = bytes.len().min(STRIPE - self.pending_len);
            self.pending[self.pending_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.pending_len += taken;
            bytes = &bytes[taken..];
            if self.pending_len < STRIPE {
                return;
            }
            let pending = self.pending;
            self.stripe(&pending);
            self.pending_len = 0;
        }
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        for stripe in stripes {
            self.stripe(stripe);
        }
        self.pending[..rest.len()].copy_from_slice(rest);
        self.pending_len = rest.len();
    }

    #[inline]
    fn stripe(&mut self, stripe: &[u8; STRIPE]) {
        for (lane, word) in self.lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }

    /// Returns the checksum of what came so far.
    pub(crate) fn finish(&self) -> u64 {
        let [a, b, c, d] = self.lanes;
        let mut hash = if self.total >= STRIPE as u64 {
            let turned = [a.rotate_left(1), b.rotate_left(7), c.rotate_left(12), d.rotate_left(18)];
            let mut hash = turned.into_iter().fold(0u64, u64::wrapping_add);
            for lane in self.lanes {
                hash = (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
            }
            hash
        } else {
            P5
        };
        hash = hash.wrapping_add(self.total);
        let (words, rest) = self.pending[..self.pending_len].as_chunks::<8>();
        for word in words {
            hash ^= round(0, u64::from_le_bytes(*word));
            hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        }
        let (halves, rest) = rest.as_chunks::<4>();
        for half in halves {
            hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
            hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        }
        for &byte in rest {
            hash = (hash ^ u64::from(byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
        }
        hash = (hash ^ hash >> 33).wrapping_mul(P2);
        hash = (hash ^ hash >> 29).wrapping_mul(P3);
        hash ^ hash >> 32
    }
}

#[inline]
fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_pieces_of_any_size() {
        assert_eq!(Xxh64::of(b""), 0xef46_db37_51d8_e999);
        assert_eq!(Xxh64::of(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(Xxh64::of(b"abc"), 0x44bc_2cf5_ad77_0999);
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * i % 251) as u8).collect();
        for piece in [1, 7, 31, 32, 33, 100] {
            let mut hash = Xxh64::new();
            bytes.chunks(piece).for_each(|chunk| hash.update(chunk));
            assert_eq!(hash.finish(), Xxh64::of(&bytes), "pieces of {piece}");
        }
        let mut damaged = bytes.clone();
        damaged[999] ^= 1;
        assert_ne!(Xxh64::of(&damaged), Xxh64::of(&bytes));
    }
}
