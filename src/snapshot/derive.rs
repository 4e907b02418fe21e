//! A snapshot made from another one: its state a few transactions later, a copy without what is
//! nobody's business. It is an ordinary snapshot, so that everything can be done with it.

use std::sync::Arc;

use super::manifest::{Instant, Later, Manifest, Reason, Skipped, SourceRecord};
use super::opened::{self, Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::Failure;
use crate::repo::Compression;
use crate::time::Timestamp;
use crate::tree::{self, Changes, Tree};

/// Changes a tree, or an empty one, and gives the result.
pub type Apply<'a> = &'a dyn Fn(Option<Tree>, Changes<'_>) -> Result<Tree, Failure>;

/// Gives the tree that a snapshot has in place of one of its source's; none for the same.
pub type EditTree<'a> =
    dyn FnMut(&SourceRecord, &TreeRecord, Apply<'_>) -> Result<Option<Tree>, Failure> + 'a;

/// Writes a snapshot that is `snapshot` but for the trees that `edit` gives others for. It shows
/// the state as of `time`.
pub fn derive(
    snapshot: &Snapshot,
    time: Timestamp,
    reason: Reason,
    skipped: Vec<Skipped>,
    edit: &mut EditTree<'_>,
    ctx: &Context,
) -> Result<Snapshot, Failure> {
    let repo = &snapshot.repo;
    repo.write(Compression::Auto, ctx, |session| {
        session.rely_on(snapshot.id)?;
        let mut sources = Vec::new();
        for source in &snapshot.manifest.sources {
            let shape = opened::shape(repo, source.kind)?;
            let mut trees = snapshot.trees(source)?;
            let mut entries = 0;
            for record in &mut trees {
                ctx.check_cancelled()?;
                let apply = |base: Option<Tree>, changes: Changes<'_>| {
                    Ok(tree::edit(&**repo, session, &shape, base, changes)?)
                };
                if let Some(tree) = edit(source, record, &apply)? {
                    record.tree = tree;
                }
                entries += record.tree.entries;
            }
            // How far the source's log was read is no property of this state.
            let mut notes = snapshot.notes(source)?;
            notes.remove(crate::source::POSITION);
            let header = snapshot.header(source)?;
            let shape = opened::shape(repo, crate::source::Kind::Database)?;
            let store = |changes| tree::edit(&**repo, session, &shape, None, changes);
            sources.push(SourceRecord {
                catalogue: store(opened::catalogue(&header, &trees)?)?,
                help: store(opened::help(&[], &notes)?)?,
                entries,
                ..source.clone()
            });
        }
        session.flush()?;
        let manifest = Manifest {
            version: Manifest::version(0),
            time,
            finished: ctx.clock.now(),
            host: snapshot.manifest.host.clone(),
            application: snapshot.manifest.application.clone(),
            tags: Vec::new(),
            parent: Some(snapshot.id),
            reason,
            instant: Instant::Unproven,
            sources,
            skipped,
            written: session.written(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            unlisted: 0,
            later: Later::default(),
        };
        let id = session.commit(&manifest.encode()?)?;
        Ok(Snapshot { repo: Arc::clone(repo), id, manifest })
    })
}
