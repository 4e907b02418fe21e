//! The entries of a snapshot's files as a package can hold them.

use std::io::{self, Read};

use super::layout::FileEntry;
use super::tarred::tidy_name;
use crate::context::Context;
use crate::export::contents::{Contents, Skipped};
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::source::{Entry, EntryKind, Kind};
use crate::tree::Content;

/// An entry of a source, with its place in the package.
#[derive(Debug)]
pub struct Found<'a> {
    kind: Kind,
    source: &'a str,
    /// Its path below the root of the source; empty for the root.
    pub path: String,
    /// What it is.
    pub entry: Entry,
    /// The bytes of a file.
    pub content: Option<Content>,
}

impl Found<'_> {
    /// The name of its member in `storage/`.
    pub fn member(&self) -> String {
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}/{}{slash}{}", self.kind.as_str(), self.source, self.path)
    }

    /// What is known of it, for a manifest.
    pub fn described(&self, member: Option<String>) -> FileEntry {
        let (kind, target) = match &self.entry.kind {
            EntryKind::Directory => ("folder", None),
            EntryKind::Symlink { target } => {
                ("link", Some(String::from_utf8_lossy(target).into_owned()))
            }
            other => (other.as_str(), None),
        };
        FileEntry {
            source: self.source.to_owned(),
            path: self.path.clone(),
            kind: kind.to_owned(),
            member,
            target,
            mode: format!("{:04o}", self.entry.mode),
            uid: self.entry.uid,
            gid: self.entry.gid,
            modified: self.entry.mtime.to_rfc3339(),
        }
    }
}

/// Hands over all entries of a source that a package can hold, and lists those it cannot.
pub fn each_entry(
    contents: &dyn Contents,
    kind: Kind,
    source: &str,
    missing: &mut Vec<Skipped>,
    ctx: &Context,
    take: &mut dyn FnMut(Found<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for change in contents.files(kind, source)? {
        ctx.check_cancelled()?;
        let change = change?;
        let Some(value) = change.value else { continue };
        let entry = Entry::decode(&value.head)
            .map_err(|error| Failure::message(ErrorKind::Damage, error.to_string(), None))?;
        let mut leave_out = |reason: &str| {
            let path = crate::source::display_key(&change.key);
            let item = format!("{}/{source}/{path}", kind.as_str());
            missing.push(Skipped { item, reason: reason.to_owned() });
        };
        if entry.mode & 0o4000 != 0 || (entry.mode & 0o2000 != 0 && !entry.is_directory()) {
            leave_out("it runs with the rights of its owner");
            continue;
        }
        let Ok(key) = std::str::from_utf8(&change.key) else {
            leave_out("its name is not UTF-8");
            continue;
        };
        let path = key.replace('\0', "/");
        if let Err(reason) = tidy_name(format!("{}/{source}/{path}", kind.as_str()).as_bytes()) {
            leave_out(reason);
            continue;
        }
        if let EntryKind::Symlink { target } = &entry.kind
            && !stays_inside(&path, target)
        {
            leave_out("the link points out of the folder");
            continue;
        }
        match entry.kind {
            EntryKind::Directory | EntryKind::File | EntryKind::Symlink { .. } => {}
            special => {
                leave_out(&format!("it is a {}", special.as_str()));
                continue;
            }
        }
        let content = matches!(entry.kind, EntryKind::File).then_some(value.content);
        take(Found { kind, source, path, entry, content })?;
    }
    Ok(())
}

/// Whether a link at `path` points to something below the same root, without looking.
pub fn stays_inside(path: &str, target: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(target) else { return false };
    if target.starts_with('/') || target.is_empty() || target.contains('\0') {
        return false;
    }
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            "" | "." => {}
            _ => depth += 1,
        }
    }
    true
}

/// Reads the bytes of a file.
pub fn read_content<T>(
    content: Content,
    read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, Failure> {
    match content {
        Content::Inline(bytes) => read(&mut bytes.as_slice()).map_err(spool_failure),
        Content::Reader(mut reader) => read(&mut reader).map_err(spool_failure),
        Content::Stored(_) => {
            Err(Failure::message(ErrorKind::Failed, "a file was listed without its bytes", None))
        }
    }
}
