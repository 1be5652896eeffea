//! How a project's dependencies are installed, and what decides the result (spec/castari.md 9.4).
//!
//! The inputs of a plan name the layer that the installation leaves: everything that could change the result must be in
//! them, or two projects would share what is not the same.

use std::{fs, io::Read as _, path::Path};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::manifest::{Manifest, Runtime};
use crate::{Error, Kind};

/// Bytes of a file that says how the project is installed, such as `package.json`. What is parsed takes many times the
/// memory of its text.
const LARGEST_DECLARATION: u64 = 4 << 20;
/// Bytes of a lock file, which is only hashed.
const LARGEST_LOCK: u64 = 64 << 20;

/// How dependencies are installed.
#[derive(Debug)]
pub(super) struct InstallPlan {
    /// What to install with; none when there is nothing to install.
    pub(super) install: Option<Install>,
    /// Whether `npm run build` exists.
    pub(super) has_build_script: bool,
}

/// One way of installing.
#[derive(Debug)]
pub(super) struct Install {
    /// What it is called in error messages.
    pub(super) tool: &'static str,
    /// Tried in order; the next when one fails by itself.
    pub(super) attempts: Vec<Vec<String>>,
    /// Everything that decides the result, besides the project's own code.
    inputs: Vec<u8>,
    /// Whether the installation reads or runs more of the project than the inputs, so that its result depends on that,
    /// too.
    pub(super) depends_on_project: bool,
}

impl Install {
    /// The account is part of the name. An installation runs over the whole project and is in the hands of whoever
    /// deploys it: a project may bring its own `npm`, and the same lock file can end in any tree. What one account
    /// installed is therefore never another's.
    pub(super) fn layer_name(&self, account_id: &str, source_hash: Option<&str>, only_for: Option<&str>) -> String {
        let mut hasher = Sha256::new();
        hasher.update(account_id);
        hasher.update([0]);
        hasher.update(&self.inputs);
        for attempt in &self.attempts {
            hasher.update(attempt.join("\0"));
        }
        hasher.update(source_hash.unwrap_or_default());
        hasher.update(only_for.unwrap_or_default());
        format!("dep-{}", hex::encode(hasher.finalize()))
    }
}

/// Scripts of a `package.json` that an installation runs.
const INSTALL_SCRIPTS: &[&str] = &[
    "preinstall",
    "install",
    "postinstall",
    "preprepare",
    "prepare",
    "postprepare",
    "prepublish",
    "dependencies",
    "pnpm:devPreinstall",
];

/// Beside a `package.json`, what makes installers read or run more of the project than that file and the lock file.
const INSTALLER_HOOKS: &[&str] =
    &[".pnpmfile.cjs", "pnpm-workspace.yaml", ".yarnrc", ".yarnrc.yml", "bunfig.toml", "node_modules", "patches"];

impl InstallPlan {
    /// Blocking: reads files of the project.
    pub(super) fn of(project: &Path, manifest: &Manifest) -> Result<Self, Error> {
        let has = |name: &str| project.join(name).is_file();
        let package = match manifest.runtime {
            Runtime::Node => read_input(project, "package.json", LARGEST_DECLARATION)?,
            Runtime::Python => None,
        };
        let package_text = package.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let package: Option<Value> = package
            .as_deref()
            .map(|bytes| {
                serde_json::from_slice(bytes)
                    .map_err(|error| Error::new(Kind::Conflict, "install_failed", format!("package.json: {error}")))
            })
            .transpose()?;
        let has_script =
            |name: &str| package.as_ref().and_then(|package| package.get("scripts")?.get(name)?.as_str()).is_some();
        let has_build_script = has_script("build");
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        let whole_project = |tool, attempt| {
            let install = Install { tool, attempts: vec![attempt], inputs: Vec::new(), depends_on_project: true };
            Ok(Self { install: Some(install), has_build_script })
        };
        let nothing = Ok(Self { install: None, has_build_script });
        let depends_on_project;
        let (tool, attempts, files): (_, Vec<Vec<String>>, &[&str]) = if let Some(argv) = &manifest.install {
            return whole_project("install", argv.clone());
        } else if let Some(package) = &package {
            depends_on_project = INSTALL_SCRIPTS.iter().any(|name| has_script(name))
                || INSTALLER_HOOKS.iter().any(|name| project.join(name).exists())
                || depends_on_files(package, &package_text);
            let fallback = words("npm install --no-audit --no-fund");
            let ci = words("npm ci --no-audit --no-fund");
            if has("package-lock.json") {
                ("npm install", vec![ci, fallback], &["package.json", "package-lock.json", ".npmrc"])
            } else if has("npm-shrinkwrap.json") {
                ("npm install", vec![ci, fallback], &["package.json", "npm-shrinkwrap.json", ".npmrc"])
            } else if has("pnpm-lock.yaml") {
                let install = words("npx --yes pnpm@10 install --frozen-lockfile");
                ("pnpm install", vec![install], &["package.json", "pnpm-lock.yaml", ".npmrc"])
            } else if has("yarn.lock") {
                let install = words("npx --yes yarn@1 install --frozen-lockfile --non-interactive");
                ("yarn install", vec![install], &["package.json", "yarn.lock", ".npmrc"])
            } else if has("bun.lock") || has("bun.lockb") {
                let install = words("npx --yes bun@1 install --frozen-lockfile");
                ("bun install", vec![install], &["package.json", "bun.lock", "bun.lockb", ".npmrc"])
            } else if needs_nothing(package)
                && !INSTALL_SCRIPTS.iter().any(|name| has_script(name))
                && !has_build_script
            {
                return nothing;
            } else {
                ("npm install", vec![fallback], &["package.json", ".npmrc"])
            }
        } else if manifest.runtime == Runtime::Python {
            let pip = |what: &str| {
                // The environment's own python comes first as soon as it is there, and it has no pip.
                let script = format!(
                    "python=$(command -v python3) && $python -m venv --without-pip .venv && \
                     $python -m pip --python .venv/bin/python install {what}"
                );
                vec![String::from("sh"), String::from("-c"), script]
            };
            if has("uv.lock") && which("uv") {
                let declared = read_input(project, "pyproject.toml", LARGEST_DECLARATION)?.unwrap_or_default();
                let declared = String::from_utf8_lossy(&declared);
                depends_on_project = project.join(".venv").exists()
                    || ["[build-system]", "path", "workspace"].iter().any(|word| declared.contains(word));
                ("uv sync", vec![words("uv sync --frozen --no-dev")], &["pyproject.toml", "uv.lock"])
            } else if has("requirements.txt") {
                let wanted = read_input(project, "requirements.txt", LARGEST_DECLARATION)?.unwrap_or_default();
                depends_on_project =
                    project.join(".venv").exists() || String::from_utf8_lossy(&wanted).lines().any(is_more_than_a_name);
                ("pip install", vec![pip("-r requirements.txt")], &["requirements.txt"])
            } else if has("pyproject.toml") {
                return whole_project("pip install", pip("."));
            } else {
                return nothing;
            }
        } else {
            return nothing;
        };
        let mut inputs = Vec::new();
        for name in files {
            inputs.extend_from_slice(name.as_bytes());
            inputs.push(0);
            let content = read_input(project, name, LARGEST_LOCK)?.unwrap_or_default();
            inputs.extend_from_slice(&Sha256::digest(&content));
        }
        Ok(Self { install: Some(Install { tool, attempts, inputs, depends_on_project }), has_build_script })
    }
}

/// The content of a file of the project, refused when it is larger than `most` bytes.
fn read_input(project: &Path, name: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
    let path = project.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    let file = fs::File::open(&path).map_err(Error::internal)?;
    file.take(most + 1).read_to_end(&mut content).map_err(Error::internal)?;
    if content.len() as u64 > most {
        let reason = format!("{name} is larger than {} MiB", most >> 20);
        return Err(Error::new(Kind::Conflict, "install_failed", reason));
    }
    Ok(Some(content))
}

/// Whether a `package.json` names nothing to be installed.
fn needs_nothing(package: &Value) -> bool {
    ["dependencies", "devDependencies", "optionalDependencies", "workspaces"].iter().all(|key| match package.get(key) {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(other) => !other.is_array(),
    })
}

/// Whether a `package.json` installs other parts of the project, whose content no lock file names.
fn depends_on_files(package: &Value, text: &str) -> bool {
    let leads_inside = |version: &Value| {
        version.as_str().is_some_and(|version| version.starts_with(['.', '/']) || version.starts_with("~/"))
    };
    package.get("workspaces").is_some()
        || ["\"file:", "\"link:", "\"portal:", "\"workspace:", "\"patch:"].iter().any(|word| text.contains(word))
        || ["dependencies", "devDependencies", "optionalDependencies"]
            .iter()
            .any(|key| package.get(key).and_then(Value::as_object).is_some_and(|map| map.values().any(leads_inside)))
}

/// Whether a line of a `requirements.txt` is more than the name of a package, such as another file or a folder.
fn is_more_than_a_name(line: &str) -> bool {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return false;
    }
    !line.starts_with(|c: char| c.is_ascii_alphanumeric())
        || line.contains(['/', '\\', '$'])
        || [".whl", ".zip", ".gz", ".bz2", ".xz"].iter().any(|ending| line.contains(ending))
}

/// Whether sandboxes will find a program of the host.
fn which(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(runtime: &str, files: &[(&str, &str)]) -> Result<InstallPlan, Error> {
        let project = tempfile::tempdir().expect("temp dir");
        for (name, content) in files {
            let path = project.path().join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("folder");
            fs::write(path, content).expect("write");
        }
        let manifest = format!(r#"{{"name":"x","version":"1","runtime":"{runtime}","entrypoint":"x"}}"#);
        InstallPlan::of(project.path(), &Manifest::parse(&manifest).expect("valid"))
    }

    fn depends_on_the_project(runtime: &str, files: &[(&str, &str)]) -> bool {
        plan(runtime, files).expect("a plan").install.expect("something to install").depends_on_project
    }

    #[test]
    fn what_reads_more_than_the_lock_file_is_known() {
        let package = |body: &str| format!(r#"{{"name":"x",{body}}}"#);
        let lock = ("package-lock.json", "{}");
        let plain = package(r#""dependencies":{"a":"~1.2.0"},"main":"./x.js""#);
        assert!(!depends_on_the_project("node", &[("package.json", &plain), lock]));
        for body in [
            r#""dependencies":{"a":"file:./a"}"#,
            r#""dependencies":{"a":"../a"}"#,
            r#""workspaces":["a"]"#,
            r#""overrides":{"a":"file:a"}"#,
            r#""scripts":{"postinstall":"x"}"#,
        ] {
            assert!(depends_on_the_project("node", &[("package.json", &package(body)), lock]), "{body}");
        }
        for hook in ["node_modules/.bin/npm", ".pnpmfile.cjs", ".yarnrc"] {
            assert!(depends_on_the_project("node", &[("package.json", &plain), lock, (hook, "")]), "{hook}");
        }
        let wanted = "# names\nflask==3.0\nhttpx[http2]>=0.27; python_version > '3'\n";
        assert!(!depends_on_the_project("python", &[("requirements.txt", wanted)]));
        for line in ["-r more.txt", "-e .", "./a", "a/b", "x-1.0-py3-none-any.whl", "a @ file:///workspace/a"] {
            assert!(depends_on_the_project("python", &[("requirements.txt", line)]), "{line}");
        }
    }

    #[test]
    fn what_one_account_installed_is_never_anothers() {
        let files = [("package.json", r#"{"dependencies":{"a":"1"}}"#), ("package-lock.json", "{}")];
        let install = plan("node", &files).expect("a plan").install.expect("something to install");
        let name = install.layer_name("usr_a", None, None);
        assert_eq!(name, install.layer_name("usr_a", None, None));
        assert_ne!(name, install.layer_name("usr_b", None, None));
        assert_ne!(name, install.layer_name("usr_a", Some("source"), None));
        assert_ne!(name, install.layer_name("usr_a", None, Some("dep_1")));
    }

    #[test]
    fn a_declaration_that_would_fill_the_memory_is_refused() {
        let large = " ".repeat(usize::try_from(LARGEST_DECLARATION).expect("fits") + 1);
        let error = plan("node", &[("package.json", &large)]).map(drop).expect_err("too large");
        assert_eq!((error.code, error.public.as_str()), ("install_failed", "package.json is larger than 4 MiB"));
    }
}
