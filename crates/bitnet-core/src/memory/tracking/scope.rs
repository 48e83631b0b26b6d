//! Scope tags: what the memory allocated in a stretch of code is for.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Tags that are told apart; further ones count as the last, `other`.
pub(in crate::memory) const TAGS: usize = 64;

static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

thread_local! {
    static CURRENT: Cell<u8> = const { Cell::new(0) };
}

/// Tags what this thread allocates, from any pool that tracks, until it is dropped.
///
/// Scopes nest: the innermost tag counts.
///
/// ```
/// use bitnet_core::memory::TagScope;
///
/// let _scope = TagScope::enter("kv");
/// ```
#[derive(Debug)]
#[must_use = "the tag counts until the scope is dropped"]
pub struct TagScope {
    outer: u8,
    /// Belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl TagScope {
    /// Begins a scope.
    pub fn enter(tag: &'static str) -> Self {
        let outer = CURRENT.replace(intern(tag));
        TagScope { outer, thread: PhantomData }
    }
}

impl Drop for TagScope {
    fn drop(&mut self) {
        // A thread that ends has no current tag any more.
        let _ = CURRENT.try_with(|current| current.set(self.outer));
    }
}

#[inline]
pub(in crate::memory) fn current() -> u8 {
    CURRENT.try_with(Cell::get).unwrap_or(0)
}

fn intern(tag: &'static str) -> u8 {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if names.is_empty() {
        names.push("untagged");
    }
    match names.iter().position(|name| *name == tag) {
        Some(index) => index as u8,
        None if names.len() == TAGS - 1 => {
            names.push("other");
            TAGS as u8 - 1
        }
        None if names.len() == TAGS => TAGS as u8 - 1,
        None => {
            names.push(tag);
            names.len() as u8 - 1
        }
    }
}

/// Returns the name of a tag.
pub(in crate::memory) fn name(tag: u8) -> &'static str {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.get(tag as usize).copied().unwrap_or("untagged")
}
