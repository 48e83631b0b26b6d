//! Decoding takes no memory from the process's allocator and none from the pool: not for a single token.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bitnet_core::cpu::HeadPrecision;
use bitnet_inference::generate::{Event, Generator, Request};
use bitnet_inference::{Engine, GenerateOptions, SamplingParams};
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, shapes, temp::TempDir};

/// The system allocator, which counts what any thread takes while it is told to.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches atomics alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) {
            TAKEN.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Decodes three sequences of 100 tokens beside each other and returns the allocations of the last 70 passes.
fn allocations(engine: &mut Engine, sampling: SamplingParams) -> (usize, u64) {
    let options = GenerateOptions { sampling, max_tokens: Some(100), ..Default::default() };
    let requests: Vec<_> = (0..3u32)
        .map(|lane| Request { prompt: vec![lane + 1, 5, 9], options: options.clone(), resume: None })
        .collect();
    let mut generator = Generator::new(engine.runner(), None, &[], requests).unwrap();
    let (mut tokens, mut blocks) = (0, 0);
    let mut passes = 0;
    while !generator.is_finished() {
        // The blocks that positions from 64 on are kept in are taken before.
        if passes == 70 {
            blocks = engine.pool().get_metrics().allocation_count;
            TAKEN.store(0, Ordering::Relaxed);
            COUNTING.store(true, Ordering::Relaxed);
        }
        let advanced = generator.advance(engine.runner(), |_, event| {
            tokens += usize::from(matches!(event, Event::Token(_)));
        });
        if passes == 98 {
            COUNTING.store(false, Ordering::Relaxed);
        }
        advanced.unwrap();
        passes += 1;
    }
    COUNTING.store(false, Ordering::Relaxed);
    let blocks = engine.pool().get_metrics().allocation_count - blocks;
    generator.release(engine.runner());
    assert_eq!((tokens, passes), (300, 100));
    (TAKEN.load(Ordering::Relaxed), blocks)
}

// One test in this file: another one at the same time would be counted too.
#[test]
fn steady_decoding_allocates_nothing() {
    let shape = ModelShape { vocab: 300, layers: 2, max_positions: 512, ..shapes::tiny() };
    let folder = TempDir::new("decode-allocations");
    SyntheticModel::new(shape, SyntheticFamily::BitNetPacked, 7).write_folder(folder.path()).unwrap();
    let sampled = SamplingParams { temperature: 0.8, top_k: 40, top_p: 0.9, ..Default::default() };
    let greedy = SamplingParams { temperature: 0.0, ..Default::default() };
    for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
        for threads in [1, 2] {
            let builder = Engine::builder().threads(Some(threads)).head(head).tokenizer(false);
            let mut engine = builder.load(folder.path()).unwrap();
            for sampling in [greedy, sampled] {
                // The first generation makes the KV blocks that the second uses again.
                allocations(&mut engine, sampling);
                assert_eq!(
                    allocations(&mut engine, sampling),
                    (0, 0),
                    "{head:?}, {threads} threads, {sampling:?}"
                );
            }
        }
    }
}
