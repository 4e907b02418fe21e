//! A path of a snapshot as a tar.

use std::io::{Seek as _, Write};

use super::Done;
use super::app::App;
use super::command::ls::missing;
use super::dump::write_table;
use super::error::{failed, usage};
use super::places::{Paths, source_path};
use crate::export::tarball::{Part, Tarball};
use crate::hint::Failure;
use crate::snapshot::{KeyRange, Place, Snapshot, SourceRecord, TreeRecord};
use crate::source::{Entry, EntryKind, Kind};
use crate::tree;

/// How much a tar holds.
#[derive(Debug)]
pub struct Written {
    /// Files and folders.
    pub members: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Whether everything had a place in it.
    pub done: Done,
}

/// Writes what a path leads to: a folder as the one to extract in, a file by its name, several
/// sources each in the folder that its path names. Tables become JSON lines.
pub fn write(
    snapshot: &Snapshot,
    path: &str,
    out: &mut dyn Write,
    app: &App,
) -> Result<Written, Failure> {
    let mut tar = Tar { snapshot, app, tarball: Tarball::new(out) };
    match snapshot.resolve(path)? {
        Place::Root => tar.sources(None)?,
        Place::Kind(kind) => tar.sources(Some(kind))?,
        Place::Source(source) => tar.source(&source, ".")?,
        Place::Tree(source, record) => tar.table(&source, &record, None, "")?,
        Place::Entry(source, record, key) if source.kind == Kind::Database => {
            tar.table(&source, &record, Some(&KeyRange::Exactly(key)), "")?;
        }
        Place::Entry(source, record, key) => tar.entry(&source, &record, &key)?,
    }
    let skipped = app.progress.skipped();
    let (members, bytes) = (tar.tarball.members, tar.tarball.bytes);
    tar.tarball.finish()?;
    let complete = skipped == 0 && snapshot.manifest.is_complete();
    Ok(Written { members, bytes, done: if complete { Done::Fully } else { Done::Incompletely } })
}

struct Tar<'a> {
    snapshot: &'a Snapshot,
    app: &'a App,
    tarball: Tarball<'a>,
}

impl Tar<'_> {
    fn sources(&mut self, kind: Option<Kind>) -> Result<(), Failure> {
        let snapshot = self.snapshot;
        let sources = snapshot.manifest.sources.iter();
        for source in sources.filter(|source| kind.is_none_or(|kind| kind == source.kind)) {
            let path = source_path(source.kind, &source.name);
            self.source(source, path.trim_start_matches('/'))?;
        }
        Ok(())
    }

    fn source(&mut self, source: &SourceRecord, name: &str) -> Result<(), Failure> {
        for record in self.snapshot.trees(source)? {
            if source.kind == Kind::Database {
                let folder = if name == "." { String::new() } else { format!("{name}/") };
                self.table(source, &record, None, &folder)?;
            } else {
                let (snapshot, name) = (self.snapshot, name.as_bytes());
                let part = Part { snapshot, source, record: &record, key: &[], name };
                self.tarball.append(&part, &self.app.ctx)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        source: &SourceRecord,
        record: &TreeRecord,
        key: &[u8],
    ) -> Result<(), Failure> {
        let repo = &*self.snapshot.repo;
        let is_folder = match tree::get(repo, record.tree, key)? {
            Some(value) => Entry::decode(&value.head)?.is_directory(),
            None => {
                // The folders of configuration files are no entries.
                let below = [key, &[0]].concat();
                if tree::entries(repo, record.tree, &[], &below).next().is_none() {
                    let paths = Paths::new(source.kind, &source.name, &record.info)?;
                    return Err(missing(&paths, key));
                }
                true
            }
        };
        let name = key.rsplit(|&byte| byte == 0).next().unwrap_or_default();
        let name = if is_folder { b"." } else { name };
        let part = Part { snapshot: self.snapshot, source, record, key, name };
        self.tarball.append(&part, &self.app.ctx)
    }

    /// A tar says how long a file is before it comes: a table is written aside first.
    fn table(
        &mut self,
        source: &SourceRecord,
        record: &TreeRecord,
        keys: Option<&KeyRange>,
        folder: &str,
    ) -> Result<(), Failure> {
        let error = |error: std::io::Error| failed(format!("cannot write a table aside: {error}"));
        let mut aside = tempfile::tempfile_in(self.app.scratch_dir()?).map_err(error)?;
        let mut out = std::io::BufWriter::new(&mut aside);
        let records = write_table(self.snapshot, source, record, keys, &mut out, self.app)?;
        out.flush().map_err(error)?;
        drop(out);
        if keys.is_some() && records == 0 {
            return Err(usage("there is no such record", "look around with `coeval ls`"));
        }
        let length = aside.stream_position().map_err(error)?;
        aside.rewind().map_err(error)?;
        let time = self.snapshot.manifest.time;
        let entry = Entry::new(EntryKind::File, 0o600, 0, 0, time);
        let name = format!("{folder}{}.jsonl", record.info.name);
        Ok(self.tarball.file(&name, &entry, length, &mut aside)?)
    }
}
