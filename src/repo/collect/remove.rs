//! A collection from the moment that it is known to the moment that it is done.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::super::check::pack_id;
use super::super::error::RepoError;
use super::super::format::collection::Collection;
use super::super::format::{codec, name};
use super::super::open::Repo;
use super::super::session::SessionRecord;
use super::super::snapshots::Listed;
use super::mark::{Live, Mark};
use super::{CollectOptions, CollectedBytes, Writers};
use crate::backend::{Created, Deleted};
use crate::context::Context;
use crate::crypto::ObjectKind;
use crate::hint::Failure;
use crate::id::{PackId, SnapshotId};
use crate::time::Timestamp;

/// A writer that gave no sign of life for so long is dead. To be wrong costs it its work, and no
/// snapshot anything.
const PATIENCE: Duration = Duration::from_hours(1);
/// How often those that live are looked for.
const POLL: Duration = Duration::from_millis(500);

/// What is done for one collection.
pub(super) struct Finishing<'a> {
    pub(super) number: u64,
    pub(super) collection: &'a Collection,
    pub(super) options: &'a CollectOptions,
    pub(super) mark: Mark<'a>,
    pub(super) ctx: &'a Context,
}

impl Repo {
    /// Does all that is left to do of a collection, whoever began it.
    pub(super) fn finish_collection(
        &self,
        this: &Finishing<'_>,
        live: &mut Live,
        done: &mut CollectedBytes,
    ) -> Result<(), Failure> {
        let Finishing { number, collection, options, mark, ctx } = *this;
        done.given_up += self.settle(options.writers, ctx)?;
        let Listed { valid, void, .. } = self.list_snapshots()?;
        self.mark(&valid, live, mark, ctx)?;
        loop {
            self.refresh()?;
            if self.is_finished(number) {
                return Ok(());
            }
            match self.copy_live(&collection.condemned, live, ctx) {
                Ok(copied) => {
                    done.copied += copied;
                    break;
                }
                // Another collector was faster; what it copied is in the index now.
                Err(RepoError::Backend(error)) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.remove_packs(&collection.condemned, done, ctx)?;
        self.remove_sessions(collection, &void, ctx)?;
        self.backend.create(&name::collection_done(number), &[]).map_err(RepoError::from)?;
        done.snapshots += collection.forgotten.len() as u64;
        Ok(self.refresh()?)
    }

    pub(super) fn is_finished(&self, number: u64) -> bool {
        self.collections().open.as_ref().is_none_or(|(open, _)| *open != number)
    }

    /// Waits until everybody who is at work has committed or never will. Returns how many were
    /// given up.
    pub(in crate::repo) fn settle(&self, writers: Writers, ctx: &Context) -> Result<u64, Failure> {
        let mut undecided = self.open_sessions()?;
        let mut given_up = 0;
        let mut waited = Duration::ZERO;
        loop {
            // Only those who were there in the beginning: whoever came later knows better than to
            // refer to what is condemned.
            let open: HashSet<SnapshotId> = self.open_sessions()?.into_iter().collect();
            undecided.retain(|id| open.contains(id));
            let signs = self.signs_of_life(&undecided)?;
            let now = ctx.clock.now();
            for (id, sign) in signs {
                let is_dead = now.since(sign) > PATIENCE;
                if is_dead || writers == Writers::GiveUp {
                    given_up += self.give_up(id)?;
                    undecided.retain(|other| *other != id);
                }
            }
            if undecided.is_empty() {
                return Ok(given_up);
            }
            let limit = match writers {
                Writers::Wait(limit) => limit,
                Writers::GiveUp => Duration::ZERO,
            };
            if waited >= limit {
                return Err(RepoError::Undecided { count: undecided.len() }.into());
            }
            if waited.is_zero() {
                ctx.phase("waiting for backups that are at work", Some(undecided.len() as u64));
            }
            ctx.check_cancelled()?;
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    /// When each of these writers was last heard of, by its own clock. Of one whose session cannot
    /// be read nobody ever heard.
    fn signs_of_life(
        &self,
        sessions: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Timestamp>, RepoError> {
        let mut last: BTreeMap<SnapshotId, (u32, String)> =
            sessions.iter().map(|id| (*id, (0, name::session(*id)))).collect();
        for entry in self.backend.list(name::SESSIONS)? {
            let Some((id, number)) = sign(&entry.name) else { continue };
            if let Some(known) = last.get_mut(&id).filter(|(known, _)| *known < number) {
                *known = (number, entry.name);
            }
        }
        let mut signs = BTreeMap::new();
        for (id, (_, name)) in last {
            let object = match self.backend.get(&name) {
                Ok(object) => object,
                // Withdrawn since.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let opened = self.sealer.open_object(ObjectKind::Session, &name, &object);
            let record =
                opened.ok().and_then(|b| codec::decode::<SessionRecord>("session", &b).ok());
            signs.insert(id, record.map_or(Timestamp::default(), |record| record.started));
        }
        Ok(signs)
    }

    /// Sees to it that a session cannot commit any more; 0 if it has.
    fn give_up(&self, id: SnapshotId) -> Result<u64, RepoError> {
        let created = self.backend.create(&name::snapshot(id), &[])?;
        Ok(u64::from(created == Created::New))
    }

    pub(super) fn remove_packs(
        &self,
        packs: &[PackId],
        done: &mut CollectedBytes,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let sizes: BTreeMap<String, u64> = self
            .backend
            .list(name::PACKS)
            .map_err(RepoError::from)?
            .into_iter()
            .map(|entry| (entry.name, entry.size))
            .collect();
        ctx.phase("deleting packs", Some(packs.len() as u64));
        let deleted = packs
            .par_iter()
            .map(|id| {
                let name = name::pack(*id);
                let deleted = self.backend.delete(&name)?;
                let size = sizes.get(&name).filter(|_| deleted == Deleted::Gone);
                Ok::<_, RepoError>(size.copied())
            })
            .collect::<Result<Vec<_>, _>>()?;
        for size in deleted.into_iter().flatten() {
            done.packs += 1;
            done.deleted += size;
        }
        Ok(())
    }

    /// Removes what there is of snapshots that are none any more. In this order: a snapshot whose
    /// session is gone is none, so that nothing comes back if this stops in the middle.
    pub(super) fn remove_sessions(
        &self,
        collection: &Collection,
        void: &[SnapshotId],
        ctx: &Context,
    ) -> Result<(), Failure> {
        let gone: Vec<SnapshotId> = collection.forgotten.iter().chain(void).copied().collect();
        ctx.phase("removing snapshots", Some(gone.len() as u64));
        let delete = |name: fn(SnapshotId) -> String| {
            gone.par_iter().try_for_each(|id| {
                self.backend.delete(&name(*id)).map(drop).map_err(RepoError::from)
            })
        };
        delete(name::session)?;
        delete(name::snapshot)?;
        delete(name::tombstone)?;
        self.remove_signs_of_life()
    }

    /// Signs of life of those that are decided say nothing any more.
    fn remove_signs_of_life(&self) -> Result<(), Failure> {
        let open: HashSet<SnapshotId> = self.open_sessions()?.into_iter().collect();
        for entry in self.backend.list(name::SESSIONS).map_err(RepoError::from)? {
            if sign(&entry.name).is_some_and(|(id, _)| !open.contains(&id)) {
                self.backend.delete(&entry.name).map_err(RepoError::from)?;
            }
        }
        Ok(())
    }

    /// Deletes packs of finished collections that a late request brought back.
    pub(super) fn remove_late_packs(&self) -> Result<(), Failure> {
        for entry in self.backend.list(name::PACKS).map_err(RepoError::from)? {
            if pack_id(&entry.name).is_some_and(|id| self.collections().is_dead(id)) {
                self.backend.delete(&entry.name).map_err(RepoError::from)?;
            }
        }
        Ok(())
    }
}

/// The writer of a sign of life, and its number.
fn sign(object: &str) -> Option<(SnapshotId, u32)> {
    let (id, number) = object.strip_prefix(name::SESSIONS)?.split_once('.')?;
    Some((id.parse().ok()?, number.parse().ok()?))
}
