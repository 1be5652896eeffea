//! The agents that `backlot init` starts from, embedded in the binary.
//!
//! The files are those of `templates/` beside this crate's manifest, as they are, but for two marks that are filled in:
//! `__AGENT_NAME__` and `__AGENT_SLUG__`. A test compares this list with the folder, so that no file is forgotten.

/// One template.
#[derive(Debug)]
pub(crate) struct Template {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// One line for the choice.
    pub(crate) about: &'static str,
    /// A prompt that shows what it does.
    pub(crate) example: &'static str,
    /// Paths and contents.
    pub(crate) files: &'static [(&'static str, &'static str)],
}

impl Template {
    /// True when npm has something to install for it.
    pub(crate) fn has_packages(&self) -> bool {
        self.files.iter().any(|(path, text)| *path == "package.json" && text.contains("\"dependencies\""))
    }
}

macro_rules! files {
    ($template:literal, $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/", $template, "/", $path)))),+]
    };
}

/// All templates, the usual one first.
pub(crate) const TEMPLATES: &[Template] = &[
    Template {
        name: "default",
        about: "coding agent with file and shell tools",
        example: "Write a program that prints the first 10 primes, and run it",
        files: files!(
            "default",
            ".gitignore",
            "CLAUDE.md",
            "README.md",
            "castari.json",
            "package.json",
            "src/index.mjs",
            "src/model.mjs",
            "src/tools.mjs",
        ),
    },
    Template {
        name: "research-agent",
        about: "searches, reads pages, writes a report (TypeScript)",
        example: "Compare the sandboxing of containers and microVMs",
        files: files!(
            "research-agent",
            ".gitignore",
            "CLAUDE.md",
            "README.md",
            "castari.json",
            "package.json",
            "src/index.ts",
            "src/sources.ts",
            "src/tools.ts",
            "tsconfig.json",
        ),
    },
    Template {
        name: "support-agent",
        about: "answers customers: users, orders, tickets (Python)",
        example: "I am ada@example.com. Where is my order 1001?",
        files: files!(
            "support-agent",
            ".gitignore",
            "AGENTS.md",
            "README.md",
            "castari.json",
            "data/orders.json",
            "data/users.json",
            "main.py",
            "model.py",
            "tools.py",
        ),
    },
    Template {
        name: "mcp-tools",
        about: "uses the tools of MCP servers",
        example: "What is 12.5 % of 1840, and will it rain in Lisbon?",
        files: files!(
            "mcp-tools",
            ".gitignore",
            "CLAUDE.md",
            "README.md",
            "castari.json",
            "mcp.json",
            "package.json",
            "servers/desk.mjs",
            "src/index.mjs",
            "src/mcp.mjs",
            "src/model.mjs",
        ),
    },
];

/// The template of this name.
pub(crate) fn find(name: &str) -> Option<&'static Template> {
    TEMPLATES.iter().find(|t| t.name == name)
}

/// A file's text with name and slug filled in. The name comes from a file name and may hold quotes, so it is
/// escaped as JSON needs it, which Markdown and comments bear.
pub(crate) fn fill(text: &str, name: &str, slug: &str) -> String {
    let quoted = serde_json::Value::from(name).to_string();
    let inner = quoted.get(1..quoted.len() - 1).unwrap_or(slug);
    text.replace("__AGENT_NAME__", inner).replace("__AGENT_SLUG__", slug)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    fn walk(dir: &Path, base: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("folder") {
            let path = entry.expect("entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            // Left behind by running a template in place.
            if matches!(name, "node_modules" | "__pycache__" | "package-lock.json") {
                continue;
            }
            if path.is_dir() {
                walk(&path, base, found);
            } else {
                found.insert(path.strip_prefix(base).expect("below").display().to_string());
            }
        }
    }

    #[test]
    fn every_file_of_every_template_is_embedded() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let mut on_disk = BTreeSet::new();
        walk(&base, &base, &mut on_disk);
        let embedded: BTreeSet<String> =
            TEMPLATES.iter().flat_map(|t| t.files.iter().map(move |(p, _)| format!("{}/{p}", t.name))).collect();
        assert_eq!(embedded, on_disk);
    }

    #[test]
    fn manifests_are_whole_after_filling() {
        for template in TEMPLATES {
            let file = |name: &str| template.files.iter().find(|(p, _)| *p == name).map(|(_, t)| *t);
            let text = fill(file("castari.json").expect("manifest"), "My \"odd\" name", "my-odd-name");
            let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(manifest["name"], "My \"odd\" name", "{}", template.name);
            assert_eq!(manifest["slug"], "my-odd-name");
            let entry = manifest["entrypoint"].as_str().expect("entrypoint");
            assert!(file(entry).is_some(), "{}: {entry}", template.name);
            assert!(file("README.md").is_some());
            assert!(file("CLAUDE.md").or(file("AGENTS.md")).is_some());
            if let Some(package) = file("package.json") {
                let package: serde_json::Value =
                    serde_json::from_str(&fill(package, "x", "my-odd-name")).expect("JSON");
                assert_eq!(package["name"], "my-odd-name");
            }
        }
    }
}
