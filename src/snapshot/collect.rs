//! Collecting what no snapshot needs: here is what a snapshot needs.

use std::sync::Arc;

use super::manifest::Manifest;
use super::opened::Snapshot;
use crate::context::Context;
use crate::hint::Failure;
use crate::repo::{
    CollectOptions, CollectedBytes, CollectionPlan, EachNeeded, Needed, Repo, RepoError,
    StoredSnapshot,
};
use crate::source::display_key;
use crate::tree::{self, Tree, Visit};

/// What a collection would remove; changes nothing.
pub fn plan_collection(
    repo: &Arc<Repo>,
    options: &CollectOptions,
    ctx: &Context,
) -> Result<CollectionPlan, Failure> {
    repo.plan_collection(options, &|snapshot, each| mark(repo, snapshot, each), ctx)
}

/// Removes what no snapshot needs, beside backups and restores. When it stops, for whatever reason,
/// the next one goes on.
pub fn collect(
    repo: &Arc<Repo>,
    options: &CollectOptions,
    ctx: &Context,
) -> Result<CollectedBytes, Failure> {
    repo.collect(options, &|snapshot, each| mark(repo, snapshot, each), ctx)
}

/// Names every chunk that a snapshot needs, or fails: whoever does not know all of them must not
/// remove any.
fn mark(
    repo: &Arc<Repo>,
    stored: &StoredSnapshot,
    each: &mut EachNeeded<'_>,
) -> Result<(), Failure> {
    let manifest = Manifest::decode(&stored.manifest).map_err(|error| RepoError::Unsound {
        problem: format!("snapshot {}: {error}", stored.id.short()),
    })?;
    let snapshot = Snapshot { repo: Arc::clone(repo), id: stored.id, manifest };
    for source in &snapshot.manifest.sources {
        for catalogue in [source.catalogue, source.help] {
            mark_tree(&snapshot, catalogue, each)?;
        }
        for record in snapshot.all_trees(source)? {
            mark_tree(&snapshot, record.tree, each)?;
        }
    }
    Ok(())
}

fn mark_tree(snapshot: &Snapshot, tree: Tree, each: &mut EachNeeded<'_>) -> Result<(), RepoError> {
    let mut failure = None;
    tree::walk(&*snapshot.repo, tree, &mut |visit| {
        let marked = match visit {
            Visit::Node(id) => each(Needed::Node(id)),
            Visit::Chunk { id, .. } => each(Needed::Content(id)),
            Visit::Broken { key, error } => {
                let (id, key) = (snapshot.id.short(), display_key(key));
                Err(RepoError::Unsound { problem: format!("snapshot {id}, {key}: {error}") })
            }
        };
        match marked {
            Ok(is_new) => is_new && failure.is_none(),
            Err(error) => {
                failure.get_or_insert(error);
                false
            }
        }
    });
    failure.map_or(Ok(()), Err)
}
