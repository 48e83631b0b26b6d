//! Random damage: whatever the bytes, loading answers with a model or with one line.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use bitnet_testing::rng::Rng;
use support::{Draft, Saved};

/// Loads, and checks the form of a refusal; returns whether it loaded.
fn attempt(saved: &Saved, what: &str) -> bool {
    match saved.load() {
        Ok(_) => true,
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with(&*saved.root().to_string_lossy()), "{what}: {line}");
            assert!(!line.chars().any(char::is_control) && line.len() < 1500, "{what}: {line}");
            assert!(line.contains("expected ") && line.contains("found"), "{what}: {line}");
            false
        }
    }
}

/// Changes a few bytes within `range`: any byte, a digit, or a structural character.
fn damage(rng: &mut Rng, bytes: &mut [u8], range: std::ops::Range<usize>) {
    const LIKELY: &[u8] = b"0123456789-.eE{}[]\",: \\ux";
    for _ in 0..=rng.next_u64() % 3 {
        let at = range.start + (rng.next_u64() % range.len() as u64) as usize;
        bytes[at] = match rng.next_u64() % 3 {
            0 => rng.next_u64() as u8,
            _ => LIKELY[(rng.next_u64() % LIKELY.len() as u64) as usize],
        };
    }
}

#[test]
fn damaged_bytes_never_bring_loading_down() {
    let mut refused = 0;
    for (seed, name) in ["bitnet_packed", "llama_rmsnorm_bitlinear", "bitnet_1bitllm"].into_iter().enumerate()
    {
        let saved = Draft::golden(name).save();
        let mut rng = Rng::new(seed as u64);
        let (config, weights) = ("config.json", "model.safetensors");
        let (whole_config, whole) =
            (std::fs::read(saved.path(config)).unwrap(), std::fs::read(saved.path(weights)).unwrap());
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        for round in 0..150 {
            let mut bytes = whole_config.clone();
            let range = 0..bytes.len();
            damage(&mut rng, &mut bytes, range);
            saved.put(config, &bytes);
            refused += usize::from(!attempt(&saved, &format!("{name} config {round}")));
            saved.put(config, &whole_config);

            let mut bytes = whole.clone();
            let range = if round % 8 == 0 { 0..8 } else { 8..header };
            damage(&mut rng, &mut bytes, range);
            if round % 16 == 1 {
                bytes.truncate((rng.next_u64() % whole.len() as u64) as usize);
            }
            saved.put(weights, &bytes);
            refused += usize::from(!attempt(&saved, &format!("{name} weights {round}")));
            saved.put(weights, &whole);
        }
        assert!(attempt(&saved, name), "the undamaged model loads");
    }
    assert!(refused > 450, "only {refused} of 900 damages were noticed");
}
