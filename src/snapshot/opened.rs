//! A snapshot that is looked into.

use std::sync::Arc;

use super::manifest::{Manifest, SourceRecord};
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::Repo;
use crate::repo::format::{FormatError, codec};
use crate::source::{Description, TreeInfo};
use crate::tree::{self, Change, Changes, Content, Shape, Tree};

/// Key of a source's header in its catalogue.
const HEADER: &[u8] = b"\0";
/// First byte of the keys of trees in a catalogue; the tree's name follows.
const TREE: u8 = 1;

/// Headers are short; what is longer comes from somewhere hostile.
const HEADER_LIMIT: u64 = 64 << 20;

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
        let trees = self.trees(source)?.into_iter().map(|record| record.info).collect();
        Ok(Description { header: self.header(source)?, trees })
    }

    /// The header of a source.
    pub fn header(&self, source: &SourceRecord) -> Result<Vec<u8>, Failure> {
        let missing = || FormatError {
            what: "catalogue",
            reason: "it has no header".to_owned(),
        };
        let value = tree::get(&*self.repo, source.catalogue, HEADER)?.ok_or_else(missing)?;
        Ok(value.content.bytes(&*self.repo, HEADER_LIMIT)?)
    }

    /// The trees of a source, sorted by name.
    pub fn trees(&self, source: &SourceRecord) -> Result<Vec<TreeRecord>, Failure> {
        tree::range(&*self.repo, source.catalogue, &[TREE])
            .map(|entry| self.tree_record(entry?))
            .collect()
    }

    /// One tree of a source.
    pub fn tree(&self, source: &SourceRecord, name: &str) -> Result<Option<TreeRecord>, Failure> {
        let key = tree_key(name);
        match tree::get(&*self.repo, source.catalogue, &key)? {
            None => Ok(None),
            Some(value) => self.tree_record(Change { key, value: Some(value) }).map(Some),
        }
    }

    fn tree_record(&self, entry: Change) -> Result<TreeRecord, Failure> {
        let bad = |reason: &str| FormatError { what: "catalogue", reason: reason.to_owned() };
        let name = entry.key.get(1..).unwrap_or_default().to_vec();
        let name = String::from_utf8(name).map_err(|_| bad("a tree's name is not UTF-8"))?;
        let value = entry.value.ok_or_else(|| bad("it holds a deletion"))?;
        let tree: Tree = codec::decode("tree reference", &value.head)?;
        let header = value.content.bytes(&*self.repo, HEADER_LIMIT)?;
        Ok(TreeRecord { info: TreeInfo { name, header, estimate: Some(tree.entries) }, tree })
    }
}

fn tree_key(name: &str) -> Vec<u8> {
    [&[TREE], name.as_bytes()].concat()
}

/// The entries of a catalogue, in order: what [`Snapshot::trees`] reads.
pub(super) fn catalogue<'a>(
    header: &[u8],
    trees: &'a [TreeRecord],
) -> Result<Changes<'a>, FormatError> {
    let mut entries = vec![Ok(Change::put(HEADER, [], Content::Inline(header.to_vec())))];
    for record in trees {
        let head = codec::encode("tree reference", &record.tree)?;
        let content = Content::Inline(record.info.header.clone());
        entries.push(Ok(Change::put(tree_key(&record.info.name), head, content)));
    }
    Ok(Box::new(entries.into_iter()))
}

/// How trees of records are cut and stored; also catalogues.
pub(super) fn record_shape(repo: &Repo) -> Shape {
    shape(repo, crate::repo::Class::Node, repo.config_ref().trees.inline_record)
}

/// How trees of files are cut and stored.
pub(super) fn file_shape(repo: &Repo) -> Shape {
    shape(repo, crate::repo::Class::Data, repo.config_ref().trees.inline_file)
}
