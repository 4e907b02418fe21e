//! Which packs a partial check reads: those that have waited longest, so that checks of a small
//! part, made often enough, read everything.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use super::remember::Memory;
use crate::context::Context;
use crate::id::PackId;
use crate::report::Event;
use crate::time::Timestamp;

/// The list in the cache.
const LIST: &str = "verified";

/// How much of the packs a partial check reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// At least so many percent of all bytes: those packs whose turn it is.
    Percent(f64),
    /// At most so many bytes, but at least one pack: those whose turn it is.
    Bytes(u64),
    /// One of several parts, which together are everything. A pack belongs to the same part
    /// whoever asks, so that several hosts can share the work.
    Part {
        /// Which one, from 1.
        number: u64,
        /// Of how many.
        of: u64,
    },
}

/// Packs in the order in which it is their turn, with the time at which each was last found whole.
/// The order is that of checks, not of clocks, which jump; a pack that is new has its turn after
/// those that wait, so that none waits forever.
#[derive(Debug, Default)]
pub(super) struct Turns(Vec<(PackId, Option<Timestamp>)>);

impl Turns {
    /// The turns of the packs that are there.
    pub(super) fn load(memory: &Memory, present: &HashMap<PackId, u64>, ctx: &Context) -> Self {
        let lines = memory.recall(LIST).unwrap_or_else(|error| {
            ctx.report(Event::Note(format!("which packs were verified is forgotten: {error}")));
            Vec::new()
        });
        let mut known = HashSet::new();
        let mut turns: Vec<_> = lines
            .iter()
            .filter_map(|line| parse(line))
            .filter(|(id, _)| present.contains_key(id) && known.insert(*id))
            .collect();
        let mut news: Vec<_> = present.keys().filter(|id| !known.contains(id)).collect();
        news.sort_unstable();
        turns.extend(news.into_iter().map(|id| (*id, None)));
        Self(turns)
    }

    /// The packs that a partial check reads now.
    pub(super) fn choose(&self, subset: Subset, present: &HashMap<PackId, u64>) -> HashSet<PackId> {
        let size = |id: &PackId| present.get(id).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "a limit, not a count")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let percent = |percent: f64| {
            let all: u64 = present.values().sum();
            (all as f64 * percent / 100.0).ceil() as u64
        };
        let mut sum = 0;
        let mut take = |more: &dyn Fn(u64, u64) -> bool| {
            let next = |id: &PackId| {
                let before = sum;
                sum += size(id);
                (before == 0 || more(before, sum)).then_some(*id)
            };
            self.0.iter().map(|(id, _)| id).map_while(next).collect()
        };
        match subset {
            Subset::Percent(part) => take(&|before, _| before < percent(part)),
            Subset::Bytes(most) => take(&|_, with| with <= most),
            Subset::Part { number, of } => {
                let part = |id: &PackId| number_of(*id) % of.max(1) == number.wrapping_sub(1);
                self.0.iter().map(|(id, _)| *id).filter(part).collect()
            }
        }
    }

    /// Takes down which packs were found whole just now, and says of all when the one that has
    /// waited longest was; none if there is one that never was.
    pub(super) fn verified(
        mut self,
        whole: &HashSet<PackId>,
        memory: &Memory,
        ctx: &Context,
    ) -> Option<Timestamp> {
        let now = ctx.clock.now();
        let (done, mut turns): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|(id, _)| whole.contains(id));
        turns.extend(done.into_iter().map(|(id, _)| (id, Some(now))));
        self.0 = turns;
        let lines = self.0.iter().map(|(id, time)| match time {
            Some(time) => format!("{id} {}", time.to_rfc3339()),
            None => id.to_string(),
        });
        if let Err(error) = memory.remember(LIST, lines) {
            ctx.report(Event::Note(format!("which packs were verified is not kept: {error}")));
        }
        self.0.iter().map(|(_, time)| *time).min().flatten()
    }
}

fn parse(line: &str) -> Option<(PackId, Option<Timestamp>)> {
    match line.split_once(' ') {
        None => Some((line.parse().ok()?, None)),
        Some((id, time)) => {
            let time: jiff::Timestamp = time.parse().ok()?;
            Some((id.parse().ok()?, Some(time.into())))
        }
    }
}

fn number_of(id: PackId) -> u64 {
    let hash = blake3::hash(id.to_string().as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl FromStr for Subset {
    type Err = String;

    /// `5%`, `1/12` or a size in bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no part: write it as 5%, 1/12 or 2G");
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|part| *part > 0.0 && *part <= 100.0);
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        let (number, of) = text.split_once('/').ok_or_else(wrong)?;
        let (number, of) = (number.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
        if (1..=of).contains(&number) { Ok(Self::Part { number, of }) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SnapshotId;
    use proptest::prelude::*;

    fn pack(number: u32) -> PackId {
        PackId { session: SnapshotId::new([7; 16]), number }
    }

    /// Checks a part again and again, while packs come and go.
    fn wait(subset: impl Fn(u64) -> Subset, checks: u64, churn: u32) -> HashSet<PackId> {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().to_owned());
        let ctx = Context::new();
        let mut present: HashMap<PackId, u64> =
            (0..100).map(|n| (pack(n), 1000 + u64::from(n) * 37 % 500)).collect();
        let old: HashSet<PackId> = present.keys().copied().collect();
        let mut unread = old.clone();
        for round in 0..checks {
            let turns = Turns::load(&memory, &present, &ctx);
            let chosen = turns.choose(subset(round), &present);
            turns.verified(&chosen, &memory, &ctx);
            unread.retain(|id| !chosen.contains(id));
            for n in 0..churn {
                let number = 1000 + u32::try_from(round).unwrap() * churn + n;
                present.insert(pack(number), 1200);
                if let Some(young) = number.checked_sub(1000 + churn) {
                    present.remove(&pack(1000 + young));
                }
            }
        }
        unread
    }

    #[test]
    fn a_year_of_partial_checks_reads_every_pack_however_many_come_and_go() {
        for churn in [0, 1, 20] {
            let twelfth = |round| Subset::Part { number: round % 12 + 1, of: 12 };
            assert_eq!(wait(twelfth, 12, churn), HashSet::new());
            assert_eq!(wait(|_| Subset::Percent(5.0), 20, churn), HashSet::new());
        }
        assert_eq!(wait(|_| Subset::Bytes(13_000), 12, 5), HashSet::new());
        assert_ne!(wait(|_| Subset::Percent(5.0), 10, 0), HashSet::new());
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    mod parts {
        use super::*;
        proptest! {
            #[test]
            fn a_part_is_as_large_as_was_asked_for(
                sizes in prop::collection::vec(1_u64..10_000, 1..60),
                percent in 0.1_f64..100.0,
                most in 1_u64..100_000,
            ) {
                let present: HashMap<PackId, u64> =
                    (0..).zip(&sizes).map(|(n, size)| (pack(n), *size)).collect();
                let folder = tempfile::tempdir().unwrap();
                let turns = Turns::load(&Memory::new(folder.path().into()), &present, &Context::new());
                let all: u64 = sizes.iter().sum();
                let read = |subset| -> u64 {
                    turns.choose(subset, &present).iter().map(|id| present[id]).sum()
                };
                let part = read(Subset::Percent(percent)) as f64;
                let largest = *sizes.iter().max().unwrap();
                prop_assert!(part >= all as f64 * percent / 100.0);
                prop_assert!(part <= all as f64 * percent / 100.0 + 1.0 + largest as f64);
                let part = read(Subset::Bytes(most));
                prop_assert!(part > 0 && (part <= most || part <= largest));
            }
        }
    }

    #[test]
    fn parts_are_written_as_people_know_them() {
        assert_eq!("5%".parse(), Ok(Subset::Percent(5.0)));
        assert_eq!("0.5%".parse(), Ok(Subset::Percent(0.5)));
        assert_eq!("1/12".parse(), Ok(Subset::Part { number: 1, of: 12 }));
        for wrong in ["", "0%", "101%", "-1%", "0/3", "4/3", "1/0", "x/2", "NaN%"] {
            assert!(wrong.parse::<Subset>().is_err(), "{wrong}");
        }
    }
}
