use bitnet_testing::temp::TempDir;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::memory::{CleanupConfig, TagScope, TrackingConfig, TrackingLevel};

fn pool(level: TrackingLevel) -> HybridMemoryPool {
    let config = MemoryPoolConfig {
        max_small_pool_size: 512 << 20,
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig {
            level,
            enable_pressure_detection: false,
            pressure_threshold_ratio: 0.7,
            ..TrackingConfig::default()
        }),
        cleanup_config: Some(CleanupConfig::default()),
        ..MemoryPoolConfig::default()
    };
    HybridMemoryPool::builder().config(config).large_strategy(LargeStrategy::Buddy).build().unwrap()
}

#[test]
fn a_snapshot_tells_every_live_block_and_comes_back() {
    let pool = pool(TrackingLevel::Detailed);
    let small = {
        let _tag = TagScope::enter("snapshot-small");
        pool.allocate(100, 16, &Device::Cpu).unwrap()
    };
    let large = pool.allocate(3 << 20, 64, &Device::Cpu).unwrap();
    pool.deallocate(pool.allocate(100, 16, &Device::Cpu).unwrap()).unwrap();
    let pin = pool.pin(&large).unwrap();
    let snapshot = pool.snapshot();
    let blocks = snapshot.blocks.as_ref().unwrap();
    assert_eq!(blocks.len(), 2);
    let of = |size: u64| blocks.iter().find(|block| block.size == size).unwrap();
    assert_eq!((of(100).class, of(100).tag.as_str(), of(100).pinned), (Some(128), "snapshot-small", false));
    assert_eq!((of(3 << 20).class, of(3 << 20).pinned, of(3 << 20).device), (None, true, Device::Cpu));
    assert!(of(100).site.as_ref().unwrap().contains("snapshot/tests.rs:"));
    assert_eq!((snapshot.large_strategy, snapshot.metrics.active_allocations()), (LargeStrategy::Buddy, 2));

    let dir = TempDir::new("snapshot");
    let path = dir.path().join("pool.json");
    snapshot.save(&path).unwrap();
    let loaded = PoolSnapshot::load(&path).unwrap();
    assert_eq!(loaded, snapshot);
    assert!(loaded.difference(&snapshot).is_empty());

    // The same settings, and nothing allocated.
    let restored = loaded.builder().build().unwrap();
    assert_eq!(
        (restored.config(), restored.snapshot().large_strategy),
        (pool.config(), LargeStrategy::Buddy)
    );
    let difference = snapshot.difference(&restored.snapshot());
    assert_eq!((difference.settings.len(), difference.blocks), (0, -2));
    assert_eq!(difference.current_bytes, -(100 + (3 << 20)));
    drop(pin);
    pool.deallocate(small).unwrap();
    pool.deallocate(large).unwrap();
}

#[test]
fn differences_name_settings_and_tags() {
    let pool = pool(TrackingLevel::Standard);
    let before = pool.snapshot();
    let handles: Vec<_> = {
        let _tag = TagScope::enter("snapshot-growth");
        (0..3).map(|_| pool.allocate(1000, 16, &Device::Cpu).unwrap()).collect()
    };
    let after = pool.snapshot();
    let difference = before.difference(&after);
    assert_eq!(difference.by_tag, [("snapshot-growth".to_owned(), 3000, 3)]);
    let text = difference.to_string();
    assert!(
        text.contains("allocated: +3000 bytes, +3 blocks")
            && text.contains("\"snapshot-growth\": +3000 bytes"),
        "{text}"
    );
    let plain = HybridMemoryPool::new().unwrap().snapshot();
    assert_eq!(plain.blocks, None);
    let names: Vec<_> = after.difference(&plain).settings.into_iter().map(|(name, ..)| name).collect();
    assert_eq!(
        names,
        [
            "max_small_pool_size",
            "large_strategy",
            "enable_advanced_tracking",
            "tracking_config",
            "cleanup_config"
        ]
    );
    for handle in handles {
        pool.deallocate(handle).unwrap();
    }
}

fn document() -> Value {
    let pool = pool(TrackingLevel::Standard);
    let handle = pool.allocate(100, 16, &Device::Cpu).unwrap();
    let value = serde_json::from_str(&pool.snapshot().to_json().unwrap()).unwrap();
    pool.deallocate(handle).unwrap();
    value
}

#[test]
fn hostile_documents_are_refused_by_what_is_wrong() {
    let refuse = |text: &str| {
        let error = PoolSnapshot::from_json(text.as_bytes(), "pool.json").unwrap_err().to_string();
        assert!(error.starts_with("pool.json: ") && !error.contains('\n'), "{error}");
        error
    };
    for text in ["", "[]", "{}", "null", "{\"schema\":\"1\"}", "{\"schema\":1}", &"[".repeat(100_000)] {
        refuse(text);
    }
    assert!(refuse("{\"schema\":2}").ends_with("schema of the snapshot: expected 1, found 2"));
    let changes: [(&[&str], Value, &str); 9] = [
        (&["surprise"], json!(1), "unknown field"),
        (&["config", "max_small_pool_bytes"], json!(-1), "invalid value"),
        (&["config", "large_strategy"], json!("worst-fit"), "one of best-fit, buddy, found \"worst-fit\""),
        (&["config", "tracking", "level"], json!("all"), "tracking level"),
        (&["pressure"], json!("huge"), "pressure"),
        (
            &["metrics", "freed_bytes"],
            json!(u64::MAX),
            "allocated_bytes - freed_bytes: expected 100, found no number",
        ),
        (&["metrics", "small_bytes"], json!(99), "small_bytes + large_bytes: expected 100, found 99"),
        (&["blocks"], json!([{"size_bytes": 1}]), "missing field"),
        (&["metrics", "deallocations"], json!(5), "deallocations: expected at most 1, found 5"),
    ];
    for (path, value, message) in changes {
        let mut document = document();
        let mut place = &mut document;
        for key in path {
            place = &mut place[*key];
        }
        *place = value;
        let error = refuse(&document.to_string());
        assert!(error.contains(message), "{error}");
    }
    let mut odd = document();
    odd["blocks"][0]["device"] = json!("gpu");
    assert!(refuse(&odd.to_string()).contains("block 0: device name"));
    odd["blocks"][0]["class_bytes"] = json!(64);
    assert!(refuse(&odd.to_string()).contains("block 0: class_bytes: expected 100 or more, found 64"));
    // A configuration that no pool accepts is one that none is made with.
    let mut odd = document();
    odd["config"]["tracking"]["pressure_threshold_ratio"] = json!(7.5);
    let snapshot = PoolSnapshot::from_json(odd.to_string().as_bytes(), "pool.json").unwrap();
    assert!(snapshot.builder().build().unwrap_err().to_string().contains("pressure_threshold_ratio"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn cut_and_changed_documents_never_panic(cut in 0usize..4000, at in 0usize..4000, byte in any::<u8>()) {
        let mut text = document().to_string().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        drop(PoolSnapshot::from_json(&text, "changed"));
        text.truncate(cut);
        drop(PoolSnapshot::from_json(&text, "cut"));
    }
}
