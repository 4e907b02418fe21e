//! Making and opening a repository.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::collections::Collections;
use super::error::RepoError;
use super::format::config::Config;
use super::format::name;
use super::format::segment::Segment;
use super::read::{self, BlockCache, Decoders};
use super::remember::Memory;
use super::view::View;
use crate::backend::{self, Backend, Cached, Created};
use crate::context::Context;
use crate::crypto::{
    self, KdfCost, MasterKey, ObjectKind, Protection, Sealer, Slot, Unlock, random,
};
use crate::hint::Failure;
use crate::id::{RepoId, SegmentId};
use crate::report::Event;

/// Unknown index segments from which on reading them is a phase of its own.
const WORTH_TELLING: usize = 16;

/// An open repository.
#[derive(Debug)]
pub struct Repo {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) sealer: Sealer,
    pub(super) master: Option<MasterKey>,
    pub(super) config: Config,
    pub(super) view: View,
    pub(super) blocks: BlockCache,
    pub(super) decoders: Decoders,
    pub(super) collections: Mutex<Collections>,
    pub(super) memory: Memory,
}

/// How an encrypted repository is opened.
#[derive(Clone, Copy)]
pub enum Unlocking<'a> {
    /// With this; a repository that says it is not encrypted is refused.
    Given(&'a Unlock),
    /// By asking, only if it is encrypted.
    Ask(&'a dyn Fn() -> Result<Unlock, Failure>),
}

impl std::fmt::Debug for Unlocking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given(_) => "Given",
            Self::Ask(_) => "Ask",
        })
    }
}

/// A key slot to make.
#[derive(Debug)]
pub struct NewKey {
    /// What will open it.
    pub unlock: Unlock,
    /// What people will see in `key list`.
    pub label: String,
    /// What trying a password costs.
    pub cost: KdfCost,
}

impl Repo {
    /// Makes a repository. Without keys it is not encrypted: whoever can read the store can read
    /// every snapshot, and tell whether it holds a certain file.
    ///
    /// The configuration is written last: until then there is no repository.
    pub fn init(backend: &dyn Backend, keys: &[NewKey], ctx: &Context) -> Result<(), RepoError> {
        let exists = || RepoError::Exists { place: backend.place() };
        match backend.get(name::CONFIG) {
            Ok(_) => return Err(exists()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        // Whatever lies here without a configuration may be a repository that lost it, and its
        // key slots are the only copies of its master key.
        for folder in [name::KEYS, name::PACKS, name::SNAPSHOTS] {
            if let Some(leftover) = backend.list(folder)?.first() {
                let object = leftover.name.clone();
                return Err(RepoError::NotEmpty { place: backend.place(), object });
            }
        }
        backend::probe(backend)?;
        let now = ctx.clock.now();
        let config = Config::new(RepoId::new(random()?), now);
        let sealer = if keys.is_empty() {
            Sealer::plain(config.id)
        } else {
            let master = MasterKey::generate()?;
            for key in keys {
                let slot = Slot::create(&key.unlock, &master, &key.label, now, key.cost)?;
                backend.create(&name::key(slot.id()), &slot.encode())?;
            }
            Sealer::encrypted(&master, config.id)
        };
        let object = sealer.seal_object(ObjectKind::Config, name::CONFIG, &config.encode()?)?;
        match backend.create(name::CONFIG, &object)? {
            Created::New => Ok(()),
            // Ours, if the answer to an earlier try was lost.
            Created::Existed if backend.get(name::CONFIG)? == object => Ok(()),
            Created::Existed => Err(exists()),
        }
    }

    /// Opens a repository. The view of the index is kept under `cache`, and what is read often of
    /// a store that is far away.
    pub fn open(
        backend: Arc<dyn Backend>,
        unlock: &Unlocking<'_>,
        cache: &Path,
    ) -> Result<Self, Failure> {
        let object = match backend.get(name::CONFIG) {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                return Err(RepoError::NoRepository { place: backend.place() }.into());
            }
            Err(error) => return Err(RepoError::from(error).into()),
        };
        let master = Self::master(&*backend, &object, unlock)?;
        let (config, sealer) = Self::open_config(&object, master.as_ref())?;
        let folder = cache.join(config.id.to_string());
        let present = segment_ids(&*backend)?;
        let view = View::open(&folder.join("index"), &present)?;
        let backend: Arc<dyn Backend> = match backend.worth_keeping() {
            0 => backend,
            limit => Arc::new(Cached::new(backend, folder.join("objects"), limit)),
        };
        let memory = Memory::new(folder);
        let (blocks, decoders) = (read::block_cache(), Decoders::default());
        let collections = Mutex::default();
        let repo =
            Self { backend, sealer, master, config, view, blocks, decoders, collections, memory };
        repo.learn_collections_if_sound()?;
        Ok(repo)
    }

    /// The master key of an encrypted repository. The configuration's word that it is not
    /// encrypted is not believed against a key or a key slot: whoever can write to the store
    /// could have replaced it, to read what is written next.
    fn master(
        backend: &dyn Backend,
        config: &[u8],
        unlock: &Unlocking<'_>,
    ) -> Result<Option<MasterKey>, Failure> {
        let slots = Self::slots(backend)?;
        let claimed = Sealer::claimed_protection(name::CONFIG, config).map_err(RepoError::from)?;
        let plain = claimed == Protection::Plain && slots.is_empty();
        let asked;
        let key = match unlock {
            Unlocking::Given(_) if plain => return Err(RepoError::UnexpectedlyPlain.into()),
            _ if plain => return Ok(None),
            Unlocking::Given(key) => key,
            Unlocking::Ask(ask) => {
                asked = ask()?;
                &asked
            }
        };
        Ok(Some(crypto::unlock(&slots, key).map_err(RepoError::from)?))
    }

    fn open_config(
        object: &[u8],
        master: Option<&MasterKey>,
    ) -> Result<(Config, Sealer), RepoError> {
        let sealer = |id| match master {
            Some(master) => Sealer::encrypted(master, id),
            None => Sealer::plain(id),
        };
        let unbound = sealer(RepoId::new([0; RepoId::LEN]));
        let bytes = unbound.open_object(ObjectKind::Config, name::CONFIG, object)?;
        let config = Config::decode(&bytes)?;
        let sealer = sealer(config.id);
        Ok((config, sealer))
    }

    /// The repository's parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Keys for chunking, ids and seals.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Where the repository is, as the user wrote it.
    pub fn place(&self) -> String {
        self.backend.place()
    }

    /// Reads the index segments that this host does not know yet.
    pub fn refresh(&self) -> Result<(), RepoError> {
        self.refresh_telling(&Context::new())
    }

    /// [`Repo::refresh`] of someone who waits for it: after a loss of the cache, reading the whole
    /// index of a large repository takes minutes.
    pub fn refresh_telling(&self, ctx: &Context) -> Result<(), RepoError> {
        // In this order: what a finished collection copied is in segments that are there now.
        self.learn_collections_if_sound()?;
        let missing = self.view.missing(segment_ids(&*self.backend)?);
        if missing.is_empty() {
            return Ok(());
        }
        let telling = missing.len() >= WORTH_TELLING;
        if telling {
            ctx.phase("reading the index", Some(missing.len() as u64));
        }
        let mut intake = self.view.intake()?;
        for id in missing {
            ctx.check_cancelled()?;
            // Another thread may have read it since.
            if intake.knows(id) {
                continue;
            }
            match self.backend.get(&name::segment(id)) {
                Ok(object) => {
                    intake.add(id, &self.open_segment(id, &object)?)?;
                    if telling {
                        ctx.report(Event::Progress { items: 1, bytes: object.len() as u64 });
                    }
                }
                // Superseded by another since the listing.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        intake.finish()
    }

    pub(super) fn open_segment(&self, id: SegmentId, object: &[u8]) -> Result<Segment, RepoError> {
        let name = name::segment(id);
        let bytes = self.sealer.open_object(ObjectKind::IndexSegment, &name, object)?;
        Ok(Segment::decode(&bytes)?)
    }
}

/// The ids of all index segments.
pub(super) fn segment_ids(backend: &dyn Backend) -> Result<HashSet<SegmentId>, RepoError> {
    let entries = backend.list(name::INDEX)?;
    Ok(entries
        .iter()
        .filter_map(|entry| entry.name.strip_prefix(name::INDEX)?.parse().ok())
        .collect())
}
