//! Small agents from inline source.

use std::io::Write as _;

/// The files of an agent's project.
#[derive(Debug, Clone, Default)]
pub struct Project {
    files: Vec<(String, Vec<u8>)>,
}

impl Project {
    /// No file at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A JavaScript program for node, as an ES module.
    #[must_use]
    pub fn node(source: &str) -> Self {
        Self::of("node", "main.mjs", source)
    }

    /// A Python program.
    #[must_use]
    pub fn python(source: &str) -> Self {
        Self::of("python", "main.py", source)
    }

    fn of(runtime: &str, entrypoint: &str, source: &str) -> Self {
        let manifest = serde_json::json!({
            "name": "Test agent", "version": "1.0.0", "runtime": runtime, "entrypoint": entrypoint,
        });
        Self::empty().with("castari.json", manifest.to_string()).with(entrypoint, source)
    }

    /// The same with one more file, or another content of one.
    #[must_use]
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.retain(|(other, _)| other != path);
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// The files as a `.tar.gz`.
    ///
    /// # Panics
    /// When a path does not fit into an archive.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, content) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content.as_slice()).expect("a path of an archive");
        }
        let mut gzip = archive.into_inner().expect("memory takes everything");
        gzip.flush().expect("memory takes everything");
        gzip.finish().expect("memory takes everything")
    }
}

/// A program that answers with its prompt.
pub const ECHO: &str = "process.stdin.pipe(process.stdout);";
