//! The life of one block in one atomic word: generation above, state below.
//!
//! Every way to a block passes here, by atomic exchange unless one thread alone may change the word (`bias`). A
//! handle carries the generation that its block had when it was allocated; freeing advances it, so that the handle
//! and its clones are stale from then on. Pins are part of the same word, so a block cannot be freed or moved while
//! one exists, whatever other threads do.
//!
//! A generation has [`GENERATION_BITS`] bits. A block whose generations are used up rests until the epoch
//! of its record advances (`records`), which a handle names as well.

use super::sync::{AtomicU32, Ordering, yield_now};

/// Bits of the state.
const STATE_BITS: u32 = 6;
const STATE_MASK: u32 = (1 << STATE_BITS) - 1;
/// Bits of a generation.
pub(super) const GENERATION_BITS: u32 = u32::BITS - STATE_BITS;
/// A block of this generation is not handed out again in its epoch.
pub(super) const LAST_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

const FREE: u32 = 0;
const LIVE: u32 = 1;
const EXCLUSIVE: u32 = 2;
/// Being copied to another place; whoever meets it waits.
const MOVING: u32 = 3;
/// Lives elsewhere, see `forwards`.
const MOVED: u32 = 4;
/// One shared pin; every further one counts up.
const SHARED: u32 = 5;
/// Most shared pins of a block at any one time.
pub(super) const MAX_SHARED: u32 = STATE_MASK - SHARED + 1;

/// Why a word refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The block was freed since.
    Stale,
    /// It has this many shared pins.
    Shared(u32),
    /// It has an exclusive pin.
    Exclusive,
    /// It was moved.
    Moved,
}

/// What becomes of a freed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    /// It may be handed out again.
    Reusable,
    /// Its generations are used up.
    Retired,
}

/// What a word says, for validators and compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Free,
    Retired,
    Live,
    Pinned,
    Moved,
}

#[derive(Debug)]
pub(super) struct Word(AtomicU32);

impl Word {
    pub(super) fn new() -> Self {
        Word(AtomicU32::new(FREE))
    }

    /// Gives a free block another generation.
    #[cfg(all(test, not(loom)))]
    pub(super) fn age(&self, generation: u32) {
        debug_assert_eq!(self.0.load(Ordering::Relaxed) & STATE_MASK, FREE);
        self.0.store(generation << STATE_BITS | FREE, Ordering::Relaxed);
    }

    /// Turns a free block, which the caller alone holds, into a live one; returns its generation.
    #[inline]
    pub(super) fn activate(&self) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & STATE_MASK, FREE);
        self.0.store(word | LIVE, Ordering::Release);
        word >> STATE_BITS
    }

    /// Frees a live block without pins.
    #[inline]
    pub(super) fn free(&self, generation: u32) -> Result<Freed, Refusal> {
        let live = generation << STATE_BITS | LIVE;
        let next = generation.wrapping_add(1) << STATE_BITS | FREE;
        if self.0.compare_exchange(live, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return self.free_slowly(generation);
        }
        Ok(freed(generation))
    }

    /// Frees a live block without pins. `None` where it is anything else, or its generations end.
    #[inline]
    pub(super) fn free_at_once(&self, generation: u32) -> Option<Freed> {
        let (live, next) = (generation << STATE_BITS | LIVE, generation.wrapping_add(1));
        let freed = next << STATE_BITS | FREE;
        let done = next < LAST_GENERATION
            && self.0.compare_exchange(live, freed, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        done.then_some(Freed::Reusable)
    }

    /// Frees a live block without pins, where no other thread can change the word meanwhile. `None` where it is
    /// anything else, or its generations end.
    #[inline]
    pub(super) fn free_alone(&self, generation: u32) -> Option<Freed> {
        let next = generation.wrapping_add(1);
        if self.0.load(Ordering::Relaxed) != generation << STATE_BITS | LIVE || next >= LAST_GENERATION {
            return None;
        }
        self.0.store(next << STATE_BITS | FREE, Ordering::Release);
        Some(Freed::Reusable)
    }

    #[cold]
    fn free_slowly(&self, generation: u32) -> Result<Freed, Refusal> {
        self.change(generation, |state| match state {
            LIVE => Ok((generation + 1) << STATE_BITS | FREE),
            other => Err(refusal(other)),
        })?;
        Ok(freed(generation))
    }

    /// Adds a shared pin.
    pub(super) fn pin_shared(&self, generation: u32) -> Result<(), Refusal> {
        self.change(generation, |state| match state {
            LIVE => Ok(generation << STATE_BITS | SHARED),
            STATE_MASK => Err(Refusal::Shared(MAX_SHARED)),
            SHARED.. => Ok(generation << STATE_BITS | (state + 1)),
            other => Err(refusal(other)),
        })
    }

    /// Adds the exclusive pin.
    pub(super) fn pin_exclusive(&self, generation: u32) -> Result<(), Refusal> {
        self.change(generation, |state| match state {
            LIVE => Ok(generation << STATE_BITS | EXCLUSIVE),
            other => Err(refusal(other)),
        })
    }

    /// Gives a block, which the caller has pinned exclusively, its next generation and returns that; `None` when
    /// there is none.
    pub(super) fn renew(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & STATE_MASK, EXCLUSIVE);
        let generation = (word >> STATE_BITS) + 1;
        if generation == LAST_GENERATION {
            return None;
        }
        self.0.store(generation << STATE_BITS | EXCLUSIVE, Ordering::Release);
        Some(generation)
    }

    /// Takes one pin away, which the caller owns.
    pub(super) fn unpin(&self) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let state = match word & STATE_MASK {
                EXCLUSIVE | SHARED => LIVE,
                state if state > SHARED => state - 1,
                state => {
                    debug_assert!(false, "unpinned a block in state {state}");
                    return;
                }
            };
            let next = word & !STATE_MASK | state;
            match self.0.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => word = found,
            }
        }
    }

    /// Returns the generation of a live block without pins, as a move names it.
    pub(super) fn movable(&self) -> Option<u32> {
        let (seen, generation) = self.see();
        (seen == Seen::Live).then_some(generation)
    }

    /// Stops access to a live block without pins, so that it can be copied. `false` when it is not one.
    ///
    /// Where the record may be granted again meanwhile, the generation is one that was live, as [`movable`](
    /// Self::movable) says, before the record was opened to this thread: it ends before the record can be granted.
    pub(super) fn begin_move(&self, generation: u32) -> bool {
        let (live, moving) = (generation << STATE_BITS | LIVE, generation << STATE_BITS | MOVING);
        self.0.compare_exchange(live, moving, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends a move: the block is live at the same word again.
    pub(super) fn end_move_in_place(&self) {
        self.leave(MOVING, |word| word & !STATE_MASK | LIVE);
    }

    /// Ends a move: the block lives elsewhere, found through the forwards.
    pub(super) fn end_move_forwarded(&self) {
        self.leave(MOVING, |word| word & !STATE_MASK | MOVED);
    }

    /// Ends the move of a block that only a forward named: the word is free.
    pub(super) fn end_move_freed(&self) -> Freed {
        freed(self.leave(MOVING, successor))
    }

    /// Frees the word of a moved block, whose place elsewhere was freed.
    pub(super) fn free_moved(&self) -> Freed {
        freed(self.leave(MOVED, successor))
    }

    /// Frees a block that the caller has pinned exclusively.
    pub(super) fn free_exclusive(&self) -> Freed {
        freed(self.leave(EXCLUSIVE, successor))
    }

    /// Ends a state in which the caller alone changes the word; returns its generation.
    fn leave(&self, state: u32, next: impl Fn(u32) -> u32) -> u32 {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & STATE_MASK, state);
        self.0.store(next(word), Ordering::Release);
        word >> STATE_BITS
    }

    /// Starts the generations anew in a new epoch: nothing is live here.
    pub(super) fn begin_epoch(&self) {
        let word = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(word & STATE_MASK, FREE);
        if word >> STATE_BITS == LAST_GENERATION {
            self.0.store(FREE, Ordering::Release);
        }
    }

    /// Returns what the word says and its generation.
    pub(super) fn see(&self) -> (Seen, u32) {
        let word = self.0.load(Ordering::Acquire);
        let generation = word >> STATE_BITS;
        let seen = match word & STATE_MASK {
            FREE if generation == LAST_GENERATION => Seen::Retired,
            FREE => Seen::Free,
            LIVE | MOVING => Seen::Live,
            MOVED => Seen::Moved,
            _ => Seen::Pinned,
        };
        (seen, generation)
    }

    /// Changes the word of a live generation by `next`, which gets the state.
    fn change(&self, generation: u32, next: impl Fn(u32) -> Result<u32, Refusal>) -> Result<(), Refusal> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if word >> STATE_BITS != generation || word & STATE_MASK == FREE {
                return Err(Refusal::Stale);
            }
            if word & STATE_MASK == MOVING {
                yield_now();
                word = self.0.load(Ordering::Acquire);
                continue;
            }
            let new = next(word & STATE_MASK)?;
            match self.0.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(found) => word = found,
            }
        }
    }
}

/// Returns the free word of the next generation.
fn successor(word: u32) -> u32 {
    (word | STATE_MASK).wrapping_add(1)
}

/// Returns what becomes of a block whose generation ends.
fn freed(generation: u32) -> Freed {
    if generation + 1 == LAST_GENERATION { Freed::Retired } else { Freed::Reusable }
}

fn refusal(state: u32) -> Refusal {
    match state {
        EXCLUSIVE => Refusal::Exclusive,
        MOVED => Refusal::Moved,
        SHARED.. => Refusal::Shared(state - SHARED + 1),
        _ => Refusal::Stale,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn stale_generations_are_refused_in_every_way() {
        let word = Word::new();
        let generation = word.activate();
        assert_eq!(word.free(generation), Ok(Freed::Reusable));
        assert_eq!(word.free(generation), Err(Refusal::Stale));
        assert_eq!(word.activate(), generation + 1);
        assert_eq!(word.free(generation), Err(Refusal::Stale));
        assert_eq!(word.pin_shared(generation), Err(Refusal::Stale));
        assert_eq!(word.pin_exclusive(generation), Err(Refusal::Stale));
        assert_eq!(word.see(), (Seen::Live, generation + 1));
    }

    #[test]
    fn pins_exclude_and_are_counted() {
        let word = Word::new();
        let generation = word.activate();
        for _ in 0..MAX_SHARED {
            word.pin_shared(generation).unwrap();
        }
        assert_eq!(word.pin_shared(generation), Err(Refusal::Shared(MAX_SHARED)));
        assert_eq!(word.free(generation), Err(Refusal::Shared(MAX_SHARED)));
        assert!(!word.begin_move(generation));
        for _ in 0..MAX_SHARED {
            word.unpin();
        }
        word.pin_exclusive(generation).unwrap();
        assert_eq!(word.free(generation), Err(Refusal::Exclusive));
        word.unpin();
        assert_eq!(word.free(generation), Ok(Freed::Reusable));
    }

    #[test]
    fn renewed_blocks_leave_their_former_handles_behind() {
        let word = Word(AtomicU32::new((LAST_GENERATION - 2) << STATE_BITS));
        let generation = word.activate();
        word.pin_exclusive(generation).unwrap();
        assert_eq!(word.renew(), Some(generation + 1));
        assert_eq!(word.renew(), None);
        assert_eq!(word.pin_shared(generation), Err(Refusal::Stale));
        assert_eq!(word.free(generation + 1), Err(Refusal::Exclusive));
        word.unpin();
        assert_eq!(word.free(generation), Err(Refusal::Stale));
        assert_eq!(word.free(generation + 1), Ok(Freed::Retired));
    }

    #[test]
    fn the_last_generation_retires_until_the_next_epoch() {
        let word = Word(AtomicU32::new((LAST_GENERATION - 1) << STATE_BITS));
        let generation = word.activate();
        assert_eq!(word.free(generation), Ok(Freed::Retired));
        assert_eq!(word.see().0, Seen::Retired);
        word.begin_epoch();
        assert_eq!(word.activate(), 0);
    }

    #[test]
    fn moved_blocks_are_found_elsewhere() {
        let word = Word::new();
        let generation = word.activate();
        assert!(!word.begin_move(generation + 1) && word.begin_move(generation));
        word.end_move_forwarded();
        assert_eq!(word.free(generation), Err(Refusal::Moved));
        assert_eq!(word.free(generation + 1), Err(Refusal::Stale));
        word.free_moved();
        assert_eq!(word.free(generation), Err(Refusal::Stale));
        assert_eq!(word.activate(), generation + 1);
    }
}
