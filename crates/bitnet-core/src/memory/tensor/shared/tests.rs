// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_backend::{BitNetDType, Device, ErrorKind};

use super::*;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;
use crate::memory::tensor::file::{TensorFile, to_bytes};

fn unique(label: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{label}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn object(name: &str) -> std::path::PathBuf {
    format!("/dev/shm/bitnet-{}-{name}", rustix::process::geteuid().as_raw()).into()
}

fn publish(name: &str, bytes: &[u8]) -> SharedMemory {
    SharedMemory::publish_or_attach(name, bytes.len(), |out| {
        out.copy_from_slice(bytes);
        Ok(())
    })
    .unwrap()
}

fn attach(name: &str, len: usize) -> bitnet_backend::Result<SharedMemory> {
    SharedMemory::publish_or_attach(name, len, |_| panic!("it is there already"))
}

#[test]
fn the_first_fills_the_last_removes() {
    let name = unique("life");
    let first = publish(&name, b"weights");
    let second = attach(&name, 7).unwrap();
    assert_eq!(
        (first.bytes(), second.bytes(), first.kind()),
        (&b"weights"[..], &b"weights"[..], "shared memory")
    );
    let error = attach(&name, 8).unwrap_err().to_string();
    assert!(error.ends_with("expected 8 bytes, found 7"), "{error}");
    drop(first);
    assert!(object(&name).exists());
    drop(second);
    assert!(!object(&name).exists());
    assert_eq!(publish(&name, b"others").bytes(), b"others");
}

#[test]
fn many_who_come_at_once_share_one() {
    let name = unique("race");
    let fills = AtomicUsize::new(0);
    for _ in 0..20 {
        let (start, filled) = (std::sync::Barrier::new(4), std::sync::Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let shared = SharedMemory::publish_or_attach(&name, 5000, |out| {
                        fills.fetch_add(1, Ordering::Relaxed);
                        out.fill(7);
                        Ok(())
                    });
                    // Until all have it: who came after the last had gone would rightly fill it again.
                    filled.wait();
                    assert!(shared.unwrap().bytes().iter().all(|&byte| byte == 7));
                });
            }
        });
        assert!(!object(&name).exists());
    }
    assert_eq!(fills.load(Ordering::Relaxed), 20);
}

#[test]
fn what_was_left_half_filled_is_filled_again() {
    let name = unique("half");
    std::fs::write(object(&name), vec![1u8; 5000]).unwrap();
    std::fs::set_permissions(object(&name), std::fs::Permissions::from_mode(0o600)).unwrap();
    let shared = publish(&name, b"whole");
    assert_eq!(shared.bytes(), b"whole");
    drop(shared);
    let failing =
        SharedMemory::publish_or_attach(&name, 9, |_| Err(bitnet_backend::BitNetError::mismatch("x", 1, 2)));
    assert_eq!(failing.unwrap_err().to_string(), "x: expected 1, found 2");
    assert!(!object(&name).exists());
}

#[test]
fn memory_that_others_may_write_is_refused() {
    let name = unique("open");
    std::fs::write(object(&name), b"x").unwrap();
    std::fs::set_permissions(object(&name), std::fs::Permissions::from_mode(0o622)).unwrap();
    let error = attach(&name, 5).unwrap_err().to_string();
    std::fs::remove_file(object(&name)).unwrap();
    assert!(error.contains("alone, found user") && error.ends_with("mode 622"), "{error}");
    for name in ["", "a/b", "a b", &"x".repeat(201)] {
        assert!(attach(name, 5).unwrap_err().to_string().starts_with("name of shared memory"));
    }
    assert!(SharedMemory::publish_or_attach(&unique("empty"), 0, |_| Ok(())).is_err());
    let absurd = SharedMemory::publish_or_attach(&unique("absurd"), 1 << 60, |_| Ok(())).unwrap_err();
    assert!(matches!(absurd.kind(), ErrorKind::Io { .. }), "{absurd}");
}

#[test]
fn sealed_memory_stays_as_it_is() {
    let sealed = SharedMemory::sealed(3, |out| {
        out.copy_from_slice(b"abc");
        Ok(())
    })
    .unwrap();
    let path = format!("/proc/self/fd/{}", sealed.as_fd().as_raw_fd());
    let again = SharedMemory::from_fd(std::fs::File::open(&path).unwrap().into()).unwrap();
    assert_eq!((sealed.bytes(), again.bytes()), (&b"abc"[..], &b"abc"[..]));
    assert!(std::fs::write(&path, b"xyz").is_err());
    assert_eq!(again.bytes(), b"abc");
    let unsealed = std::fs::File::open("/proc/self/exe").unwrap();
    let error = SharedMemory::from_fd(unsealed.into()).unwrap_err().to_string();
    assert!(error.starts_with("seals of shared memory: expected against writing and shrinking"), "{error}");
}

const LEN: usize = 48 << 20;
const CHILD: &str = "memory::tensor::shared::tests::two_processes_hold_weights_once";
const WHERE: &str = "BITNET_TEST_SHARED_MEMORY";

/// The share of this process in shared memory, and what of it is resident, in bytes.
fn shares() -> (usize, usize) {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let field = |name: &str, text: &str| -> usize {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() << 10
    };
    let resident = std::fs::read_to_string("/proc/self/status").unwrap();
    (field("Pss_Shmem:", &text), field("RssShmem:", &resident))
}

fn weights(shared: SharedMemory) -> BitNetTensor {
    TensorFile::parse(Arc::new(shared), "shared").unwrap().tensor("weights").unwrap()
}

/// Runs in a process of its own: maps what the first one made, reads all of it, and reports what it costs.
fn another_process(place: &str) {
    let shared = match place.strip_prefix("/proc/") {
        Some(_) => SharedMemory::from_fd(std::fs::File::open(place).unwrap().into()).unwrap(),
        None => {
            let (name, len) = place.split_once(' ').unwrap();
            attach(name, len.parse().unwrap()).unwrap()
        }
    };
    let tensor = weights(shared);
    let sum: u64 = tensor.as_slice::<u64>().unwrap().iter().sum();
    let (pss, rss) = shares();
    println!("\nfrom the other process: {sum} {pss} {rss}");
    // Until the first one has looked at its own share.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn ask_another(place: &str, expected_sum: u64) -> ((usize, usize), (usize, usize)) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", CHILD])
        .env(WHERE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let line = loop {
        let mut line = String::new();
        assert!(
            std::io::BufRead::read_line(&mut output, &mut line).unwrap() > 0,
            "the other process said nothing"
        );
        if let Some(rest) = line.strip_prefix("from the other process: ") {
            break rest.to_owned();
        }
    };
    let own = shares();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    // Its last lines are read, so that it is not stopped by a full pipe.
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[0], expected_sum);
    (own, (numbers[1] as usize, numbers[2] as usize))
}

#[test]
fn two_processes_hold_weights_once() {
    if let Ok(place) = std::env::var(WHERE) {
        return another_process(&place);
    }
    if !Path::new("/proc/self/smaps_rollup").exists() {
        println!("SKIPPED: this system does not tell shares of memory");
        return;
    }
    let pool = HybridMemoryPool::new().unwrap();
    let mut tensor = BitNetTensor::zeros(&[LEN / 8], BitNetDType::U64, &Device::Cpu, &pool).unwrap();
    for (i, value) in tensor.as_mut_slice::<u64>().unwrap().iter_mut().enumerate() {
        *value = i as u64 * 251 % 65_521;
    }
    let sum: u64 = tensor.as_slice::<u64>().unwrap().iter().sum();
    let image = to_bytes(&[("weights", &tensor)]).unwrap();
    drop(tensor);
    let copy = |out: &mut [u8]| {
        out.copy_from_slice(&image);
        Ok(())
    };
    for named in [true, false] {
        let name = unique("pss");
        let shared = match named {
            true => SharedMemory::publish_or_attach(&name, image.len(), copy),
            false => SharedMemory::sealed(image.len(), copy),
        };
        let shared = match shared {
            Err(error)
                if matches!(error.kind(), ErrorKind::Io { kind: std::io::ErrorKind::StorageFull, .. }) =>
            {
                println!("SKIPPED: {error}");
                continue;
            }
            shared => shared.unwrap(),
        };
        let place = match named {
            true => format!("{name} {}", image.len()),
            false => format!("/proc/{}/fd/{}", std::process::id(), shared.as_fd().as_raw_fd()),
        };
        let kept = weights(shared);
        assert_eq!(kept.as_slice::<u64>().unwrap().iter().sum::<u64>(), sum);
        let (own, other) = ask_another(&place, sum);
        println!("named {named}: own PSS, RSS {own:?}, the other's {other:?}, weights {LEN}");
        // Resident in both, counted half in each: once on the machine.
        assert!(own.1 >= LEN && other.1 >= LEN, "{own:?} {other:?}");
        let slack = 4 << 20;
        assert!(own.0 <= LEN / 2 + slack && other.0 <= LEN / 2 + slack, "{own:?} {other:?}");
    }
}

#[test]
fn sealed_memory_is_mapped_as_every_kernel_allows() {
    let memory = SharedMemory::sealed(1 << 16, |out| {
        out.fill(7);
        Ok(())
    })
    .unwrap();
    // Before 6.7 the kernel refuses shared mappings of sealed memory, read-only ones too.
    let address = format!("{:x}-", memory.bytes().as_ptr().addr());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&address)).unwrap();
    assert!(line.contains(" r--p "), "{line}");
    assert!(memory.bytes().iter().all(|&byte| byte == 7));
}
