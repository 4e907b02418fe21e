//! Key slots: ways to open the repository. Adding or removing one wraps the master key anew or
//! deletes a wrapped copy; no data is encrypted again.

use std::collections::BTreeSet;

use super::error::RepoError;
use super::format::name;
use super::history::kept;
use super::open::{NewKey, Repo};
use crate::backend::Backend;
use crate::context::Context;
use crate::crypto::Slot;
use crate::id::KeyId;
use crate::report::Event;

/// The list in the cache of keys that were seen.
const LIST: &str = "keys";

impl Repo {
    /// All key slots of a repository, oldest first.
    pub(super) fn slots(backend: &dyn Backend) -> Result<Vec<Slot>, RepoError> {
        let mut slots = Vec::new();
        for entry in backend.list(name::KEYS)? {
            let text = entry.name.strip_prefix(name::KEYS).unwrap_or(&entry.name);
            let Ok(id) = text.parse::<KeyId>() else { continue };
            slots.push(Slot::decode(id, &backend.get(&entry.name)?)?);
        }
        slots.sort_by_key(|slot| (slot.created(), slot.id()));
        Ok(slots)
    }

    /// What opens this repository; nothing, when it is not encrypted.
    pub fn keys(&self) -> Result<Vec<Slot>, RepoError> {
        Self::slots(&*self.backend)
    }

    /// Tells, once, of keys that this host has seen in an earlier check and that are gone: nothing
    /// says whether somebody removed them or lost them.
    pub(super) fn tell_lost_keys(&self, ctx: &Context) -> Result<(), RepoError> {
        let there = self.backend.list(name::KEYS)?.into_iter().map(|entry| entry.name);
        let there: BTreeSet<String> = there.collect();
        for key in self.memory.recall(LIST).map_err(RepoError::Scratch)? {
            if !there.contains(&key) {
                let text = format!("{key} is gone since this host last checked");
                ctx.report(Event::Warning(text));
            }
        }
        kept(self.memory.remember(LIST, there.into_iter()))
    }

    /// Adds a way to open the repository.
    pub fn add_key(&self, key: &NewKey, ctx: &Context) -> Result<KeyId, RepoError> {
        let master = self.master.as_ref().ok_or(RepoError::NotEncrypted)?;
        let slot = Slot::create(&key.unlock, master, &key.label, ctx.clock.now(), key.cost)?;
        self.backend.create(&name::key(slot.id()), &slot.encode())?;
        Ok(slot.id())
    }

    /// Removes the slot whose id begins with `prefix`, unless it is the last one. Whoever knows
    /// the old key *and* kept a copy of the slot can still open the repository: to shut them
    /// out, copy its snapshots into a new one.
    pub fn remove_key(&self, prefix: &str) -> Result<KeyId, RepoError> {
        let slots = self.keys()?;
        let mut matching = slots.iter().filter(|slot| slot.id().to_string().starts_with(prefix));
        let no_such_key = || RepoError::NoSuchKey { id: prefix.to_owned() };
        let (Some(slot), None) = (matching.next(), matching.next()) else {
            return Err(no_such_key());
        };
        if slots.len() == 1 {
            return Err(RepoError::LastKey);
        }
        self.backend.delete(&name::key(slot.id()))?;
        Ok(slot.id())
    }
}
