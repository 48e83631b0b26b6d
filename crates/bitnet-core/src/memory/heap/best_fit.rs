//! Best fit with coalescing: pages in, page numbers out.
//!
//! Every range of an arena, free or not, is a node; nodes of one arena form a chain in address order, so a
//! freed range finds its neighbours at once. Free nodes stand in bins by length, 16 to a doubling, and the
//! shortest that fits is taken, of equally short ones that at the lowest place. No addresses, no memory of the
//! arena is touched.

use super::{Arena, Found, FreeRange};

const NIL: u32 = u32::MAX;
/// Lengths below have a bin of their own.
const EXACT: u32 = 16;
const BINS: usize = 16 + 28 * 16;

#[derive(Debug, Clone, Copy)]
struct Node {
    arena: u32,
    start: u32,
    len: u32,
    previous: u32,
    next: u32,
    bin_previous: u32,
    bin_next: u32,
    free: bool,
    /// Free, and its memory reads as zeros and takes nothing.
    clean: bool,
}

#[derive(Debug)]
pub(super) struct BestFit {
    nodes: Vec<Node>,
    /// Numbers of unused nodes.
    spare: Vec<u32>,
    bins: Box<[u32; BINS]>,
    occupied: [u64; BINS.div_ceil(64)],
    free_pages: usize,
}

fn bin_of(len: u32) -> usize {
    if len < EXACT {
        return len as usize;
    }
    let log = len.ilog2();
    (16 + (log - 4) * 16 + ((len >> (log - 4)) & 15)) as usize
}

impl BestFit {
    pub(super) fn new() -> Self {
        BestFit {
            nodes: Vec::new(),
            spare: Vec::new(),
            bins: Box::new([NIL; BINS]),
            occupied: [0; BINS.div_ceil(64)],
            free_pages: 0,
        }
    }

    fn node(&mut self, node: Node) -> u32 {
        match self.spare.pop() {
            Some(index) => {
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    fn link(&mut self, index: u32) {
        let len = self.nodes[index as usize].len;
        let bin = bin_of(len);
        let head = self.bins[bin];
        let node = &mut self.nodes[index as usize];
        (node.bin_previous, node.bin_next, node.free) = (NIL, head, true);
        if head != NIL {
            self.nodes[head as usize].bin_previous = index;
        }
        self.bins[bin] = index;
        self.occupied[bin / 64] |= 1 << (bin % 64);
        self.free_pages += len as usize;
    }

    fn unlink(&mut self, index: u32) {
        let Node { len, bin_previous, bin_next, .. } = self.nodes[index as usize];
        let bin = bin_of(len);
        match bin_previous {
            NIL => self.bins[bin] = bin_next,
            previous => self.nodes[previous as usize].bin_next = bin_next,
        }
        if bin_next != NIL {
            self.nodes[bin_next as usize].bin_previous = bin_previous;
        }
        if self.bins[bin] == NIL {
            self.occupied[bin / 64] &= !(1 << (bin % 64));
        }
        self.nodes[index as usize].free = false;
        self.free_pages -= len as usize;
    }

    /// Returns the first occupied bin from `bin` on.
    fn occupied_from(&self, bin: usize) -> Option<usize> {
        let first = self.occupied.get(bin / 64)? & (u64::MAX << (bin % 64));
        if first != 0 {
            return Some(bin / 64 * 64 + first.trailing_zeros() as usize);
        }
        let (word, bits) =
            self.occupied.iter().enumerate().skip(bin / 64 + 1).find(|(_, bits)| **bits != 0)?;
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Finds the shortest free node of `pages` or more; of equally short ones that at the lowest place.
    fn shortest(&self, pages: u32) -> Option<u32> {
        let mut bin = self.occupied_from(bin_of(pages))?;
        loop {
            let (mut best, mut best_key) = (NIL, (u32::MAX, u32::MAX, u32::MAX));
            let mut at = self.bins[bin];
            while at != NIL {
                let node = &self.nodes[at as usize];
                let key = (node.len, node.arena, node.start);
                if node.len >= pages && key < best_key {
                    (best, best_key) = (at, key);
                }
                at = node.bin_next;
            }
            if best != NIL {
                return Some(best);
            }
            bin = self.occupied_from(bin + 1)?;
        }
    }

    pub(super) fn add_arena(&mut self, arena: u32, pages: u32) {
        let (previous, next, bin_previous, bin_next) = (NIL, NIL, NIL, NIL);
        let node = Node {
            arena,
            start: 0,
            len: pages,
            previous,
            next,
            bin_previous,
            bin_next,
            free: false,
            clean: true,
        };
        let index = self.node(node);
        self.link(index);
    }

    /// Cuts a node, which is in no bin, after `len` pages; the rest is a new node, in no bin either.
    fn cut(&mut self, index: u32, len: u32) -> u32 {
        let whole = self.nodes[index as usize];
        let rest =
            self.node(Node { start: whole.start + len, len: whole.len - len, previous: index, ..whole });
        let node = &mut self.nodes[index as usize];
        (node.len, node.next) = (len, rest);
        if whole.next != NIL {
            self.nodes[whole.next as usize].previous = rest;
        }
        rest
    }

    /// Takes `pages` pages whose first is a multiple of `align` pages.
    pub(super) fn allocate(&mut self, pages: u32, align: u32) -> Option<Found> {
        let mut index = self.shortest(pages.checked_add(align - 1)?)?;
        self.unlink(index);
        let start = self.nodes[index as usize].start;
        let lead = start.next_multiple_of(align) - start;
        if lead > 0 {
            let rest = self.cut(index, lead);
            self.link(index);
            index = rest;
        }
        if self.nodes[index as usize].len > pages {
            let rest = self.cut(index, pages);
            self.link(rest);
        }
        let Node { arena, start, clean, .. } = self.nodes[index as usize];
        Some(Found { arena, start, pages, token: u64::from(index), clean })
    }

    pub(super) fn free(&mut self, token: u64) {
        self.free_node(token as u32);
    }

    fn free_node(&mut self, mut index: u32) {
        self.nodes[index as usize].clean = false;
        let Node { previous, next, .. } = self.nodes[index as usize];
        if next != NIL && self.nodes[next as usize].free {
            self.unlink(next);
            self.absorb_next(index);
        }
        if previous != NIL && self.nodes[previous as usize].free {
            self.unlink(previous);
            self.absorb_next(previous);
            index = previous;
        }
        self.link(index);
    }

    /// Frees what a taken range has beyond its first `pages`; returns its pages.
    pub(super) fn shrink(&mut self, token: u64, pages: u32) -> u32 {
        if self.nodes[token as usize].len > pages {
            let rest = self.cut(token as u32, pages);
            self.free_node(rest);
        }
        self.nodes[token as usize].len
    }

    /// Joins a node with the one after it. What comes of a clean and a used one counts as used.
    fn absorb_next(&mut self, index: u32) {
        let next = self.nodes[index as usize].next;
        let absorbed = self.nodes[next as usize];
        let node = &mut self.nodes[index as usize];
        node.len += absorbed.len;
        node.next = absorbed.next;
        node.clean &= absorbed.clean;
        if absorbed.next != NIL {
            self.nodes[absorbed.next as usize].previous = index;
        }
        self.spare.push(next);
    }

    /// Returns the free range of `token` as one of [`free_ranges`](Self::free_ranges) and marks it clean.
    pub(super) fn mark_clean(&mut self, token: u64) {
        self.nodes[token as usize].clean = true;
    }

    pub(super) fn free_ranges(&self) -> impl Iterator<Item = FreeRange> {
        // Unused nodes are never marked free.
        self.nodes.iter().enumerate().filter(|(_, node)| node.free).map(|(index, node)| FreeRange {
            arena: node.arena,
            start: node.start,
            pages: node.len,
            token: index as u64,
            clean: node.clean,
        })
    }

    /// Takes an arena out, if all of it is free.
    pub(super) fn remove_arena(&mut self, arena: u32) -> bool {
        let whole = self
            .nodes
            .iter()
            .position(|node| node.free && node.arena == arena && node.previous == NIL && node.next == NIL);
        let Some(index) = whole else { return false };
        self.unlink(index as u32);
        self.spare.push(index as u32);
        true
    }

    pub(super) fn free_pages(&self) -> usize {
        self.free_pages
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.spare.capacity() * 4 + BINS * 4
    }

    /// Asserts that chains cover their arenas without gaps, no two free neighbours exist and the bins hold
    /// exactly the free nodes.
    pub(super) fn debug_validate(&self, arenas: &[Option<Arena>]) {
        let unused: std::collections::HashSet<_> = self.spare.iter().copied().collect();
        assert_eq!(unused.len(), self.spare.len());
        let (mut covered, mut free_pages) = (vec![0u64; arenas.len()], 0);
        for (index, node) in self.nodes.iter().enumerate() {
            if unused.contains(&(index as u32)) {
                assert!(!node.free);
                continue;
            }
            covered[node.arena as usize] += u64::from(node.len);
            if node.free {
                free_pages += node.len as usize;
                let mut at = self.bins[bin_of(node.len)];
                while at != NIL && at != index as u32 {
                    at = self.nodes[at as usize].bin_next;
                }
                assert_eq!(at, index as u32, "a free node is missing from its bin");
            }
            if node.next != NIL {
                let next = &self.nodes[node.next as usize];
                assert_eq!((next.previous, next.start), (index as u32, node.start + node.len));
                assert!(!(node.free && next.free), "free neighbours were not joined");
            }
        }
        assert_eq!(free_pages, self.free_pages);
        for (arena, covered) in arenas.iter().zip(covered) {
            assert_eq!(arena.as_ref().map_or(0, |arena| u64::from(arena.pages)), covered);
        }
    }
}
