//! What differs between two snapshots, down to single files and records.

use super::manifest::SourceRecord;
use super::opened::{Snapshot, TreeRecord};
use super::scope::Scope;
use crate::hint::Failure;
use crate::source::{Kind, TreeInfo};
use crate::tree::{self, Difference};

/// One entry that differs.
#[derive(Debug)]
pub struct DiffItem<'a> {
    /// Which part of the application.
    pub kind: Kind,
    /// Which source.
    pub source: &'a str,
    /// Which tree, with the header that it has in the newer snapshot (the older one's, when it
    /// is gone).
    pub tree: &'a TreeInfo,
    /// The tree with the header that it has in the older snapshot (the newer one's, when it was
    /// not there yet).
    pub older: &'a TreeInfo,
    /// The entry, before and after.
    pub entry: Difference,
}

/// Calls `each` for every entry in `scope` that differs from `old` to `new`, in the order of the
/// sources, trees and keys; without an old snapshot, for every entry. Costs what differs, not what
/// there is.
pub fn diff(
    old: Option<&Snapshot>,
    new: &Snapshot,
    scope: &Scope,
    each: &mut dyn FnMut(DiffItem<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let snapshots = old.into_iter().chain([new]);
    let mut sources: Vec<(Kind, &str)> = snapshots
        .flat_map(|snapshot| &snapshot.manifest.sources)
        .map(|source| (source.kind, source.name.as_str()))
        .filter(|(kind, name)| scope.has_source(*kind, name))
        .collect();
    sources.sort_unstable();
    sources.dedup();
    for (kind, source) in sources {
        let find = |snapshot: &Snapshot| snapshot.manifest.source(kind, source).cloned();
        let (before, after) = (old.and_then(find), find(new));
        let root = |record: &Option<SourceRecord>| record.as_ref().map(|r| r.catalogue.root);
        if root(&before) == root(&after) {
            continue;
        }
        let (before, after) = (trees(new, before.as_ref())?, trees(new, after.as_ref())?);
        for (before, after) in pairs(before, after) {
            let (Some(tree), Some(older)) =
                (after.as_ref().or(before.as_ref()), before.as_ref().or(after.as_ref()))
            else {
                continue;
            };
            if !scope.has_tree(kind, source, &tree.info.name) {
                continue;
            }
            let tree_of = |record: &Option<TreeRecord>| record.as_ref().map(|record| record.tree);
            let (tree, older) = (&tree.info, &older.info);
            let (before, after) = (tree_of(&before), tree_of(&after));
            for entry in tree::differences_below(&*new.repo, before, after, scope.prefix()) {
                let entry = entry?;
                if scope.has_key(&entry.key) {
                    each(DiffItem { kind, source, tree, older, entry })?;
                }
            }
        }
    }
    Ok(())
}

fn trees(snapshot: &Snapshot, source: Option<&SourceRecord>) -> Result<Vec<TreeRecord>, Failure> {
    source.map_or(Ok(Vec::new()), |source| snapshot.trees(source))
}

/// Matches two sorted lists of trees by name.
pub(super) fn pairs(
    old: Vec<TreeRecord>,
    new: Vec<TreeRecord>,
) -> Vec<(Option<TreeRecord>, Option<TreeRecord>)> {
    let mut pairs: std::collections::BTreeMap<String, (Option<TreeRecord>, Option<TreeRecord>)> =
        std::collections::BTreeMap::new();
    for record in old {
        let name = record.info.name.clone();
        pairs.entry(name).or_default().0 = Some(record);
    }
    for record in new {
        let name = record.info.name.clone();
        pairs.entry(name).or_default().1 = Some(record);
    }
    pairs.into_values().collect()
}
