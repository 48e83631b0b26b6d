//! Static plans: offsets in one block for buffers whose sizes and lifetimes are known beforehand.
//!
//! Buffers that are never live together may share bytes. Placing them in the least space is hard in general
//! (two-dimensional packing); placing each at the lowest offset that fits, in a good order, comes close, and the
//! most bytes that are live at any one time say how close. Several orders are tried, then exchanges in the best.

use std::ops::Range;

use bitnet_backend::{BitNetError, ErrorKind, Result};

/// Orders tried beyond the fixed ones, where those miss the bound.
const EXCHANGES: usize = 400;

/// A buffer to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanItem {
    /// Bytes.
    pub size: usize,
    /// Stretches of steps during which its contents matter.
    pub live: Vec<Range<usize>>,
}

/// Where buffers lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifetimePlan {
    /// Offset of each item.
    pub offsets: Vec<usize>,
    /// Bytes of the whole block.
    pub size: usize,
    /// Most bytes that are live at any one step: no plan takes less.
    pub lower_bound: usize,
}

impl LifetimePlan {
    /// Places `items` at multiples of `align`, a power of two.
    ///
    /// # Errors
    /// `InvalidAllocation` when the sizes exceed the address space together.
    pub fn new(items: &[PlanItem], align: usize) -> Result<Self> {
        let too_large = |size| {
            let reason = "the buffers of a plan exceed the address space together";
            BitNetError::new(ErrorKind::InvalidAllocation { size, align, reason })
        };
        let mut total = 0usize;
        let mut sizes = Vec::with_capacity(items.len());
        for item in items {
            let size = item.size.checked_next_multiple_of(align).ok_or_else(|| too_large(item.size))?;
            total = total.checked_add(size).ok_or_else(|| too_large(item.size))?;
            sizes.push(size);
        }
        let conflicts = conflicts(items);
        let lower_bound = lower_bound(items, &sizes);
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&item| std::cmp::Reverse(sizes[item]));
        let mut best = place(&order, &sizes, &conflicts);
        let mut best_order = order.clone();
        let duration = |item: usize| items[item].live.iter().map(|live| live.len()).sum::<usize>();
        let start = |item: usize| items[item].live.iter().map(|live| live.start).min().unwrap_or(0);
        let keys: [&dyn Fn(usize) -> usize; 3] = [
            &|item| usize::MAX - sizes[item].saturating_mul(duration(item)),
            &|item| usize::MAX - duration(item),
            &start,
        ];
        let mut attempt = |order: &[usize], best_order: &mut Vec<usize>| {
            let placed = place(order, &sizes, &conflicts);
            if placed.1 < best.1 {
                best = placed;
                best_order.clear();
                best_order.extend_from_slice(order);
            }
            best.1 <= lower_bound
        };
        let mut done = attempt(&order, &mut best_order);
        for key in keys {
            order.sort_by_key(|&item| key(item));
            done = done || attempt(&order, &mut best_order);
        }
        let mut random = 1u64;
        for _ in 0..if items.len() < 2 { 0 } else { EXCHANGES } {
            if done {
                break;
            }
            let mut draw = || {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as usize % items.len()
            };
            order.clone_from(&best_order);
            let (from, to) = (draw(), draw());
            let moved = order.remove(from);
            order.insert(to, moved);
            done = attempt(&order, &mut best_order);
        }
        Ok(LifetimePlan { offsets: best.0, size: best.1, lower_bound })
    }
}

/// Returns, for each item, the items that are live together with it at some step.
fn conflicts(items: &[PlanItem]) -> Vec<Vec<usize>> {
    let overlap = |a: &PlanItem, b: &PlanItem| {
        a.live.iter().any(|x| b.live.iter().any(|y| x.start < y.end && y.start < x.end))
    };
    let with = |index: usize| {
        let others = (0..items.len()).filter(move |&other| other != index);
        others.filter(|&other| overlap(&items[index], &items[other])).collect()
    };
    (0..items.len()).map(with).collect()
}

fn lower_bound(items: &[PlanItem], sizes: &[usize]) -> usize {
    // The sum of live bytes rises only where a stretch begins.
    let starts = items.iter().flat_map(|item| item.live.iter().map(|live| live.start));
    let live_at = |step: usize| {
        let live = items.iter().zip(sizes).filter(|(item, _)| item.live.iter().any(|l| l.contains(&step)));
        live.map(|(_, size)| size).sum()
    };
    starts.map(live_at).max().unwrap_or(0)
}

/// Places items in order, each at the lowest offset beside those it conflicts with.
fn place(order: &[usize], sizes: &[usize], conflicts: &[Vec<usize>]) -> (Vec<usize>, usize) {
    let mut offsets: Vec<Option<usize>> = vec![None; sizes.len()];
    let mut end = 0;
    for &item in order {
        let mut taken: Vec<(usize, usize)> =
            conflicts[item].iter().filter_map(|&other| Some((offsets[other]?, sizes[other]))).collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, size) in taken {
            if start >= offset + sizes[item] {
                break;
            }
            offset = offset.max(start + size);
        }
        offsets[item] = Some(offset);
        end = end.max(offset + sizes[item]);
    }
    (offsets.into_iter().map(Option::unwrap_or_default).collect(), end)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(size: usize, live: Range<usize>) -> PlanItem {
        PlanItem { size, live: vec![live] }
    }

    fn check(items: &[PlanItem], plan: &LifetimePlan, align: usize) {
        assert!(plan.lower_bound <= plan.size);
        for (index, (a, &from)) in items.iter().zip(&plan.offsets).enumerate() {
            assert!(from.is_multiple_of(align) && from + a.size <= plan.size);
            for (b, &other) in items.iter().zip(&plan.offsets).skip(index + 1) {
                let together =
                    a.live.iter().any(|x| b.live.iter().any(|y| x.start < y.end && y.start < x.end));
                assert!(!together || from + a.size <= other || other + b.size <= from);
            }
        }
    }

    #[test]
    fn buffers_that_follow_each_other_share_a_place() {
        let items = [item(100, 0..2), item(60, 1..3), item(100, 2..4), item(64, 3..5)];
        let plan = LifetimePlan::new(&items, 64).unwrap();
        check(&items, &plan, 64);
        assert_eq!((plan.size, plan.lower_bound), (192, 192));
    }

    #[test]
    fn items_live_in_pieces_leave_room_between() {
        let often = PlanItem { size: 64, live: vec![0..1, 2..3, 4..5] };
        let items = [often, item(64, 1..2), item(64, 3..4)];
        assert_eq!(LifetimePlan::new(&items, 64).unwrap().size, 64);
    }

    #[test]
    fn sums_beyond_the_address_space_are_typed_errors() {
        let items = [item(usize::MAX / 2, 0..1), item(usize::MAX / 2, 0..1), item(64, 0..1)];
        let error = LifetimePlan::new(&items, 64).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{error}");
        assert_eq!(LifetimePlan::new(&[], 64).unwrap().size, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn plans_never_overlap_and_come_near_the_bound(
            items in prop::collection::vec((1usize..10_000, 0usize..40, 1usize..12), 0..20),
        ) {
            let items: Vec<_> =
                items.into_iter().map(|(size, start, len)| item(size, start..start + len)).collect();
            let plan = LifetimePlan::new(&items, 64).unwrap();
            check(&items, &plan, 64);
            prop_assert!(plan.size as f64 <= plan.lower_bound as f64 * 1.35);
        }
    }
}
