//! Allocators behind one trait.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use bitnet_core::device::Device;
use bitnet_core::memory::{
    HybridMemoryPool, LargeStrategy, MemoryHandle, MemoryPoolConfig, TrackingConfig, TrackingLevel,
};

/// Alignment of every block.
pub const ALIGN: usize = 64;

/// A block of any candidate.
pub enum Block {
    /// Of the pool.
    Handle(MemoryHandle),
    /// Of a general allocator: its address.
    Address(usize, usize),
}

/// An allocator that is measured.
pub trait Candidate: Sync {
    /// Allocates. The suite ends where a candidate cannot.
    fn allocate(&self, size: usize) -> Block;
    /// Frees what [`allocate`](Self::allocate) of the same candidate returned.
    fn free(&self, block: Block);
    /// Writes to every byte of a block.
    fn fill(&self, block: &Block, byte: u8);
    /// Runs `count` pairs of allocation and deallocation over `sizes` in turn.
    ///
    /// Here, so that no candidate pays for a call through the trait.
    fn pairs(&self, sizes: &[usize], count: usize);
}

impl Candidate for HybridMemoryPool {
    fn allocate(&self, size: usize) -> Block {
        match HybridMemoryPool::allocate(self, size, ALIGN, &Device::Cpu) {
            Ok(handle) => Block::Handle(handle),
            Err(error) => panic!("{error}"),
        }
    }

    fn free(&self, block: Block) {
        if let Block::Handle(handle) = block
            && let Err(error) = self.deallocate(handle)
        {
            panic!("{error}");
        }
    }

    fn fill(&self, block: &Block, byte: u8) {
        if let Block::Handle(handle) = block {
            match self.pin_mut(handle) {
                Ok(mut pin) => pin.fill(byte),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn pairs(&self, sizes: &[usize], count: usize) {
        for &size in sizes.iter().cycle().take(count) {
            match HybridMemoryPool::allocate(self, size, ALIGN, &Device::Cpu) {
                Ok(handle) => {
                    std::hint::black_box(&handle);
                    if let Err(error) = self.deallocate(handle) {
                        panic!("{error}");
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A general allocator.
struct General<A>(A);

fn layout(size: usize) -> Layout {
    match Layout::from_size_align(size, ALIGN) {
        Ok(layout) => layout,
        Err(error) => panic!("{size} bytes: {error}"),
    }
}

impl<A: GlobalAlloc + Sync> Candidate for General<A> {
    fn allocate(&self, size: usize) -> Block {
        // SAFETY: the size is above zero.
        let address = unsafe { self.0.alloc(layout(size)) };
        assert!(!address.is_null(), "{size} bytes were refused");
        Block::Address(address.expose_provenance(), size)
    }

    fn free(&self, block: Block) {
        if let Block::Address(address, size) = block {
            // SAFETY: allocated above with the same layout, and freed once, as the block is taken.
            unsafe { self.0.dealloc(std::ptr::with_exposed_provenance_mut(address), layout(size)) }
        }
    }

    fn fill(&self, block: &Block, byte: u8) {
        if let Block::Address(address, size) = *block {
            // SAFETY: the block is `size` bytes that only its owner, who lends it, knows of.
            unsafe { std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(address), byte, size) }
        }
    }

    fn pairs(&self, sizes: &[usize], count: usize) {
        for &size in sizes.iter().cycle().take(count) {
            let layout = layout(size);
            // SAFETY: the size is above zero, and the block is freed at once with its layout.
            unsafe {
                let address = std::hint::black_box(self.0.alloc(layout));
                assert!(!address.is_null(), "{layout:?} was refused");
                self.0.dealloc(address, layout);
            }
        }
    }
}

/// Makes a pool; a pool of two gigabytes' blocks reserves its addresses at once.
pub fn pool_of(strategy: LargeStrategy) -> HybridMemoryPool {
    let config = MemoryPoolConfig { initial_large_pool_size: 4 << 30, ..Default::default() };
    match HybridMemoryPool::builder().config(config).large_strategy(strategy).build() {
        Ok(pool) => pool,
        Err(error) => panic!("{error}"),
    }
}

/// Makes a pool that tracks at a level, or not at all.
pub fn tracked_pool(level: Option<TrackingLevel>, precise: bool) -> Box<dyn Candidate> {
    let tracking =
        level.map(|level| TrackingConfig { level, enable_pressure_detection: false, ..Default::default() });
    let config = MemoryPoolConfig {
        enable_advanced_tracking: level.is_some(),
        tracking_config: tracking,
        ..Default::default()
    };
    match HybridMemoryPool::builder().config(config).precise_timestamps(precise).build() {
        Ok(pool) => Box::new(pool),
        Err(error) => panic!("{error}"),
    }
}

/// Returns the pool, with both strategies where `strategies`, and its peers.
pub fn candidates(strategies: bool) -> Vec<(&'static str, Box<dyn Candidate>)> {
    let mut out: Vec<(&'static str, Box<dyn Candidate>)> =
        vec![("pool, best fit", Box::new(pool_of(LargeStrategy::BestFit)))];
    if strategies {
        out.push(("pool, buddy", Box::new(pool_of(LargeStrategy::Buddy))));
    }
    out.push(("system", Box::new(General(System))));
    #[cfg(feature = "memory-peers")]
    {
        out.push(("mimalloc", Box::new(General(mimalloc::MiMalloc))));
        out.push(("jemalloc", Box::new(General(tikv_jemallocator::Jemalloc))));
        out.push(("snmalloc", Box::new(General(snmalloc_rs::SnMalloc))));
    }
    out
}
