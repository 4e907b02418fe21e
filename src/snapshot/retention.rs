//! Which snapshots to keep, by the rules that restic has: of each hour, day, week, month, quarter
//! and year the last one, for so and so many of them in which there is a snapshot.
//!
//! Clocks are not trusted further than needed. What is dated after now counts for nothing and is
//! kept; and where two neighbours are years apart, a clock may have jumped, and nothing before is
//! forgotten by a rule.

use std::time::Duration;

use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::time::{Period, Timestamp};

use super::manifest::{Manifest, Reason};

/// Neighbours that are further apart than this were dated by a clock that jumped, for all we know.
const JUMP: Duration = Duration::from_hours(2 * 366 * 24);
/// How much later than now a snapshot may be dated and still count.
const AHEAD: Duration = Duration::from_hours(24);

/// The rules; a snapshot is kept if one of them keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The last of each period, for as many of them.
    pub periods: Vec<(Period, u32)>,
    /// All that are not older than this; and, of each period, the last of those that are not.
    pub within: Vec<(Option<Period>, Timestamp)>,
    /// All with one of these tags.
    pub tags: Vec<String>,
    /// All whose ids begin like one of these.
    pub ids: Vec<String>,
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounds {
    /// It is one of the newest.
    Last,
    /// It is the last one of its hour, day and so on.
    Periodic(Period),
    /// It is not old enough.
    Within(Option<Period>),
    /// It has a tag that is kept.
    Tag,
    /// It was named.
    Id,
    /// It is protected.
    Protected,
    /// It is the newest one that is complete, or else the newest.
    Newest,
    /// It is dated after now.
    Future,
    /// It is years older than the next one, or before such a one.
    Jump,
}

/// What the rules say of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub id: SnapshotId,
    /// Why it is kept; empty: it is forgotten.
    pub kept: Vec<Grounds>,
}

/// Says whether everything that a snapshot needs seems to be there: one that cannot be restored
/// stands for nothing.
pub type Sound<'a> = &'a dyn Fn(SnapshotId, &Manifest) -> Result<bool, Failure>;

impl Policy {
    /// Whether there is no rule: then everything is kept.
    pub fn is_empty(&self) -> bool {
        let Self { last, periods, within, tags, ids } = self;
        let counts = periods.iter().all(|(_, count)| *count == 0);
        *last == 0 && counts && within.is_empty() && tags.is_empty() && ids.is_empty()
    }

    /// What the rules say of each of some snapshots, in their order. `snapshots` are those of one
    /// group, of one application on one machine for instance, oldest first.
    ///
    /// A snapshot that is incomplete or not sound never stands for a period nor counts as one of
    /// the last, since the one that is to be brought back may need what it lacks; nor does what a
    /// restore saved or what was derived from another one. The newest one that counts is kept by
    /// any rule.
    pub fn verdicts(
        &self,
        snapshots: &[&(SnapshotId, Manifest)],
        now: Timestamp,
        sound: Sound<'_>,
    ) -> Result<Vec<Verdict>, Failure> {
        let mut rules = Rules::new(self);
        let mut verdicts = Vec::with_capacity(snapshots.len());
        let mut after: Option<Timestamp> = None;
        let mut jumped = false;
        for (id, manifest) in snapshots.iter().rev() {
            let time = manifest.time;
            let mut kept = Vec::new();
            if self.is_empty() {
                kept.push(Grounds::Newest);
            }
            if manifest.is_protected(now) {
                kept.push(Grounds::Protected);
            }
            if manifest.tags.iter().any(|tag| self.tags.contains(tag)) {
                kept.push(Grounds::Tag);
            }
            if self.ids.iter().any(|prefix| id.to_string().starts_with(prefix)) {
                kept.push(Grounds::Id);
            }
            if time.since(now) > AHEAD {
                kept.push(Grounds::Future);
                verdicts.push(Verdict { id: *id, kept });
                continue;
            }
            jumped |= after.is_some_and(|after| after.since(time) > JUMP);
            after = Some(time);
            if jumped {
                kept.push(Grounds::Jump);
            }
            let may_count = manifest.is_complete()
                && matches!(manifest.reason, Reason::Backup | Reason::Import { .. });
            let mut by_rule = rules.keep(time);
            if may_count && !by_rule.is_empty() && sound(*id, manifest)? {
                rules.count(time);
            } else {
                // Nothing rests on it: it is kept for its age only.
                by_rule.retain(|kept| *kept == Grounds::Within(None));
            }
            kept.append(&mut by_rule);
            verdicts.push(Verdict { id: *id, kept });
        }
        // To keep none at all is never what a rule means.
        if verdicts.iter().all(|verdict| verdict.kept.is_empty())
            && let Some(newest) = verdicts.first_mut()
        {
            newest.kept.push(Grounds::Newest);
        }
        verdicts.reverse();
        Ok(verdicts)
    }
}

/// The rules while the snapshots are gone through, newest first.
struct Rules<'a> {
    policy: &'a Policy,
    newest: bool,
    last: u32,
    /// Period, how many are left, the one that has been met last.
    periods: Vec<(Period, u32, Option<i64>)>,
    within: Vec<Option<i64>>,
}

impl<'a> Rules<'a> {
    fn new(policy: &'a Policy) -> Self {
        let periods = policy.periods.iter().map(|(period, count)| (*period, *count, None));
        let within = vec![None; policy.within.len()];
        Self { policy, newest: true, last: policy.last, periods: periods.collect(), within }
    }

    /// Which rules keep a snapshot of this time.
    fn keep(&self, time: Timestamp) -> Vec<Grounds> {
        let mut kept = Vec::new();
        if self.last > 0 {
            kept.push(Grounds::Last);
        }
        for (period, left, met) in &self.periods {
            if *left > 0 && *met != Some(time.number(*period)) {
                kept.push(Grounds::Periodic(*period));
            }
        }
        for ((period, since), met) in self.policy.within.iter().zip(&self.within) {
            let is_next = period.is_none_or(|period| *met != Some(time.number(period)));
            if time >= *since && is_next {
                kept.push(Grounds::Within(*period));
            }
        }
        if self.newest && kept.is_empty() {
            kept.push(Grounds::Newest);
        }
        kept
    }

    /// Notes that it stands for all of these.
    fn count(&mut self, time: Timestamp) {
        self.newest = false;
        self.last = self.last.saturating_sub(1);
        for (period, left, met) in &mut self.periods {
            let number = Some(time.number(*period));
            if *left > 0 && *met != number {
                (*left, *met) = (*left - 1, number);
            }
        }
        for ((period, _), met) in self.policy.within.iter().zip(&mut self.within) {
            *met = period.map(|period| time.number(period));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Written;
    use crate::snapshot::{Instant, Later, Protection, Skipped};

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
                    later: Later::default(),
                };
                (SnapshotId::new(id), manifest)
            })
            .collect()
    }

    fn verdicts(policy: &Policy, all: &[(SnapshotId, Manifest)], now: i64) -> Vec<Verdict> {
        let all: Vec<_> = all.iter().collect();
        policy.verdicts(&all, Timestamp::new(now, 0), &|_, _| Ok(true)).expect("verdicts")
    }

    fn kept(policy: &Policy, all: &[(SnapshotId, Manifest)]) -> usize {
        let now = all.last().expect("one").1.time.seconds;
        verdicts(policy, all, now).iter().filter(|verdict| !verdict.kept.is_empty()).count()
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
        let quarters = Policy { periods: vec![(Period::Quarter, 9)], ..Policy::default() };
        assert_eq!(kept(&quarters, &all), 1);
        let last = Policy { last: 5, ..Policy::default() };
        let verdicts = verdicts(&last, &all, all[all.len() - 1].1.time.seconds);
        assert!(verdicts[all.len() - 5..].iter().all(|verdict| !verdict.kept.is_empty()));
        assert_eq!(kept(&last, &all), 5);
    }

    #[test]
    fn an_incomplete_or_unsound_snapshot_stands_for_nothing() {
        let mut all = snapshots((0..10).map(|n| 1_800_000_000 + n));
        all[9].1.skipped.push(Skipped { item: String::new(), reason: String::new() });
        let last = Policy { last: 1, ..Policy::default() };
        let forgotten: Vec<_> =
            verdicts(&last, &all, 1_800_000_009).iter().map(|v| v.kept.is_empty()).collect();
        assert!(!forgotten[8] && forgotten[9]);
        let borrowed: Vec<_> = all.iter().collect();
        let damaged = all[8].0;
        let sound = |id, _: &Manifest| Ok(id != damaged);
        let now = Timestamp::new(1_800_000_009, 0);
        let verdicts = last.verdicts(&borrowed, now, &sound).expect("verdicts");
        assert!(verdicts[8].kept.is_empty() && !verdicts[7].kept.is_empty());
        // Even a rule that keeps nothing keeps the newest good one.
        let tags = Policy { tags: vec!["gone".to_owned()], ..Policy::default() };
        assert_eq!(kept(&tags, &all), 1);
    }

    #[test]
    fn a_protected_snapshot_stays_until_its_day() {
        let mut all = snapshots((0..10).map(|n| 1_800_000_000 + n));
        all[2].1.later.protection = Protection::Forever;
        all[3].1.later.protection = Protection::Until(Timestamp::new(1_800_000_500, 0));
        let last = Policy { last: 1, ..Policy::default() };
        let kept = |now| -> Vec<usize> {
            let verdicts = verdicts(&last, &all, now);
            (0..10).filter(|n| !verdicts[*n].kept.is_empty()).collect()
        };
        assert_eq!(kept(1_800_000_500), [2, 3, 9]);
        assert_eq!(kept(1_800_000_501), [2, 9]);
    }

    const DAY: i64 = 86_400;
    const YEAR: i64 = 365 * DAY;

    /// The schedule of a cloud application's guide: every six hours for a week, daily at 2:00 for 30
    /// days, the first of each month for a year, and before each deployment until the next one.
    fn schedule(now: i64) -> Policy {
        let within = |days: i64| Timestamp::new(now - days * DAY, 0);
        Policy {
            within: vec![
                (None, within(7)),
                (Some(Period::Day), within(30)),
                (Some(Period::Month), within(365)),
            ],
            tags: vec!["deployed".to_owned()],
            ..Policy::default()
        }
    }

    #[test]
    fn a_year_of_the_usual_schedule_keeps_what_it_says() {
        let start = 1_767_225_600;
        let mut all: Vec<(SnapshotId, Manifest)> = Vec::new();
        let mut taken = snapshots((0..4 * 430).map(|n| start + n * DAY / 4)).into_iter();
        for number in 0..4 * 430 {
            all.extend(taken.next());
            // Each day what is not kept is gone, as if it had never been there.
            if number % 4 == 0 {
                let now = start + number * DAY / 4;
                let verdicts = verdicts(&schedule(now), &all, now);
                let mut verdicts = verdicts.iter();
                all.retain(|_| verdicts.next().is_some_and(|verdict| !verdict.kept.is_empty()));
            }
        }
        let now = all.last().expect("some").1.time.seconds;
        let age = |(_, manifest): &&(SnapshotId, Manifest)| (now - manifest.time.seconds) / DAY;
        let between = |from, to| all.iter().filter(|s| (from..to).contains(&age(s))).count();
        assert!((28..=33).contains(&between(0, 7)), "{}", between(0, 7));
        // What became a week old today is thinned out tomorrow.
        assert!((22..=27).contains(&between(7, 30)), "{}", between(7, 30));
        assert!((10..=12).contains(&between(31, 366)), "{}", between(31, 366));
        assert_eq!(between(367, 9999), 0);
    }

    #[test]
    fn a_clock_that_jumps_forgets_nothing() {
        let now = 1_800_000_000;
        let real = || (0..40).map(|n| now - (39 - n) * DAY);
        let policy = |now| Policy { last: 3, periods: vec![(Period::Day, 5)], ..schedule(now) };
        let wanted = kept(&policy(now), &snapshots(real()));
        for jump in [10 * YEAR, -10 * YEAR] {
            // Some were taken while the clock was wrong, and the rules are asked while it is, or
            // after it was set right.
            let mut times: Vec<i64> = real().chain((0..30).map(|n| now + jump + n * 60)).collect();
            times.sort_unstable();
            let all = snapshots(times.into_iter());
            for asked in [now, now + jump + 2000] {
                let verdicts = verdicts(&policy(asked), &all, asked);
                let still = verdicts.iter().zip(&all).filter(|(verdict, (_, manifest))| {
                    let age = now - manifest.time.seconds;
                    !verdict.kept.is_empty() && (0..40 * DAY).contains(&age)
                });
                assert!(still.count() >= wanted, "jump {jump}, asked at {asked}");
            }
        }
        // One that stands still.
        let frozen = snapshots(std::iter::repeat_n(now, 50));
        assert!(kept(&policy(now), &frozen) >= 3);
    }
}
