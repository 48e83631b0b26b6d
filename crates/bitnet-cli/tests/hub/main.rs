//! Models of the hub, against a hub on this machine: no test here reaches further.
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod broken;
mod models;
#[path = "../cli/program.rs"]
#[allow(dead_code, reason = "shared with the tests of the program, which use more of it")]
mod program;
mod refused;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use bitnet_testing::temp::TempDir;
use program::{Outcome, bitnet, finish};
use server::{COMMIT, Hub};

/// A cache of its own and a hub.
struct Setting {
    hub: Hub,
    cache: TempDir,
}

impl Setting {
    fn new(hub: Hub) -> Self {
        Setting { hub, cache: TempDir::new("hub") }
    }

    fn fairy_tales() -> Self {
        Setting::new(Hub::of(&program::fairy_tales("model")))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bitnet(arguments);
        for (name, _) in std::env::vars() {
            if name.starts_with("HF_") || name.to_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HUB_CACHE", self.cache.path());
        command
    }

    fn output(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments))
    }

    /// Returns a path in the part of the cache that belongs to the repository.
    fn path(&self, path: &str) -> PathBuf {
        self.cache.path().join("models--org--name").join(path)
    }

    fn snapshot(&self, file: &str) -> PathBuf {
        self.path("snapshots").join(COMMIT).join(file)
    }

    fn blobs(&self) -> Vec<String> {
        names(&self.path("blobs"))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
