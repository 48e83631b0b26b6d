//! Work that threads share, cut into numbered pieces.
//!
//! The frames of rayon are compiled here once, and not again for every operation on every type: what differs is behind
//! one call a piece. In a build without the feature `parallel` the pieces run one after the other.

use std::sync::{Mutex, PoisonError};

/// Returns how many threads share the work.
pub(crate) fn threads() -> usize {
    #[cfg(feature = "parallel")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "parallel"))]
    1
}

/// Calls `run` with every number below `count`.
fn each(count: usize, run: &(dyn Fn(usize) + Sync)) {
    #[cfg(feature = "parallel")]
    {
        use rayon::prelude::*;
        (0..count).into_par_iter().for_each(run);
    }
    #[cfg(not(feature = "parallel"))]
    (0..count).for_each(run);
}

/// Calls `run` with every piece of `out`, `length` elements or what is left, and its number. What is one piece stays on
/// this thread.
pub(crate) fn pieces<T: Send>(out: &mut [T], length: usize, run: &(dyn Fn(usize, &mut [T]) + Sync)) {
    if out.len() <= length {
        return run(0, out);
    }
    // Each lock is taken once: it hands a piece to whoever comes for it.
    let pieces: Vec<Mutex<&mut [T]>> = out.chunks_mut(length).map(Mutex::new).collect();
    each(pieces.len(), &|index| {
        run(index, &mut pieces[index].lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Returns what `run` makes of every number below `count`, in their order.
pub(crate) fn map<T: Send>(count: usize, run: &(dyn Fn(usize) -> T + Sync)) -> impl Iterator<Item = T> {
    let mut made: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    pieces(&mut made, 1, &|index, out| out.fill_with(|| Some(run(index))));
    made.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_met_once_under_its_number() {
        for (len, length) in [(0, 1), (1, 1), (7, 3), (9, 3), (1000, 1), (5, 10)] {
            let mut out = vec![0usize; len];
            pieces(&mut out, length, &|index, out| {
                out.iter_mut().enumerate().for_each(|(at, out)| *out += index * length + at + 1);
            });
            assert!(out.iter().enumerate().all(|(at, &out)| out == at + 1), "{len} {length}");
            assert!(map(len, &|index| index * index).eq((0..len).map(|index| index * index)));
        }
    }
}
