//! The environment variables that all programs of the hub share.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::failure::usage;

const ENDPOINT: &str = "https://huggingface.co";

/// Where models come from and go to.
pub struct Settings {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, or else `hub` in `HF_HOME`, or else in the user's cache.
    pub cache: PathBuf,
    /// `HF_TOKEN`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`.
    pub offline: bool,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A usage error that names the variable. A token is never repeated.
    pub fn from_env() -> Result<Self> {
        Settings::from(|name| std::env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(usage(format!(
                "HF_ENDPOINT: expected http:// or https:// and a host, found {endpoint:?}"
            )));
        }
        let token =
            variable("HF_TOKEN").map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(usage("HF_TOKEN: expected printable ASCII characters without spaces, found others"));
        }
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
        let cache = cache(&variable).ok_or_else(|| {
            usage("HF_HUB_CACHE: expected a folder, found none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME")
        })?;
        // Links in the cache are relative to it, whatever the working folder is later.
        let cache = std::path::absolute(&cache).unwrap_or(cache);
        Ok(Settings { endpoint, cache, token, offline })
    }
}

fn cache(variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = || variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
    let expanded = |path: String| match path.strip_prefix("~/") {
        Some(rest) => home().map_or_else(|| PathBuf::from(&path), |home| home.join(rest)),
        None => PathBuf::from(path),
    };
    let named = |name: &str| variable(name).map(expanded);
    let user = || named("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
    let below = |root: &Path| root.join("huggingface").join("hub");
    named("HF_HUB_CACHE")
        .or_else(|| named("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| user().map(|root| below(&root)))
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_nearest_variable_names_the_cache() {
        let all = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/f"), ("HF_HUB_CACHE", "/c")];
        for (count, wanted) in
            [(1, "/h/.cache/huggingface/hub"), (2, "/x/huggingface/hub"), (3, "/h/f/hub"), (4, "/c")]
        {
            assert_eq!(settings(&all[..count]).unwrap().cache, Path::new(wanted));
        }
        assert!(settings(&[]).is_err());
    }

    #[test]
    fn values_are_trimmed_and_checked() {
        let found = settings(&[
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://127.0.0.1:8/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "yes"),
        ])
        .unwrap();
        assert_eq!((&*found.endpoint, found.token.as_deref()), ("http://127.0.0.1:8", Some("hf_x")));
        assert!(found.offline && !settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert_eq!(settings(&[("HOME", "/h")]).unwrap().endpoint, ENDPOINT);
        let secret = settings(&[("HOME", "/h"), ("HF_TOKEN", "hf_a b")]).err().unwrap().to_string();
        assert!(secret.starts_with("HF_TOKEN") && !secret.contains("hf_a"), "{secret}");
        for endpoint in ["huggingface.co", "ftp://x", "https://", "http://a b"] {
            assert!(settings(&[("HOME", "/h"), ("HF_ENDPOINT", endpoint)]).is_err(), "{endpoint}");
        }
    }
}
