//! Which snapshots to keep, by the rules that restic has: of each hour, day, week, month and year
//! the last one, for so and so many of them in which there is a snapshot.

use crate::id::SnapshotId;
use crate::time::{Period, Timestamp};

use super::manifest::{Manifest, Reason};

/// The rules; a snapshot is kept if one of them keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The last of each period, for as many of them.
    pub periods: Vec<(Period, u32)>,
    /// All since then.
    pub since: Option<Timestamp>,
    /// All with one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// Whether there is no rule: then everything is kept.
    pub fn is_empty(&self) -> bool {
        let Self { last, periods, since, tags } = self;
        *last == 0 && since.is_none() && tags.is_empty() && periods.iter().all(|(_, n)| *n == 0)
    }

    /// The snapshots that no rule keeps. `snapshots` are those of one application on one machine,
    /// oldest first. An incomplete snapshot never stands for a period, since the one that is to be
    /// brought back may need what it lacks; and the newest complete one is kept by any rule.
    pub fn forgets<'a>(
        &self,
        snapshots: impl DoubleEndedIterator<Item = &'a (SnapshotId, Manifest)>,
    ) -> Vec<SnapshotId> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut forgotten = Vec::new();
        let mut last = self.last;
        let mut periods: Vec<(Period, u32, Option<i64>)> =
            self.periods.iter().map(|(period, count)| (*period, *count, None)).collect();
        let mut newest = true;
        for (id, manifest) in snapshots.rev() {
            let counts = manifest.is_complete()
                && matches!(manifest.reason, Reason::Backup | Reason::Import { .. });
            let tagged = manifest.tags.iter().any(|tag| self.tags.contains(tag));
            let recent = self.since.is_some_and(|since| manifest.time >= since);
            let mut keep = tagged || recent || (counts && newest);
            if counts {
                newest = false;
                if last > 0 {
                    last -= 1;
                    keep = true;
                }
                for (period, left, current) in &mut periods {
                    let number = Some(manifest.time.number(*period));
                    if *left > 0 && *current != number {
                        *left -= 1;
                        *current = number;
                        keep = true;
                    }
                }
            }
            if !keep {
                forgotten.push(*id);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Written;
    use crate::snapshot::Instant;

    fn snapshots(times: impl Iterator<Item = i64>) -> Vec<(SnapshotId, Manifest)> {
        times
            .enumerate()
            .map(|(number, seconds)| {
                let mut id = [0; 16];
                id[..8].copy_from_slice(&(number as u64).to_be_bytes());
                let time = Timestamp::new(seconds, 0);
                let manifest = Manifest {
                    version: Manifest::version(0),
                    time,
                    finished: time,
                    host: String::new(),
                    application: String::new(),
                    tags: Vec::new(),
                    parent: None,
                    reason: Reason::Backup,
                    instant: Instant::Exact,
                    sources: Vec::new(),
                    skipped: Vec::new(),
                    written: Written::default(),
                    program: String::new(),
                    unlisted: 0,
                };
                (SnapshotId::new(id), manifest)
            })
            .collect()
    }

    fn kept(policy: &Policy, all: &[(SnapshotId, Manifest)]) -> usize {
        all.len() - policy.forgets(all.iter()).len()
    }

    #[test]
    fn of_each_period_the_last_one_stays() {
        // Every half hour for sixty days.
        let all = snapshots((0..60 * 48).map(|n| 1_800_000_000 + n * 1800));
        assert_eq!(kept(&Policy::default(), &all), all.len());
        let days = |count| Policy { periods: vec![(Period::Day, count)], ..Policy::default() };
        assert_eq!(kept(&days(7), &all), 7);
        assert_eq!(kept(&days(1000), &all), 61);
        let hours = Policy { periods: vec![(Period::Hour, 24)], ..Policy::default() };
        assert_eq!(kept(&hours, &all), 24);
        let last = Policy { last: 5, ..Policy::default() };
        let forgotten = last.forgets(all.iter());
        assert_eq!(all.len() - forgotten.len(), 5);
        assert!(all[all.len() - 5..].iter().all(|(id, _)| !forgotten.contains(id)));
    }

    #[test]
    fn an_incomplete_snapshot_stands_for_nothing() {
        let mut all = snapshots((0..10).map(|n| 1_800_000_000 + n));
        let skipped = super::super::Skipped { item: String::new(), reason: String::new() };
        all[9].1.skipped.push(skipped);
        let last = Policy { last: 1, ..Policy::default() };
        let forgotten = last.forgets(all.iter());
        assert!(!forgotten.contains(&all[8].0) && forgotten.contains(&all[9].0));
        // Even a rule that keeps nothing keeps the newest good one.
        let tags = Policy { tags: vec!["gone".to_owned()], ..Policy::default() };
        assert_eq!(kept(&tags, &all), 1);
    }
}
