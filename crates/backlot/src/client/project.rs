//! The manifest of an agent's folder, as far as the client reads it (`spec/castari.md` 9.3).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::Error;

/// Names of the manifest, in the order they are looked for.
pub(crate) const MANIFESTS: [&str; 2] = ["castari.json", "backlot.json"];

/// What deploying needs to know of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project {
    /// The manifest's path.
    pub(crate) manifest: PathBuf,
    /// Display name.
    pub(crate) name: String,
    /// The manifest's slug, else one made of the name.
    pub(crate) slug: String,
    /// Path of the main file, as written.
    pub(crate) entrypoint: String,
    /// Sentences for the person.
    pub(crate) warnings: Vec<String>,
}

impl Project {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When there is none, it is not valid, or the main file is absent and nothing would build it.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let found: Vec<PathBuf> = MANIFESTS.iter().map(|n| folder.join(n)).filter(|p| p.is_file()).collect();
        let manifest = found.first().cloned().ok_or_else(|| {
            Error::failed_with(
                format!("there is no castari.json in {}", folder.display()),
                "start an agent with `backlot init <name>`, or name a deployed one: `backlot deploy <slug>`",
            )
        })?;
        if found.len() > 1 {
            warnings.push("there is a castari.json and a backlot.json; castari.json is used".into());
        }
        let text = fs::read_to_string(&manifest).map_err(|e| Error::file("read", &manifest, e))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| Error::failed(format!("{} is not valid JSON: {e}", manifest.display())))?;
        let field = |name: &str| -> Result<Option<String>, Error> {
            match value.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
                Some(_) => {
                    Err(Error::failed(format!("{}: `{name}` must be a text that is not empty", manifest.display())))
                }
            }
        };
        let required = |name: &str| {
            field(name)?.ok_or_else(|| Error::failed(format!("{}: `{name}` is missing", manifest.display())))
        };
        let name = required("name")?;
        let entrypoint = required("entrypoint")?;
        required("runtime")?;
        let slug = match field("slug")? {
            Some(slug) => slug,
            None => slug_of(&name).ok_or_else(|| {
                Error::failed(format!("{}: no slug can be made of the name; add a `slug`", manifest.display()))
            })?,
        };
        if !folder.join(&entrypoint).is_file() && !has_build_script(folder) {
            return Err(Error::failed(format!(
                "{} names {entrypoint} as the entry point, but there is no such file",
                manifest.display()
            )));
        }
        Ok(Self { manifest, name, slug, entrypoint, warnings })
    }
}

/// The server runs a `build` script when the entry point is absent after the install step.
fn has_build_script(folder: &Path) -> bool {
    fs::read_to_string(folder.join("package.json"))
        .ok()
        .and_then(|t| serde_json::from_str::<Value>(&t).ok())
        .is_some_and(|v| v.pointer("/scripts/build").is_some())
}

/// A slug made of a name as the server makes it: lower case, every run of other characters one hyphen,
/// none at the ends, at most 100 characters. None when nothing is left.
pub(crate) fn slug_of(name: &str) -> Option<String> {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(100);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Project, String> {
        let dir = tempfile::tempdir().expect("temp dir");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("write");
        }
        Project::read(dir.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_manifest_gives_name_slug_and_entry_point() {
        let text = r#"{"name":"Invoice Helper","version":"1.0.0","entrypoint":"main.js","runtime":"node"}"#;
        let project = read(&[("castari.json", text), ("main.js", "")]).expect("valid");
        assert_eq!((project.slug.as_str(), project.entrypoint.as_str()), ("invoice-helper", "main.js"));
        let project = read(&[("backlot.json", &text.replace("1.0.0\"", "1\",\"slug\":\"own\"")), ("main.js", "")]);
        assert_eq!(project.expect("valid").slug, "own");
    }

    #[test]
    fn mistakes_are_named() {
        let full = r#"{"name":"a","entrypoint":"main.js","runtime":"node"}"#;
        assert!(read(&[]).expect_err("none").contains("no castari.json"));
        assert!(read(&[("castari.json", "{")]).expect_err("json").contains("not valid JSON"));
        assert!(
            read(&[("castari.json", r#"{"name":"a","runtime":"node"}"#)])
                .expect_err("entry")
                .contains("`entrypoint` is missing")
        );
        assert!(read(&[("castari.json", r#"{"name":7}"#)]).expect_err("name").contains("`name` must be a text"));
        assert!(read(&[("castari.json", full)]).expect_err("file").contains("no such file"));
        let build = r#"{"scripts":{"build":"tsc"}}"#;
        assert!(read(&[("castari.json", full), ("package.json", build)]).is_ok());
        let both = read(&[("castari.json", full), ("backlot.json", full), ("main.js", "")]).expect("valid");
        assert_eq!(both.warnings.len(), 1);
    }

    #[test]
    fn slugs_are_made_as_the_server_makes_them() {
        assert_eq!(slug_of("  My -- Agent! 2 ").as_deref(), Some("my-agent-2"));
        assert_eq!(slug_of("Ünïcode").as_deref(), Some("n-code"));
        assert_eq!(slug_of("エージェント"), None);
        assert_eq!(slug_of(&"a b".repeat(90)).map(|s| s.len()), Some(100));
    }
}
