//! Snapshots that take the place of others: with other tags, or after they were forgotten.

use std::sync::Arc;

use super::manifest::{Manifest, Protection};
use super::timeline::{Filter, SelectError, Timeline};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::SnapshotId;
use crate::repo::{Compression, Repo};

/// Puts a snapshot with these tags and this protection in the place of another one, which is
/// forgotten. Between the two both are there: nothing is lost if this stops in the middle.
pub fn rewrite(
    repo: &Repo,
    (id, manifest): &(SnapshotId, Manifest),
    tags: Vec<String>,
    protection: Protection,
    ctx: &Context,
) -> Result<SnapshotId, Failure> {
    let new = commit(repo, *id, &manifest.rewritten(*id, tags, protection), ctx)?;
    repo.forget(*id)?;
    Ok(new)
}

/// Brings back a snapshot that was forgotten and not collected yet, under a new id: the tombstone
/// stays, since a collection may be about to follow it.
pub fn undelete(
    repo: &Arc<Repo>,
    text: &str,
    ctx: &Context,
) -> Result<(SnapshotId, SnapshotId), Failure> {
    let prefix = text.to_ascii_lowercase();
    let shown = Timeline::load(repo)?;
    let stands_for = |id: SnapshotId| {
        shown.iter(&Filter::default()).any(|(_, shown)| shown.later.original == Some(id))
    };
    let forgotten = Timeline::forgotten(repo)?;
    let is_meant = |(id, _): &&(SnapshotId, Manifest)| {
        !prefix.is_empty() && id.to_string().starts_with(&prefix)
    };
    let found: Vec<_> = forgotten.iter(&Filter::default()).filter(is_meant).collect();
    let [(id, manifest)] = found[..] else {
        let text = text.to_owned();
        return Err(match found.len() {
            0 => SelectError::NotForgotten { text }.into(),
            _ => SelectError::Ambiguous { text }.into(),
        });
    };
    if stands_for(manifest.later.original.unwrap_or(*id)) {
        return Err(SelectError::StillThere { id: *id }.into());
    }
    let tags = manifest.tags.clone();
    let new = manifest.rewritten(*id, tags, manifest.later.protection);
    Ok((*id, commit(repo, *id, &new, ctx)?))
}

fn commit(
    repo: &Repo,
    old: SnapshotId,
    manifest: &Manifest,
    ctx: &Context,
) -> Result<SnapshotId, Failure> {
    repo.write(Compression::Auto, ctx, |session| {
        session.rely_on(old)?;
        Ok(session.commit(&manifest.encode()?)?)
    })
}
