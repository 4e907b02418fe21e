//! A committed snapshot as the [`Contents`] of a package.

use std::sync::Arc;

use super::contents::{Contents, Facts, Skipped, SourceFacts};
use super::django::NOTE as DJANGO;
use crate::hint::{ErrorKind, Failure};
use crate::snapshot::{Snapshot, SourceRecord};
use crate::source::{Kind, TreeInfo};
use crate::tree::{self, Change, Changes};

/// A snapshot, ready to be exported.
#[derive(Debug)]
pub struct SnapshotContents {
    snapshot: Snapshot,
    facts: Facts,
}

impl SnapshotContents {
    /// Opens a snapshot.
    pub fn new(snapshot: Snapshot) -> Result<Self, Failure> {
        let manifest = &snapshot.manifest;
        let sources = manifest.sources.iter().map(|source| {
            Ok(SourceFacts {
                kind: source.kind,
                name: source.name.clone(),
                header: snapshot.header(source)?,
                root: Some(source.catalogue.root.to_string()),
            })
        });
        let mut sources = sources.collect::<Result<Vec<_>, Failure>>()?;
        sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let unlisted = (manifest.unlisted > 0).then(|| Skipped {
            item: "…".to_owned(),
            reason: format!("{} more, which the snapshot does not list", manifest.unlisted),
        });
        let facts = Facts {
            snapshot: snapshot.id.to_string(),
            time: manifest.time,
            host: manifest.host.clone(),
            application: manifest.application.clone(),
            root: manifest.root_hash(),
            instant: manifest.instant.to_string(),
            skipped: manifest
                .skipped
                .iter()
                .map(|skipped| Skipped {
                    item: skipped.item.clone(),
                    reason: skipped.reason.clone(),
                })
                .chain(unlisted)
                .collect(),
            sources,
        };
        Ok(Self { snapshot, facts })
    }

    fn source(&self, kind: Kind, name: &str) -> Result<&SourceRecord, Failure> {
        self.snapshot.manifest.source(kind, name).ok_or_else(|| absent(kind, name))
    }

    /// The entries of a tree, readable without the repository.
    fn entries<'a>(&'a self, kind: Kind, name: &str, tree: &str) -> Result<Changes<'a>, Failure> {
        let source = self.source(kind, name)?;
        let tree = self.snapshot.tree(source, tree)?.ok_or_else(|| absent(kind, tree))?.tree;
        let entries = tree::range(&*self.snapshot.repo, tree, &[]);
        Ok(Box::new(entries.map(|change| {
            let Change { key, value } = change?;
            let value = value.map(|value| value.opened(&Arc::clone(&self.snapshot.repo)));
            Ok(Change { key, value })
        })))
    }
}

fn absent(kind: Kind, name: &str) -> Failure {
    let text = format!("the snapshot has no {} {name}", kind.as_str());
    Failure::message(ErrorKind::Failed, text, Some("see what it has with `coeval ls`".to_owned()))
}

impl Contents for SnapshotContents {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn tables(&self, database: &str) -> Result<Vec<TreeInfo>, Failure> {
        let trees = self.snapshot.trees(self.source(Kind::Database, database)?)?;
        Ok(trees.into_iter().map(|record| record.info).collect())
    }

    fn records<'a>(&'a self, database: &str, table: &str) -> Result<Changes<'a>, Failure> {
        self.entries(Kind::Database, database, table)
    }

    fn files<'a>(&'a self, kind: Kind, name: &str) -> Result<Changes<'a>, Failure> {
        self.entries(kind, name, "")
    }

    fn introspection(&self, database: &str) -> Result<Option<String>, Failure> {
        let mut notes = self.snapshot.notes(self.source(Kind::Database, database)?)?;
        let said = notes.remove(DJANGO);
        Ok(said.map(|said| String::from_utf8_lossy(&said).into_owned()))
    }
}
