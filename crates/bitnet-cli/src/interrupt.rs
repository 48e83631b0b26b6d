//! Ctrl-C.
//!
//! By default it ends the program at once: while a model loads there is nothing to bring to an end. A long
//! loop holds a [`Graceful`] and asks [`pending`] at each turn; the first Ctrl-C then only raises the flag,
//! a second one ends the program all the same.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use bitnet_core::files;

use crate::failure::{INTERRUPTED_STATUS, Interrupted};

static GRACEFUL: AtomicBool = AtomicBool::new(false);
static PENDING: AtomicBool = AtomicBool::new(false);

/// Catches Ctrl-C from here on.
pub fn install() -> Result<()> {
    let handler = || {
        if !GRACEFUL.load(Ordering::SeqCst) || PENDING.swap(true, Ordering::SeqCst) {
            files::discard_unfinished();
            std::process::exit(INTERRUPTED_STATUS.into());
        }
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

/// While it lives, the first Ctrl-C only raises the flag.
pub struct Graceful(());

/// Starts a loop that asks [`pending`] or calls [`check`].
pub fn graceful() -> Graceful {
    PENDING.store(false, Ordering::SeqCst);
    GRACEFUL.store(true, Ordering::SeqCst);
    Graceful(())
}

impl Drop for Graceful {
    fn drop(&mut self) {
        GRACEFUL.store(false, Ordering::SeqCst);
    }
}

/// Reports whether Ctrl-C was pressed since the loop began.
pub fn pending() -> bool {
    PENDING.load(Ordering::SeqCst)
}

/// Fails with [`Interrupted`] when Ctrl-C was pressed since the loop began.
pub fn check() -> Result<()> {
    if pending() { Err(Interrupted.into()) } else { Ok(()) }
}
