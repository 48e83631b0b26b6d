//! Measured memory read bandwidth: the roofline of decoding.
//!
//! Plain and prefetched passes alternate over one buffer well above the caches, so that a disturbance
//! meets both; the best pass of either counts. Each thread writes its part of the buffer first: pages that
//! were never written are all the same page of zeros, and on machines with several memory nodes the
//! writer's node is where a page goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bitnet_backend::Device;
use bitnet_kernels::probe;

use super::MachineInfo;
use crate::memory::{HybridMemoryPool, PoolBuffer};

/// The buffer is this many times the last-level caches, so that hardly a line survives a pass.
const CACHE_MULTIPLE: u64 = 4;
const LEAST_BUFFER: u64 = 256 << 20;
const MOST_BUFFER: u64 = 2 << 30;
/// Passes of each method: more until the time is up.
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 12;
const TIME_CAP: Duration = Duration::from_millis(800);

/// How the reading that measured best was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadMethod {
    /// Loads alone.
    Plain,
    /// Loads with software prefetch.
    Prefetched,
}

impl ReadMethod {
    fn read(self, bytes: &[u8]) -> u64 {
        match self {
            ReadMethod::Plain => probe::read_plain(bytes),
            ReadMethod::Prefetched => probe::read_prefetched(bytes),
        }
    }
}

/// A measured read bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBandwidth {
    /// Bytes a second, of all threads together; 0 when the system gave no buffer to read.
    pub bytes_per_second: f64,
    /// The better way of reading.
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
    let methods: &[ReadMethod] = match probe::has_prefetch() {
        true => &[ReadMethod::Plain, ReadMethod::Prefetched],
        false => &[ReadMethod::Plain],
    };
    let started = Instant::now();
    for round in 0..MOST_ROUNDS {
        if round >= LEAST_ROUNDS && started.elapsed() > TIME_CAP {
            break;
        }
        for &method in methods {
            let pass = together(buffer.chunks(part), |part| {
                std::hint::black_box(method.read(part));
                part.len()
            });
            let rate = pass.done as f64 / pass.span.as_secs_f64().max(f64::MIN_POSITIVE);
            if rate > best.bytes_per_second {
                best = ReadBandwidth { bytes_per_second: rate, method, threads: pass.workers, ..best };
            }
        }
    }
    best
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

struct Pass {
    workers: usize,
    /// What the work returned, added up: a part whose thread was refused does not count.
    done: usize,
    /// From the start of the first worker to the end of the last.
    span: Duration,
}

/// Runs `work` on every part at the same time, the first on this thread.
fn together<P: Send>(parts: impl Iterator<Item = P>, work: impl Fn(P) -> usize + Sync) -> Pass {
    let (ready, go) = (AtomicUsize::new(0), AtomicBool::new(false));
    let timed = |part| {
        let start = Instant::now();
        let done = work(part);
        (start, Instant::now(), done)
    };
    let mut parts = parts;
    let Some(own) = parts.next() else {
        return Pass { workers: 0, done: 0, span: Duration::ZERO };
    };
    let times = thread::scope(|scope| {
        let mut workers = Vec::new();
        for part in parts {
            let worker = || {
                ready.fetch_add(1, Ordering::AcqRel);
                while !go.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                timed(part)
            };
            match thread::Builder::new().spawn_scoped(scope, worker) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        while ready.load(Ordering::Acquire) < workers.len() {
            thread::yield_now();
        }
        go.store(true, Ordering::Release);
        let own = timed(own);
        let others = workers.into_iter().filter_map(|worker| worker.join().ok());
        others.chain([own]).collect::<Vec<_>>()
    });
    let start = times.iter().map(|time| time.0).min();
    let end = times.iter().map(|time| time.1).max();
    let span = start.zip(end).map_or(Duration::ZERO, |(start, end)| end.duration_since(start));
    Pass { workers: times.len(), done: times.iter().map(|time| time.2).sum(), span }
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
    fn device_bandwidth_workers_run_together_on_distinct_parts() {
        let mut parts = vec![0usize; 5];
        let arrived = AtomicUsize::new(0);
        let pass = together(parts.iter_mut(), |part| {
            *part += 1;
            arrived.fetch_add(1, Ordering::SeqCst);
            // Ends only if all five are running.
            while arrived.load(Ordering::SeqCst) < 5 {
                thread::yield_now();
            }
            10
        });
        assert_eq!((pass.workers, pass.done, parts), (5, 50, vec![1; 5]));
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
