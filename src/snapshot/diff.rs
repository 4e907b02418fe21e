//! What differs between two snapshots, down to single files and records.

use super::opened::{Snapshot, TreeRecord};
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
    /// The entry, before and after.
    pub entry: Difference,
}

/// Calls `each` for every entry that differs from `old` to `new`, in the order of the sources,
/// trees and keys. Costs what differs, not what there is. `wanted` says which trees to compare.
pub fn diff(
    old: &Snapshot,
    new: &Snapshot,
    wanted: &dyn Fn(Kind, &str, &str) -> bool,
    each: &mut dyn FnMut(DiffItem<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let names = |snapshot: &Snapshot| -> Vec<(Kind, String)> {
        snapshot.manifest.sources.iter().map(|s| (s.kind, s.name.clone())).collect()
    };
    let mut sources = [names(old), names(new)].concat();
    sources.sort();
    sources.dedup();
    for (kind, source) in sources {
        let (before, after) = (trees(old, kind, &source)?, trees(new, kind, &source)?);
        for (before, after) in pairs(before, after) {
            let Some(shown) = after.as_ref().or(before.as_ref()).map(|record| &record.info) else {
                continue;
            };
            if !wanted(kind, &source, &shown.name) {
                continue;
            }
            let tree_of = |record: &Option<TreeRecord>| record.as_ref().map(|record| record.tree);
            for entry in tree::differences(&*new.repo, tree_of(&before), tree_of(&after)) {
                each(DiffItem { kind, source: &source, tree: shown, entry: entry? })?;
            }
        }
    }
    Ok(())
}

fn trees(snapshot: &Snapshot, kind: Kind, name: &str) -> Result<Vec<TreeRecord>, Failure> {
    match snapshot.manifest.source(kind, name) {
        None => Ok(Vec::new()),
        Some(source) => snapshot.trees(source),
    }
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
