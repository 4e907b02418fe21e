//! A snapshot that is looked into.

use std::sync::Arc;

use super::manifest::{Manifest, SourceRecord};
use crate::chunker::{Boundary, ChunkParams, Gear};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::format::config::Chunking;
use crate::repo::format::{FormatError, codec};
use crate::repo::{Class, Repo};
use crate::source::{Description, Kind, Parent, TreeInfo};
use crate::tree::{self, Change, Changes, Content, Shape, Tree, TreeParams, Value};

/// Key of a source's header in its catalogue.
const HEADER: &[u8] = b"\0";
/// First byte of the keys of trees in a catalogue; the tree's name follows.
const TREE: u8 = 1;
/// The same for aids: trees that are no part of what the snapshot shows.
const AID: u8 = 2;

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
            aids: infos(self.list(source, AID)?),
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
        self.list(source, TREE)
    }

    /// Everything that a source's catalogue refers to, aids too: for `check`.
    pub(super) fn all_trees(&self, source: &SourceRecord) -> Result<Vec<TreeRecord>, Failure> {
        Ok([self.list(source, TREE)?, self.list(source, AID)?].concat())
    }

    /// One tree of a source.
    pub fn tree(&self, source: &SourceRecord, name: &str) -> Result<Option<TreeRecord>, Failure> {
        self.find(source, TREE, name)
    }

    fn list(&self, source: &SourceRecord, part: u8) -> Result<Vec<TreeRecord>, Failure> {
        tree::entries(&*self.repo, source.catalogue, &[], &[part])
            .map(|entry| {
                let (key, value) = entry?;
                self.tree_record(&key, value)
            })
            .collect()
    }

    fn find(
        &self,
        source: &SourceRecord,
        part: u8,
        name: &str,
    ) -> Result<Option<TreeRecord>, Failure> {
        let key = tree_key(part, name);
        match tree::get(&*self.repo, source.catalogue, &key)? {
            None => Ok(None),
            Some(value) => self.tree_record(&key, value).map(Some),
        }
    }

    fn tree_record(&self, key: &[u8], value: Value) -> Result<TreeRecord, Failure> {
        let name = key.get(1..).unwrap_or_default().to_vec();
        let name = String::from_utf8(name).map_err(|_| bad("a tree's name is not UTF-8"))?;
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

impl ParentSource<'_> {
    pub(super) fn tree(&self, name: &str) -> Result<Option<Tree>, Failure> {
        let found = match self.snapshot.find(self.source, TREE, name)? {
            Some(record) => Some(record),
            None => self.snapshot.find(self.source, AID, name)?,
        };
        Ok(found.map(|record| record.tree))
    }
}

impl Parent for ParentSource<'_> {
    fn entries(&self, tree: &str) -> Result<Option<Changes<'_>>, Failure> {
        let tree = self.tree(tree)?;
        Ok(tree.map(|tree| tree::range(&*self.snapshot.repo, tree, &[])))
    }
}

fn bad(reason: &str) -> FormatError {
    FormatError { what: "catalogue", reason: reason.to_owned() }
}

fn tree_key(part: u8, name: &str) -> Vec<u8> {
    [&[part], name.as_bytes()].concat()
}

/// The entries of a catalogue, in order: what [`Snapshot::trees`] reads.
pub(super) fn catalogue(
    header: &[u8],
    trees: &[TreeRecord],
    aids: &[TreeRecord],
) -> Result<Changes<'static>, FormatError> {
    let mut entries = vec![Ok(Change::put(HEADER, [], Content::Inline(header.to_vec())))];
    let parts = [(TREE, trees), (AID, aids)];
    for (part, record) in
        parts.iter().flat_map(|(part, records)| records.iter().map(|r| (*part, r)))
    {
        let head = codec::encode("tree reference", &record.tree)?;
        let content = Content::Inline(record.info.header.clone());
        entries.push(Ok(Change::put(tree_key(part, &record.info.name), head, content)));
    }
    Ok(Box::new(entries.into_iter()))
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
