//! Where moved blocks live: from the slot that their handle names to the slot they were moved to.

use std::collections::HashMap;

use super::small::Slot;

/// Place of a moved block, and the generation of its word there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) slot: Slot,
    pub(super) generation: u32,
}

#[derive(Debug, Default)]
pub(super) struct Forwards {
    targets: HashMap<Slot, Target>,
    /// The slot that the handle names, by where the block is.
    origins: HashMap<Slot, Slot>,
}

impl Forwards {
    pub(super) fn get(&self, named: Slot) -> Option<Target> {
        self.targets.get(&named).copied()
    }

    /// Notes that the block in `from` is in `target` now; returns whether `from` had been moved there before,
    /// so that no handle names it.
    pub(super) fn moved(&mut self, from: Slot, target: Target) -> bool {
        let origin = self.origins.remove(&from);
        let named = origin.unwrap_or(from);
        self.targets.insert(named, target);
        self.origins.insert(target.slot, named);
        origin.is_some()
    }

    /// Forgets a block that was freed.
    pub(super) fn forget(&mut self, named: Slot) {
        if let Some(target) = self.targets.remove(&named) {
            self.origins.remove(&target.slot);
        }
    }

    /// Returns bytes of bookkeeping.
    pub(super) fn metadata_bytes(&self) -> usize {
        // A byte of control for each place of a table.
        self.targets.capacity() * (size_of::<(Slot, Target)>() + 1)
            + self.origins.capacity() * (size_of::<(Slot, Slot)>() + 1)
    }

    /// Reports whether a moved block lives in `slot`.
    pub(super) fn is_target(&self, slot: Slot) -> bool {
        self.origins.contains_key(&slot)
    }
}
