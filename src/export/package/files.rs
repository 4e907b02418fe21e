//! The files of a package as sources: uploads, configuration, and a dump that is kept as a file.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::entries::stays_inside;
use super::layout::{self, FileEntry, StoredFile};
use super::open::Package;
use super::read::MemberKind;
use super::spool::{Span, Spool};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::source::{
    Delta, Description, Entry, EntryKind, Kind, LIST, Parent, Source, TreeInfo,
    directory_without_place, key_of,
};
use crate::time::Timestamp;
use crate::tree::{Change, Content};

/// What a source is called whose files lie in `storage/` itself.
const ROOT_FILES: &str = "files";
/// What the source is called that keeps a package's pg_dump archive.
const DUMP: &str = "dump";

impl Package {
    /// Its uploads and configuration, and a pg_dump archive if it has one.
    pub fn files(&self) -> Result<Vec<PackagedFiles>, Failure> {
        let mut sources = self.storages()?;
        sources.extend(self.dumped()?);
        sources.extend(self.configurations()?);
        Ok(sources)
    }

    fn storages(&self) -> Result<Vec<PackagedFiles>, Failure> {
        let mut sources: Vec<PackagedFiles> = self.parts(Kind::Storage);
        let mut faults = Vec::new();
        let mut listed = std::collections::BTreeMap::new();
        self.each_stored(&mut |path, stored| {
            listed.insert(self.stored_member(&path), stored);
        })?;
        for (name, member) in &self.archived.members {
            let Some(rest) = name.strip_prefix("storage/") else { continue };
            let MemberKind::File(span) = member.kind else { continue };
            let (source, path) = match rest.split_once('/') {
                Some(apart) => apart,
                None if name == layout::STORAGE => continue,
                // Others keep uploads without folders, too.
                None => (ROOT_FILES, rest),
            };
            let stored = listed.get(name);
            let entry = file_entry(stored, member.mode, member.mtime);
            let files = source_named(&mut sources, Kind::Storage, source);
            files.push(path, entry, Some(span), &mut faults);
        }
        let entries = self.stored_entries()?;
        for described in &entries {
            let files = source_named(&mut sources, Kind::Storage, &described.source);
            files.push(&described.path, described_entry(described)?, None, &mut faults);
        }
        // An archive of others has its folders and links as members only.
        if entries.is_empty() {
            for (name, member) in &self.archived.members {
                let Some(rest) = name.strip_prefix("storage/") else { continue };
                let (source, path) = rest.split_once('/').unwrap_or((rest, ""));
                let kind = match &member.kind {
                    MemberKind::Folder => EntryKind::Directory,
                    MemberKind::Link(target) => {
                        EntryKind::Symlink { target: target.clone().into_bytes() }
                    }
                    MemberKind::File(_) => continue,
                };
                let mtime = Timestamp::new(member.mtime, 0);
                let entry = Entry::new(kind, member.mode, 0, 0, mtime);
                source_named(&mut sources, Kind::Storage, source).push(
                    path,
                    entry,
                    None,
                    &mut faults,
                );
            }
        }
        finished(sources, &faults, &self.archived.spool)
    }

    /// The pg_dump archive of EDMS's second method, kept as it is.
    fn dumped(&self) -> Result<Option<PackagedFiles>, Failure> {
        let mut faults = Vec::new();
        let mut source = PackagedFiles::new(Kind::Storage, DUMP);
        for name in [layout::DUMP, layout::DUMP_MANIFEST] {
            let Some(member) = self.archived.members.get(name) else { continue };
            let MemberKind::File(span) = member.kind else { continue };
            let entry = file_entry(None, member.mode, member.mtime);
            let path = name.strip_prefix("database/").unwrap_or(name);
            source.push(path, entry, Some(span), &mut faults);
        }
        if source.entries.is_empty() {
            return Ok(None);
        }
        Ok(finished(vec![source], &faults, &self.archived.spool)?.pop())
    }

    fn configurations(&self) -> Result<Vec<PackagedFiles>, Failure> {
        let mut sources: Vec<PackagedFiles> = self.parts(Kind::Configuration);
        let mut faults = Vec::new();
        for described in &self.configuration.entries {
            let span = match &described.member {
                Some(member) => self.archived.file(&format!("configuration/{member}")),
                None => None,
            };
            let files = source_named(&mut sources, Kind::Configuration, &described.source);
            files.push(&described.path, described_entry(described)?, span, &mut faults);
        }
        // Others do not list theirs, or not all; what is about the package is not part of it.
        if self.metadata.coeval.is_none() && self.configuration.entries.is_empty() {
            for (name, member) in &self.archived.members {
                let Some(path) = name.strip_prefix("configuration/") else { continue };
                if name == layout::CONFIGURATION || name == layout::INSTRUCTIONS {
                    continue;
                }
                let MemberKind::File(span) = member.kind else { continue };
                let entry = file_entry(None, member.mode, member.mtime);
                let files = source_named(&mut sources, Kind::Configuration, "files");
                files.push(path, entry, Some(span), &mut faults);
            }
        }
        finished(sources, &faults, &self.archived.spool)
    }

    /// The sources that the package says it has, still without entries.
    fn parts(&self, kind: Kind) -> Vec<PackagedFiles> {
        let parts = self.metadata.coeval.iter().flat_map(|origin| &origin.sources);
        parts
            .filter(|part| part.kind == kind)
            .map(|part| PackagedFiles {
                header: Some(part.header.get().as_bytes().to_vec()),
                ..PackagedFiles::new(kind, &part.name)
            })
            .collect()
    }
}
/// Files from a package: uploads or configuration.
#[derive(Debug)]
pub struct PackagedFiles {
    kind: Kind,
    name: String,
    /// As it was captured; a package of others has none.
    header: Option<Vec<u8>>,
    entries: Vec<(Vec<u8>, Entry, Option<Span>)>,
    spool: Option<Spool>,
}

impl PackagedFiles {
    fn new(kind: Kind, name: &str) -> Self {
        let name = name.to_owned();
        Self { kind, name, header: None, entries: Vec::new(), spool: None }
    }

    /// Archives of others need not have members for the folders that they have files in; a snapshot
    /// says of every folder what it is.
    fn add_folders(&mut self) {
        let mut known: BTreeSet<Vec<u8>> =
            self.entries.iter().map(|(key, ..)| key.clone()).collect();
        for at in 0..self.entries.len() {
            let (key, time) = (self.entries[at].0.clone(), self.entries[at].1.mtime);
            let ends = key.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(end, _)| end);
            let root = (!key.is_empty()).then_some(0);
            for end in root.into_iter().chain(ends) {
                if known.insert(key[..end].to_vec()) {
                    let folder = Entry::new(EntryKind::Directory, 0o755, 0, 0, time);
                    self.entries.push((key[..end].to_vec(), folder, None));
                }
            }
        }
    }

    fn push(&mut self, path: &str, entry: Entry, content: Option<Span>, faults: &mut Vec<String>) {
        let fits = match &entry.kind {
            EntryKind::File => content.is_some(),
            EntryKind::Directory => content.is_none(),
            EntryKind::Symlink { target } => content.is_none() && stays_inside(path, target),
            _ => false,
        };
        let tidy = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        match key_of(std::path::Path::new(path)) {
            Some(key) if fits && tidy && !path.contains('\0') => {
                self.entries.push((key, entry, content));
            }
            _ => faults.push(format!("{}/{}/{path}", self.kind.as_str(), self.name)),
        }
    }
}

fn source_named<'a>(
    sources: &'a mut Vec<PackagedFiles>,
    kind: Kind,
    name: &str,
) -> &'a mut PackagedFiles {
    let index = sources.iter().position(|source| source.name == name).unwrap_or_else(|| {
        sources.push(PackagedFiles::new(kind, name));
        sources.len() - 1
    });
    &mut sources[index]
}

/// Sorts the entries of each source; refuses what no folder could hold.
fn finished(
    mut sources: Vec<PackagedFiles>,
    faults: &[String],
    spool: &Spool,
) -> Result<Vec<PackagedFiles>, Failure> {
    let refuse = |what: &str| {
        let text = format!("{what} is not what a folder can hold");
        Err(Failure::message(ErrorKind::Damage, text, None))
    };
    if let Some(fault) = faults.first() {
        return refuse(fault);
    }
    for source in &mut sources {
        if source.header.is_none() {
            source.add_folders();
        }
        source.entries.sort_by(|a, b| a.0.cmp(&b.0));
        source.spool = Some(spool.clone());
        if let Some(twice) = source.entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return refuse(&crate::source::display_key(&twice[0].0));
        }
    }
    Ok(sources)
}

/// What is known of a file: by the manifest of coeval, else by the archive.
fn file_entry(stored: Option<&StoredFile>, mode: u16, mtime: i64) -> Entry {
    let own = stored.and_then(|stored| {
        let mode = u16::from_str_radix(stored.mode.as_deref()?, 8).ok()?;
        Some((mode, stored.uid, stored.gid, rfc3339(stored.modified.as_deref()?)?))
    });
    let (mode, uid, gid, mtime) = own.unwrap_or((mode, 0, 0, Timestamp::new(mtime, 0)));
    Entry::new(EntryKind::File, mode & 0o1777, uid, gid, mtime)
}

fn described_entry(described: &FileEntry) -> Result<Entry, Failure> {
    let fault = || {
        let text = format!("the entry {} of {} cannot be read", described.path, described.source);
        Failure::message(ErrorKind::Damage, text, None)
    };
    let kind = match (described.kind.as_str(), &described.target) {
        ("file", None) => EntryKind::File,
        ("folder", None) => EntryKind::Directory,
        ("link", Some(target)) if !target.is_empty() && target.len() < 4096 => {
            EntryKind::Symlink { target: target.clone().into_bytes() }
        }
        _ => return Err(fault()),
    };
    let mode = u16::from_str_radix(&described.mode, 8).ok().ok_or_else(fault)?;
    let allowed = if kind == EntryKind::Directory { 0o3777 } else { 0o1777 };
    if mode & !allowed != 0 {
        return Err(fault());
    }
    let mtime = rfc3339(&described.modified).ok_or_else(fault)?;
    Ok(Entry::new(kind, mode, described.uid, described.gid, mtime))
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    text.parse::<jiff::Timestamp>().ok().map(Into::into)
}

impl Source for PackagedFiles {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        _ctx: &Context,
    ) -> Result<Description, Failure> {
        let tree = TreeInfo {
            name: String::new(),
            header: Vec::new(),
            estimate: u64::try_from(self.entries.len()).ok(),
        };
        let header = match &self.header {
            Some(header) => header.clone(),
            None => directory_without_place()?,
        };
        // What was named one by one is told by a list, which is no part of a package: whatever came
        // of it was named.
        let listed = serde_json::from_slice::<Map<String, Value>>(&header);
        let listed = listed.is_ok_and(|header| header.contains_key("listed"));
        let list = TreeInfo { name: LIST.to_owned(), ..tree.clone() };
        let aids = if listed { vec![list] } else { Vec::new() };
        Ok(Description { header, trees: vec![tree], aids, ..Description::default() })
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        _ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let Some(spool) = &self.spool else {
            return Ok(Delta::Everything(Box::new(std::iter::empty())));
        };
        if tree.name == LIST {
            let named = |(key, ..): &(Vec<u8>, Entry, Option<Span>)| {
                Ok(Change::put(key.clone(), Vec::new(), Content::empty()))
            };
            return Ok(Delta::Everything(Box::new(self.entries.iter().map(named))));
        }
        let changes = self.entries.iter().map(|(key, entry, content)| {
            let content = match content {
                Some(span) => Content::Reader(Box::new(spool.open(span))),
                None => Content::empty(),
            };
            Ok(Change::put(key.clone(), entry.encode(), content))
        });
        Ok(Delta::Everything(Box::new(changes)))
    }

    fn end(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
