//! Random sequences of operations against a pool written without slots, spans, generations or heaps.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Allocate { size: usize, align_log2: u32, zeroed: bool },
    Deallocate(usize),
    Write(usize, u8),
    Check(usize),
    Pin(usize),
    Unpin(usize),
    Clean(usize),
    Purge,
    Shrink(usize, usize),
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![
        6 => 0usize..3000,
        2 => 3000usize..80_000,
        1 => (SMALL_BLOCK_LIMIT - 2)..(SMALL_BLOCK_LIMIT + 2),
        1 => SMALL_BLOCK_LIMIT..4 * SMALL_BLOCK_LIMIT,
    ];
    prop_oneof![
        6 => (size, 0u32..14, any::<bool>())
            .prop_map(|(size, align_log2, zeroed)| Action::Allocate { size, align_log2, zeroed }),
        4 => any::<usize>().prop_map(Action::Deallocate),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(index, fill)| Action::Write(index, fill)),
        1 => any::<usize>().prop_map(Action::Check),
        1 => any::<usize>().prop_map(Action::Pin),
        1 => any::<usize>().prop_map(Action::Unpin),
        1 => (0usize..4).prop_map(Action::Clean),
        1 => Just(Action::Purge),
        2 => (any::<usize>(), 0usize..1100).prop_map(|(index, share)| Action::Shrink(index, share)),
    ]
}

/// A block as the model knows it.
struct Known {
    handle: MemoryHandle,
    /// What it is filled with; `None` when freed, `Some(None)` when that was never said.
    fill: Option<Option<u8>>,
    pin: Option<PinGuard>,
}

#[derive(Default)]
struct Model {
    /// Every handle ever made.
    known: Vec<Known>,
    peak: u64,
    total: u64,
    count: u64,
}

/// Returns the parts of a block that are looked at: all of a small one, the ends of a large one.
fn ends(bytes: &[u8]) -> impl Iterator<Item = &u8> {
    let (head, tail) = (bytes.len().min(3000), bytes.len().saturating_sub(64));
    bytes[..head].iter().chain(&bytes[tail..])
}

fn fill(bytes: &mut [u8], byte: u8) {
    let (head, tail) = (bytes.len().min(3000), bytes.len().saturating_sub(64));
    bytes[..head].fill(byte);
    bytes[tail..].fill(byte);
}

impl Model {
    fn live_bytes(&self) -> u64 {
        let live = self.known.iter().filter(|known| known.fill.is_some());
        live.map(|known| known.handle.size() as u64).sum()
    }

    fn pick(&mut self, index: usize) -> Option<&mut Known> {
        let count = self.known.len();
        self.known.get_mut(index.checked_rem(count)?)
    }

    fn allocate(&mut self, pool: &HybridMemoryPool, size: usize, align: usize, zeroed: bool) {
        let made = if zeroed {
            pool.allocate_zeroed(size, align, &Device::Cpu)
        } else {
            pool.allocate(size, align, &Device::Cpu)
        };
        let handle = match made {
            Ok(handle) => handle,
            Err(error) => {
                let expected = matches!(error.kind(), ErrorKind::InvalidAllocation { .. }) && size == 0;
                assert!(expected, "{error}");
                return;
            }
        };
        assert!(size > 0);
        let pin = pool.pin(&handle).unwrap();
        assert_eq!((pin.len(), pin.as_ptr() as usize % align), (size, 0));
        assert!(!zeroed || ends(&pin).all(|&byte| byte == 0));
        drop(pin);
        self.known.push(Known { handle, fill: Some(zeroed.then_some(0)), pin: None });
        self.total += size as u64;
        self.count += 1;
        self.peak = self.peak.max(self.live_bytes());
    }

    /// Shrinks a block to `share` thousandths.
    fn shrink(&mut self, pool: &HybridMemoryPool, index: usize, share: usize) {
        let live = self.live_bytes();
        let Some(Known { handle, fill: filled, pin }) = self.pick(index) else { return };
        let (former, size) = (handle.clone(), handle.size() * share / 1000);
        let result = pool.shrink(handle, size);
        if filled.is_none() || pin.is_some() || size == 0 || size > former.size() {
            assert_eq!(*handle, former);
            let open = filled.is_some() && pin.is_none();
            assert!(match result.unwrap_err().kind() {
                ErrorKind::InvalidAllocation { .. } => open,
                ErrorKind::Mismatch { .. } => pin.is_some(),
                kind => filled.is_none() && matches!(kind, ErrorKind::InvalidHandle { .. }),
            });
            return;
        }
        result.unwrap();
        assert_eq!(handle.size(), size);
        let mut opened = pool.pin_mut(handle).unwrap();
        assert_eq!((opened.len(), opened.as_ptr() as usize % former.align()), (size, 0));
        if let Some(Some(byte)) = *filled {
            assert!(opened[..size.min(3000)].iter().all(|&found| found == byte));
            // Its tail is another one now: what was the middle was never written.
            fill(&mut opened, byte);
        }
        drop(opened);
        if size < former.size() {
            assert!(is_invalid_handle(pool.deallocate(former)));
            self.total += size as u64;
            self.count += 1;
            // While it is copied to a smaller block, both are there.
            let peak = pool.get_metrics().peak_allocated;
            assert!(peak == self.peak || peak == self.peak.max(live + size as u64));
            self.peak = peak;
        }
    }

    fn apply(&mut self, pool: &HybridMemoryPool, action: Action) {
        match action {
            Action::Allocate { size, align_log2, zeroed } => {
                self.allocate(pool, size, 1 << align_log2, zeroed);
            }
            Action::Deallocate(index) => {
                let Some(Known { handle, fill, pin }) = self.pick(index) else { return };
                let result = pool.deallocate(handle.clone());
                if pin.is_some() {
                    assert!(is_mismatch(result));
                } else {
                    assert!(if fill.take().is_some() { result.is_ok() } else { is_invalid_handle(result) });
                }
            }
            Action::Write(index, byte) => {
                let Some(Known { handle, fill: filled, pin }) = self.pick(index) else { return };
                match (pool.pin_mut(handle), &filled) {
                    (Ok(mut opened), Some(_)) => {
                        assert!(pin.is_none());
                        fill(&mut opened, byte);
                        *filled = Some(Some(byte));
                    }
                    (result, Some(_)) => assert!(pin.is_some() && is_mismatch(result)),
                    (result, None) => assert!(is_invalid_handle(result)),
                }
            }
            Action::Check(index) => {
                let Some(Known { handle, fill, .. }) = self.pick(index) else { return };
                match (pool.pin(handle), *fill) {
                    (Ok(pin), Some(Some(fill))) => assert!(ends(&pin).all(|&byte| byte == fill)),
                    (Ok(_), Some(None)) => {}
                    (result, fill) => assert!(fill.is_none() && is_invalid_handle(result)),
                }
            }
            Action::Pin(index) => {
                let Some(known) = self.pick(index) else { return };
                if known.fill.is_some() && known.pin.is_none() {
                    known.pin = Some(pool.pin(&known.handle).unwrap());
                }
            }
            Action::Unpin(index) => {
                let Some(known) = self.pick(index) else { return };
                if let (Some(pin), Some(Some(fill))) = (known.pin.take(), known.fill) {
                    assert!(ends(&pin).all(|&byte| byte == fill));
                }
            }
            Action::Clean(strategy) => {
                let report = pool.cleanup(CleanupStrategy::ALL[strategy]);
                assert!(report.complete);
            }
            Action::Purge => {
                pool.purge();
            }
            Action::Shrink(index, share) => self.shrink(pool, index, share),
        }
    }

    fn check(&mut self, pool: &HybridMemoryPool) {
        let metrics = pool.get_metrics();
        assert_eq!(metrics.current_allocated, self.live_bytes());
        assert_eq!((metrics.peak_allocated, metrics.total_allocated), (self.peak, self.total));
        assert_eq!(metrics.allocation_count, self.count);
        pool.debug_validate();
    }
}

fn run(actions: Vec<Action>, strategy: LargeStrategy, level: TrackingLevel) {
    let tracking = TrackingConfig { level, enable_pressure_detection: false, ..Default::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        initial_large_pool_size: 8 << 20,
        ..Default::default()
    };
    let builder = HybridMemoryPool::builder().config(config).large_strategy(strategy);
    let (pool, ledger) = ledger_pool_of(builder);
    let mut model = Model::default();
    for action in actions {
        model.apply(&pool, action);
        model.check(&pool);
    }
    if level >= TrackingLevel::Standard {
        let live = model.known.iter().filter(|known| known.fill.is_some());
        let mut sizes: Vec<_> = live.map(|known| known.handle.size() as u64).collect();
        let mut tracked: Vec<_> = pool.live_blocks().iter().map(|block| block.size).collect();
        sizes.sort_unstable();
        tracked.sort_unstable();
        assert_eq!(sizes, tracked);
    }
    // Everything can still be read and given back, wherever it was moved.
    for Known { handle, fill, pin } in model.known.drain(..) {
        drop(pin);
        if let Some(fill) = fill {
            let pin = pool.pin(&handle).unwrap();
            assert!(fill.is_none_or(|fill| ends(&pin).all(|&byte| byte == fill)));
            drop(pin);
            pool.deallocate(handle.clone()).unwrap();
        }
        assert!(is_invalid_handle(pool.deallocate(handle)));
    }
    pool.cleanup(CleanupStrategy::Idle);
    pool.debug_validate();
    assert_eq!(ledger.outstanding(), 0, "an idle pool kept an arena");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn memory_pool_agrees_with_a_naive_model(
        actions in prop::collection::vec(action(), 1..120),
        buddy in any::<bool>(),
        level in 0usize..4,
    ) {
        let strategy = if buddy { LargeStrategy::Buddy } else { LargeStrategy::BestFit };
        use TrackingLevel::{Basic, Detailed, None, Standard};
        run(actions, strategy, [None, Basic, Standard, Detailed][level]);
    }
}
