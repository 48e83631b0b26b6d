use bitnet_core::memory::HybridMemoryPool;
