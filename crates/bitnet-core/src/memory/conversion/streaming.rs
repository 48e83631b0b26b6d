//! Bounded, ordered, parallel conversion of a sequence of equal units.

use bitnet_backend::{Device, Result};

use crate::memory::{HybridMemoryPool, PoolBuffer};

/// Bytes of output that are computed before they are handed on, unless one unit is larger.
pub const PIECE_BYTES: usize = 8 << 20;

/// Converts sequences of units through one buffer.
///
/// Peak memory is the larger of the buffer ([`PIECE_BYTES`] by default) and one unit, whatever the number of units.
pub struct Streaming {
    pool: HybridMemoryPool,
    buffer: PoolBuffer<u8>,
    parallel: bool,
}

impl Streaming {
    /// Makes a converter whose buffer comes from `pool`.
    ///
    /// # Errors
    /// As [`PoolBuffer::zeroed`].
    pub fn new(pool: &HybridMemoryPool) -> Result<Self> {
        Self::with_piece_bytes(pool, PIECE_BYTES)
    }

    /// Makes a converter that hands on up to `bytes` bytes at a time.
    ///
    /// # Errors
    /// As [`PoolBuffer::zeroed`].
    pub fn with_piece_bytes(pool: &HybridMemoryPool, bytes: usize) -> Result<Self> {
        let buffer = PoolBuffer::zeroed(pool, bytes.max(1), &Device::Cpu, "conversion buffer")?;
        Ok(Streaming { pool: pool.clone(), buffer, parallel: true })
    }

    /// Computes on the calling thread alone.
    pub fn on_one_thread(self) -> Self {
        Streaming { parallel: false, ..self }
    }

    /// Computes units `0..units` of `unit_bytes` each with `fill(unit, out)`, and hands them to `sink` in order,
    /// many at a time. `fill` has to write every byte.
    ///
    /// # Errors
    /// The first error of `sink`, after which nothing more is computed; a unit larger than what the pool gives.
    pub fn run<E: From<bitnet_backend::BitNetError>>(
        &mut self,
        units: usize,
        unit_bytes: usize,
        fill: impl Fn(usize, &mut [u8]) + Sync + Send,
        mut sink: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if units == 0 || unit_bytes == 0 {
            return Ok(());
        }
        if unit_bytes > self.buffer.len() {
            let pool = &self.pool;
            self.buffer = PoolBuffer::zeroed(pool, unit_bytes, &Device::Cpu, "conversion buffer")?;
        }
        let per_piece = self.buffer.len() / unit_bytes;
        for first in (0..units).step_by(per_piece) {
            let count = per_piece.min(units - first);
            let piece = &mut self.buffer[..count * unit_bytes];
            compute(self.parallel, piece, unit_bytes, |index, out| fill(first + index, out));
            sink(piece)?;
        }
        Ok(())
    }
}

fn compute(
    parallel: bool,
    piece: &mut [u8],
    unit_bytes: usize,
    fill: impl Fn(usize, &mut [u8]) + Sync + Send,
) {
    let _ = parallel;
    #[cfg(feature = "parallel")]
    if parallel && piece.len() >= 1 << 16 {
        use rayon::prelude::*;
        piece.par_chunks_mut(unit_bytes).enumerate().for_each(|(index, out)| fill(index, out));
        return;
    }
    piece.chunks_mut(unit_bytes).enumerate().for_each(|(index, out)| fill(index, out));
}

#[cfg(test)]
mod tests {
    use bitnet_backend::BitNetError;

    use super::*;

    #[test]
    fn units_arrive_in_order_in_bounded_pieces_and_errors_stop() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut streaming = Streaming::new(&pool).unwrap();
        for (units, unit_bytes) in [(0, 5), (7, 3), (5000, 4096), (3, PIECE_BYTES + 7)] {
            let (mut next, mut pieces) = (0usize, 0);
            let fill = |unit: usize, out: &mut [u8]| out.fill((unit % 251) as u8);
            let limit = PIECE_BYTES.max(unit_bytes);
            let done: std::result::Result<(), BitNetError> =
                streaming.run(units, unit_bytes, fill, |piece| {
                    assert!(piece.len() <= limit && piece.len().is_multiple_of(unit_bytes));
                    for unit in piece.chunks(unit_bytes) {
                        assert!(unit.iter().all(|&byte| byte == (next % 251) as u8), "unit {next}");
                        next += 1;
                    }
                    pieces += 1;
                    Ok(())
                });
            done.unwrap();
            assert_eq!((next, pieces > 1), (units, units * unit_bytes > limit));
        }
        let mut calls = 0;
        let failed: std::result::Result<(), BitNetError> = streaming.run(
            100,
            PIECE_BYTES / 2,
            |_, _| {},
            |_| {
                calls += 1;
                Err(BitNetError::mismatch("disk", "space", "none"))
            },
        );
        assert!(failed.is_err() && calls == 1);
    }
}
