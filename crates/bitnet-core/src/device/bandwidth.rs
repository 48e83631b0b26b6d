//! Measured memory read bandwidth: the roofline of decoding.
//!
//! Passes of every method alternate over one buffer well above the caches, so that a disturbance
//! meets all; the best pass of any counts. Each thread writes its part of the buffer first: pages that
//! were never written are all the same page of zeros, and on machines with several memory nodes the
//! writer's node is where a page goes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitnet_backend::Device;
use bitnet_kernels::probe::ReadMethod;

use super::MachineInfo;
use super::together::{Pass, share_out, together};
use crate::memory::{HybridMemoryPool, PoolBuffer};

/// The buffer is this many times the last-level caches, so that hardly a line survives a pass.
const CACHE_MULTIPLE: u64 = 4;
const LEAST_BUFFER: u64 = 256 << 20;
const MOST_BUFFER: u64 = 2 << 30;
/// Passes of each method: more until the time is up.
const LEAST_ROUNDS: usize = 2;
const MOST_ROUNDS: usize = 12;
const TIME_CAP: Duration = Duration::from_millis(800);
/// Bytes that a thread takes at once.
const BLOCK: usize = 1 << 20;

/// A measured read bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBandwidth {
    /// Bytes a second, of all threads together; 0 when the system gave no buffer to read.
    pub bytes_per_second: f64,
    /// The way of reading that measured best.
    pub method: ReadMethod,
    /// Size of the buffer, in bytes.
    pub buffer_bytes: usize,
    /// Threads that read: those asked for, or fewer when the system refused some.
    pub threads: usize,
}

/// Measures how fast `threads` threads together read memory; once per process and thread count.
///
/// Takes up to about two seconds and a buffer of at least 256 MiB, at most a quarter of the memory
/// available. 0 threads count as 1. Where `bitnet-kernels` is compiled without optimisation, this measures
/// that code, not the memory.
pub fn read_bandwidth(threads: usize) -> ReadBandwidth {
    static MEASURED: Mutex<BTreeMap<usize, ReadBandwidth>> = Mutex::new(BTreeMap::new());
    let threads = threads.max(1);
    // Held while measuring: two measurements at once would halve each other.
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    *measured.entry(threads).or_insert_with(|| measure(threads, buffer_size(&MachineInfo::read())))
}

fn buffer_size(machine: &MachineInfo) -> usize {
    let wanted = machine.last_level_cache_bytes().unwrap_or(0).saturating_mul(CACHE_MULTIPLE);
    let wanted = wanted.clamp(LEAST_BUFFER, MOST_BUFFER);
    let most = machine.memory_available.map_or(wanted, |available| available / 4);
    usize::try_from(wanted.min(most)).unwrap_or(usize::MAX)
}

fn measure(threads: usize, bytes: usize) -> ReadBandwidth {
    let mut buffer = take_buffer(bytes);
    let mut best = ReadBandwidth {
        bytes_per_second: 0.0,
        method: ReadMethod::Plain,
        buffer_bytes: buffer.as_ref().map_or(0, |buffer| buffer.len()),
        threads,
    };
    let Some(buffer) = &mut buffer else {
        return best;
    };
    let part = buffer.len().div_ceil(threads);
    together(buffer.chunks_mut(part), |part| {
        // Not one repeated byte: some systems merge equal pages.
        part.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index % 251) as u8);
        part.len()
    });
    let started = Instant::now();
    for round in 0..MOST_ROUNDS {
        if round >= LEAST_ROUNDS && started.elapsed() > TIME_CAP {
            break;
        }
        for &method in ReadMethod::available() {
            let pass = read_pass(method, &[&buffer[..]], 1, threads);
            let rate = pass.rate();
            if rate > best.bytes_per_second {
                best = ReadBandwidth { bytes_per_second: rate, method, threads: pass.workers, ..best };
            }
        }
    }
    best
}

/// Reads `parts` `repeats` times over with up to `threads` threads at the same time; done are bytes.
///
/// Each thread reads its own share, the same one each time, and then what the others have not come to.
pub fn read_pass(method: ReadMethod, parts: &[&[u8]], repeats: usize, threads: usize) -> Pass {
    let blocks: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(BLOCK)).collect();
    share_out(&mut vec![(); threads.max(1)], blocks.len(), repeats, |(), block| {
        black_box(method.read(blocks[block]));
        blocks[block].len()
    })
}

/// Takes a buffer of `bytes`, or the largest half, quarter and so on that the system grants.
fn take_buffer(mut bytes: usize) -> Option<PoolBuffer<u8>> {
    let pool = HybridMemoryPool::new().ok()?;
    while bytes > 0 {
        match PoolBuffer::zeroed(&pool, bytes, &Device::Cpu, "the bandwidth probe") {
            Ok(buffer) => return Some(buffer),
            Err(_) => bytes /= 2,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_bandwidth_is_measured_once_per_thread_count() {
        let first = read_bandwidth(1);
        assert_eq!(first.threads, 1);
        // Between a tenth of one old memory channel and a machine of the far future.
        assert!((1e8..1e13).contains(&first.bytes_per_second), "{first:?}");
        assert_eq!(read_bandwidth(0), first);
        let again = Instant::now();
        assert_eq!(read_bandwidth(1), first);
        assert!(again.elapsed() < Duration::from_millis(100));
    }

    #[test]
    fn device_bandwidth_counts_every_part_of_the_buffer() {
        for threads in [1, 2, 3, 7] {
            let found = measure(threads, 1_000_003);
            assert_eq!((found.threads, found.buffer_bytes), (threads, 1_000_003));
            assert!(found.bytes_per_second > 0.0);
        }
    }

    #[test]
    fn device_bandwidth_passes_read_every_byte_of_every_part() {
        let (small, large) = (vec![1u8; 1000], vec![2u8; 5 * BLOCK + 7]);
        for method in ReadMethod::available() {
            for threads in [0, 1, 2, 7] {
                let pass = read_pass(*method, &[&small, &[], &large], 3, threads);
                assert_eq!(pass.done, 3 * (small.len() + large.len()), "{method:?}, {threads} threads");
            }
        }
        assert_eq!(read_pass(ReadMethod::Plain, &[], 1, 2).done, 0);
    }

    #[test]
    fn device_bandwidth_buffer_exceeds_the_caches_but_not_the_memory() {
        let mut machine = MachineInfo::read();
        machine.caches.clear();
        machine.memory_available = Some(64 << 30);
        assert_eq!(buffer_size(&machine) as u64, LEAST_BUFFER);
        machine.memory_available = Some(100 << 20);
        assert_eq!(buffer_size(&machine), 25 << 20);
    }
}
