//! The buddy system: power-of-two blocks of units, split in halves and joined with their twin.
//!
//! Twins are joined when a block is asked for that is not there, not when they become free: the sizes that a
//! program asks for again find their blocks whole.
//!
//! An arena is a power of two of units, naturally placed, and has a tree of its own. Free blocks of an order form
//! a list through arrays beside the units; no memory of an arena is touched.

use super::{Arena, Found, FreeRange, PAGE};

const NIL: u32 = u32::MAX;
/// Pages of a unit, the smallest block: 256 KiB.
const UNIT: u32 = 64;
pub(super) const ORDERS: usize = 27;

/// Returns the order of the smallest block that holds `bytes`, above zero.
#[inline]
pub(super) fn order_of(bytes: usize) -> usize {
    ((bytes - 1) / (UNIT as usize * PAGE)).checked_ilog2().map_or(0, |log| log as usize + 1)
}

#[derive(Debug, Clone, Copy)]
struct Unit {
    previous: u32,
    next: u32,
    /// Order of the block that begins here.
    order: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Inside a block.
    Inner,
    Free,
    /// Free, and its memory reads as zeros and takes nothing.
    Clean,
    Taken,
}

impl State {
    fn is_free(self) -> bool {
        matches!(self, State::Free | State::Clean)
    }
}

#[derive(Debug)]
struct Tree {
    units: Vec<Unit>,
    heads: [u32; ORDERS],
    /// Bit of each order with a free block.
    occupied: u32,
    order: u8,
    /// Whether twins may be free that are not joined.
    loose: bool,
}

#[derive(Debug)]
pub(super) struct Buddy {
    /// By arena.
    trees: Vec<Option<Tree>>,
    free_units: usize,
}

/// Arena and first unit in one number.
fn token(arena: usize, unit: u32) -> u64 {
    (arena as u64) << 32 | u64::from(unit)
}

/// Returns arena and first unit of a token.
fn parts(token: u64) -> (usize, u32) {
    ((token >> 32) as usize, token as u32)
}

/// Units of the largest arena.
const MAX_UNITS: u32 = 1 << 22;

impl Tree {
    fn push(&mut self, unit: u32, order: u8, state: State) {
        let head = self.heads[order as usize];
        self.units[unit as usize] = Unit { previous: NIL, next: head, order, state };
        if head != NIL {
            self.units[head as usize].previous = unit;
        }
        self.heads[order as usize] = unit;
        self.occupied |= 1 << order;
    }

    fn unlink(&mut self, unit: u32) {
        let Unit { previous, next, order, .. } = self.units[unit as usize];
        match previous {
            NIL => {
                self.heads[order as usize] = next;
                if next == NIL {
                    self.occupied &= !(1 << order);
                }
            }
            previous => self.units[previous as usize].next = next,
        }
        if next != NIL {
            self.units[next as usize].previous = previous;
        }
    }

    fn allocate(&mut self, order: u8) -> Option<(u32, bool)> {
        let above = self.occupied & (u32::MAX << order);
        if above == 0 {
            return None;
        }
        let mut at = above.trailing_zeros() as u8;
        let unit = self.heads[at as usize];
        let state = self.units[unit as usize].state;
        self.unlink(unit);
        while at > order {
            at -= 1;
            self.push(unit + (1 << at), at, state);
        }
        self.units[unit as usize] = Unit { previous: NIL, next: NIL, order, state: State::Taken };
        Some((unit, state == State::Clean))
    }

    fn free(&mut self, unit: u32) {
        let order = self.units[unit as usize].order;
        debug_assert_eq!(self.units[unit as usize].state, State::Taken);
        self.push(unit, order, State::Free);
        self.loose = true;
    }

    /// Halves a taken block down to `order`, the upper halves free.
    fn shrink(&mut self, unit: u32, order: u8) {
        let mut at = self.units[unit as usize].order;
        while at > order {
            at -= 1;
            self.push(unit + (1 << at), at, State::Free);
            self.loose = true;
        }
        self.units[unit as usize].order = at;
    }

    /// Joins all free twins; returns whether there were any.
    fn join(&mut self) -> bool {
        if !std::mem::replace(&mut self.loose, false) {
            return false;
        }
        let mut joined = false;
        for order in 0..self.order {
            let mut unit = self.heads[order as usize];
            while unit != NIL {
                let twin = unit ^ (1 << order);
                let Unit { next, state, .. } = self.units[unit as usize];
                let other = self.units[twin as usize];
                if other.order == order && other.state.is_free() {
                    let clean = state == State::Clean && other.state == State::Clean;
                    // The list goes on behind the twin where that is the next.
                    let after = if next == twin { other.next } else { next };
                    self.unlink(unit);
                    self.unlink(twin);
                    self.units[(unit | 1 << order) as usize].state = State::Inner;
                    let state = if clean { State::Clean } else { State::Free };
                    self.push(unit & !(1 << order), order + 1, state);
                    joined = true;
                    unit = after;
                } else {
                    unit = next;
                }
            }
        }
        joined
    }
}

impl Buddy {
    pub(super) fn new() -> Self {
        Buddy { trees: Vec::new(), free_units: 0 }
    }

    /// Returns the pages of an arena that holds a block of `pages`.
    pub(super) fn arena_pages(pages: u32) -> Option<u32> {
        let units = pages.div_ceil(UNIT).checked_next_power_of_two()?;
        if units > MAX_UNITS { None } else { units.checked_mul(UNIT) }
    }

    pub(super) fn add_arena(&mut self, arena: u32, pages: u32) {
        let units = pages / UNIT;
        debug_assert!(units.is_power_of_two() && pages.is_multiple_of(UNIT));
        let inner = Unit { previous: NIL, next: NIL, order: 0, state: State::Inner };
        let order = units.ilog2() as u8;
        let mut tree = Tree {
            units: vec![inner; units as usize],
            heads: [NIL; ORDERS],
            occupied: 0,
            order,
            loose: false,
        };
        tree.push(0, order, State::Clean);
        let arena = arena as usize;
        if self.trees.len() <= arena {
            self.trees.resize_with(arena + 1, || None);
        }
        self.trees[arena] = Some(tree);
        self.free_units += units as usize;
    }

    pub(super) fn allocate(&mut self, pages: u32, align: u32) -> Option<Found> {
        // Blocks are aligned to their size within an arena, and arenas to the greatest alignment.
        let units = pages.max(align).div_ceil(UNIT).checked_next_power_of_two()?;
        let order = units.ilog2() as u8;
        for (arena, tree) in self.trees.iter_mut().enumerate() {
            let Some(tree) = tree else { continue };
            let mut found = tree.allocate(order);
            if found.is_none() && tree.join() {
                found = tree.allocate(order);
            }
            let Some((unit, clean)) = found else { continue };
            self.free_units -= units as usize;
            let (token, arena) = (token(arena, unit), arena as u32);
            return Some(Found { arena, start: unit * UNIT, pages: units * UNIT, token, clean });
        }
        None
    }

    pub(super) fn free(&mut self, token: u64) {
        let (arena, unit) = parts(token);
        if let Some(Some(tree)) = self.trees.get_mut(arena) {
            self.free_units += 1 << tree.units[unit as usize].order;
            tree.free(unit);
        }
    }

    /// Frees the halves of a taken block that its first `pages` do not need; returns its pages.
    pub(super) fn shrink(&mut self, token: u64, pages: u32) -> u32 {
        let (arena, unit) = parts(token);
        let Some(Some(tree)) = self.trees.get_mut(arena) else { return pages };
        let former = tree.units[unit as usize].order;
        let order = pages.div_ceil(UNIT).next_power_of_two().ilog2() as u8;
        tree.shrink(unit, order.min(former));
        let left = tree.units[unit as usize].order;
        self.free_units += (1 << former) - (1 << left);
        UNIT << left
    }

    pub(super) fn mark_clean(&mut self, token: u64) {
        let (arena, unit) = parts(token);
        if let Some(Some(tree)) = self.trees.get_mut(arena) {
            tree.units[unit as usize].state = State::Clean;
        }
    }

    /// Joins all free twins.
    pub(super) fn join(&mut self) {
        self.trees.iter_mut().flatten().for_each(|tree| {
            tree.join();
        });
    }

    pub(super) fn free_ranges(&self) -> impl Iterator<Item = FreeRange> {
        self.trees.iter().enumerate().flat_map(|(arena, tree)| {
            tree.iter().flat_map(|tree| tree.units.iter().enumerate()).filter_map(move |(unit, at)| {
                let clean = match at.state {
                    State::Free => false,
                    State::Clean => true,
                    _ => return None,
                };
                let (start, pages) = (unit as u32 * UNIT, UNIT << at.order);
                Some(FreeRange { arena: arena as u32, start, pages, token: token(arena, unit as u32), clean })
            })
        })
    }

    pub(super) fn remove_arena(&mut self, arena: u32) -> bool {
        let Some(slot) = self.trees.get_mut(arena as usize) else { return false };
        let whole = slot
            .as_ref()
            .is_some_and(|tree| tree.units[0].order == tree.order && tree.units[0].state.is_free());
        if let (true, Some(tree)) = (whole, slot.as_ref()) {
            self.free_units -= tree.units.len();
            *slot = None;
        }
        whole
    }

    pub(super) fn free_pages(&self) -> usize {
        self.free_units * UNIT as usize
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.trees.iter().flatten().map(|tree| size_of::<Tree>() + tree.units.len() * size_of::<Unit>()).sum()
    }

    /// Asserts that blocks tile their arenas, that no two free twins exist and that lists hold what is free.
    pub(super) fn debug_validate(&self, arenas: &[Option<Arena>]) {
        let mut free_units = 0;
        for (index, arena) in arenas.iter().enumerate() {
            let tree = self.trees.get(index).and_then(Option::as_ref);
            assert_eq!(arena.is_some(), tree.is_some());
            let Some(tree) = tree else { continue };
            let (mut unit, mut listed) = (0usize, 0);
            while unit < tree.units.len() {
                let at = tree.units[unit];
                assert_ne!(at.state, State::Inner, "unit {unit} belongs to no block");
                assert!(unit.is_multiple_of(1 << at.order));
                if at.state != State::Taken {
                    free_units += 1 << at.order;
                    listed += 1;
                    let twin = tree.units.get(unit ^ (1 << at.order));
                    let twin_free = twin.is_some_and(|twin| twin.order == at.order && twin.state.is_free());
                    assert!(!twin_free || tree.loose, "free twins were not joined");
                }
                unit += 1 << at.order;
            }
            for (order, &head) in tree.heads.iter().enumerate() {
                assert_eq!(tree.occupied >> order & 1 == 1, head != NIL);
                let mut at = head;
                while at != NIL {
                    assert_eq!(tree.units[at as usize].order as usize, order);
                    listed -= 1;
                    at = tree.units[at as usize].next;
                }
            }
            assert_eq!(listed, 0);
        }
        assert_eq!(free_units, self.free_units);
    }
}
