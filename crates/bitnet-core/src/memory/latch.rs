//! A lock for books that are mostly held for a few instructions: taking it is one atomic operation, giving it
//! back is a plain store.
//!
//! Nobody who waits is noted, so a waiter looks again: at once for a while, then after its turn, then after a
//! sleep, since growing and purging a heap take longer.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Looks at once, and looks with a turn of others in between.
const SPINS: u32 = 64;
const TURNS: u32 = 16;
const SLEEP: Duration = Duration::from_micros(50);

#[derive(Debug, Default)]
pub(super) struct Latch<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard alone, of which there is one at a time: sharing the latch is
// passing the value between threads.
unsafe impl<T: Send> Sync for Latch<T> {}

impl<T> Latch<T> {
    pub(super) fn new(value: T) -> Self {
        Latch { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock. A panic of a holder frees it: no operation leaves books half-written.
    #[inline]
    pub(super) fn lock(&self) -> LatchGuard<'_, T> {
        if self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.wait();
        }
        LatchGuard { latch: self, access: PhantomData }
    }

    #[cold]
    fn wait(&self) {
        let mut looks = 0;
        loop {
            if !self.held.load(Ordering::Relaxed)
                && self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            looks += 1;
            match looks {
                0..SPINS => spin_loop(),
                _ if looks < SPINS + TURNS => thread::yield_now(),
                _ => thread::sleep(SLEEP),
            }
        }
    }
}

pub(super) struct LatchGuard<'a, T> {
    latch: &'a Latch<T>,
    /// Threads may share the guard only where they may share the value.
    access: PhantomData<&'a mut T>,
}

impl<T> Deref for LatchGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock, so no other guard exists, and `deref_mut` needs this one whole.
        unsafe { &*self.latch.value.get() }
    }
}

impl<T> DerefMut for LatchGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; `&mut self` keeps other borrows through this guard away.
        unsafe { &mut *self.latch.value.get() }
    }
}

impl<T> Drop for LatchGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.latch.held.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_is_inside() {
        let latch = Latch::new((0u64, 0u64));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let mut value = latch.lock();
                        value.0 += 1;
                        if round % 500 == 0 {
                            thread::sleep(Duration::from_micros(200));
                        }
                        value.1 += 1;
                        assert_eq!(value.0, value.1);
                    }
                });
            }
        });
        assert_eq!(*latch.lock(), (6000, 6000));
    }

    #[test]
    fn guards_are_shared_between_threads_only_where_their_value_is() {
        // Ambiguous, and so an error of the compiler, where both apply: for a guard that is `Sync`.
        trait Alone<Marker> {
            fn holds() -> bool {
                true
            }
        }
        struct Shared;
        impl<T> Alone<()> for T {}
        impl<T: Sync> Alone<Shared> for T {}
        assert!(<LatchGuard<'static, std::cell::Cell<u32>> as Alone<_>>::holds());
    }

    #[test]
    fn a_panic_gives_the_lock_back() {
        let latch = Latch::new(1);
        let panicked = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let _guard = latch.lock();
                panic!("on purpose");
            });
            inside.join().is_err()
        });
        assert!(panicked && *latch.lock() == 1);
    }
}
