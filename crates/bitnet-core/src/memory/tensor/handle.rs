//! Names for tensors that count references and tell when memory goes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bitnet_backend::{BitNetError, Result};

use super::{BitNetTensor, TensorMemory, TensorMetadata};
use crate::memory::HybridMemoryPool;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A tensor with a name of its own: it keeps the memory alive, and tells how many others do.
///
/// A clone has the same [`id`](Self::id). The memory goes with the last handle, tensor or view that refers to it;
/// a [`WeakTensorHandle`] refers to it without keeping it.
#[derive(Debug, Clone)]
pub struct TensorHandle {
    id: u64,
    tensor: BitNetTensor,
}

impl TensorHandle {
    /// Gives a tensor a name that no other one of this process has.
    pub fn new(tensor: BitNetTensor) -> Self {
        TensorHandle { id: NEXT.fetch_add(1, Ordering::Relaxed), tensor }
    }

    /// Gives a tensor a name, and calls `released` with it when its memory goes: once, on the thread that drops the
    /// last reference, before the memory is given back.
    ///
    /// # Errors
    /// `Mismatch` when another tensor shares the memory already, whose end would not be the memory's, or a weak handle
    /// could bring it back.
    pub fn watched(tensor: BitNetTensor, released: impl FnOnce(u64) + Send + Sync + 'static) -> Result<Self> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let BitNetTensor { metadata, memory } = tensor;
        let references = Arc::strong_count(&memory) + Arc::weak_count(&memory);
        if references > 1 {
            let what =
                format!("references to the memory of a watched tensor of shape {:?}", metadata.shape());
            return Err(BitNetError::mismatch(what, 1, references));
        }
        let memory = Watched { id, memory, released: Some(Box::new(released)) };
        Ok(TensorHandle { id, tensor: BitNetTensor::in_memory(metadata, Arc::new(memory))? })
    }

    /// Returns the name: unique in this process, never used again.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the tensor.
    pub fn tensor(&self) -> &BitNetTensor {
        &self.tensor
    }

    /// Takes the tensor out.
    pub fn into_tensor(self) -> BitNetTensor {
        self.tensor
    }

    /// Returns shape, strides, element type and device.
    pub fn metadata(&self) -> &TensorMetadata {
        self.tensor.metadata()
    }

    /// Returns how many handles, tensors and views keep the memory alive, this one included. Other threads may change
    /// it at any time.
    pub fn strong_count(&self) -> usize {
        Arc::strong_count(self.tensor.memory())
    }

    /// Returns how many weak handles refer to the memory.
    pub fn weak_count(&self) -> usize {
        Arc::weak_count(self.tensor.memory())
    }

    /// Reports whether both name tensors in the same memory.
    pub fn shares_memory_with(&self, other: &TensorHandle) -> bool {
        Arc::ptr_eq(self.tensor.memory(), other.tensor.memory())
    }

    /// Makes a handle that does not keep the memory alive.
    pub fn downgrade(&self) -> WeakTensorHandle {
        WeakTensorHandle {
            id: self.id,
            metadata: self.metadata().clone(),
            memory: Arc::downgrade(self.tensor.memory()),
        }
    }
}

/// Names a tensor without keeping its memory alive.
#[derive(Clone)]
pub struct WeakTensorHandle {
    id: u64,
    metadata: TensorMetadata,
    memory: Weak<dyn TensorMemory>,
}

impl WeakTensorHandle {
    /// Returns the name of the handle that it was made of.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns what the tensor is or was.
    pub fn metadata(&self) -> &TensorMetadata {
        &self.metadata
    }

    /// Reports whether the memory has gone. Once it has it does not come back.
    pub fn is_released(&self) -> bool {
        self.memory.strong_count() == 0
    }

    /// Returns a handle that keeps the memory alive; `None` when it has gone.
    pub fn upgrade(&self) -> Option<TensorHandle> {
        let memory = self.memory.upgrade()?;
        // The same layout held in this memory before.
        let tensor = BitNetTensor::in_memory(self.metadata.clone(), memory).ok()?;
        Some(TensorHandle { id: self.id, tensor })
    }
}

impl fmt::Debug for WeakTensorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTensorHandle")
            .field("id", &self.id)
            .field("metadata", &self.metadata)
            .field("released", &self.is_released())
            .finish()
    }
}

/// Memory that calls back when it goes.
struct Watched {
    id: u64,
    // Nobody else has it: `watched` took the only reference, and it is never handed out.
    memory: Arc<dyn TensorMemory>,
    released: Option<Box<dyn FnOnce(u64) + Send + Sync>>,
}

impl Watched {
    fn sole(&mut self) -> Result<&mut (dyn TensorMemory + 'static)> {
        let one = || BitNetError::mismatch("references to watched memory", 1, "more");
        Arc::get_mut(&mut self.memory).ok_or_else(one)
    }
}

impl TensorMemory for Watched {
    fn kind(&self) -> &'static str {
        self.memory.kind()
    }

    fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.sole()?.bytes_mut()
    }

    fn shrink(&mut self, len: usize) -> Result<()> {
        self.sole()?.shrink(len)
    }

    fn pool(&self) -> Option<&HybridMemoryPool> {
        self.memory.pool()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(released) = self.released.take() {
            released(self.id);
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("id", &self.id).field("memory", &self.memory).finish()
    }
}

#[cfg(test)]
mod tests {
    use bitnet_backend::Device;

    use super::*;

    fn tensor(pool: &HybridMemoryPool) -> BitNetTensor {
        BitNetTensor::from_slice(&[1i32, 2, 3], &[3], &Device::Cpu, pool).unwrap()
    }

    #[test]
    fn handles_count_whoever_keeps_the_memory() {
        let pool = HybridMemoryPool::new().unwrap();
        let handle = TensorHandle::new(tensor(&pool));
        let other = TensorHandle::new(tensor(&pool));
        assert!(handle.id() < other.id() && !handle.shares_memory_with(&other));
        assert_eq!((handle.strong_count(), handle.weak_count()), (1, 0));
        let (clone, view, weak) = (handle.clone(), handle.tensor().clone(), handle.downgrade());
        assert_eq!((handle.strong_count(), handle.weak_count(), clone.id()), (3, 1, handle.id()));
        assert!(clone.shares_memory_with(&handle));
        drop((handle, clone));
        let back = weak.upgrade().unwrap();
        assert_eq!((back.id(), back.tensor().as_slice::<i32>().unwrap()), (weak.id(), &[1, 2, 3][..]));
        drop((back, view));
        assert!(weak.is_released() && weak.upgrade().is_none());
        assert_eq!(weak.metadata().shape(), [3]);
    }

    #[test]
    fn the_end_of_memory_is_told_once_and_before_it_goes() {
        let pool = HybridMemoryPool::new().unwrap();
        let (told, seen) = (Arc::new(AtomicU64::new(0)), pool.clone());
        let record = Arc::clone(&told);
        let handle = TensorHandle::watched(tensor(&pool), move |id| {
            assert_eq!(seen.get_metrics().active_allocations(), 1);
            assert_eq!(record.swap(id, Ordering::Relaxed), 0);
        })
        .unwrap();
        let id = handle.id();
        let mut view = handle.into_tensor();
        // It may still be written in place.
        let address = view.as_bytes().unwrap().as_ptr();
        view.as_mut_slice::<i32>().unwrap()[0] = 7;
        assert_eq!((view.as_bytes().unwrap().as_ptr(), told.load(Ordering::Relaxed)), (address, 0));
        drop(view);
        assert_eq!((told.load(Ordering::Relaxed), pool.get_metrics().active_allocations()), (id, 0));
    }

    #[test]
    fn shared_memory_is_not_watched() {
        let pool = HybridMemoryPool::new().unwrap();
        let first = tensor(&pool);
        let error = TensorHandle::watched(first.clone(), |_| {}).unwrap_err().to_string();
        assert!(error.contains("shape [3]: expected 1, found 2"), "{error}");
        // A weak handle could come back to life beside the watched one.
        let handle = TensorHandle::new(tensor(&pool));
        let weak = handle.downgrade();
        assert!(TensorHandle::watched(handle.into_tensor(), |_| {}).is_err());
        assert!(weak.upgrade().is_none());
    }
}
