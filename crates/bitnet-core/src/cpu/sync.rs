//! The atomics, locks and threads of the [team](super::team): the standard library's, or loom's under `--cfg loom`.

#[cfg(loom)]
pub use loom::{
    hint::spin_loop,
    sync::{Condvar, Mutex, atomic},
    thread,
};
#[cfg(not(loom))]
pub use std::{
    hint::spin_loop,
    sync::{Condvar, Mutex, atomic},
    thread,
};
