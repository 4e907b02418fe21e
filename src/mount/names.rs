//! The folders above the files: snapshots by id, and links to them by time, machine and tag.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::repo::Repo;
use crate::snapshot::{Manifest, Reason, Snapshot, SourceRecord};
use crate::source::Kind;
use crate::time::Timestamp;

/// What a path above the files is.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A folder, with the numbers of what is in it.
    Folder(BTreeMap<String, u64>),
    /// A symbolic link.
    Link(String),
    /// The root folder of a source's files.
    Source(Arc<Snapshot>, SourceRecord),
}

/// Everything above the files, numbered from 1, the root. A number never changes what it means, so
/// that the kernel may remember it when new snapshots come.
#[derive(Debug, Default)]
pub(super) struct Names {
    nodes: Vec<(Node, Timestamp)>,
    by_path: HashMap<String, u64>,
}

impl Names {
    /// What a number means, and the time that it bears.
    pub(super) fn get(&self, number: u64) -> Option<&(Node, Timestamp)> {
        self.nodes.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// Takes in the snapshots that there are now, oldest first.
    pub(super) fn update(&mut self, repo: &Arc<Repo>, snapshots: Vec<Arc<Snapshot>>) {
        let newest = snapshots.last().map_or(Timestamp::default(), |s| s.manifest.time);
        for (node, _) in &mut self.nodes {
            if let Node::Folder(children) = node {
                children.clear();
            }
        }
        for folder in ["", "ids", "times", "hosts", "tags"] {
            self.set(folder, Node::Folder(BTreeMap::new()), newest);
        }
        let ids = short_ids(&snapshots);
        for (snapshot, id) in snapshots.into_iter().zip(ids) {
            debug_assert!(Arc::ptr_eq(repo, &snapshot.repo), "snapshots of this repository");
            let Manifest { time, host, tags, reason, .. } = snapshot.manifest.clone();
            self.set(&format!("ids/{id}"), Node::Folder(BTreeMap::new()), time);
            let moment = Timestamp::new(time.seconds, 0).to_offset();
            let by = |folder: &str, name: &str| format!("{folder}/{}", component(name));
            self.link("times", &moment, "..", &id, time);
            self.link(&by("hosts", &host), &moment, "../..", &id, time);
            for tag in &tags {
                self.link(&by("tags", tag), &moment, "../..", &id, time);
            }
            if !matches!(reason, Reason::BeforeRestore { .. }) {
                self.set("latest", Node::Link(format!("ids/{id}")), time);
            }
            for source in &snapshot.manifest.sources {
                if source.kind == Kind::Database {
                    continue;
                }
                let kind = source.kind.as_str();
                let path = match source.name.as_str() {
                    "" => format!("ids/{id}/{kind}"),
                    name => format!("ids/{id}/{kind}/{}", component(name)),
                };
                self.set(&path, Node::Source(Arc::clone(&snapshot), source.clone()), time);
            }
        }
    }

    /// A link to a snapshot, under a name that is still free in its folder.
    fn link(&mut self, folder: &str, name: &str, up: &str, id: &str, time: Timestamp) {
        let target = Node::Link(format!("{up}/ids/{id}"));
        let parent = self.folder(folder, time);
        let taken = |name: &str| match self.get(parent) {
            Some((Node::Folder(children), _)) => children.contains_key(name),
            _ => false,
        };
        let numbered = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|name| !taken(name));
        self.set(&format!("{folder}/{}", free.unwrap_or_default()), target, time);
    }

    /// The folder with this path.
    fn folder(&mut self, path: &str, time: Timestamp) -> u64 {
        match self.by_path.get(path) {
            Some(&number) if self.is_listed(path) => number,
            _ => self.set(path, Node::Folder(BTreeMap::new()), time),
        }
    }

    fn is_listed(&self, path: &str) -> bool {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.by_path.get(parent).and_then(|parent| self.get(*parent));
        path.is_empty()
            || matches!(parent, Some((Node::Folder(children), _)) if children.contains_key(name))
    }

    /// Puts something at a path, in the folders that lead to it.
    fn set(&mut self, path: &str, node: Node, time: Timestamp) -> u64 {
        let number = match self.by_path.get(path) {
            Some(&number) => {
                let at = usize::try_from(number - 1).unwrap_or(usize::MAX);
                if let Some(known) = self.nodes.get_mut(at) {
                    *known = (node, time);
                }
                number
            }
            None => {
                self.nodes.push((node, time));
                let number = self.nodes.len() as u64;
                self.by_path.insert(path.to_owned(), number);
                number
            }
        };
        if !path.is_empty() {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = self.folder(parent, time);
            let at = usize::try_from(parent - 1).unwrap_or(usize::MAX);
            if let Some((Node::Folder(children), _)) = self.nodes.get_mut(at) {
                children.insert(name.to_owned(), number);
            }
        }
        number
    }
}

/// Eight digits of each id, or as many as tell it from the others.
fn short_ids(snapshots: &[Arc<Snapshot>]) -> Vec<String> {
    let mut count = HashMap::new();
    for snapshot in snapshots {
        *count.entry(snapshot.id.short()).or_insert(0) += 1;
    }
    let id = |snapshot: &Arc<Snapshot>| match count.get(&snapshot.id.short()) {
        Some(1) => snapshot.id.short(),
        _ => snapshot.id.to_string(),
    };
    snapshots.iter().map(id).collect()
}

/// A text as one part of a path.
fn component(text: &str) -> String {
    match text {
        "" | "." | ".." => format!("_{text}"),
        text => text.replace(['/', '\0'], "_"),
    }
}
