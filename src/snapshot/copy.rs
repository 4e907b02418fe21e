//! Snapshots copied into another repository, with other keys and other parameters.
//!
//! Ids of chunks and cut points are keyed, so nothing can be taken over as it is stored. What
//! changed between two snapshots there is what changes the copy of the first into the copy of the
//! second here: the source's difference is the target's edit, and only contents that differ are
//! read. The copy is what a backup of the same sources into that repository would have given: it
//! has the same trees, and shares all its chunks with such backups.

use std::collections::HashMap;
use std::sync::Arc;

use super::manifest::{Manifest, Origin, SourceRecord};
use super::opened::{self, Snapshot, TreeRecord};
use super::timeline::{Filter, Timeline};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure, Hint};
use crate::id::{RepoId, SnapshotId};
use crate::repo::format::{FormatError, codec};
use crate::repo::{Compression, Repo, Session};
use crate::source::{Kind, POSITION, display_key};
use crate::tree::{self, Change, Changes, Content, Difference, Sought, Tree};

/// Streams that are read back together.
const READ_BACK: usize = 4096;

/// Why snapshots cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The two places hold one repository.
    #[error("{place} is the same repository")]
    Same {
        /// The place of the target.
        place: String,
    },
    /// The copy does not show what the original shows; it was not committed.
    #[error("the copy of snapshot {} reads back otherwise at {path}", id.short())]
    Differs {
        /// The original.
        id: SnapshotId,
        /// Which entry.
        path: String,
    },
}

impl Hint for CopyError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Same { .. } => ErrorKind::Usage,
            Self::Differs { .. } => ErrorKind::Damage,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Same { .. } => {
                "`coeval sync` brings a second place of one repository up to date".to_owned()
            }
            Self::Differs { .. } => {
                "test this machine's memory; then run `coeval check --read-data` on both".to_owned()
            }
        })
    }
}

/// Copies snapshots of one repository into another; knows what is there.
#[derive(Debug)]
pub struct Copier {
    from: Arc<Repo>,
    to: Arc<Repo>,
    timeline: Timeline,
    /// What the target has, by what it is a copy of.
    there: HashMap<Identity, (SnapshotId, Manifest)>,
}

/// What a snapshot is called wherever it is copied to: its first name in its first repository.
type Identity = (RepoId, SnapshotId);

fn identity(repo: &Repo, (id, manifest): &(SnapshotId, Manifest)) -> Identity {
    let here = (repo.config().id, manifest.later.original.unwrap_or(*id));
    manifest.later.origin.map_or(here, |origin| (origin.repository, origin.snapshot))
}

/// A tree of a snapshot and its copy, where there is one.
type Pair = Option<(Tree, Tree)>;

impl Copier {
    /// For copies of snapshots in `from` into `to`. Both are read only.
    pub fn new(from: &Arc<Repo>, to: &Arc<Repo>) -> Result<Self, Failure> {
        if from.config().id == to.config().id {
            return Err(CopyError::Same { place: to.place() }.into());
        }
        let all = Filter::default();
        let timeline = Timeline::load(from)?;
        let copies = Timeline::load(to)?;
        let there = copies.iter(&all).map(|copy| (identity(to, copy), copy.clone())).collect();
        Ok(Self { from: Arc::clone(from), to: Arc::clone(to), timeline, there })
    }

    /// The copy of a snapshot, if the target has it: also under other tags, and also if the
    /// snapshot is itself a copy of one that is there.
    pub fn present(&self, snapshot: &(SnapshotId, Manifest)) -> Option<SnapshotId> {
        self.there.get(&identity(&self.from, snapshot)).map(|(id, _)| *id)
    }

    /// Copies a snapshot, reads back what was written, compares it with the original, and commits
    /// it: time, host, application, tags, protection and reason are those of the original. Where
    /// its parent or an earlier snapshot of the same application and host has been copied, only
    /// what differs from that is read and written.
    pub fn copy(
        &mut self,
        chosen: &(SnapshotId, Manifest),
        ctx: &Context,
    ) -> Result<Snapshot, Failure> {
        let (_, manifest) = chosen;
        let original = open(&self.from, chosen);
        let base = self.base(chosen)?;
        let (repository, snapshot) = identity(&self.from, chosen);
        let (to, from) = (&self.to, &self.from);
        let parent = manifest.parent.and_then(|parent| self.timeline.find(parent));
        let parent = parent.and_then(|parent| self.present(parent));
        let copy = to.write(Compression::Auto, ctx, |session| {
            if let Some((_, base)) = &base {
                session.rely_on(base.id)?;
            }
            let mut sources = Vec::new();
            for source in &manifest.sources {
                let one = OneSource { from, to, original: &original, source, base: &base, ctx };
                sources.push(one.copy(session)?);
            }
            session.flush()?;
            let pairing = pairing(&manifest.sources, &sources)?;
            let origin = Origin { repository, snapshot, pairing };
            let manifest = manifest.copied(origin, parent, sources, session.written());
            let copy = open(to, &(session.id(), manifest));
            for source in &original.manifest.sources {
                let one = OneSource { from, to, original: &original, source, base: &base, ctx };
                one.compare(&copy)?;
            }
            session.commit(&copy.manifest.encode()?)?;
            Ok(copy)
        })?;
        self.there.insert((repository, snapshot), (copy.id, copy.manifest.clone()));
        Ok(copy)
    }

    /// An earlier snapshot and its copy, neither of which was rewritten since: the parent, or the
    /// newest of the same application and host.
    fn base(
        &self,
        (id, manifest): &(SnapshotId, Manifest),
    ) -> Result<Option<(Snapshot, Snapshot)>, Failure> {
        let of_host = Filter {
            host: Some(manifest.host.clone()),
            application: Some(manifest.application.clone()),
            until: Some(manifest.time),
            ..Filter::default()
        };
        let parent = manifest.parent.and_then(|parent| self.timeline.find(parent));
        for candidate in parent.into_iter().chain(self.timeline.iter(&of_host).rev()) {
            let copy = self.there.get(&identity(&self.from, candidate));
            let Some(copy) = copy.filter(|_| candidate.0 != *id) else { continue };
            let now = pairing(&candidate.1.sources, &copy.1.sources)?;
            if copy.1.later.origin.is_some_and(|origin| origin.pairing == now) {
                return Ok(Some((open(&self.from, candidate), open(&self.to, copy))));
            }
        }
        Ok(None)
    }
}

fn open(repo: &Arc<Repo>, (id, manifest): &(SnapshotId, Manifest)) -> Snapshot {
    Snapshot { repo: Arc::clone(repo), id: *id, manifest: manifest.clone() }
}

fn pairing(of: &[SourceRecord], copy: &[SourceRecord]) -> Result<[u8; 32], FormatError> {
    let bytes = codec::encode("sources of a copy", &(of, copy))?;
    Ok(*blake3::hash(&bytes).as_bytes())
}

/// One source of the snapshot that is copied.
struct OneSource<'a> {
    from: &'a Arc<Repo>,
    to: &'a Arc<Repo>,
    original: &'a Snapshot,
    source: &'a SourceRecord,
    base: &'a Option<(Snapshot, Snapshot)>,
    ctx: &'a Context,
}

impl OneSource<'_> {
    /// Writes the source's trees, and gives what the copy's manifest says of it.
    fn copy(&self, session: &Session<'_, '_, '_>) -> Result<SourceRecord, Failure> {
        let Self { original, source, .. } = self;
        let what = format!("copying {}", self.place(""));
        self.ctx.phase(what, Some(source.entries));
        let trees = self.copy_all(original.trees(source)?, session)?;
        let aids = self.copy_all(original.aids(source)?, session)?;
        // How far a log was read says nothing to who backs up into another repository.
        let mut notes = original.notes(source)?;
        notes.remove(POSITION);
        let header = original.header(source)?;
        let shape = opened::shape(self.to, Kind::Database)?;
        let store = |changes| tree::edit(&**self.to, session, &shape, None, changes);
        Ok(SourceRecord {
            catalogue: store(opened::catalogue(&header, &trees)?)?,
            help: store(opened::help(&aids, &notes)?)?,
            ..(*source).clone()
        })
    }

    fn copy_all(
        &self,
        mut records: Vec<TreeRecord>,
        session: &Session<'_, '_, '_>,
    ) -> Result<Vec<TreeRecord>, Failure> {
        let shape = opened::shape(self.to, self.source.kind)?;
        for record in &mut records {
            let base = self.base_of(&record.info.name)?;
            let old = base.map(|(old, _)| old);
            let changes = tree::diff(&**self.from, old, Some(record.tree));
            let changes: Changes<'_> = Box::new(changes.map(|change| {
                self.ctx.check_cancelled()?;
                let Change { key, value } = change?;
                let bytes = value.as_ref().map_or(0, |value| value.content.length());
                self.ctx.report(crate::report::Event::Progress { items: 1, bytes });
                Ok(Change { key, value: value.map(|value| value.opened(self.from)) })
            }));
            let copy = base.map(|(_, copy)| copy);
            record.tree = tree::edit(&**self.to, session, &shape, copy, changes)?;
        }
        Ok(records)
    }

    /// The tree of this name in the base, and its copy.
    fn base_of(&self, name: &str) -> Result<Pair, Failure> {
        let Some((old, copy)) = self.base else { return Ok(None) };
        let find = |snapshot: &Snapshot| -> Result<Option<Tree>, Failure> {
            let Some(source) = snapshot.manifest.source(self.source.kind, &self.source.name) else {
                return Ok(None);
            };
            match snapshot.tree(source, name)? {
                Some(record) => Ok(Some(record.tree)),
                None => snapshot.aid(source, name),
            }
        };
        Ok(find(old)?.zip(find(copy)?))
    }

    /// Reads back what the copy has that its base has not, and compares it with the original.
    /// Contents are compared by their chunks: each was hashed when it was read there, is hashed
    /// again here, and was named by the bytes that came from there.
    fn compare(&self, copy: &Snapshot) -> Result<(), Failure> {
        let Self { original, source, .. } = self;
        self.ctx.phase(format!("reading back {}", self.place("")), None);
        let copied = copy.manifest.source(source.kind, &source.name);
        let copied = copied.ok_or_else(|| self.differs(""))?;
        let of = [original.trees(source)?, original.aids(source)?].concat();
        let copies = [copy.trees(copied)?, copy.aids(copied)?].concat();
        let same_header = copy.header(copied)? == original.header(source)?;
        if of.len() != copies.len() || !same_header {
            return Err(self.differs("").into());
        }
        for (of, copy) in of.iter().zip(&copies) {
            if of.info != copy.info || of.tree.entries != copy.tree.entries {
                return Err(self.differs(&of.info.name).into());
            }
            self.compare_trees(of, copy)?;
        }
        Ok(())
    }

    fn compare_trees(&self, of: &TreeRecord, copy: &TreeRecord) -> Result<(), Failure> {
        let (base, base_copy) = self.base_of(&of.info.name)?.unzip();
        let mut expected = tree::differences(&**self.from, base, Some(of.tree));
        let mut sought = Vec::new();
        for found in tree::differences(&**self.to, base_copy, Some(copy.tree)) {
            self.ctx.check_cancelled()?;
            let found = found?;
            let wanted = expected.next().transpose()?;
            if !wanted.is_some_and(|wanted| is_same(&wanted, &found)) {
                return Err(self.differs_at(of, &found.key).into());
            }
            if let Some(Content::Stored(stream)) = found.new.map(|value| value.content) {
                sought.push(Sought { stream, basis: None });
            }
            if sought.len() == READ_BACK {
                self.read_back(&std::mem::take(&mut sought))?;
            }
        }
        if let Some(wanted) = expected.next().transpose()? {
            return Err(self.differs_at(of, &wanted.key).into());
        }
        self.read_back(&sought)
    }

    /// Every chunk is hashed where it is read.
    fn read_back(&self, sought: &[Sought<'_>]) -> Result<(), Failure> {
        tree::fetch(&**self.to, sought, self.ctx.jobs, &|_, _| Ok(self.ctx.check_cancelled()?))
            .map(drop)
    }

    fn place(&self, rest: &str) -> String {
        [self.source.kind.as_str(), &self.source.name, rest]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("/")
    }

    fn differs(&self, rest: &str) -> CopyError {
        CopyError::Differs { id: self.original.id, path: self.place(rest) }
    }

    fn differs_at(&self, tree: &TreeRecord, key: &[u8]) -> CopyError {
        let name = &tree.info.name;
        self.differs(&[name.as_str(), &display_key(key)].join("/"))
    }
}

/// Whether two trees, of different repositories, differ from their bases in the same way here.
fn is_same(wanted: &Difference, found: &Difference) -> bool {
    let same_value = match (&wanted.new, &found.new) {
        (Some(wanted), Some(found)) => {
            let same_content = match (&wanted.content, &found.content) {
                (Content::Inline(wanted), Content::Inline(found)) => wanted == found,
                (wanted, found) => wanted.length() == found.length(),
            };
            wanted.head == found.head && same_content
        }
        (None, None) => true,
        _ => false,
    };
    wanted.key == found.key && same_value
}
