//! Tests that take minutes: `cargo xtask nightly` runs them.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use bitnet_core::backend::LogitsWanted;
use bitnet_inference::runner::{Feed, SequenceId};
use bitnet_inference::score::window_nll;
use bitnet_testing::golden::golden_dir;
use bitnet_testing::rng::Rng;
use common::{all_logits, bits, engine, load};

const VOCAB: usize = 320;

/// A sequence under way: its tokens, how many were fed, and the logits that each position has alone.
struct Course {
    id: SequenceId,
    ids: Vec<u32>,
    fed: usize,
    expected: Vec<u32>,
}

#[test]
#[ignore = "a minute: run by cargo xtask nightly"]
fn random_schedules_change_no_bit() {
    let dir = golden_dir("bitnet_packed");
    // More workers than cores, so that they are descheduled between barriers.
    let mut crowded = load(&dir, |b| b.threads(Some(5)));
    let mut alone = load(&dir, |b| b.threads(Some(1)));
    let mut rng = Rng::new(17);
    let mut courses: Vec<Course> = Vec::new();
    let (until, mut compared) = (Instant::now() + Duration::from_secs(60), 0);
    while Instant::now() < until {
        while courses.len() < 6 {
            let count = 1 + rng.below(120);
            let ids = rng.token_ids(count, VOCAB);
            let expected = bits(&all_logits(&mut alone, &ids));
            courses.push(Course { id: crowded.runner().start(), ids, fed: 0, expected });
        }
        // Each sequence feeds nothing or some of its rest, all of them in one pass.
        let takes: Vec<usize> = courses.iter().map(|c| rng.below(22).min(c.ids.len() - c.fed)).collect();
        if takes.iter().all(|&take| take == 0) {
            continue;
        }
        let feeds: Vec<Feed<'_>> = courses
            .iter()
            .zip(&takes)
            .map(|(c, &take)| Feed {
                sequence: c.id,
                tokens: &c.ids[c.fed..c.fed + take],
                logits: LogitsWanted::Last,
            })
            .collect();
        crowded.runner().forward(&feeds).unwrap();
        let rows = bits(crowded.runner().logits().unwrap());
        let mut rows = rows.chunks_exact(VOCAB);
        for (course, take) in courses.iter_mut().zip(takes).filter(|(_, take)| *take > 0) {
            course.fed += take;
            let expected = &course.expected[(course.fed - 1) * VOCAB..][..VOCAB];
            assert!(rows.next().unwrap() == expected, "position {} of {}", course.fed - 1, course.ids.len());
            compared += 1;
        }
        courses.retain(|course| {
            let going_on = course.fed < course.ids.len() && rng.below(30) > 0;
            if !going_on {
                crowded.runner().release(course.id);
            }
            going_on
        });
    }
    assert!(compared > 100, "only {compared} rows in a minute");
}

#[test]
#[ignore = "a minute: run by cargo xtask nightly"]
fn the_whole_held_out_text_has_its_loss() {
    let crate_dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales");
    let tokens = std::fs::read(crate_dir.join("eval/valid.u16")).unwrap();
    let ids: Vec<u32> = tokens.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
    let mut engine = engine(&crate_dir.join("model"));
    let windows = (ids.len() - 1) / 512;
    assert_eq!(windows, 186);
    let nll = |w: usize| {
        let at = w * 512;
        window_nll(engine.runner(), &ids[at..at + 512], &ids[at + 1..at + 513]).unwrap()
    };
    let mean = (0..windows).map(nll).sum::<f64>() / windows as f64;
    assert!((mean - 3.688_86).abs() < 0.0003, "{mean}");
}
