//! An engine's memory: what it is for, what happens when it runs out, and how it is planned.

#![allow(clippy::unwrap_used, reason = "a test may panic anywhere, its helpers too")]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::backend::{
    Backend, BitNetError, BufferKind, ErrorKind, LogitsWanted, StepLimits, WeightStorage,
};
use bitnet_core::cpu::{CpuBackend, CpuOptions, HeadPrecision, TernaryLayout};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, PoolBuilder};
use bitnet_inference::model::convert::{ConvertOptions, Output, OutputFile, Target, convert};
use bitnet_inference::model::ggml::GgmlType;
use bitnet_inference::model::{LoadOptions, Model, ModelFiles, ModelSource, WeightAccess, load};
use bitnet_inference::runner::{Feed, SequenceId};
use bitnet_inference::{Engine, EngineError, GenerateOptions};
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, shapes, temp::TempDir};

fn model(label: &str, shape: ModelShape) -> TempDir {
    let folder = TempDir::new(label);
    SyntheticModel::new(shape, SyntheticFamily::BitNetPacked, 7).write_folder(folder.path()).unwrap();
    folder
}

fn small_shape() -> ModelShape {
    ModelShape { vocab: 300, layers: 2, max_positions: 512, ..shapes::tiny() }
}

fn small(label: &str) -> TempDir {
    model(label, small_shape())
}

/// Writes a folder of another family.
fn small_of(family: SyntheticFamily, label: &str) -> TempDir {
    let folder = TempDir::new(label);
    let shape = ModelShape { sub_norms: family != SyntheticFamily::TriLm, ..small_shape() };
    SyntheticModel::new(shape, family, 7).write_folder(folder.path()).unwrap();
    folder
}

/// One file of a conversion.
struct Single(PathBuf);

impl Output for Single {
    fn create(&mut self, _: &str) -> io::Result<Box<dyn OutputFile + '_>> {
        Ok(Box::new(File::create(&self.0)?))
    }
}

/// Writes the model of a folder as a GGUF file beside it.
fn gguf(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let files = ModelFiles::open(&ModelSource::at(folder)).unwrap();
    convert(&files, &mut ConvertOptions::new(Target::Gguf(GgmlType::TQ2_0)), &mut Single(path.clone()))
        .unwrap();
    path
}

/// Loads with everything that takes memory: repacked codes, an int8 head.
fn open(model: &Path, pool: &HybridMemoryPool) -> Result<Engine, EngineError> {
    open_by(WeightAccess::Auto, model, pool)
}

fn open_by(access: WeightAccess, model: &Path, pool: &HybridMemoryPool) -> Result<Engine, EngineError> {
    let builder = Engine::builder().threads(Some(2)).tokenizer(false).pool(pool.clone()).weights(access);
    builder.head(HeadPrecision::Int8).layout(TernaryLayout::RowFifths).load(model)
}

fn generate(engine: &mut Engine) -> Result<Vec<u32>, EngineError> {
    let options = GenerateOptions { max_tokens: Some(8), ..Default::default() };
    Ok(engine.generate_ids(&[1, 2, 3], &options, |_| {})?.ids)
}

/// A tracked pool on the machine that the files below `root` describe: what else runs on this one does not matter.
fn tracked(root: &Path) -> PoolBuilder {
    let config = MemoryPoolConfig { enable_advanced_tracking: true, ..Default::default() };
    HybridMemoryPool::builder().config(config).pressure_root(root)
}

/// Describes a machine with plenty of memory.
fn calm() -> TempDir {
    let root = TempDir::new("memory-machine");
    machine(root.path(), 900);
    root
}

#[test]
fn the_pool_knows_what_the_engine_holds() {
    let (folder, root) = (small("memory-parts"), calm());
    let pool = tracked(root.path()).build().unwrap();
    let mut engine = open(folder.path(), &pool).unwrap();
    generate(&mut engine).unwrap();
    let tags = pool.get_detailed_metrics().unwrap().by_tag;
    let tagged = |name: &str| tags.iter().find(|usage| usage.name == name).map(|usage| usage.current_bytes);
    for part in engine.memory() {
        let bytes = part.bytes as u64;
        match part.part {
            // What is used in the mapped file is no memory of the pool.
            "weights" => assert!(tagged("weights").is_some_and(|held| held > 0 && held <= bytes)),
            part => assert_eq!(tagged(part), Some(bytes), "{part}"),
        }
    }
    let snapshot = String::from_utf8_lossy(&pool.snapshot_pickle()).into_owned();
    for tag in ["weights", "kv", "activations", "scratch"] {
        assert!(snapshot.contains(tag), "{tag} is missing from the snapshot");
    }
    drop(engine);
    assert_eq!(pool.get_metrics().current_allocated, 0);
}

#[test]
fn weights_that_a_load_makes_come_from_the_pool() {
    let root = calm();
    let pool = tracked(root.path()).build().unwrap();
    let held = || {
        let tags = pool.get_detailed_metrics().unwrap().by_tag;
        tags.iter().find(|usage| usage.name == "weights").map_or(0, |usage| usage.current_bytes)
    };
    let load = |model: &Path, access| {
        let files = ModelFiles::open(&ModelSource::at(model)).unwrap();
        let options = LoadOptions { access, pool: Some(pool.clone()), ..LoadOptions::default() };
        load(&files, &mut { options }).unwrap()
    };
    let codes = |model: &Model| -> u64 {
        let bytes = model.matrices().map(|weights| match &weights.storage {
            WeightStorage::Ternary { bytes, .. } => bytes.len() as u64,
            _ => 0,
        });
        bytes.sum()
    };
    let packed = small("memory-made-packed");
    let model = load(packed.path(), WeightAccess::Auto);
    assert!(codes(&model) > 0);
    assert_eq!(held(), 0, "packed codes stay in the mapped file");
    let file = gguf(packed.path());
    let copied = std::fs::metadata(&file).unwrap().len();
    drop(model);
    for family in [SyntheticFamily::BitNetMaster, SyntheticFamily::OneBitLlm, SyntheticFamily::TriLm] {
        let folder = small_of(family, "memory-made");
        let model = load(folder.path(), WeightAccess::Auto);
        assert_eq!(held(), codes(&model), "{family:?}");
    }
    let model = load(&file, WeightAccess::Auto);
    assert_eq!(held(), codes(&model), "GGUF");
    drop(model);
    let model = load(&file, WeightAccess::Copy);
    assert_eq!(held(), codes(&model) + copied, "a copied GGUF file");
    drop(model);
    assert_eq!(held(), 0);
}

#[test]
fn a_load_that_fails_at_any_allocation_leaves_nothing() {
    let packed = small("memory-faults");
    let file = gguf(packed.path());
    every_fault(packed.path(), WeightAccess::Auto, 20);
    every_fault(&file, WeightAccess::Auto, 34);
    every_fault(&file, WeightAccess::Copy, 35);
    every_fault(
        small_of(SyntheticFamily::BitNetMaster, "memory-faults-master").path(),
        WeightAccess::Auto,
        34,
    );
}

/// Refuses each allocation of loading and running a model in turn; there are more than `least`.
fn every_fault(model: &Path, access: WeightAccess, least: usize) {
    let root = calm();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let counter = Arc::clone(&left);
    let builder = tracked(root.path()).admission(move |request| {
        let refused =
            counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if refused {
            return Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: request.size,
                purpose: "an injected fault".into(),
                available: "nothing".into(),
            }));
        }
        Ok(())
    });
    let pool = builder.build().unwrap();
    let ids = generate(&mut open_by(access, model, &pool).unwrap()).unwrap();
    let allocations = usize::MAX - left.load(Ordering::Relaxed);
    assert!(allocations > least, "{allocations}");
    for allowed in 0..allocations {
        left.store(allowed, Ordering::Relaxed);
        let error = open_by(access, model, &pool).and_then(|mut engine| generate(&mut engine)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("an injected fault") && !message.contains('\n'), "{allowed}: {message}");
        assert_eq!(pool.get_metrics().active_allocations(), 0, "after {allowed} allocations");
        pool.debug_validate();
    }
    left.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(generate(&mut open_by(access, model, &pool).unwrap()).unwrap(), ids);
}

#[test]
fn an_engine_that_ran_out_in_the_middle_goes_on_when_there_is_room() {
    let (folder, root) = (small("memory-middle"), calm());
    let full = Arc::new(AtomicUsize::new(0));
    let switch = Arc::clone(&full);
    let builder = tracked(root.path()).admission(move |request| match switch.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(BitNetError::mismatch("memory", request.size, "none")),
    });
    let pool = builder.build().unwrap();
    let mut engine = open(folder.path(), &pool).unwrap();
    full.store(1, Ordering::Relaxed);
    assert!(matches!(generate(&mut engine), Err(EngineError::Backend(_))));
    full.store(0, Ordering::Relaxed);
    let ids = generate(&mut engine).unwrap();
    // Blocks that are there already serve the next sequence, room or not.
    full.store(1, Ordering::Relaxed);
    assert_eq!(generate(&mut engine).unwrap(), ids);
}

/// Writes the file of a machine of 1000 MiB with `free` MiB left.
fn machine(root: &Path, free: u64) {
    let text = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", 1000 * 1024, free * 1024);
    std::fs::create_dir_all(root.join("proc/self")).unwrap();
    std::fs::write(root.join("proc/meminfo"), text).unwrap();
}

#[test]
fn under_pressure_running_sequences_go_on_and_new_ones_wait() {
    let (folder, root) = (small("memory-pressure"), calm());
    let pool = tracked(root.path()).build().unwrap();
    let mut engine = open(folder.path(), &pool).unwrap();
    let ids = generate(&mut engine).unwrap();
    let running = engine.runner().admit().unwrap();
    // High pressure: the pool gives back what is free, and sequences are still taken on.
    let handle = pool.allocate(8 << 20, 64, &Default::default()).unwrap();
    pool.deallocate(handle).unwrap();
    machine(root.path(), 150);
    assert_eq!(generate(&mut engine).unwrap(), ids);
    assert!(pool.get_cleanup_metrics().runs >= 1);
    assert_eq!(pool.footprint().purgeable, 0);
    machine(root.path(), 10);
    let error = generate(&mut engine).unwrap_err();
    assert!(matches!(error, EngineError::MemoryPressure { running: 1 }), "{error}");
    let options = GenerateOptions { max_tokens: Some(8), ..Default::default() };
    let resumed = engine.resume(Some(running), &[1, 2, 3], &options).unwrap();
    assert_eq!(resumed.filter_map(|piece| piece.unwrap().id).collect::<Vec<_>>(), ids);
    machine(root.path(), 900);
    assert_eq!(generate(&mut engine).unwrap(), ids);
}

/// Returns the bytes of KV blocks, as the engine and as the pool know them.
fn kv(engine: &Engine, pool: &HybridMemoryPool) -> usize {
    let bytes = engine.memory().iter().find(|part| part.part == "kv").map_or(0, |part| part.bytes);
    let tags = pool.get_detailed_metrics().unwrap().by_tag;
    let tagged = tags.iter().find(|usage| usage.name == "kv").map_or(0, |usage| usage.current_bytes);
    assert_eq!(tagged, bytes as u64);
    bytes
}

#[test]
fn kv_memory_grows_less_under_pressure_and_goes_back() {
    let (folder, root) = (small("memory-kv"), calm());
    let pool = tracked(root.path()).build().unwrap();
    let mut engine = open(folder.path(), &pool).unwrap();
    let tokens = vec![1; 64];
    let feed = |engine: &mut Engine, sequence, blocks: usize| {
        (0..blocks).for_each(|_| engine.runner().forward_all(sequence, &tokens, |_, _| {}).unwrap());
    };
    let sequences: Vec<_> = (0..3).map(|_| engine.runner().admit().unwrap()).collect();
    feed(&mut engine, sequences[0], 1);
    let block = kv(&engine, &pool);
    feed(&mut engine, sequences[0], 7);
    assert_eq!(kv(&engine, &pool), 8 * block);
    // While there is plenty, one more than is needed is made ready from the ninth on.
    feed(&mut engine, sequences[1], 1);
    assert_eq!(kv(&engine, &pool), 10 * block);
    machine(root.path(), 270);
    feed(&mut engine, sequences[1], 2);
    assert_eq!(kv(&engine, &pool), 11 * block, "medium pressure: no more than is needed");
    // High: what a sequence leaves goes back, above what another one has.
    machine(root.path(), 150);
    feed(&mut engine, sequences[2], 1);
    assert_eq!(kv(&engine, &pool), 12 * block);
    engine.runner().release(sequences[2]);
    assert_eq!(kv(&engine, &pool), 11 * block);
    engine.runner().truncate(sequences[1], 64).unwrap();
    assert_eq!(kv(&engine, &pool), 9 * block);
    assert_eq!(pool.footprint().purgeable, 0);
    let ids = |engine: &mut Engine| {
        engine.runner().forward(&[feed_of(sequences[1], &[5])]).unwrap();
        let mut ids = Vec::new();
        engine.runner().argmax(&mut ids).unwrap();
        engine.runner().truncate(sequences[1], 64).unwrap();
        ids
    };
    let under_pressure = ids(&mut engine);
    // Recovered: it grows in steps again, and computes the same.
    machine(root.path(), 900);
    assert_eq!(ids(&mut engine), under_pressure);
    let fresh = engine.runner().admit().unwrap();
    feed(&mut engine, fresh, 3);
    assert_eq!(kv(&engine, &pool), 13 * block);
}

fn feed_of(sequence: SequenceId, tokens: &[u32]) -> Feed<'_> {
    Feed { sequence, tokens, logits: LogitsWanted::Last }
}

/// Set in the child of the tests below, whose memory is limited.
#[cfg(target_os = "linux")]
const CHILD: &str = "BITNET_TEST_LIMITED_ENGINE";

/// Describes this process and its groups as they are, on a machine with plenty of memory in which nothing stalls.
#[cfg(target_os = "linux")]
fn limits_of_this_process() -> TempDir {
    let root = calm();
    std::fs::remove_dir(root.path().join("proc/self")).unwrap();
    std::os::unix::fs::symlink("/proc/self", root.path().join("proc/self")).unwrap();
    std::os::unix::fs::symlink("/sys", root.path().join("sys")).unwrap();
    root
}

/// Runs out of memory that is really limited, and recovers.
#[cfg(target_os = "linux")]
fn live_within_limits(step: usize, touch: bool) {
    let (folder, root) = (small("memory-limited"), limits_of_this_process());
    let pool = tracked(root.path()).build().unwrap();
    let mut engine = open(folder.path(), &pool).unwrap();
    let ids = generate(&mut engine).unwrap();
    let running = engine.runner().admit().unwrap();
    let mut ballast = Vec::new();
    let error = loop {
        let handle = pool.allocate(step << 20, 64, &Default::default()).unwrap();
        if touch {
            pool.pin_mut(&handle).unwrap().fill(1);
        }
        ballast.push(handle);
        match generate(&mut engine) {
            Ok(found) => assert_eq!(found, ids),
            Err(error) => break error,
        }
        assert!(ballast.len() < 1000, "no limit was met: {:?}", pool.pressure_level());
    };
    assert!(matches!(error, EngineError::MemoryPressure { running: 1 }), "{error}");
    assert!(ballast.len() > 4, "{} steps", ballast.len());
    let options = GenerateOptions { max_tokens: Some(8), ..Default::default() };
    let resumed = engine.resume(Some(running), &[1, 2, 3], &options).unwrap();
    assert_eq!(resumed.filter_map(|piece| piece.unwrap().id).collect::<Vec<_>>(), ids);
    ballast.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    assert_eq!(generate(&mut engine).unwrap(), ids);
}

/// Runs the named test in a process of its own, after `limit`, a line of shell.
#[cfg(target_os = "linux")]
fn run_limited(name: &str, limit: &str, child: &str) {
    let command = format!("{limit} && exec \"$0\" {name} --exact --test-threads=1");
    let test = std::env::current_exe().unwrap();
    let output =
        std::process::Command::new("sh").args(["-c", &command]).arg(test).env(CHILD, child).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
#[cfg(target_os = "linux")]
fn an_engine_lives_within_a_limited_address_space() {
    if std::env::var_os(CHILD).is_some() {
        return live_within_limits(64, false);
    }
    run_limited("an_engine_lives_within_a_limited_address_space", "ulimit -v 2000000", "addresses");
}

#[test]
#[cfg(target_os = "linux")]
fn an_engine_lives_within_a_control_group() {
    if std::env::var_os(CHILD).is_some() {
        return live_within_limits(4, true);
    }
    let name = format!("bitnet-test-{}", std::process::id());
    let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    for (mount, limit) in versions {
        let group = Path::new(mount).join(&name);
        if std::fs::create_dir(&group).is_err() {
            continue;
        }
        let done = std::fs::write(group.join(limit), (192u64 << 20).to_string()).map(|()| {
            let enter = format!("echo $$ > {}", group.join("cgroup.procs").display());
            run_limited("an_engine_lives_within_a_control_group", &enter, "group");
        });
        let _ = std::fs::remove_dir(&group);
        if done.is_ok() {
            return;
        }
    }
    println!("SKIPPED: no control group of memory can be made here");
}

#[test]
fn activations_of_the_2b_4t_graph_are_planned_at_the_bound() {
    let (shape, _) = shapes::by_name("2b-4t").unwrap();
    let folder = model("memory-plan", ModelShape { vocab: 64, layers: 2, ..shape });
    let files = ModelFiles::open(&ModelSource::Folder(folder.path().to_owned())).unwrap();
    let model = load(&files, &mut LoadOptions::default()).unwrap();
    let mut backend = CpuBackend::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let graph = model.build(&mut backend).unwrap();
    let whole: usize = graph
        .buffers
        .iter()
        .map(|spec| spec.width * 128 * if spec.kind == BufferKind::F32 { 4 } else { 1 })
        .sum();
    backend.load_graph(graph, StepLimits { max_tokens: 128, max_logits_rows: 1 }).unwrap();
    let (planned, bound) = backend.activation_plan().unwrap();
    println!("activations of 128 tokens: {planned} bytes planned, bound {bound}, {whole} without a plan");
    assert!(planned as f64 <= bound as f64 * 1.02, "{planned} of {bound}");
    assert!(planned * 4 <= whole * 3, "{planned} of {whole}");
}
