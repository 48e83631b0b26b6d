//! The atomics and locks of the parts that loom checks: the standard library's, or loom's under
//! `--cfg loom`.

#[cfg(loom)]
pub(super) use loom::{
    sync::atomic::{AtomicU32, Ordering},
    sync::{Mutex, MutexGuard},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(super) use std::{
    sync::atomic::{AtomicU32, Ordering},
    sync::{Mutex, MutexGuard},
    thread::yield_now,
};

/// Locks; a panic elsewhere does not spoil what the lock protects, for no operation leaves books
/// half-written.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
