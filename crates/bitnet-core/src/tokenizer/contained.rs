//! Calls into the `tokenizers` crate whose panics become errors.
//!
//! The crate trusts its files and panics on some that lie. Such a panic is caught, but the program's
//! panic hook has run by then; [`in_library_call`] lets a hook tell it from others.

use std::cell::Cell;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is inside a call whose panic will be caught and returned as an error.
///
/// For the panic hooks of applications: a hook that stays silent while this is true leaves the report to
/// the [`TokenizerError`](super::TokenizerError) that follows.
pub fn in_library_call() -> bool {
    // Panics may come from a thread that is being torn down.
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Sets the mark of [`in_library_call`] while it lives.
#[cfg(feature = "tokenizers")]
struct Mark {
    before: bool,
}

#[cfg(feature = "tokenizers")]
impl Drop for Mark {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// Runs `work`; `None` when it panicked.
#[cfg(feature = "tokenizers")]
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    let _mark = Mark { before: INSIDE.replace(true) };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}
