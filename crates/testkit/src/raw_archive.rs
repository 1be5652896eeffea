//! Archives as somebody with bad intentions makes them: nothing is checked, headers may lie.

use std::io::Write as _;

use tar::EntryType;

/// A tar archive in the making, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct RawArchive {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    path: String,
    kind: EntryType,
    target: String,
    content: Vec<u8>,
    /// Zeros after the content.
    zeros: usize,
    /// What the header says instead of the true size.
    said: Option<u64>,
}

impl RawArchive {
    fn entry(mut self, path: &str, kind: EntryType) -> Self {
        let (target, content) = (String::new(), Vec::new());
        self.entries.push(Entry { path: path.to_owned(), kind, target, content, zeros: 0, said: None });
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Entry)) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            change(entry);
        }
        self
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular).change(|entry| content.clone_into(&mut entry.content))
    }

    /// A file of zeros, which are made only while it is packed.
    #[must_use]
    pub fn zeros(self, path: &str, size: usize) -> Self {
        self.entry(path, EntryType::Regular).change(|entry| entry.zeros = size)
    }

    /// An empty file whose header says another size.
    #[must_use]
    pub fn boast(self, path: &str, size: u64) -> Self {
        self.entry(path, EntryType::Regular).change(|entry| entry.said = Some(size))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink).change(|entry| target.clone_into(&mut entry.target))
    }

    /// A hard link.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link).change(|entry| target.clone_into(&mut entry.target))
    }

    /// A character device.
    #[must_use]
    pub fn device(self, path: &str) -> Self {
        self.entry(path, EntryType::Char)
    }

    /// The archive as it is.
    ///
    /// # Panics
    /// When a name is longer than 100 bytes.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        self.write(&mut archive, |archive, zeros| archive.resize(archive.len() + zeros, 0));
        archive
    }

    /// The archive in gzip, as several members one after the other, which is one stream to whoever unpacks it.
    ///
    /// # Panics
    /// When a name is longer than 100 bytes.
    #[must_use]
    pub fn gzip(&self) -> Vec<u8> {
        const LARGE: usize = 32 << 20;
        let large = std::sync::LazyLock::new(|| member(&vec![0; LARGE]));
        let mut packed = Vec::new();
        let mut rest = Vec::new();
        self.write(&mut rest, |rest, zeros| {
            if zeros >= LARGE {
                packed.extend(member(rest));
                rest.clear();
                // Zeros are packed once, however many there are.
                (0..zeros / LARGE).for_each(|_| packed.extend_from_slice(&large));
            }
            rest.resize(rest.len() + zeros % LARGE, 0);
        });
        packed.extend(member(&rest));
        packed
    }

    fn write(&self, into: &mut Vec<u8>, mut zeros: impl FnMut(&mut Vec<u8>, usize)) {
        const BLOCK: usize = 512;
        for entry in &self.entries {
            let size = entry.content.len() + entry.zeros;
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(entry.kind);
            header.set_mode(0o644);
            header.set_size(entry.said.unwrap_or(size as u64));
            // Written by hand: the library refuses what this is for.
            let raw = header.as_old_mut();
            raw.name.get_mut(..entry.path.len()).expect("a short name").copy_from_slice(entry.path.as_bytes());
            raw.linkname.get_mut(..entry.target.len()).expect("a short name").copy_from_slice(entry.target.as_bytes());
            header.set_cksum();
            into.extend_from_slice(header.as_bytes());
            into.extend_from_slice(&entry.content);
            zeros(into, entry.zeros);
            zeros(into, (BLOCK - size % BLOCK) % BLOCK);
        }
        zeros(into, 2 * BLOCK);
    }
}

/// One member of a gzip stream.
fn member(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(content).and_then(|()| gzip.finish()).expect("memory takes everything")
}
