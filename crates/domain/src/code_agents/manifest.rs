//! `castari.json`: what a project says of itself (spec/castari.md 9.3).

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

use crate::{Error, Kind};

/// File names that are looked for, in order.
pub(super) const FILE_NAMES: [&str; 2] = ["castari.json", "backlot.json"];

/// The interpreter that a project wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Runtime {
    Node,
    Python,
}

/// A project's manifest, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    pub(super) entrypoint: String,
    pub(super) runtime: Runtime,
    pub(super) install: Option<Vec<String>>,
    pub(super) start: Option<Vec<String>>,
    pub(super) env: BTreeMap<String, String>,
    /// What is odd but no reason to refuse, for the build log.
    pub(super) warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Wire {
    name: Option<String>,
    version: Option<String>,
    entrypoint: Option<String>,
    runtime: Option<String>,
    install: Option<Vec<String>>,
    start: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// Keys that are allowed although nothing reads them here.
const KNOWN: &[&str] = &["slug", "description", "timeout_seconds", "network", "resources", "$schema"];

impl Manifest {
    /// Reads a manifest.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let wire: Wire = serde_json::from_str(text).map_err(|error| invalid(format!("castari.json: {error}")))?;
        let mut warnings = Vec::new();
        if wire.name.is_none_or(|name| name.trim().is_empty()) {
            return Err(invalid("castari.json: `name` is missing"));
        }
        if wire.version.is_none() {
            warnings.push(String::from("castari.json: `version` is missing"));
        }
        for key in wire.rest.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
            warnings.push(format!("castari.json: unknown key `{key}` is ignored"));
        }
        let Some(entrypoint) = wire.entrypoint else {
            return Err(invalid("castari.json: `entrypoint` is missing"));
        };
        if !stays_inside(&entrypoint) {
            return Err(invalid(format!("castari.json: entrypoint `{entrypoint}` is not a path inside the project")));
        }
        let runtime = match wire.runtime.as_deref() {
            Some("node") => Runtime::Node,
            Some("python") => Runtime::Python,
            Some(other) => {
                return Err(invalid(format!("castari.json: runtime `{other}` is not supported; use node or python")));
            }
            None => return Err(invalid("castari.json: `runtime` is missing; use node or python")),
        };
        for (key, argv) in [("install", &wire.install), ("start", &wire.start)] {
            if argv.as_ref().is_some_and(|argv| argv.first().is_none_or(String::is_empty)) {
                return Err(invalid(format!("castari.json: `{key}` must be a list that begins with a program")));
            }
        }
        if let Some(key) = wire.env.keys().find(|key| key.is_empty() || key.contains(['=', '\0'])) {
            return Err(invalid(format!("castari.json: `{key}` is no name of a variable")));
        }
        Ok(Self { entrypoint, runtime, install: wire.install, start: wire.start, env: wire.env, warnings })
    }

    /// The command that runs the program (spec/castari.md 10.1). TypeScript needs the loader `tsx`, whose place is
    /// passed in.
    pub(super) fn command(&self, tsx: &str) -> Vec<String> {
        if let Some(start) = &self.start {
            return start.clone();
        }
        let entry = self.entrypoint.clone();
        match (self.runtime, Path::new(&entry).extension().and_then(|extension| extension.to_str())) {
            (Runtime::Python, _) => vec![String::from("python3"), entry],
            (Runtime::Node, Some("ts" | "mts" | "cts" | "tsx")) => {
                vec![String::from("node"), String::from("--import"), tsx.to_owned(), entry]
            }
            (Runtime::Node, _) => vec![String::from("node"), entry],
        }
    }

    /// Whether the program is TypeScript that is run as it is.
    pub(super) fn is_typescript(&self) -> bool {
        self.start.is_none()
            && self.runtime == Runtime::Node
            && [".ts", ".mts", ".cts", ".tsx"].iter().any(|ending| self.entrypoint.ends_with(ending))
    }
}

fn stays_inside(path: &str) -> bool {
    let path = Path::new(path);
    !path.as_os_str().is_empty()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, "manifest_invalid", message)
}

/// The failure when a project has no manifest.
pub(super) fn missing() -> Error {
    Error::new(Kind::Conflict, "manifest_missing", "castari.json not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text).map_err(|error| error.public)
    }

    #[test]
    fn commands_follow_from_entry_points() {
        let command = |runtime: &str, entry: &str| {
            parse(&format!(r#"{{"name":"x","version":"1.0.0","runtime":"{runtime}","entrypoint":"{entry}"}}"#))
                .expect("valid")
                .command("/tsx")
                .join(" ")
        };
        assert_eq!(command("node", "index.js"), "node index.js");
        assert_eq!(command("node", "src/index.ts"), "node --import /tsx src/index.ts");
        assert_eq!(command("python", "main.py"), "python3 main.py");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("{}"), Err("castari.json: `name` is missing".into()));
        assert_eq!(parse(r#"{"name":"x"}"#), Err("castari.json: `entrypoint` is missing".into()));
        for entry in ["/etc/passwd", "../x.js", "a/../../x", ""] {
            let text = format!(r#"{{"name":"x","runtime":"node","entrypoint":"{entry}"}}"#);
            assert!(parse(&text).is_err_and(|error| error.contains("not a path inside")), "{entry}");
        }
        assert!(parse(r#"{"name":"x","entrypoint":"a.js","runtime":"cobol"}"#).is_err_and(|e| e.contains("cobol")));
        assert!(parse(r#"{"name":"x","entrypoint":"a.js","runtime":"node","start":[]}"#).is_err());
        assert!(parse("nonsense").is_err());
    }

    #[test]
    fn odd_things_are_warnings() {
        let manifest = parse(r#"{"name":"x","entrypoint":"a.js","runtime":"node","colour":"red"}"#).expect("valid");
        assert_eq!(manifest.warnings.len(), 2);
    }
}
