//! Models of the Hugging Face hub: `hf:org/name[@revision]` becomes a folder or a file of the standard cache.
//!
//! [`name`] reads what was typed, [`settings`] the environment, [`choice`] decides which files of a repository
//! are needed, [`client`] speaks HTTP, [`download`] brings one file into the [`cache`]. What the cache holds
//! whole is used without a word to the network; where other files of the repository might come first, that takes a record
//! of an earlier fetch by the same name. A file gets its place in the cache only when all of its bytes have arrived and,
//! where the hub gives their SHA-256 (it does for large files), hash to it; a branch or tag points to a snapshot only when
//! all files of it have. Weights come last, so a folder that has them has the rest.

mod cache;
mod choice;
mod client;
mod download;
mod name;
mod settings;

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use bitnet_inference::model::checkpoint::shard_names;

use self::cache::Repository;
use self::choice::{Choice, INDEX, Weights};
use self::client::Client;
use self::name::HubName;
use self::settings::Settings;
use crate::model::Need;
use crate::output::note;

/// Returns the folder or file of a model of the hub, downloading what is not in the cache.
///
/// # Errors
/// Usage errors for names and settings that cannot be; otherwise one line that names the model, the file, and
/// what the hub, the network or the disk answered.
pub fn fetch(spelled: &str, need: Need) -> Result<PathBuf> {
    let name = HubName::parse(spelled)?;
    let settings = Settings::from_env()?;
    let cache = Repository::new(&settings.cache, &name);
    if let Some(commit) = cache.commit(&name.revision)? {
        let found = cached(&cache, &name, &commit, need, settings.offline)?;
        match found {
            Cached::Whole(path) => return Ok(path),
            // Whatever else the repository may have is out of reach.
            Cached::WithoutText(path) if settings.offline => return Ok(path),
            _ => {}
        }
    }
    if settings.offline {
        let place = settings.cache.display();
        return Err(anyhow!(
            "{name}: not whole in the cache {place}, and HF_HUB_OFFLINE forbids to fetch it"
        ));
    }
    download_all(&Client::new(&settings), &cache, &name, need)
}

/// What the cache holds of a commit.
enum Cached {
    /// All that is needed.
    Whole(PathBuf),
    /// Configuration and weights, but no tokenizer.
    WithoutText(PathBuf),
    /// Not enough to run.
    Parts,
}

fn cached(cache: &Repository, name: &HubName, commit: &str, need: Need, offline: bool) -> Result<Cached> {
    let folder = cache.snapshot(commit);
    let files = cache.files(commit)?;
    // A choice whose weights somebody deleted says nothing of the texts.
    let chosen = cache.chosen(commit).filter(|file| files.contains(file));
    let wanted = name.file.clone().or(chosen);
    let Ok(choice) = Choice::of(&files, wanted.as_deref()) else { return Ok(Cached::Parts) };
    // What is here may be a few of many files, and the choice among all of them another one.
    let is_all = offline || wanted.is_some() || choice.is_certain();
    let weights = match &choice.weights {
        Some(Weights::Whole(files)) if is_all => {
            if name.file.is_none() {
                note(&format!("{name}: using {} of the cached snapshot {commit}", files[0]));
            }
            return Ok(Cached::Whole(folder.join(&files[0])));
        }
        Some(Weights::Single(_)) => is_all,
        Some(Weights::Index) => {
            shard_names(&folder.join(INDEX))?.iter().all(|shard| folder.join(shard).is_file())
        }
        Some(Weights::Whole(_)) | None => false,
    };
    Ok(match need {
        Need::Text if choice.has_tokenizer() => Cached::Whole(folder),
        Need::Weights if choice.has_config() && weights => Cached::Whole(folder),
        Need::All if choice.has_config() && weights && choice.has_tokenizer() => Cached::Whole(folder),
        Need::All if choice.has_config() && weights => Cached::WithoutText(folder),
        _ => Cached::Parts,
    })
}

fn download_all(client: &Client, cache: &Repository, name: &HubName, need: Need) -> Result<PathBuf> {
    let listing = client.listing(name)?;
    let commit = &listing.commit;
    let folder = cache.snapshot(commit);
    let choice =
        Choice::of(&listing.files, name.file.as_deref()).map_err(|found| anyhow!("{name}: {found}"))?;
    note(&format!("fetching {name} at {commit} into {}", folder.display()));
    let fetch = |file: &str| download::file(client, cache, name, commit, file);
    let mut path = folder.clone();
    match &choice.weights {
        // All of the model is in this file.
        Some(Weights::Whole(files)) => {
            files.iter().try_for_each(|file| fetch(file))?;
            path = folder.join(&files[0]);
        }
        _ if !choice.has_config() && need != Need::Text => {
            return Err(anyhow!("{name}: expected config.json in the repository, found none"));
        }
        weights => {
            choice.texts.iter().try_for_each(|file| fetch(file))?;
            match weights {
                _ if need == Need::Text => {}
                Some(Weights::Single(file)) => fetch(file)?,
                Some(Weights::Index) => {
                    fetch(INDEX)?;
                    shard_names(&folder.join(INDEX))?.iter().try_for_each(|shard| fetch(shard))?;
                }
                _ => return Err(anyhow!("{name}: {}", choice::no_weights(&listing.files))),
            }
        }
    }
    // A text alone is no choice of weights, unless both are one file.
    let has_weights = need != Need::Text || matches!(choice.weights, Some(Weights::Whole(_)));
    if let Some(file) = choice.chosen().filter(|_| name.file.is_none() && has_weights) {
        cache.choose(commit, file)?;
    }
    cache.point(&name.revision, commit)?;
    Ok(path)
}
