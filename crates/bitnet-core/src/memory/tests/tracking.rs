//! What is tracked, against what was done.

use std::time::Duration;

use super::*;

fn tracked(level: TrackingLevel) -> HybridMemoryPool {
    let tracking = TrackingConfig { level, enable_pressure_detection: false, ..Default::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..Default::default()
    };
    HybridMemoryPool::builder().config(config).precise_timestamps(true).build().unwrap()
}

#[test]
fn leaks_name_tag_and_call_site() {
    let pool = tracked(TrackingLevel::Detailed);
    let _scope = TagScope::enter("a leaky test");
    let line = line!() + 1;
    let leaked: Vec<_> = (0..3).map(|_| pool.allocate(1000, 64, &Device::Cpu).unwrap()).collect();
    let other = PoolBuffer::<u8>::zeroed(&pool, 3 << 20, &Device::Cpu, "a buffer").unwrap();
    let leaks = pool.leaks(Duration::ZERO);
    assert_eq!(leaks.len(), 2);
    assert_eq!((leaks[0].blocks, leaks[0].bytes), (1, 3 << 20));
    assert!(leaks[0].site.unwrap().file().ends_with("tests/tracking.rs"));
    assert_eq!((leaks[1].blocks, leaks[1].bytes, leaks[1].tag), (3, 3000, "a leaky test"));
    assert_eq!(leaks[1].site.unwrap().line(), line);
    assert!(pool.leaks(Duration::from_secs(3600)).is_empty());
    drop(other);
    leaked.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    assert!(pool.leaks(Duration::ZERO).is_empty());
}

#[test]
fn usage_adds_up_by_class_and_tag() {
    let pool = tracked(TrackingLevel::Standard);
    let inner = || {
        let _scope = TagScope::enter("inner");
        pool.allocate(100, 64, &Device::Cpu).unwrap()
    };
    let outer = TagScope::enter("outer");
    let handles = [pool.allocate(2 << 20, 64, &Device::Cpu).unwrap(), inner(), inner()];
    drop(outer);
    // Freed under another tag than allocated: the allocation's counts.
    pool.deallocate(handles[1].clone()).unwrap();
    let detailed = pool.get_detailed_metrics().unwrap();
    let usage = |table: &[Usage], name: &str| {
        let found = table.iter().find(|usage| usage.name == name).unwrap();
        (found.current_bytes, found.peak_bytes, found.allocated_bytes, found.freed_bytes)
    };
    assert_eq!(usage(&detailed.by_tag, "inner"), (100, 200, 200, 100));
    assert_eq!(usage(&detailed.by_tag, "outer"), (2 << 20, 2 << 20, 2 << 20, 0));
    assert_eq!(usage(&detailed.by_class, "128 B"), (100, 200, 200, 100));
    assert_eq!(usage(&detailed.by_class, "large"), (2 << 20, 2 << 20, 2 << 20, 0));
    assert_eq!(usage(&detailed.by_device, "cpu").0, detailed.metrics.current_allocated);
    assert!(detailed.fragmentation_ratio > 0.0 && detailed.fragmentation_ratio < 0.1);
}

#[test]
fn levels_track_what_they_say() {
    for level in [TrackingLevel::None, TrackingLevel::Basic, TrackingLevel::Standard, TrackingLevel::Detailed]
    {
        let pool = tracked(level);
        let _handle = pool.allocate(64, 64, &Device::Cpu).unwrap();
        assert_eq!(pool.tracking_level(), level);
        assert_eq!(pool.get_detailed_metrics().is_some(), level >= TrackingLevel::Basic);
        assert_eq!(pool.timeline().events.len(), usize::from(level >= TrackingLevel::Standard));
        let sites = pool.live_blocks().iter().filter(|block| block.site.is_some()).count();
        assert_eq!(sites, usize::from(level >= TrackingLevel::Detailed));
    }
}

#[test]
fn timelines_of_all_threads_are_in_order() {
    let pool = tracked(TrackingLevel::Detailed);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let handle = pool.allocate(512, 64, &Device::Cpu).unwrap();
                    pool.deallocate(handle).unwrap();
                }
            });
        }
    });
    let events = pool.timeline().events;
    assert_eq!(events.len(), 300);
    assert!(events.windows(2).all(|pair| pair[0].time <= pair[1].time));
    assert_eq!(events.last().unwrap().live_bytes, 0);
    assert!(events.iter().all(|event| event.live_bytes <= 3 * 512));
}

#[test]
fn moved_blocks_are_tracked_under_their_name() {
    let pool = tracked(TrackingLevel::Standard);
    let blocks: Vec<_> = (0..4000).map(|_| pool.allocate(500, 64, &Device::Cpu).unwrap()).collect();
    let (kept, gone): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(n, _)| n % 50 == 0);
    gone.into_iter().for_each(|(_, handle)| pool.deallocate(handle).unwrap());
    assert!(pool.compact().moved_blocks > 0);
    let moved = pool.live_blocks().into_iter().filter(|block| block.slot != block.place);
    let moved: Vec<_> = moved.map(|block| block.slot).collect();
    let mut kept: Vec<_> = kept.into_iter().map(|(_, handle)| handle).collect();
    kept.retain(|handle| moved.contains(&handle.slot()));
    assert!(kept.len() > 1);

    // A pin is that of the block, wherever it is.
    let pinned = |handle: &MemoryHandle| {
        let blocks = pool.live_blocks();
        let block = blocks.iter().find(|block| block.slot == handle.slot()).unwrap();
        (block.pinned, block.address)
    };
    let pin = pool.pin(&kept[0]).unwrap();
    assert_eq!(pinned(&kept[0]), (true, pin.as_ptr() as usize));
    drop(pin);
    assert!(!pinned(&kept[0]).0);

    // Segments overlap nowhere and hold their blocks, each once.
    let segments = pool.segments();
    let number = |value: &serde_json::Value, field: &str| value[field].as_u64().unwrap();
    let (mut end, mut live) = (0, 0);
    for segment in segments.as_array().unwrap() {
        assert!(number(segment, "address") >= end);
        end = number(segment, "address") + number(segment, "total_size");
        for block in segment["blocks"].as_array().unwrap() {
            assert!(number(block, "address") >= number(segment, "address"));
            assert!(number(block, "address") + number(block, "size") <= end);
            live += usize::from(block["state"] == "active_allocated");
        }
    }
    assert_eq!(live, pool.live_blocks().len());

    // What is freed is what was allocated.
    for handle in kept {
        pool.deallocate(handle.clone()).unwrap();
        let events = pool.shared.tracking().unwrap().events();
        let (last, _) = events.last().unwrap();
        assert_eq!((last.freed, last.slot, last.generation), (true, handle.slot(), handle.generation()));
    }
    pool.debug_validate();
}

#[test]
fn leaks_are_looked_for_where_that_is_asked() {
    for enable_leak_detection in [true, false] {
        let tracking = TrackingConfig {
            enable_leak_detection,
            leak_detection_interval: Duration::from_nanos(1),
            ..TrackingConfig::default()
        };
        let config = MemoryPoolConfig {
            enable_advanced_tracking: true,
            tracking_config: Some(tracking),
            ..Default::default()
        };
        let pool = HybridMemoryPool::builder().config(config).build().unwrap();
        let kept = [100, 200].map(|size| pool.allocate(size, 64, &Device::Cpu).unwrap());
        // Longer than a tick of the clock.
        std::thread::sleep(Duration::from_millis(20));
        let leaks = pool.get_detailed_metrics().unwrap().possible_leaks;
        assert_eq!(leaks, enable_leak_detection.then_some(2));
        kept.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    }
}

#[test]
fn traces_agree_with_segments_through_reuse_and_compaction() {
    let config = MemoryPoolConfig { enable_advanced_tracking: true, ..Default::default() };
    // Events of a tick have one time.
    let pool = HybridMemoryPool::builder().config(config).build().unwrap();
    let number = |value: &serde_json::Value, field: &str| value[field].as_u64().unwrap();
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut kept, (give, given)) = (Vec::new(), std::sync::mpsc::channel());
    let (done, was_done) = std::sync::mpsc::channel();
    let other = {
        let pool = pool.clone();
        std::thread::spawn(move || {
            given.iter().for_each(|handle| done.send(pool.deallocate(handle)).unwrap())
        })
    };
    for round in 0..400 {
        let size = if random(4) == 0 { (1 << 20) + random(4 << 20) } else { 1 + random(1 << 17) };
        kept.push(pool.allocate(size as usize, 64, &Device::Cpu).unwrap());
        while kept.len() > 24 {
            let at = random(kept.len() as u64) as usize;
            let handle = kept.swap_remove(at);
            // Another thread frees as well, within one tick of the clock.
            if random(3) == 0 {
                give.send(handle).unwrap();
                was_done.recv().unwrap().unwrap();
            } else {
                pool.deallocate(handle).unwrap();
            }
        }
        if round % 100 == 99 {
            pool.compact();
        }
    }
    drop(give);
    other.join().unwrap();
    let moved = pool.get_cleanup_metrics().moved_blocks;
    assert!(moved > 0, "nothing was moved");
    let mut live = BTreeMap::new();
    for event in pool.device_traces()[0].as_array().unwrap() {
        let (address, size) = (number(event, "addr"), number(event, "size"));
        if event["action"] == "free_completed" {
            assert_eq!(live.remove(&address), Some(size), "{event}");
        } else {
            let before = live.range(..address + size).next_back();
            assert!(before.is_none_or(|(at, size)| at + size <= address), "{event} meets {before:?}");
            live.insert(address, size);
        }
    }
    let segments = pool.segments();
    let blocks =
        segments.as_array().unwrap().iter().flat_map(|segment| segment["blocks"].as_array().unwrap());
    let active = blocks.filter(|block| block["state"] == "active_allocated");
    assert_eq!(
        active.map(|block| (number(block, "address"), number(block, "size"))).collect::<BTreeMap<_, _>>(),
        live
    );
}

#[test]
fn exports_hold_what_the_pool_holds() {
    let pool = tracked(TrackingLevel::Detailed);
    let _scope = TagScope::enter("kv");
    let kept = pool.allocate(100, 64, &Device::Cpu).unwrap();
    let gone = pool.allocate(2 << 20, 64, &Device::Cpu).unwrap();
    pool.deallocate(gone).unwrap();
    let report = pool.report_json();
    assert_eq!((&report["schema"], &report["metrics"]["current_bytes"]), (&1.into(), &100.into()));
    assert_eq!(report["tracking"]["alive"][0]["tag"], "kv");
    let text = pool.report_text();
    assert!(text.contains("alive: 1 blocks, 100 B, tag kv, from crates/bitnet-core/src/memory"), "{text}");
    let trace = pool.trace_json();
    assert_eq!(trace["traceEvents"].as_array().unwrap().len(), 6);
    assert_eq!(trace["traceEvents"][4]["args"]["bytes"], 100);
    let snapshot = pool.snapshot_pickle();
    assert!(snapshot.starts_with(&[0x80, 2]) && snapshot.ends_with(b"."));
    for field in ["segments", "device_traces", "active_allocated", "free_completed", "tests/tracking.rs"] {
        assert!(snapshot.windows(field.len()).any(|window| window == field.as_bytes()), "{field}");
    }
    pool.deallocate(kept).unwrap();
}
