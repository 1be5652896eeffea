//! Rules for `Cargo.toml`: which crate may use which, and which outside libraries stay in their ring.

use crate::Tree;

/// Each crate with those of ours that its product may use. `backlot-testkit` is only ever a dev-dependency.
const RINGS: [(&str, &[&str]); 9] = [
    ("db", &[]),
    ("blobs", &[]),
    ("sandbox", &[]),
    ("models", &[]),
    ("domain", &["db", "blobs", "sandbox", "models"]),
    ("faces", &["domain"]),
    ("backlot", &["db", "blobs", "sandbox", "models", "domain", "faces"]),
    ("testkit", &["db", "blobs", "sandbox", "models", "domain", "faces"]),
    ("tidy", &[]),
];

/// Edges that are not among those of [`RINGS`], and crates that have no ring.
pub fn offences(tree: &Tree) -> Vec<String> {
    let mut offences = Vec::new();
    for name in tree.folders("crates/") {
        let path = format!("crates/{name}/Cargo.toml");
        let Some((_, allowed)) = RINGS.iter().find(|(known, _)| *known == name) else {
            offences.push(format!("{path}: this crate has no ring; give it one in ARCHITECTURE.md and crates/tidy"));
            continue;
        };
        let Some(manifest) = tree.text(&path) else {
            offences.push(format!("{path}: missing"));
            continue;
        };
        let manifest: toml::Table = match manifest.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                offences.push(format!("{path}: {error}"));
                continue;
            }
        };
        for table in ["dependencies", "build-dependencies"] {
            let used = manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            for ours in used.filter_map(|used| used.strip_prefix("backlot-")) {
                if !allowed.contains(&ours) {
                    offences.push(format!("{path}: `{name}` may not use `{ours}`"));
                }
            }
        }
        if manifest.contains_key("target") {
            offences.push(format!("{path}: dependencies per platform are not looked at; Backlot is for Linux only"));
        }
        if manifest.get("lints").and_then(|lints| lints.get("workspace")?.as_bool()) != Some(true) {
            offences.push(format!("{path}: `[lints] workspace = true` is missing"));
        }
    }
    offences
}
