//! A snapshot that is looked into.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capture::{SIZES, Sizes};
use super::manifest::{Manifest, SourceRecord};
use crate::chunker::{Boundary, ChunkParams, Gear};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::format::config::Chunking;
use crate::repo::format::{FormatError, codec};
use crate::repo::{Class, Repo};
use crate::source::{Description, Kind, LEFT_OUT, LIST, OWNERS, Owners, Parent, Source, TreeInfo};
use crate::tree::{self, Change, Changes, Content, Shape, Tree, TreeParams, Value};

/// Key of a source's header in its catalogue.
const HEADER: &[u8] = b"\0";
/// First byte of the keys of trees in a catalogue, and of aids in that of what helps; the tree's
/// name follows.
pub(super) const TREE: u8 = 1;
/// First byte of the keys of notes in the catalogue of what helps; the note's name follows.
const NOTE: u8 = 2;

/// Headers are short; what is longer comes from somewhere hostile.
const HEADER_LIMIT: usize = 64 << 20;

/// A committed snapshot with the repository that holds it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The repository.
    pub repo: Arc<Repo>,
    /// Its name.
    pub id: SnapshotId,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// One tree of a source, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRecord {
    /// What it is.
    pub info: TreeInfo,
    /// Its entries.
    pub tree: Tree,
}

impl Snapshot {
    /// What a source was when it was captured.
    pub fn description(&self, source: &SourceRecord) -> Result<Description, Failure> {
        let infos = |records: Vec<TreeRecord>| records.into_iter().map(|r| r.info).collect();
        Ok(Description {
            header: self.header(source)?,
            trees: infos(self.trees(source)?),
            aids: infos(self.list(source.help)?),
            notes: self.notes(source)?,
        })
    }

    /// The header of a source.
    pub fn header(&self, source: &SourceRecord) -> Result<Vec<u8>, Failure> {
        let missing = || bad("it has no header");
        let value = tree::get(&*self.repo, source.catalogue, HEADER)?.ok_or_else(missing)?;
        Ok(value.content.bytes(&*self.repo, HEADER_LIMIT)?)
    }

    /// The trees of a source, sorted by name.
    pub fn trees(&self, source: &SourceRecord) -> Result<Vec<TreeRecord>, Failure> {
        self.list(source.catalogue)
    }

    /// What others said about a source when it was captured.
    pub fn notes(&self, source: &SourceRecord) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
        tree::entries(&*self.repo, source.help, &[], &[NOTE])
            .map(|entry| {
                let (key, value) = entry?;
                Ok((name(&key)?, value.content.bytes(&*self.repo, HEADER_LIMIT)?))
            })
            .collect()
    }

    /// The names of the owners and groups of a source's files; none where the snapshot is from a
    /// package or from a version that did not keep them.
    pub fn owners(&self, source: &SourceRecord) -> Result<Owners, Failure> {
        let mut owners = Owners::default();
        if let Some(record) = self.find(source.help, OWNERS)? {
            for entry in tree::entries(&*self.repo, record.tree, &[], &[]) {
                let (key, value) = entry?;
                owners.insert(&key, &value.content.bytes(&*self.repo, HEADER_LIMIT)?);
            }
        }
        Ok(owners)
    }

    /// What was named one by one, where a source is a list of files: the keys.
    pub fn list_of_files(&self, source: &SourceRecord) -> Result<Option<Changes<'_>>, Failure> {
        let record = self.find(source.help, LIST)?;
        Ok(record.map(|record| tree::range(&*self.repo, record.tree, &[])))
    }

    /// What was left out for what was found, where a source may have done that: the keys of files
    /// that were too large, and of tagged folders with the names of their tags.
    pub fn left_out(&self, source: &SourceRecord) -> Result<Option<Changes<'_>>, Failure> {
        let record = self.find(source.help, LEFT_OUT)?;
        Ok(record.map(|record| tree::range(&*self.repo, record.tree, &[])))
    }

    /// Everything that a source's catalogue refers to, aids too: for `check`.
    pub(super) fn all_trees(&self, source: &SourceRecord) -> Result<Vec<TreeRecord>, Failure> {
        Ok([self.trees(source)?, self.aids(source)?].concat())
    }

    /// What only helps the next capture.
    pub fn aids(&self, source: &SourceRecord) -> Result<Vec<TreeRecord>, Failure> {
        self.list(source.help)
    }

    /// One of them by its name.
    pub(super) fn aid(&self, source: &SourceRecord, name: &str) -> Result<Option<Tree>, Failure> {
        Ok(self.find(source.help, name)?.map(|record| record.tree))
    }

    /// One tree of a source.
    pub fn tree(&self, source: &SourceRecord, name: &str) -> Result<Option<TreeRecord>, Failure> {
        self.find(source.catalogue, name)
    }

    fn list(&self, catalogue: Tree) -> Result<Vec<TreeRecord>, Failure> {
        tree::entries(&*self.repo, catalogue, &[], &[TREE])
            .map(|entry| {
                let (key, value) = entry?;
                self.tree_record(&key, value)
            })
            .collect()
    }

    fn find(&self, catalogue: Tree, name: &str) -> Result<Option<TreeRecord>, Failure> {
        let key = key_of(TREE, name);
        match tree::get(&*self.repo, catalogue, &key)? {
            None => Ok(None),
            Some(value) => self.tree_record(&key, value).map(Some),
        }
    }

    fn tree_record(&self, key: &[u8], value: Value) -> Result<TreeRecord, Failure> {
        let name = name(key)?;
        let tree: Tree = codec::decode("tree reference", &value.head)?;
        let header = value.content.bytes(&*self.repo, HEADER_LIMIT)?;
        Ok(TreeRecord { info: TreeInfo { name, header, estimate: Some(tree.entries) }, tree })
    }
}

/// A source of an earlier snapshot, as the source itself may look at it.
pub(super) struct ParentSource<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) source: &'a SourceRecord,
}

/// What `source` was in a snapshot, if it was in it.
pub(super) fn parent_source<'a>(
    snapshot: Option<&'a Snapshot>,
    source: &dyn Source,
) -> Option<ParentSource<'a>> {
    let snapshot = snapshot?;
    let source = snapshot.manifest.source(source.kind(), source.name())?;
    Some(ParentSource { snapshot, source })
}

/// How many bytes of records each tree of a source had.
pub(super) fn sizes(parent: &ParentSource<'_>) -> Result<Sizes, Failure> {
    let notes = parent.snapshot.notes(parent.source)?;
    let note = notes.get(SIZES);
    // Without the note, or with one of a later version, nothing can be said.
    Ok(note.and_then(|note| serde_json::from_slice(note).ok()).unwrap_or_default())
}

/// The note that [`sizes`] reads.
#[expect(clippy::expect_used, reason = "names and numbers have a JSON form")]
pub(super) fn sizes_note(sizes: &Sizes) -> Vec<u8> {
    serde_json::to_vec(sizes).expect("a map with text as keys")
}

impl ParentSource<'_> {
    pub(super) fn tree(&self, name: &str) -> Result<Option<Tree>, Failure> {
        let found = match self.snapshot.find(self.source.catalogue, name)? {
            Some(record) => Some(record),
            None => self.snapshot.find(self.source.help, name)?,
        };
        Ok(found.map(|record| record.tree))
    }
}

impl Parent for ParentSource<'_> {
    fn description(&self) -> Result<Description, Failure> {
        self.snapshot.description(self.source)
    }

    fn entries(&self, tree: &str) -> Result<Option<Changes<'_>>, Failure> {
        let tree = self.tree(tree)?;
        Ok(tree.map(|tree| tree::range(&*self.snapshot.repo, tree, &[])))
    }

    fn count(&self, tree: &str) -> Result<Option<u64>, Failure> {
        Ok(self.tree(tree)?.map(|tree| tree.entries))
    }
}

/// The name in a key of a catalogue.
fn name(key: &[u8]) -> Result<String, FormatError> {
    let name = key.get(1..).unwrap_or_default().to_vec();
    String::from_utf8(name).map_err(|_| bad("a name is not UTF-8"))
}

fn bad(reason: &str) -> FormatError {
    FormatError { what: "catalogue", reason: reason.to_owned() }
}

fn key_of(part: u8, name: &str) -> Vec<u8> {
    [&[part], name.as_bytes()].concat()
}

/// The entries of a catalogue, in order: what [`Snapshot::trees`] reads.
pub(super) fn catalogue(
    header: &[u8],
    trees: &[TreeRecord],
) -> Result<Changes<'static>, FormatError> {
    let header = Change::put(HEADER, [], Content::Inline(header.to_vec()));
    let trees = trees.iter().map(tree_entry).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(std::iter::once(header).chain(trees).map(Ok)))
}

/// The same of what helps: what [`Snapshot::notes`] and the next capture read.
pub(super) fn help(
    aids: &[TreeRecord],
    notes: &BTreeMap<String, Vec<u8>>,
) -> Result<Changes<'static>, FormatError> {
    let aids = aids.iter().map(tree_entry).collect::<Result<Vec<_>, _>>()?;
    let note = |(name, note): (&String, &Vec<u8>)| {
        Change::put(key_of(NOTE, name), [], Content::Inline(note.clone()))
    };
    let notes: Vec<Change> = notes.iter().map(note).collect();
    Ok(Box::new(aids.into_iter().chain(notes).map(Ok)))
}

fn tree_entry(record: &TreeRecord) -> Result<Change, FormatError> {
    let head = codec::encode("tree reference", &record.tree)?;
    let content = Content::Inline(record.info.header.clone());
    Ok(Change::put(key_of(TREE, &record.info.name), head, content))
}

/// How the trees of a kind of source are cut and stored. Catalogues are cut as databases are.
pub(super) fn shape(repo: &Repo, kind: Kind) -> Result<Shape, Failure> {
    let (config, sealer) = (repo.config(), repo.sealer());
    let Chunking { whole, min, avg, max } = config.chunking;
    let (class, inline) = match kind {
        Kind::Database => (Class::Node, config.trees.inline_record),
        Kind::Storage | Kind::Configuration => (Class::Data, config.trees.inline_file),
    };
    let params = TreeParams::new(config.trees.leaf, config.trees.fan_out, inline)?;
    let chunks = ChunkParams::new(min, avg, max, whole)?;
    let gear = Arc::new(Gear::new(&sealer.gear_key()));
    let shape = Shape::new(Boundary::new(&sealer.boundary_key()), gear, params, chunks)?;
    Ok(shape.with_content(class))
}
