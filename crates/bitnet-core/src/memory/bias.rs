//! Who may change the words of a record without atomic operations.
//!
//! A record whose blocks nobody holds may be granted to one thread. That thread then frees its blocks with a plain
//! load and a plain store, within its gate. Any other thread that wants to change a word of the record first
//! revokes the grant: it marks the record, runs the heavy side of a [`barrier`](super::barrier), and waits until the
//! owner is outside its gate. The owner either sees the mark when it enters next, or is seen inside. From then on
//! all threads, the former owner among them, change the words by atomic exchange.
//!
//! Revoking costs a call of the system, so a class or a heap whose grants are revoked grants fewer ([`Trust`]).

use super::barrier;
use super::sync::{AtomicU32, Ordering, yield_now};

/// The record belongs to nobody.
const SHARED: u32 = 0;
/// Set while a grant is being revoked.
const REVOKING: u32 = 1 << 31;
/// Number of a thread that is never granted anything.
pub(super) const NO_TICKET: u32 = REVOKING - 1;

/// To whom a record is granted.
#[derive(Debug)]
pub(super) struct Bias(AtomicU32);

impl Bias {
    pub(super) fn new() -> Self {
        Bias(AtomicU32::new(SHARED))
    }

    /// Reports whether a thread may take blocks of the record without making the grant of a living one useless.
    pub(super) fn suits(&self, ticket: u32, ended: impl Fn(u32) -> bool) -> bool {
        let owner = self.0.load(Ordering::Relaxed);
        owner == ticket || owner == SHARED || owner & REVOKING == 0 && ended(owner)
    }

    pub(super) fn belongs_to(&self, ticket: u32) -> bool {
        self.0.load(Ordering::Relaxed) == ticket
    }

    /// Reports whether any thread may change the words by atomic exchange.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.0.load(Ordering::Acquire) == SHARED
    }

    /// Grants a shared record to a thread. The caller is that thread, and alone has all blocks of the record,
    /// none of them live.
    pub(super) fn grant(&self, ticket: u32) {
        if ticket < NO_TICKET && barrier::available() {
            // Not a store: a late thread with a stale handle may be revoking.
            let _ = self.0.compare_exchange(SHARED, ticket, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Makes sure that the thread `ticket` may change words of the record by atomic exchange. `wait` waits until
    /// the thread whose number it gets is outside its gate. Returns whether a grant was revoked.
    #[inline]
    pub(super) fn open(&self, ticket: u32, wait: impl Fn(u32)) -> bool {
        let owner = self.0.load(Ordering::Acquire);
        owner != SHARED && owner != ticket && self.revoke(ticket, wait)
    }

    #[cold]
    fn revoke(&self, ticket: u32, wait: impl Fn(u32)) -> bool {
        loop {
            let owner = self.0.load(Ordering::Acquire);
            if owner == SHARED || owner == ticket {
                return false;
            }
            if owner & REVOKING != 0 {
                yield_now();
                continue;
            }
            let marked = owner | REVOKING;
            if self.0.compare_exchange(owner, marked, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                barrier::heavy();
                wait(owner);
                self.0.store(SHARED, Ordering::Release);
                return true;
            }
        }
    }
}

/// The numbers of the threads of a pool. One that ended leaves its number, and so what is granted to it, to the
/// next.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    last: u32,
    free: Vec<u32>,
}

impl Tickets {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.last = (self.last + 1).min(NO_TICKET);
            self.last
        })
    }

    pub(super) fn give_back(&mut self, ticket: u32) {
        if ticket < NO_TICKET {
            self.free.push(ticket);
        }
    }

    pub(super) fn is_free(&self, ticket: u32) -> bool {
        self.free.contains(&ticket)
    }
}

/// Where a thread is while it changes words of its own records.
#[derive(Debug)]
pub(super) struct Gate {
    ticket: u32,
    inside: AtomicU32,
}

impl Gate {
    pub(super) fn new(ticket: u32) -> Self {
        let ticket =
            if ticket > SHARED && ticket < NO_TICKET && barrier::available() { ticket } else { NO_TICKET };
        Gate { ticket, inside: AtomicU32::new(0) }
    }

    pub(super) fn ticket(&self) -> u32 {
        self.ticket
    }

    /// Runs `change` if the record is granted to this thread, whose gate this is. It must not panic.
    #[inline]
    pub(super) fn enter<R>(&self, bias: &Bias, change: impl FnOnce() -> Option<R>) -> Option<R> {
        self.inside.store(1, Ordering::Relaxed);
        barrier::light();
        let out = if bias.0.load(Ordering::Relaxed) == self.ticket { change() } else { None };
        self.inside.store(0, Ordering::Release);
        out
    }

    /// Waits until the thread is outside.
    pub(super) fn wait(&self) {
        while self.inside.load(Ordering::Acquire) != 0 {
            yield_now();
        }
    }
}

/// How often grants were revoked of late: each time, twice as many grants as before are left out.
#[derive(Debug, Default)]
pub(super) struct Trust {
    leave_out: AtomicU32,
    penalty: AtomicU32,
}

impl Trust {
    const MOST: u32 = 1 << 12;

    /// Reports whether a record is to be granted. Threads that ask at once may get the same answer.
    pub(super) fn grants(&self) -> bool {
        let left = self.leave_out.load(Ordering::Relaxed);
        if left > 0 {
            self.leave_out.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    /// Notes that a grant was revoked.
    pub(super) fn revoked(&self) {
        let penalty = (self.penalty.load(Ordering::Relaxed) * 2).clamp(4, Self::MOST);
        self.penalty.store(penalty, Ordering::Relaxed);
        self.leave_out.store(penalty, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn grants_end_when_another_thread_comes() {
        let (gate, bias) = (Gate::new(5), Bias::new());
        assert_eq!(gate.enter(&bias, || Some(1)), None);
        bias.grant(gate.ticket());
        if gate.ticket() == NO_TICKET {
            println!("SKIPPED: this kernel has no membarrier");
            return;
        }
        assert_eq!(gate.enter(&bias, || Some(1)), Some(1));
        assert!(bias.belongs_to(5) && !bias.is_shared());
        assert!(bias.suits(5, |_| false) && !bias.suits(6, |_| false) && bias.suits(6, |owner| owner == 5));
        // Granted already: nobody else gets it.
        bias.grant(6);
        assert!(!bias.open(5, |_| panic!("waited for itself")));
        assert!(bias.open(6, |owner| assert_eq!(owner, 5)));
        assert_eq!(gate.enter(&bias, || Some(1)), None);
        assert!(bias.is_shared() && !bias.open(7, |_| panic!("revoked twice")));
    }

    #[test]
    fn threads_without_a_ticket_get_nothing() {
        for ticket in [SHARED, NO_TICKET, REVOKING, u32::MAX] {
            let (gate, bias) = (Gate::new(ticket), Bias::new());
            bias.grant(gate.ticket());
            assert!(bias.is_shared());
            assert_eq!(gate.enter(&bias, || Some(1)), None);
        }
    }

    #[test]
    fn trust_is_lost_at_once_and_comes_back_slowly() {
        let trust = Trust::default();
        assert!(trust.grants());
        for left_out in [4, 8, 16] {
            trust.revoked();
            assert!((0..left_out).all(|_| !trust.grants()));
            assert!(trust.grants());
        }
        (0..40).for_each(|_| trust.revoked());
        assert_eq!((0..).take_while(|_| !trust.grants()).count(), Trust::MOST as usize);
    }
}
