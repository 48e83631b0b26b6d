//! `hf:org/name[/file][@revision]`.

use std::fmt;

use anyhow::Result;

use crate::failure::usage;

/// The prefix without which nothing is looked up on the network.
pub const PREFIX: &str = "hf:";
const DEFAULT_REVISION: &str = "main";

/// A model of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// Who published it.
    pub owner: String,
    /// Its name there.
    pub repository: String,
    /// One file of the repository that is a whole model.
    pub file: Option<String>,
    /// Branch, tag or commit.
    pub revision: String,
    spelled: String,
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

impl HubName {
    /// Reads a name.
    ///
    /// # Errors
    /// A usage error for what cannot be the name of a repository, file or revision.
    pub fn parse(spelled: &str) -> Result<Self> {
        let refuse =
            |found: &str| usage(format!("{spelled}: expected hf:org/name[/file][@revision], found {found}"));
        let rest = spelled.strip_prefix(PREFIX).ok_or_else(|| refuse("no hf: in front"))?;
        let (place, revision) = rest.split_once('@').unwrap_or((rest, DEFAULT_REVISION));
        let mut parts = place.splitn(3, '/');
        let (owner, repository, file) = match (parts.next(), parts.next(), parts.next()) {
            (Some(owner), Some(repository), file) => (owner, repository, file),
            _ => return Err(refuse("no organisation")),
        };
        if let Some(wrong) = [owner, repository].into_iter().find(|part| !is_name(part)) {
            return Err(refuse(&format!("the part {wrong:?}")));
        }
        if let Some(file) = file.filter(|file| !(is_relative(file) && is_whole(file))) {
            return Err(refuse(&format!("the file {file:?}")));
        }
        if !is_relative(revision) {
            return Err(refuse(&format!("the revision {revision:?}")));
        }
        Ok(HubName {
            owner: owner.into(),
            repository: repository.into(),
            file: file.map(Into::into),
            revision: revision.into(),
            spelled: spelled.into(),
        })
    }
}

/// Reports whether a part can be the name of an owner or a repository, by the rules of the hub.
fn is_name(part: &str) -> bool {
    let edges = |edge: char| !part.starts_with(edge) && !part.ends_with(edge);
    let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (1..=96).contains(&part.len())
        && letters
        && edges('.')
        && edges('-')
        && !part.contains("..")
        && !part.contains("--")
}

/// Reports whether a path stays in its folder on every system.
pub fn is_relative(path: &str) -> bool {
    let plain = |part: &str| {
        let strange = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
        !part.is_empty() && part != "." && part != ".." && !part.contains(strange)
    };
    path.len() <= 512 && path.split('/').all(plain)
}

/// Reports whether a name is that of a file that is a whole model.
pub fn is_whole(file: &str) -> bool {
    let is = |wanted: &str| file.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(wanted));
    is("gguf") || is("bitnet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_owner_and_may_have_file_and_revision() {
        let parse = |name: &str| HubName::parse(name).unwrap();
        let plain = parse("hf:org/name");
        assert_eq!((&*plain.owner, &*plain.repository, &*plain.revision), ("org", "name", "main"));
        assert_eq!(plain.file, None);
        let full = parse("hf:a-b/c.d_1/q/m.GGUF@refs/pr/7");
        assert_eq!((full.file.as_deref(), &*full.revision), (Some("q/m.GGUF"), "refs/pr/7"));
        assert_eq!(parse("hf:a/b/c.bitnet").file.as_deref(), Some("c.bitnet"));
        assert_eq!(full.to_string(), "hf:a-b/c.d_1/q/m.GGUF@refs/pr/7");
    }

    #[test]
    fn what_could_leave_the_cache_or_the_host_is_a_usage_error() {
        for name in [
            "hf:",
            "hf:name",
            "hf:/name",
            "hf:org/",
            "hf:../name",
            "hf:org/..",
            "hf:org/a--b",
            "hf:org/a b",
            "hf:o?g/a",
            "hf:org/name@",
            "hf:org/name@..",
            "hf:org/name@a/../b",
            "hf:org/name@/a",
            "hf:org/name@a\\b",
            "hf:org/name/x.safetensors",
            "hf:org/name/../x.gguf",
            "hf:org/name/",
            "hf:org#a/name",
            "hf:org/name@a\nb",
        ] {
            let error = HubName::parse(name).unwrap_err();
            assert!(
                error.is::<crate::failure::Usage>() && error.to_string().contains("hf:org/name"),
                "{name}: {error}"
            );
        }
    }
}
