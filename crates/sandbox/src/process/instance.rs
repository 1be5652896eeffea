//! The name of a running driver, from which others can tell whether its process is still alive.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

/// Process id, start time of that process, and a count of drivers in it.
pub(super) fn name() -> String {
    static DRIVERS: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let start = start_time(pid).unwrap_or_default();
    format!("{pid}-{start}-{}", DRIVERS.fetch_add(1, Ordering::Relaxed))
}

/// Whether the process that made this name still runs. A name of another form counts as alive: not ours to judge.
pub(super) fn is_alive(name: &str) -> bool {
    let mut parts = name.split('-');
    let (Some(Ok(pid)), Some(start)) = (parts.next().map(str::parse::<u32>), parts.next()) else {
        return true;
    };
    start_time(pid).is_some_and(|now| now == start)
}

/// Start time of a process in clock ticks after boot; tells a process from a later one with the same id.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outlives_its_process_only_as_dead() {
        let own = name();
        assert!(is_alive(&own));
        let pid = std::process::id();
        assert!(!is_alive(&format!("{pid}-1-0")));
        assert!(!is_alive("4194304-77-0"));
        assert!(is_alive("someone-elses"));
        assert_ne!(name(), own);
    }
}
