//! Events of all threads in an order that can have been: nothing is freed before it was allocated, and no two live
//! blocks overlap. The clock of events may stand still for milliseconds, in which threads hand memory to each other.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::Event;
use crate::memory::small::Slot;

/// A block that compaction moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    /// Nanoseconds since the pool was made, or in the clock's unit.
    pub(super) time: u64,
    pub(super) device: u8,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What became of the memory at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) time: u64,
    pub(super) device: u8,
    /// What was allocated or freed, at the address of this step.
    pub(super) event: Event,
}

/// The name of a block: its slot and generation.
type Name = (Slot, u32);

fn name(event: &Event) -> Name {
    (event.slot, event.generation)
}

#[derive(Default)]
struct Memory {
    /// Live blocks by device and address.
    live: BTreeMap<(u8, usize), Event>,
    places: HashMap<Name, usize>,
    /// Blocks that are allocated and blocks that are freed in this moment, and were not yet.
    coming: HashSet<Name>,
    going: HashSet<Name>,
    steps: Vec<Step>,
}

impl Memory {
    /// Returns the address of a live block that a range meets.
    fn met(&self, device: u8, start: usize, size: u64) -> Option<usize> {
        let end = start.saturating_add(size as usize);
        // Live blocks overlap nowhere, so it is the last one that begins below the end, or none.
        let (&(_, at), event) = self.live.range((device, 0)..(device, end)).next_back()?;
        (at + event.size as usize > start).then_some(at)
    }

    fn step(&mut self, time: u64, device: u8, event: Event) {
        self.steps.push(Step { time, device, event });
    }

    fn allocate(&mut self, time: u64, device: u8, event: Event) {
        self.live.insert((device, event.address), event);
        self.places.insert(name(&event), event.address);
        self.step(time, device, Event { freed: false, ..event });
    }

    fn free(&mut self, time: u64, device: u8, address: usize) {
        let Some(event) = self.live.remove(&(device, address)) else { return };
        self.places.remove(&name(&event));
        self.step(time, device, Event { freed: true, address, ..event });
    }

    /// Reports whether an event can be what comes next.
    fn can_be(&self, event: &Event, device: u8) -> bool {
        let is_free = || self.met(device, event.address, event.size).is_none();
        match self.places.get(&name(event)) {
            _ if !event.freed => is_free(),
            _ if self.coming.contains(&name(event)) => false,
            Some(&place) => place == event.address,
            // Of a time that is not kept.
            None => is_free(),
        }
    }

    /// Takes an event, and frees what is in its way: its end was not kept.
    fn take(&mut self, event: Event, device: u8) {
        let name = name(&event);
        if !event.freed {
            while let Some(met) = self.met(device, event.address, event.size) {
                self.free(event.time, device, met);
            }
            self.coming.remove(&name);
            return self.allocate(event.time, device, event);
        }
        self.going.remove(&name);
        match self.places.get(&name) {
            Some(&place) => self.free(event.time, device, place),
            None if self.met(device, event.address, event.size).is_none() => {
                self.step(event.time, device, event);
            }
            None => {}
        }
    }

    /// Moves a block, unless its allocation was not kept.
    fn relocate(&mut self, moved: Move) {
        let Some(&event) = self.live.get(&(moved.device, moved.from)) else { return };
        self.free(moved.time, moved.device, moved.from);
        self.take(Event { time: moved.time, address: moved.to, ..event }, moved.device);
    }

    /// Takes the events of one moment, each thread's in their order.
    fn pass(&mut self, threads: &mut [VecDeque<Event>], device: &impl Fn(Slot) -> u8) {
        let all = threads.iter().flatten();
        (self.coming, self.going) = (HashSet::new(), HashSet::new());
        for event in all {
            if event.freed { &mut self.going } else { &mut self.coming }.insert(name(event));
        }
        loop {
            let next = threads.iter().enumerate().filter_map(|(thread, events)| {
                let event = events.front()?;
                // Whatever can go goes first, and what stays comes last: it may be in the way of others.
                let rank = if event.freed { 0 } else { 1 + u8::from(!self.going.contains(&name(event))) };
                Some((if self.can_be(event, device(event.slot)) { rank } else { 3 }, thread))
            });
            let Some((_, thread)) = next.min() else { return };
            if let Some(event) = threads[thread].pop_front() {
                self.take(event, device(event.slot));
            }
        }
    }
}

/// Puts events, which are sorted by time and come with a number for their thread, in order with moves, of which no event
/// after one has its time.
pub(super) fn in_order(events: &[(usize, Event)], moves: &[Move], device: impl Fn(Slot) -> u8) -> Vec<Step> {
    let (mut memory, mut moves) = (Memory::default(), moves.iter().peekable());
    for moment in events.chunk_by(|(_, a), (_, b)| a.time == b.time) {
        let time = moment[0].1.time;
        while let Some(&moved) = moves.next_if(|moved| moved.time < time) {
            memory.relocate(moved);
        }
        let mut threads: Vec<(usize, VecDeque<Event>)> = Vec::new();
        for &(thread, event) in moment {
            match threads.iter_mut().find(|(number, _)| *number == thread) {
                Some((_, events)) => events.push_back(event),
                None => threads.push((thread, VecDeque::from([event]))),
            }
        }
        let mut threads: Vec<_> = threads.into_iter().map(|(_, events)| events).collect();
        memory.pass(&mut threads, &device);
    }
    moves.for_each(|&moved| memory.relocate(moved));
    memory.steps
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn event(time: u64, freed: bool, object: u32, address: usize) -> Event {
        let slot = Slot { record: 0, object };
        Event { time, freed, size: 64, slot, address, generation: 1, tag: 0, site: 0 }
    }

    fn addresses(events: &[(usize, Event)], moves: &[Move]) -> Vec<(bool, usize)> {
        let steps = in_order(events, moves, |_| 0);
        steps.iter().map(|step| (step.event.freed, step.event.address)).collect()
    }

    #[test]
    fn what_threads_hand_over_within_a_tick_is_put_in_order() {
        // The thread that took the address over comes first in the list.
        let events = [
            (1, event(5, false, 2, 0)),
            (1, event(5, true, 2, 0)),
            (2, event(5, false, 1, 0)),
            (2, event(5, true, 1, 0)),
        ];
        assert_eq!(addresses(&events, &[]), [(false, 0), (true, 0), (false, 0), (true, 0)]);
        // Two small ones, one over both of them, and one in the upper half again; another thread frees.
        let wide = |event: Event| Event { size: 128, ..event };
        let events = [
            (1, event(5, false, 1, 0)),
            (1, event(5, false, 2, 64)),
            (1, event(5, true, 2, 64)),
            (1, wide(event(5, false, 3, 0))),
            (1, event(5, false, 4, 64)),
            (2, event(5, true, 1, 0)),
            (2, wide(event(5, true, 3, 0))),
        ];
        let expected = [(false, 0), (true, 0), (false, 64), (true, 64), (false, 0), (true, 0), (false, 64)];
        assert_eq!(addresses(&events, &[]), expected);
    }

    #[test]
    fn moved_blocks_are_freed_where_they_went() {
        let moved = Move { time: 6, device: 0, from: 128, to: 0 };
        let events = [(1, event(5, false, 1, 128)), (1, event(7, false, 2, 128)), (1, event(7, true, 1, 0))];
        let expected = [(false, 128), (true, 128), (false, 0), (false, 128), (true, 0)];
        assert_eq!(addresses(&events, &[moved]), expected);
    }

    #[test]
    fn what_no_event_leads_to_overlaps_nothing() {
        // The deallocation of the first was not kept.
        let events = [(1, event(1, false, 1, 0)), (1, event(2, false, 2, 32)), (1, event(3, true, 3, 512))];
        assert_eq!(addresses(&events, &[]), [(false, 0), (true, 0), (false, 32), (true, 512)]);
    }
}
