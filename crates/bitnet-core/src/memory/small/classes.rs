//! Size classes of small blocks.
//!
//! Multiples of 16 bytes up to 64, of 64 up to 512, then eight classes a doubling: a block is at most an
//! eighth larger than asked for, and a class from 64 bytes on keeps the alignment of a cache line.

/// Pages are the unit in which spans take memory.
pub(crate) const PAGE: usize = 4096;
/// Number of classes.
pub(crate) const CLASSES: usize = 99;
/// Blocks of this size or more stand alone in their span.
const SINGLE: usize = 32 * 1024;
/// Least bytes of a span that holds several blocks.
const SPAN: usize = 64 * 1024;
/// The same for blocks below 1 KiB, whose words weigh more: a record serves more of them.
const FINE_SPAN: usize = 128 * 1024;

/// Size of each class in bytes.
pub(crate) const SIZES: [u32; CLASSES] = sizes();

const fn sizes() -> [u32; CLASSES] {
    let mut sizes = [0; CLASSES];
    let mut index = 0;
    while index < CLASSES {
        sizes[index] = if index < 4 {
            16 * (index as u32 + 1)
        } else if index < 11 {
            64 * (index as u32 - 2)
        } else {
            let (doubling, step) = ((index as u32 - 11) / 8, (index as u32 - 11) % 8);
            (512 << doubling) / 8 * (9 + step)
        };
        index += 1;
    }
    sizes
}

/// Returns the smallest class that holds `size` bytes (1 to 1 MiB) at `align` (a power of two up to a page).
#[inline]
pub(crate) fn class_of(size: usize, align: usize) -> usize {
    let n = size - 1;
    // Below 1 KiB the steps are those of the doubling from 512 bytes on.
    let log = (n | 512).ilog2() as usize;
    let class = (log - 9) * 8 + 3 + (n >> (log - 3));
    if align <= 64 && (n >= 48 || align <= 16) {
        return if n < 48 { n / 16 } else { class };
    }
    first_aligned(if n < 48 { n / 16 } else { class }, align)
}

/// Returns the first class from `class` on whose blocks are aligned: the next power of two at the latest.
#[cold]
fn first_aligned(class: usize, align: usize) -> usize {
    let aligned = |class: &usize| SIZES[*class] as usize & (align - 1) == 0;
    (class..CLASSES).find(aligned).unwrap_or(CLASSES - 1)
}

/// Returns the bytes of one span of a class and the blocks in it.
pub(crate) fn span_of(class: usize) -> (usize, usize) {
    let size = SIZES[class] as usize;
    if size >= SINGLE {
        return (size.next_multiple_of(PAGE), 1);
    }
    // A few pages more where the last block would otherwise waste much of the span.
    let waste = |bytes: usize| (bytes % size) * 64 / bytes;
    let least = if size < 1024 { FINE_SPAN } else { SPAN };
    let bytes = (least..=2 * least).step_by(PAGE).min_by_key(|&bytes| (waste(bytes), bytes)).unwrap_or(least);
    (bytes, bytes / size)
}

/// Blocks of each class that one thread keeps at hand: 256 KiB, and two of larger ones. Of all classes together
/// that is below 40 MiB.
const CACHED: [u8; CLASSES] = cached_blocks();

const fn cached_blocks() -> [u8; CLASSES] {
    let mut out = [2; CLASSES];
    let mut index = 0;
    while index < CLASSES {
        let blocks = 256 * 1024 / SIZES[index];
        out[index] = if blocks < 2 {
            2
        } else if blocks > 128 {
            128
        } else {
            blocks as u8
        };
        index += 1;
    }
    out
}

/// Returns the blocks of a class that one thread keeps at hand.
#[inline]
pub(crate) fn cached(class: usize) -> usize {
    CACHED[class] as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_smallest_that_fit() {
        assert_eq!((SIZES[0], SIZES[CLASSES - 1]), (16, 1 << 20));
        assert!(SIZES.windows(2).all(|pair| pair[0] < pair[1]));
        for size in (1..5000).chain((1..=1 << 20).step_by(977)).chain([(1 << 20) - 1, 1 << 20]) {
            for align in [1, 16, 64, 256, 4096] {
                let expected =
                    SIZES.iter().position(|&s| s as usize >= size && (s as usize).is_multiple_of(align));
                assert_eq!(Some(class_of(size, align)), expected, "{size} {align}");
            }
        }
    }

    #[test]
    fn threads_keep_little() {
        let bytes: usize = (0..CLASSES).map(|class| cached(class) * SIZES[class] as usize).sum();
        assert!(bytes < 40 << 20, "{bytes}");
    }

    #[test]
    fn spans_waste_little() {
        for class in 0..CLASSES {
            let (bytes, blocks) = span_of(class);
            let used = blocks * SIZES[class] as usize;
            assert!(bytes.is_multiple_of(PAGE) && used <= bytes, "{class}");
            assert!((bytes - used) * 50 <= bytes, "{class}: {used} of {bytes}");
        }
    }
}
