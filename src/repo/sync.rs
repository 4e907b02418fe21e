//! A second place of the whole repository: the same objects under the same names.
//!
//! Objects are immutable and their names random, so one that is there is the same, and a sync goes
//! on where another stopped. The order is that of writing: what refers comes after what it refers
//! to, so the second place is a valid repository at every moment. It follows the first one only; a
//! loss there is not followed: what disappears must be in the list of a finished collection.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::error::RepoError;
use super::format::{codec, name, pack};
use super::open::Repo;
use super::session::SessionRecord;
use super::snapshots::Listed;
use crate::backend::{self, Backend, BackendError, Created, Entry};
use crate::context::Context;
use crate::crypto::{ObjectKind, Slot};
use crate::hint::{ErrorKind, Hint};
use crate::id::{KeyId, PackId, SnapshotId};
use crate::report::Event;
use crate::time::Timestamp;

/// Objects on their way at once: each is in memory twice.
const AT_ONCE: usize = 4;
/// Folders whose objects refer to others, or are about those that do.
const LATER: [&str; 5] =
    [name::INDEX, name::SESSIONS, name::SNAPSHOTS, name::TOMBSTONES, name::COLLECTIONS];
/// How often the lists are made again because a collection went on meanwhile.
const ROUNDS: u32 = 10;

/// What to do, and how carefully.
#[derive(Debug, Clone, Copy)]
pub struct SyncOptions {
    /// What becomes of what collections removed at the first place.
    pub collected: Collected,
    /// What is made of objects that are there already.
    pub present: Present,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
}

/// What becomes of objects that collections removed at the first place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collected {
    /// They stay at the second place.
    Keep,
    /// They are deleted there.
    Delete,
}

/// What is made of objects that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// Those of the same size are taken to be the same, but for those that every place has under
    /// the same names.
    Trust,
    /// Each is read at both places, and compared.
    Compare,
}

/// What a sync did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Synced {
    /// Objects that were copied, and read back.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there.
    pub present: u64,
    /// Objects that were deleted.
    pub deleted: u64,
}

/// Why a second place cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// An object of this name is there, and it is another one.
    #[error("{place} has another object under the name {object}; it was left as it is")]
    Different {
        /// Where.
        place: String,
        /// Its name.
        object: String,
    },
    /// The second place has a snapshot that the first has not, and no collection removed it.
    #[error("{place} has snapshot {}, which the repository has lost, or never had", id.short())]
    Unknown {
        /// Where.
        place: String,
        /// Which one.
        id: SnapshotId,
    },
    /// What was written does not read back as it was.
    #[error("{place} does not give back {object} as it was written")]
    NotKept {
        /// Where.
        place: String,
        /// Its name.
        object: String,
    },
    /// An object of the first place is damaged; it was not copied.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Collections go on all the time.
    #[error("the repository was collected again and again meanwhile")]
    Restless,
    /// The first place cannot be read.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A store failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Hint for SyncError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Different { .. } | Self::Unknown { .. } => ErrorKind::Failed,
            Self::NotKept { .. } | Self::Damaged { .. } => ErrorKind::Damage,
            Self::Restless => ErrorKind::Busy,
            Self::Repo(error) => error.kind(),
            Self::Backend(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Different { place, .. } => {
                return Some(format!(
                    "nobody but `coeval sync` may write to {place}: use `coeval copy` to bring \
                     snapshots of two repositories together, or an empty place"
                ));
            }
            Self::Unknown { place, .. } => {
                return Some(format!(
                    "bring it back with `coeval --repo {place} copy --to` into a new repository; \
                     without --delete, `coeval sync` leaves it where it is"
                ));
            }
            Self::NotKept { .. } => "do not trust that place",
            Self::Damaged { .. } => {
                "what was copied is a valid repository; see what is affected with `coeval check \
                 --read-data`, repair it, and sync again"
            }
            Self::Restless => "run it again later",
            Self::Repo(error) => return error.hint(),
            Self::Backend(error) => return error.hint(),
        };
        Some(text.to_owned())
    }
}

/// The names to copy, in the order of writing.
#[derive(Debug, Default)]
struct Objects {
    /// Key slots and the configuration: with them alone it is an empty repository.
    first: Vec<String>,
    /// Packs, and whatever else refers to nothing.
    packs: Vec<String>,
    index: Vec<String>,
    collections: Vec<String>,
    snapshots: Listed,
    /// The sizes of all.
    sizes: HashMap<String, u64>,
}

struct Sync<'a> {
    from: &'a Repo,
    to: &'a dyn Backend,
    options: &'a SyncOptions,
    ctx: &'a Context,
    /// What is at the second place, by name.
    there: Mutex<HashMap<String, u64>>,
    done: Mutex<Synced>,
}

impl Repo {
    /// Makes `to` a second place of this repository, or brings it up to date.
    pub fn sync(
        &self,
        to: &Arc<dyn Backend>,
        options: &SyncOptions,
        ctx: &Context,
    ) -> Result<Synced, SyncError> {
        ctx.phase("listing both places", None);
        let there: HashMap<_, _> =
            to.list("")?.into_iter().map(|entry| (entry.name, entry.size)).collect();
        if there.is_empty() && !options.dry_run {
            backend::probe(&**to)?;
        }
        let sync = Sync {
            from: self,
            to: &**to,
            options,
            ctx,
            there: Mutex::new(there),
            done: Mutex::default(),
        };
        sync.run()?;
        Ok(*lock(&sync.done))
    }
}

impl Sync<'_> {
    fn run(&self) -> Result<(), SyncError> {
        let mut lacked = None;
        for _ in 0..ROUNDS {
            let objects = self.list()?;
            self.look_for_unknown(&objects.snapshots)?;
            self.all("copying the configuration", &objects.first, &objects)?;
            let missing = self.missing(&objects.index);
            let whole = self.all("copying packs", &objects.packs, &objects)?;
            if let Some(pack) = self.lacks_pack_of(&missing)? {
                // Not between two lists, twice.
                if lacked.replace(pack) == Some(pack) {
                    let reason = "the index names it, and it is not there".to_owned();
                    return Err(SyncError::Damaged { object: name::pack(pack), reason });
                }
                continue;
            }
            if !whole || !self.all("copying the index", &objects.index, &objects)? {
                continue;
            }
            // In the order of their numbers, each before its end.
            for collection in &objects.collections {
                self.one(collection, &objects)?;
            }
            for id in self.by_age(&objects.snapshots.valid)? {
                self.snapshot(id, &objects)?;
            }
            if self.options.collected == Collected::Delete {
                self.delete(&objects)?;
            }
            return Ok(());
        }
        Err(SyncError::Restless)
    }

    /// Lists what refers before what it refers to, so that all of the latter is in the lists.
    fn list(&self) -> Result<Objects, SyncError> {
        let from = self.from;
        from.learn_collections()?;
        let mut collections: Vec<(u64, String)> = Vec::new();
        for entry in from.backend.list(name::COLLECTIONS)? {
            let rest = entry.name.strip_prefix(name::COLLECTIONS).unwrap_or_default();
            if let Ok(number) = rest.trim_end_matches(".done").parse() {
                collections.push((number, entry.name));
            }
        }
        collections.sort();
        let snapshots = from.list_snapshots()?;
        let index = from.backend.list(name::INDEX)?.into_iter().map(|entry| entry.name);
        let mut objects = Objects {
            index: index.collect(),
            snapshots,
            collections: collections.into_iter().map(|(_, name)| name).collect(),
            ..Objects::default()
        };
        for Entry { name: object, size } in from.backend.list("")? {
            objects.sizes.insert(object.clone(), size);
            if object.starts_with(name::KEYS) {
                objects.first.push(object);
            } else if let Some(id) = super::check::pack_id(&object) {
                if !from.collections().is_dead(id) {
                    objects.packs.push(object);
                }
            } else if object.contains('/') && !LATER.iter().any(|l| object.starts_with(l)) {
                objects.packs.push(object);
            }
        }
        // Last: where it is, there is a repository.
        objects.first.push(name::CONFIG.to_owned());
        Ok(objects)
    }

    /// Finds snapshots that only the second place has.
    fn look_for_unknown(&self, listed: &Listed) -> Result<(), SyncError> {
        // After the lists: what was removed meanwhile is known to be.
        self.from.learn_collections()?;
        let known: HashSet<&SnapshotId> = listed.valid.iter().chain(&listed.void).collect();
        let there = self.names(name::SNAPSHOTS);
        let ids = there.iter().filter_map(|name| name.strip_prefix(name::SNAPSHOTS)?.parse().ok());
        let unknown: Vec<SnapshotId> =
            ids.filter(|id| !known.contains(id) && !self.from.collections().removes(*id)).collect();
        for id in unknown {
            let unknown = SyncError::Unknown { place: self.to.place(), id };
            if self.options.collected == Collected::Delete {
                return Err(unknown);
            }
            self.ctx.report(Event::Warning(unknown.to_string()));
        }
        Ok(())
    }

    /// The names at the second place below a folder.
    fn names(&self, folder: &str) -> Vec<String> {
        lock(&self.there).keys().filter(|name| name.starts_with(folder)).cloned().collect()
    }

    fn missing(&self, names: &[String]) -> Vec<String> {
        let there = lock(&self.there);
        names.iter().filter(|name| !there.contains_key(*name)).cloned().collect()
    }

    /// A pack that new segments name and the second place has not: a collection may have deleted it
    /// between the lists, and then what was needed of it is elsewhere.
    fn lacks_pack_of(&self, segments: &[String]) -> Result<Option<PackId>, SyncError> {
        self.from.learn_collections()?;
        for object in segments {
            let Some(id) = object.strip_prefix(name::INDEX).and_then(|id| id.parse().ok()) else {
                continue;
            };
            let Some(bytes) = self.read(object)? else { continue };
            let segment = self.from.open_segment(id, &bytes)?;
            let there = lock(&self.there);
            let collections = self.from.collections();
            let mut packs = segment.packs.iter().map(|pack| pack.id);
            let lacks =
                |id: &PackId| !collections.is_dead(*id) && !there.contains_key(&name::pack(*id));
            if let Some(lacking) = packs.find(lacks) {
                return Ok(Some(lacking));
            }
        }
        Ok(None)
    }

    /// Copies objects, several at once. False: some were deleted at the first place meanwhile.
    fn all(&self, what: &str, names: &[String], objects: &Objects) -> Result<bool, SyncError> {
        self.ctx.phase(what, Some(names.len() as u64));
        let next = AtomicUsize::new(0);
        let work = || -> Result<bool, SyncError> {
            let mut whole = true;
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.one(name, objects) {
                    Ok(found) => whole &= found,
                    Err(error) => {
                        // Nobody begins another one.
                        next.store(names.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(whole)
        };
        thread::scope(|scope| {
            let others = AT_ONCE.min(names.len()).saturating_sub(1);
            let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
            others.into_iter().fold(work(), |result, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok(result? & other?)
            })
        })
    }

    /// Copies an object unless it is there. False: it is gone at the first place.
    fn one(&self, name: &str, objects: &Objects) -> Result<bool, SyncError> {
        self.ctx.check_cancelled().map_err(RepoError::from)?;
        let size = lock(&self.there).get(name).copied();
        let compare = self.options.present == Present::Compare
            || name == name::CONFIG
            || name.starts_with(name::KEYS)
            || name.starts_with(name::COLLECTIONS);
        let here = objects.sizes.get(name).copied();
        if let (Some(there), Some(here)) = (size, here)
            && !(compare && there == here)
        {
            if there != here {
                return Err(self.different(name));
            }
            lock(&self.done).present += 1;
            return Ok(true);
        }
        if let (None, Some(here), true) = (size, here, self.options.dry_run) {
            self.count(name, here);
            return Ok(true);
        }
        let Some(bytes) = self.read(name)? else { return Ok(false) };
        self.put(name, &bytes)?;
        self.ctx.report(Event::Progress { items: 1, bytes: bytes.len() as u64 });
        Ok(true)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), SyncError> {
        if lock(&self.there).contains_key(name) {
            if self.to.get(name)? != bytes {
                return Err(self.different(name));
            }
            lock(&self.done).present += 1;
            return Ok(());
        }
        if !self.options.dry_run {
            let created = self.to.create(name, bytes)?;
            if self.to.get(name)? != bytes {
                return Err(match created {
                    Created::Existed => self.different(name),
                    Created::New => {
                        SyncError::NotKept { place: self.to.place(), object: name.to_owned() }
                    }
                });
            }
        }
        self.count(name, bytes.len() as u64);
        Ok(())
    }

    fn count(&self, name: &str, bytes: u64) {
        let mut done = lock(&self.done);
        done.copied += 1;
        done.bytes += bytes;
        drop(done);
        lock(&self.there).insert(name.to_owned(), bytes);
    }

    fn different(&self, name: &str) -> SyncError {
        SyncError::Different { place: self.to.place(), object: name.to_owned() }
    }

    /// An object of the first place, if it is there; not if it is damaged.
    fn read(&self, name: &str) -> Result<Option<bytes::Bytes>, SyncError> {
        let bytes = match self.from.backend.get(name) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match self.damage(name, &bytes) {
            None => Ok(Some(bytes)),
            Some(reason) => Err(SyncError::Damaged { object: name.to_owned(), reason }),
        }
    }

    /// What is wrong with an object, as far as it tells by itself.
    fn damage(&self, name: &str, bytes: &[u8]) -> Option<String> {
        if super::check::pack_id(name).is_some() {
            let body = bytes.len().checked_sub(32);
            let is_sound = body.is_some_and(|body| {
                body > pack::HEADER && blake3::hash(&bytes[..body]).as_bytes()[..] == bytes[body..]
            });
            return (!is_sound).then(|| "its checksum is wrong".to_owned());
        }
        if let Some(id) = name.strip_prefix(name::KEYS) {
            let id: Option<KeyId> = id.parse().ok();
            return id.and_then(|id| Slot::decode(id, bytes).err()).map(|error| error.to_string());
        }
        let kind = match name.split_once('/').map_or(name, |(folder, _)| folder) {
            "config" => ObjectKind::Config,
            "index" => ObjectKind::IndexSegment,
            "sessions" => ObjectKind::Session,
            "snapshots" => ObjectKind::Snapshot,
            "gc" if name.strip_suffix(".done").is_none() => ObjectKind::Collection,
            _ => return None,
        };
        self.from.sealer.open_object(kind, name, bytes).err().map(|error| error.to_string())
    }

    /// Snapshots that are missing at the second place by the time at which they were begun: each
    /// after the one that it names as the one before it.
    fn by_age(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotId>, SyncError> {
        let mut by_age = Vec::with_capacity(ids.len());
        for id in ids {
            let session = name::session(*id);
            let mut started = Timestamp::default();
            if !lock(&self.there).contains_key(&session)
                && let Some(object) = self.read(&session)?
            {
                let kind = ObjectKind::Session;
                let record = self.from.sealer.open_object(kind, &session, &object);
                let record = record.map_err(RepoError::from)?;
                let record: SessionRecord =
                    codec::decode("session", &record).map_err(RepoError::from)?;
                started = record.started;
            }
            by_age.push((started, *id));
        }
        by_age.sort_unstable();
        Ok(by_age.into_iter().map(|(_, id)| id).collect())
    }

    /// Copies a snapshot with its session, unless it is collected meanwhile.
    fn snapshot(&self, id: SnapshotId, objects: &Objects) -> Result<(), SyncError> {
        let (session, snapshot) = (name::session(id), name::snapshot(id));
        if self.missing(&[session.clone(), snapshot.clone()]).is_empty() {
            self.one(&session, objects)?;
            self.one(&snapshot, objects)?;
        } else {
            let (Some(first), Some(second)) = (self.read(&session)?, self.read(&snapshot)?) else {
                return Ok(());
            };
            self.put(&session, &first)?;
            self.put(&snapshot, &second)?;
        }
        if objects.snapshots.forgotten.contains(&id) {
            self.one(&name::tombstone(id), objects)?;
        }
        Ok(())
    }

    /// Deletes what finished collections of the first place removed there, in their order.
    fn delete(&self, objects: &Objects) -> Result<(), SyncError> {
        self.ctx.phase("deleting what was collected", None);
        let here: BTreeSet<&String> = objects.index.iter().chain(&objects.first).collect();
        let mut gone = self.names(name::PACKS);
        gone.retain(|name| {
            super::check::pack_id(name).is_some_and(|id| self.from.collections().is_dead(id))
        });
        for folder in [name::INDEX, name::KEYS] {
            gone.extend(self.names(folder).into_iter().filter(|name| !here.contains(name)));
        }
        for folder in [name::SESSIONS, name::SNAPSHOTS, name::TOMBSTONES] {
            let is_removed = |name: &String| {
                let id = name.strip_prefix(folder).and_then(|id| id.parse().ok());
                id.is_some_and(|id| self.from.collections().removes(id))
            };
            gone.extend(self.names(folder).into_iter().filter(is_removed));
        }
        for name in gone {
            self.ctx.check_cancelled().map_err(RepoError::from)?;
            if !self.options.dry_run {
                self.to.delete(&name)?;
            }
            lock(&self.there).remove(&name);
            lock(&self.done).deleted += 1;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
