use bitnet_core::device::get_cpu_device;
use bitnet_core::memory::HybridMemoryPool;
// In main:
let device = get_cpu_device();
let pool = HybridMemoryPool::new()?;
