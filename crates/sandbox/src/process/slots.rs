//! Ranges of host user ids: one per living sandbox, so that no two sandboxes share a user even on the host.

use std::{collections::BTreeSet, fs, sync::Mutex};

/// Ids of one slot.
const WIDTH: u32 = 65_536;

/// The ranges of one driver.
#[derive(Debug)]
pub(super) struct Slots {
    base: u32,
    count: u32,
    /// Ranges (first, count) that belong to somebody else.
    foreign: Vec<(u32, u32)>,
    taken: Mutex<BTreeSet<u32>>,
}

impl Slots {
    /// Ranges from `base` up to the end of what this process's user namespace maps, without those that
    /// `/etc/subuid` and `/etc/subgid` give to users of the host.
    pub(super) fn new(base: u32) -> Result<Self, String> {
        let map = fs::read_to_string("/proc/self/uid_map").map_err(|error| format!("/proc/self/uid_map: {error}"))?;
        let end = map
            .lines()
            .filter_map(|line| {
                let mut numbers = line.split_whitespace().map(str::parse::<u32>);
                let first = numbers.next()?.ok()?;
                let count = numbers.nth(1)?.ok()?;
                (first <= base).then(|| first.saturating_add(count))
            })
            .max()
            .unwrap_or(0)
            // Ids past 2^31 are negative numbers to some programs.
            .min(1 << 31);
        let count = end.saturating_sub(base) / WIDTH;
        if count == 0 {
            return Err(format!(
                "the server is root of a user namespace that ends at id {end}, and sandboxes need ids from {base} on"
            ));
        }
        let foreign = ["/etc/subuid", "/etc/subgid"]
            .into_iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .flat_map(|text| parse_subids(&text))
            .collect();
        Ok(Self { base, count, foreign, taken: Mutex::default() })
    }

    /// Takes the slot that `wanted` lies in if it is free, else the lowest free one. Returns its first id.
    pub(super) fn take(&self, wanted: Option<u32>) -> Option<u32> {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let preferred = wanted.and_then(|uid| uid.checked_sub(self.base)).map(|offset| offset / WIDTH);
        let slot = preferred
            .into_iter()
            .chain(0..self.count)
            .find(|slot| *slot < self.count && !taken.contains(slot) && !self.is_foreign(*slot))?;
        taken.insert(slot);
        Some(self.base + slot * WIDTH)
    }

    /// Gives a slot back, named by its first id.
    pub(super) fn release(&self, first: u32) {
        let slot = first.saturating_sub(self.base) / WIDTH;
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&slot);
    }

    fn is_foreign(&self, slot: u32) -> bool {
        let first = self.base + slot * WIDTH;
        self.foreign.iter().any(|(start, count)| *start < first + WIDTH && first < start.saturating_add(*count))
    }
}

fn parse_subids(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u32>());
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(foreign: Vec<(u32, u32)>) -> Slots {
        Slots { base: 200_000, count: 3, foreign, taken: Mutex::default() }
    }

    #[test]
    fn slots_are_distinct_returnable_and_finite() {
        let slots = slots(Vec::new());
        assert_eq!(slots.take(None), Some(200_000));
        assert_eq!(slots.take(Some(331_072 + 1000)), Some(331_072));
        assert_eq!(slots.take(Some(331_072 + 1000)), Some(265_536));
        assert_eq!(slots.take(None), None);
        slots.release(265_536);
        assert_eq!(slots.take(Some(7)), Some(265_536));
    }

    #[test]
    fn ranges_of_the_hosts_users_are_left_alone() {
        let slots = slots(parse_subids("ada:165536:65536\nbroken\nbob:231072:65536\n"));
        assert_eq!(slots.take(None), Some(331_072));
        assert_eq!(slots.take(None), None);
    }
}
