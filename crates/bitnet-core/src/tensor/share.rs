//! Work shared by threads, whatever it computes.
//!
//! Operations exist for many types of elements. What hands out the work sees none of them where it can, so that the
//! machinery of threads is compiled once and not for each.

use std::sync::{Mutex, OnceLock, PoisonError};

/// Pieces a thread into which large work is cut: a slow thread leaves some to the others.
pub(crate) const PIECES: usize = 4;

/// Returns how many threads share the work.
pub(crate) fn threads() -> usize {
    #[cfg(feature = "parallel")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "parallel"))]
    return 1;
}

/// Runs `work` for each index below `count`, on all threads.
fn each(count: usize, work: &(dyn Fn(usize) + Sync)) {
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        (0..count).into_par_iter().for_each(work);
    }
    #[cfg(not(feature = "parallel"))]
    (0..count).for_each(work);
}

/// Hands pieces of `width` elements to `work` with their index, on all threads; the last one may be shorter.
pub(crate) fn pieces<T: Send>(out: &mut [T], width: usize, work: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let pieces: Vec<Mutex<&mut [T]>> = out.chunks_mut(width).map(Mutex::new).collect();
    each(pieces.len(), &|index| {
        // Nobody else asks for this piece: a lock that is poisoned or held cannot be met.
        let mut piece = pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
        work(index, &mut piece);
    });
}

/// Returns what `work` makes of each index below `count`, in order, on all threads.
pub(crate) fn collect<T: Send + Sync>(count: usize, work: &(dyn Fn(usize) -> T + Sync)) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..count).map(|_| OnceLock::new()).collect();
    each(count, &|index| {
        results[index].get_or_init(|| work(index));
    });
    results.into_iter().filter_map(OnceLock::into_inner).collect()
}
