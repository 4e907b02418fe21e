//! The timeline: all snapshots in the order of their times, and how one is chosen.

use std::collections::BTreeMap;

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::SnapshotId;
use crate::repo::format::name;
use crate::repo::{Finding, History, Repo, StoredSnapshot};
use crate::report::Event;
use crate::time::{Timestamp, parse_time};

use super::manifest::{Later, Manifest, Reason};

/// All snapshots of a repository, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    snapshots: Vec<(SnapshotId, Manifest)>,
    unreadable: BTreeMap<SnapshotId, String>,
    findings: Vec<Finding>,
}

/// Which snapshots to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this machine.
    pub host: Option<String>,
    /// Only those of this application.
    pub application: Option<String>,
    /// Only those with all of these tags.
    pub tags: Vec<String>,
    /// Only those at or before this time.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn admits(&self, manifest: &Manifest) -> bool {
        self.host.as_ref().is_none_or(|host| *host == manifest.host)
            && self.application.as_ref().is_none_or(|name| *name == manifest.application)
            && self.tags.iter().all(|tag| manifest.tags.contains(tag))
            && self.until.is_none_or(|until| manifest.time <= until)
    }
}

impl Timeline {
    /// Reads all snapshots. Those that are damaged or missing are [`Self::findings`].
    pub fn load(repo: &Repo) -> Result<Self, Failure> {
        Ok(Self::of(repo.history()?))
    }

    /// What is wrong with the snapshots that it does not hold.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Snapshots that are there and cannot be read, with why.
    pub const fn unreadable(&self) -> &BTreeMap<SnapshotId, String> {
        &self.unreadable
    }

    /// Tells what is wrong with the snapshots that it does not hold: what `latest` means may not be
    /// what was the latest.
    pub fn warn(&self, ctx: &Context) {
        for Finding { object, problem } in &self.findings {
            ctx.report(Event::Warning(format!("{object}: {problem}")));
        }
    }

    /// Reads the snapshots that were forgotten and can be brought back.
    pub fn forgotten(repo: &Repo) -> Result<Self, Failure> {
        Ok(Self::of(repo.forgotten()?))
    }

    fn of(history: History) -> Self {
        let History { snapshots: stored, mut unreadable, mut findings } = history;
        let decode = |stored: StoredSnapshot| (stored.id, Manifest::decode(&stored.manifest));
        let decoded: Vec<_> = stored.into_par_iter().map(decode).collect();
        let mut snapshots = Vec::with_capacity(decoded.len());
        for (id, manifest) in decoded {
            match manifest {
                Ok(manifest) => snapshots.push((id, manifest)),
                Err(error) => drop(unreadable.insert(id, error.to_string())),
            }
        }
        snapshots.sort_by_key(|(id, manifest)| (manifest.time, *id));
        findings.extend(unreadable.iter().map(|(id, problem)| Finding {
            object: name::snapshot(*id),
            problem: problem.clone(),
        }));
        Self { snapshots, unreadable, findings }
    }

    /// The snapshots that a filter admits, oldest first.
    pub fn iter<'a, 'f>(
        &'a self,
        filter: &'f Filter,
    ) -> impl DoubleEndedIterator<Item = &'a (SnapshotId, Manifest)> + Clone + use<'a, 'f> {
        self.snapshots.iter().filter(|(_, manifest)| filter.admits(manifest))
    }

    /// The snapshot with this id, or the one that has taken its place.
    pub fn get(&self, id: SnapshotId) -> Option<&Manifest> {
        self.find(id).map(|(_, manifest)| manifest)
    }

    /// The same with the id that it has now; also the copy of a snapshot that has this id in
    /// another repository.
    pub fn find(&self, id: SnapshotId) -> Option<&(SnapshotId, Manifest)> {
        let is = |(other, manifest): &&(SnapshotId, Manifest)| {
            let Later { original, origin, .. } = manifest.later;
            *other == id
                || original == Some(id)
                || origin.is_some_and(|origin| origin.snapshot == id)
        };
        self.snapshots.iter().find(is)
    }

    /// The snapshot that a person means: an id or its unique beginning, `latest`, `latest~2`,
    /// `tag:NAME` (the newest with that tag) or `@TIME` (the newest at or before it).
    ///
    /// `latest` passes over snapshots that a restore took of what it was about to change, so that
    /// restoring it twice does not bring back what the first restore replaced.
    pub fn select(
        &self,
        text: &str,
        filter: &Filter,
        ctx: &Context,
    ) -> Result<&(SnapshotId, Manifest), Failure> {
        if let Some(rest) = text.strip_prefix("latest") {
            return Ok(self.latest(rest, text, filter)?);
        }
        if let Some(tag) = text.strip_prefix("tag:") {
            let missing = || SelectError::NoTag { tag: tag.to_owned(), tags: self.tags(filter) };
            let tagged = |(_, manifest): &&(_, Manifest)| manifest.tags.iter().any(|t| t == tag);
            return Ok(self.iter(filter).rev().find(tagged).ok_or_else(missing)?);
        }
        if let Some(time) = text.strip_prefix('@') {
            return self.at(time, filter, ctx);
        }
        Ok(self.by_prefix(text)?)
    }

    fn latest(
        &self,
        rest: &str,
        text: &str,
        filter: &Filter,
    ) -> Result<&(SnapshotId, Manifest), SelectError> {
        let back = match rest {
            "" => Some(0),
            _ => rest.strip_prefix('~').and_then(|n| n.parse().ok()),
        };
        let back: usize =
            back.ok_or_else(|| SelectError::NotASnapshot { text: text.to_owned() })?;
        let asked_for = |(_, manifest): &&(_, Manifest)| {
            matches!(manifest.reason, Reason::Backup | Reason::Import { .. })
        };
        let count = self.iter(filter).filter(asked_for).count();
        self.iter(filter)
            .rev()
            .filter(asked_for)
            .nth(back)
            .ok_or(SelectError::TooFarBack { back, count })
    }

    /// The newest snapshot at or before a time.
    pub fn at(
        &self,
        time: &str,
        filter: &Filter,
        ctx: &Context,
    ) -> Result<&(SnapshotId, Manifest), Failure> {
        let now = ctx.clock.now();
        let time = parse_time(time, now)?;
        let found = self.iter(filter).rev().find(|(_, manifest)| manifest.time <= time);
        let earliest = || self.iter(filter).next().map(|(id, manifest)| (*id, manifest.time));
        Ok(found.ok_or_else(|| SelectError::BeforeFirst { time, earliest: earliest() })?)
    }

    fn by_prefix(&self, text: &str) -> Result<&(SnapshotId, Manifest), SelectError> {
        let hexadecimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal {
            return Err(SelectError::NotASnapshot { text: text.to_owned() });
        }
        let prefix = text.to_ascii_lowercase();
        let mut matching =
            self.snapshots.iter().filter(|(id, _)| id.to_string().starts_with(&prefix));
        match (matching.next(), matching.next()) {
            (Some(found), None) => Ok(found),
            (None, _) => Err(SelectError::NoSuchId { text: text.to_owned() }),
            (Some(_), Some(_)) => Err(SelectError::Ambiguous { text: text.to_owned() }),
        }
    }

    fn tags(&self, filter: &Filter) -> Vec<String> {
        let mut tags: Vec<String> =
            self.iter(filter).flat_map(|(_, manifest)| manifest.tags.iter().cloned()).collect();
        tags.sort();
        tags.dedup();
        tags
    }
}

/// Why no snapshot could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The text is no way to name a snapshot.
    #[error("`{text}` is no snapshot")]
    NotASnapshot {
        /// What was written.
        text: String,
    },
    /// No id begins like this.
    #[error("no snapshot's id begins with `{text}`")]
    NoSuchId {
        /// What was written.
        text: String,
    },
    /// Several ids begin like this.
    #[error("the ids of several snapshots begin with `{text}`")]
    Ambiguous {
        /// What was written.
        text: String,
    },
    /// No snapshot that was forgotten can be brought back under this id.
    #[error("no forgotten snapshot's id begins with `{text}`")]
    NotForgotten {
        /// What was written.
        text: String,
    },
    /// Another one shows the same.
    #[error("snapshot {} is there under another id, with other tags", id.short())]
    StillThere {
        /// The one that was asked for.
        id: SnapshotId,
    },
    /// There are not that many.
    #[error("there are only {count} snapshots, so there is no latest~{back}")]
    TooFarBack {
        /// How far back was asked for.
        back: usize,
        /// How many there are.
        count: usize,
    },
    /// No snapshot has the tag.
    #[error("no snapshot has the tag `{tag}`")]
    NoTag {
        /// The tag.
        tag: String,
        /// The tags that there are.
        tags: Vec<String>,
    },
    /// The transactions that a snapshot holds cannot be read.
    #[error("the log of transactions in a snapshot cannot be read: {reason}")]
    Log {
        /// What is wrong with it.
        reason: String,
    },
    /// The time lies before all snapshots.
    #[error("there is no snapshot at or before {}", time.to_local())]
    BeforeFirst {
        /// What was asked for.
        time: Timestamp,
        /// The first snapshot.
        earliest: Option<(SnapshotId, Timestamp)>,
    },
}

impl Hint for SelectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Log { .. } => ErrorKind::Damage,
            _ => ErrorKind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotASnapshot { .. } => {
                "write an id, latest, latest~2, tag:NAME or @TIME; `coeval snapshots` lists them"
                    .to_owned()
            }
            Self::Ambiguous { .. } => "write more digits; `coeval snapshots` lists them".to_owned(),
            Self::NoTag { tags, .. } if !tags.is_empty() => {
                format!("the tags are: {}", tags.join(", "))
            }
            Self::NotForgotten { .. } => {
                "`coeval snapshots --forgotten` lists those that can be brought back; after \
                 `coeval prune` none can"
                    .to_owned()
            }
            Self::Log { .. } => "restore the snapshot before or after with its id".to_owned(),
            Self::BeforeFirst { earliest: Some((id, time)), .. } => {
                format!("the first is {} of {}", id.short(), time.to_local())
            }
            Self::TooFarBack { count: 0, .. } | Self::BeforeFirst { earliest: None, .. } => {
                "take one with `coeval backup`".to_owned()
            }
            _ => "`coeval snapshots` lists them".to_owned(),
        })
    }
}
