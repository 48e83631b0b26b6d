//! Several threads on one pool.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn memory_limits_hold_across_threads() {
    let limit = 512 * 1024;
    let config = MemoryPoolConfig { max_small_pool_size: limit, ..Default::default() };
    let (pool, _ledger) = ledger_pool(config);
    thread::scope(|scope| {
        for seed in 0..4u8 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..500u32 {
                    let blocks: Vec<_> =
                        (0..3).filter_map(|_| pool.allocate(60_000, 64, &Device::Cpu).ok()).collect();
                    assert!(pool.footprint().held <= limit as u64);
                    for handle in blocks {
                        let fill = seed.wrapping_mul(61).wrapping_add(round as u8);
                        pool.pin_mut(&handle).unwrap().fill(fill);
                        assert!(pool.pin(&handle).unwrap().iter().all(|&byte| byte == fill));
                        pool.deallocate(handle).unwrap();
                    }
                }
            });
        }
    });
    pool.debug_validate();
    assert_eq!(pool.get_metrics().active_allocations(), 0);
    wait_until_empty(&pool);
}

/// Waits until threads that ended have handed over what they kept: a scope does not wait for that.
fn wait_until_empty(pool: &HybridMemoryPool) {
    let begin = Instant::now();
    while pool.footprint().held > 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", pool.footprint());
        pool.cleanup(CleanupStrategy::Idle);
        thread::sleep(Duration::from_millis(1));
    }
    pool.debug_validate();
}

#[test]
fn racing_frees_of_one_block_succeed_once() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let rounds = if cfg!(miri) { 20 } else { 2000 };
    for round in 0..rounds {
        let size = if round % 2 == 0 { 64 } else { SMALL_BLOCK_LIMIT };
        let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
        let freed: usize = thread::scope(|scope| {
            let free = || usize::from(pool.deallocate(handle.clone()).is_ok());
            let other = scope.spawn(free);
            free() + other.join().unwrap()
        });
        assert_eq!(freed, 1);
    }
    pool.debug_validate();
    assert_eq!(pool.get_metrics().deallocation_count, rounds);
}

/// Set in the child of the test below, whose kernel refuses a call.
#[cfg(target_os = "linux")]
const CHILD: &str = "BITNET_TEST_REFUSED_BARRIER";

/// Forbids this thread the call that revokes what is granted, as a program may at any time; `false` where the kernel
/// filters no calls.
#[cfg(target_os = "linux")]
fn forbid_barriers() -> bool {
    let step = |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut program = [
        // The number of the call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        libc::sock_filter {
            jf: 1,
            ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_membarrier as u32, 0)
        },
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the calls take numbers, and a program that outlives them.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    }
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn blocks_change_threads_where_the_kernel_takes_its_barrier_back() {
    if std::env::var_os(CHILD).is_none() {
        let name = "memory::tests::threads::blocks_change_threads_where_the_kernel_takes_its_barrier_back";
        return run_alone(name, "true", CHILD);
    }
    let pool = HybridMemoryPool::new().unwrap();
    let (give, take) = channel();
    let (end, ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            let ended = ended;
            let own = |size| pool.allocate(size, 64, &Device::Cpu).unwrap();
            // Freed once, so that they are granted to this thread, and handed over.
            for size in [64, 5000, 100_000] {
                pool.deallocate(own(size)).unwrap();
                give.send([own(size), own(size)]).unwrap();
            }
            drop(give);
            ended.recv().unwrap_err();
        });
        let blocks: Vec<_> = take.iter().flatten().collect();
        if !forbid_barriers() {
            println!("SKIPPED: this kernel filters no calls");
        }
        for handle in blocks {
            drop(pool.pin_mut(&handle).unwrap());
            pool.deallocate(handle).unwrap();
        }
        drop(end);
    });
    assert_eq!(pool.get_metrics().active_allocations(), 0);
    pool.debug_validate();
}

/// Runs threads that allocate, hand blocks on, free each other's, pin, compact and purge for some time.
fn stress(time: Duration) {
    let tracking = TrackingConfig { enable_pressure_detection: false, ..Default::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..Default::default()
    };
    let (pool, ledger) = ledger_pool(config);
    let begin = Instant::now();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| channel::<(MemoryHandle, u8)>()).unzip();
    thread::scope(|scope| {
        for (index, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(index + 1) % 3].clone();
            let pool = &pool;
            scope.spawn(move || {
                let (mut own, mut random) = (Vec::new(), 0x9E37_79B9u64 * (index as u64 + 1));
                let mut draw = |below: u64| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 33) % below
                };
                while begin.elapsed() < time {
                    for _ in 0..200 {
                        let octave = 4 + draw(16);
                        let size = ((1 << octave) + draw(1 << octave)) as usize;
                        let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                        let fill = draw(256) as u8;
                        let mut pin = pool.pin_mut(&handle).unwrap();
                        pin[0] = fill;
                        pin[size - 1] = fill;
                        drop(pin);
                        match draw(3) {
                            0 => next.send((handle, fill)).unwrap(),
                            _ => own.push((handle, fill)),
                        }
                        own.extend(receiver.try_iter());
                        while own.len() > 100 {
                            let (handle, fill) = own.swap_remove(draw(own.len() as u64) as usize);
                            let pin = pool.pin(&handle).unwrap();
                            assert_eq!((pin[0], pin[pin.len() - 1]), (fill, fill));
                            drop(pin);
                            let mut handle = handle;
                            if handle.size() % 3 == 0 {
                                let former = handle.clone();
                                pool.shrink(&mut handle, former.size() / 3).unwrap();
                                assert!(is_invalid_handle(pool.deallocate(former)));
                                assert_eq!(pool.pin(&handle).unwrap()[0], fill);
                            }
                            pool.deallocate(handle.clone()).unwrap();
                            assert!(is_invalid_handle(pool.deallocate(handle)));
                        }
                    }
                }
                drop(next);
                own.into_iter().chain(receiver).for_each(|(handle, _)| pool.deallocate(handle).unwrap());
            });
        }
        drop(senders);
        scope.spawn(|| {
            while begin.elapsed() < time {
                for strategy in CleanupStrategy::ALL {
                    pool.cleanup(strategy);
                    thread::sleep(Duration::from_millis(3));
                }
            }
        });
    });
    let metrics = pool.get_metrics();
    assert_eq!((metrics.current_allocated, metrics.active_allocations()), (0, 0));
    wait_until_empty(&pool);
    assert_eq!(ledger.outstanding(), 0);
    assert!(metrics.allocation_count > 1000);
}

#[test]
fn memory_survives_a_short_stress() {
    stress(Duration::from_secs(2));
}

#[test]
#[ignore = "two minutes: run by cargo xtask nightly"]
fn memory_survives_a_long_stress() {
    stress(Duration::from_secs(120));
}
