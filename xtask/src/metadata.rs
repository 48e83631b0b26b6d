//! What `cargo metadata` says of the workspace.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{capture, cargo};

/// One package of the workspace.
pub struct Package {
    /// Name, which is also its folder's.
    pub name: String,
    /// Names of its features.
    pub features: BTreeSet<String>,
    /// Workspace packages that it depends on normally, not for tests or build scripts alone.
    pub dependencies: BTreeSet<String>,
}

/// Reads the packages of the workspace.
///
/// # Errors
/// A failing cargo, or an answer without the fields that are read.
pub fn packages() -> Result<Vec<Package>> {
    let mut command = cargo(["metadata", "--no-deps", "--format-version", "1"]);
    let text = capture(command.stderr(std::process::Stdio::inherit()))?.stdout;
    let json: Value = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    parse(&json)
}

fn parse(json: &Value) -> Result<Vec<Package>> {
    let packages = json["packages"].as_array().context("cargo metadata: no field packages")?;
    packages.iter().map(package).collect()
}

fn package(json: &Value) -> Result<Package> {
    let name = json["name"].as_str().context("cargo metadata: package without a name")?.to_owned();
    let features = json["features"].as_object().context("cargo metadata: package without features")?;
    let dependencies = json["dependencies"].as_array().context("cargo metadata: no dependencies")?;
    let dependencies = dependencies
        .iter()
        .filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_string())
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect();
    Ok(Package { name, features: features.keys().cloned().collect(), dependencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_path_dependencies_are_kept_and_others_are_not() {
        let json = serde_json::json!({"packages": [{
            "name": "a", "features": {"default": [], "simd": []},
            "dependencies": [
                {"name": "b", "kind": null, "path": "/x/b"},
                {"name": "c", "kind": "dev", "path": "/x/c"},
                {"name": "half", "kind": null},
            ],
        }]});
        let packages = parse(&json).unwrap();
        assert_eq!(packages[0].dependencies, BTreeSet::from(["b".to_owned()]));
        assert!(packages[0].features.contains("simd"));
    }
}
