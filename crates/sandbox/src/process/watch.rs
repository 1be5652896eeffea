//! What no kernel limit covers: disk always, memory where there is no control group. Both are measured while a
//! program runs, and the program is killed past its limit.
//!
//! Walking a tree costs time in proportion to its files, so the walk is the exception. Each tick asks the file system how much it has
//! filled since the last walk: as long as even all of that could not have carried this sandbox past its limit, nothing is walked.
//! A slow periodic walk covers the case that somebody else freed as much as the sandbox took.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::scratch::{self, Scratch};

/// Fastest rate, in bytes per second, at which a program is assumed to fill a disk; sets the pace of ticks.
const FILL_RATE: u64 = 4 << 30;
const SHORTEST_TICK: Duration = Duration::from_millis(10);
const LONGEST_TICK: Duration = Duration::from_millis(250);
/// Tick while memory is watched by measuring.
const MEMORY_TICK: Duration = Duration::from_millis(20);
/// Pause between periodic walks, and how many times longer than the walk itself it is at least.
const PERIODIC: Duration = Duration::from_secs(5);
const PERIODIC_FACTOR: u32 = 50;
/// The same for walks that are caused by the file system filling up.
const CAUSED_FACTOR: u32 = 4;

/// Which limit was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breach {
    Disk,
    Memory,
}

/// Measures one sandbox during one program.
#[derive(Debug)]
pub(super) struct Watch {
    scratch: Scratch,
    init: u32,
    disk_limit: u64,
    /// Set where no control group limits memory.
    memory_limit: Option<u64>,
    /// Highest memory seen by measuring.
    pub(super) peak_memory: u64,
    usage: u64,
    filled: u64,
    walked: Option<Instant>,
    walk_time: Duration,
}

impl Watch {
    /// `usage` is the size of the scratch directory when that is known, as it is for a new one.
    pub(super) fn new(
        scratch: Scratch,
        init: i32,
        disk_limit: u64,
        memory_limit: Option<u64>,
        usage: Option<u64>,
    ) -> Self {
        let filled = filled(&scratch.root);
        Self {
            scratch,
            init: init.unsigned_abs(),
            disk_limit,
            memory_limit,
            peak_memory: 0,
            usage: usage.unwrap_or(0),
            filled,
            walked: usage.map(|_| Instant::now()),
            walk_time: Duration::ZERO,
        }
    }

    /// Time until the next measurement.
    pub(super) fn pause(&self) -> Duration {
        let room = self.disk_limit.saturating_sub(self.usage);
        let disk = Duration::from_secs_f64(room as f64 / FILL_RATE as f64).clamp(SHORTEST_TICK, LONGEST_TICK);
        if self.memory_limit.is_some() { disk.min(MEMORY_TICK) } else { disk }
    }

    /// Whether the file system has filled so far that the limit may have been passed. Cheap.
    pub(super) fn is_near(&self) -> bool {
        let filled = filled(&self.scratch.root).saturating_sub(self.filled);
        self.usage.saturating_add(filled) > self.disk_limit
    }

    /// Measures. Blocks for as long as a walk takes.
    pub(super) fn measure(&mut self) -> Option<Breach> {
        if let Some(limit) = self.memory_limit {
            let used = memory(self.init);
            self.peak_memory = self.peak_memory.max(used);
            // Pages shared after a fork are counted in every process; ask again, exactly, before killing.
            if used > limit && proportional_memory(self.init).unwrap_or(used) > limit {
                return Some(Breach::Memory);
            }
        }
        let filled = filled(&self.scratch.root);
        let possible = self.usage.saturating_add(filled.saturating_sub(self.filled));
        let since = self.walked.map(|walked| walked.elapsed());
        let due = match since {
            None => true,
            Some(since) if possible > self.disk_limit => since >= self.walk_time * CAUSED_FACTOR,
            Some(since) => since >= PERIODIC.max(self.walk_time * PERIODIC_FACTOR),
        };
        if !due {
            return None;
        }
        let start = Instant::now();
        let measured = scratch::usage(&self.scratch);
        self.walk_time = start.elapsed();
        self.walked = Some(Instant::now());
        self.filled = filled;
        match measured {
            Ok(bytes) => {
                self.usage = bytes.saturating_add(unlinked_bytes(self.init));
                (self.usage > self.disk_limit).then_some(Breach::Disk)
            }
            Err(error) => {
                tracing::debug!(%error, scratch = %self.scratch.root.display(), "a program's files cannot be measured");
                Some(Breach::Disk)
            }
        }
    }
}

/// Bytes in use on the file system of a path, with every inode counted as a block.
fn filled(path: &PathBuf) -> u64 {
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return 0;
    };
    let blocks = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
    blocks.saturating_add(stat.f_files.saturating_sub(stat.f_ffree).saturating_mul(4096))
}

/// Every process of a sandbox, as the host numbers them: the init and its descendants.
fn processes(init: u32) -> Vec<u32> {
    let mut found = vec![init];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

/// Memory that only these processes use: anonymous and shared-memory pages.
fn memory(init: u32) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        kibibytes(&status, &["RssAnon:", "RssShmem:"])
    };
    // The init itself shares nearly all of its pages with the launcher.
    processes(init).iter().skip(1).map(of).sum()
}

/// The same with shared pages divided among those who share them; exact but slow. `None` if it cannot be read.
fn proportional_memory(init: u32) -> Option<u64> {
    let mut total = 0;
    for pid in processes(init).iter().skip(1) {
        // A process that has ended in between uses nothing.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else {
            if fs::exists(format!("/proc/{pid}")).unwrap_or(false) {
                return None;
            }
            continue;
        };
        total += kibibytes(&text, &["Pss_Anon:", "Pss_Shmem:"]);
    }
    Some(total)
}

/// Sum of some `Name:   123 kB` lines, in bytes.
fn kibibytes(text: &str, names: &[&str]) -> u64 {
    text.lines()
        .filter_map(|line| names.iter().find_map(|name| line.strip_prefix(name)))
        .filter_map(|value| value.split_whitespace().next()?.parse::<u64>().ok())
        .sum::<u64>()
        * 1024
}

/// Bytes of files that were unlinked but are still held open, which no walk finds.
fn unlinked_bytes(init: u32) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut total = 0_u64;
    for pid in processes(init).iter().skip(1) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let path = descriptor.path();
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if !metadata.is_file() || metadata.nlink() > 0 || !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            // Memory files and shared memory are memory, and limited as such.
            let on_disk = rustix::fs::statfs(&path).is_ok_and(|stat| stat.f_type != libc::TMPFS_MAGIC);
            if on_disk {
                total = total.saturating_add(metadata.blocks().saturating_mul(512));
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_status_are_summed() {
        let text = "VmPeak:\t 10 kB\nRssAnon:\t  100 kB\nRssFile:\t 7 kB\nRssShmem:\t  2 kB\n";
        assert_eq!(kibibytes(text, &["RssAnon:", "RssShmem:"]), 102 * 1024);
    }

    #[test]
    fn this_process_has_children_and_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let found = processes(std::process::id());
        let used = memory(std::process::id());
        child.kill().expect("the child is ours");
        child.wait().expect("the child ends");
        assert!(found.contains(&child.id()), "{found:?}");
        assert!(used > 0);
    }
}
