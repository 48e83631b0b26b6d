//! A table whose keys stop being valid when their entry is removed.
//!
//! A key is an index and the generation of its slot; removal advances the generation, so a stale key
//! never reaches the entry that reuses its slot. Generations are 64-bit and do not wrap in practice.

/// Names one entry of a [`SlotTable`] for as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) index: usize,
    pub(super) generation: u64,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u64,
    value: Option<T>,
}

#[derive(Debug)]
pub(super) struct SlotTable<T> {
    slots: Vec<Slot<T>>,
    vacant: Vec<usize>,
}

impl<T> Default for SlotTable<T> {
    fn default() -> Self {
        SlotTable { slots: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> SlotTable<T> {
    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.value = Some(value);
        Key { index, generation: slot.generation }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index).filter(|slot| slot.generation == key.generation)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation += 1;
        self.vacant.push(key.index);
        Some(value)
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Asserts that the vacant list names each empty slot once.
    #[cfg(test)]
    pub(super) fn debug_validate(&self) {
        let mut listed = vec![false; self.slots.len()];
        for &index in &self.vacant {
            assert!(!std::mem::replace(&mut listed[index], true), "slot {index} is listed twice");
        }
        for (slot, listed) in self.slots.iter().zip(listed) {
            assert_eq!(slot.value.is_none(), listed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_refuses_the_old_key() {
        let mut table = SlotTable::default();
        let old = table.insert("a");
        assert_eq!(table.remove(old), Some("a"));
        let new = table.insert("b");
        assert_eq!(old.index, new.index);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get_mut(new), Some(&mut "b"));
        table.debug_validate();
    }
}
