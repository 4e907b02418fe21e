//! A verified package as sources: capture is the only way into a snapshot, for packages too.

use std::io::{BufReader, Read};

use super::entries::stays_inside;
use super::layout::{FileEntry, StoredFile};
use super::open::{Package, Prepared, Rows, Schema};
use super::read::MemberKind;
use super::spool::{Span, Spool, SpoolReader};
use super::verify::{Outcome, Verification, without_rowid};
use crate::context::Context;
use crate::export::fixture::read::Salvage;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::report::Event;
use crate::source::record::{Field, KeyKind, RowError};
use crate::source::sort::{BUDGET, Duplicates, Sorted, Sorter, push_keyless};
use crate::source::{
    Delta, Description, Entry, EntryKind, Kind, Parent, Source, TreeInfo, key, key_of,
};
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content};

impl Package {
    /// Verifies the package and, only if nothing is damaged, gives the sources it holds.
    pub fn into_sources(
        self,
        schema: Option<&Schema>,
        ctx: &Context,
    ) -> Result<Vec<Box<dyn Source>>, Failure> {
        // What is no fixture, or none with rows, says so itself.
        self.survey(ctx)?;
        let mut found = Verification::default();
        self.check_package(&mut found, ctx)?;
        self.refuse_damage(&found)?;
        let mut databases = Vec::new();
        for database in self.databases(schema, ctx)? {
            databases.push(self.database(database, &mut found, ctx)?);
        }
        self.refuse_damage(&found)?;
        let damaged = found.checks.iter().filter(|check| check.outcome == Outcome::Damaged);
        let damaged: Vec<_> = damaged.map(|check| (check.check, check.detail.clone())).collect();
        for check in found.checks.iter().filter(|check| check.outcome == Outcome::Warning) {
            ctx.report(Event::Note(format!("{}: {}", check.check, check.detail)));
        }
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for database in databases {
            let damaged = damaged.clone();
            sources.push(Box::new(PackagedDatabase { damaged, ..database }));
        }
        for files in self.storages()? {
            sources.push(Box::new(files));
        }
        for files in self.configurations()? {
            sources.push(Box::new(files));
        }
        Ok(sources)
    }

    /// Checks a database, and sorts the records of its fixture into their tables on the way.
    fn database(
        &self,
        database: Prepared,
        found: &mut Verification,
        ctx: &Context,
    ) -> Result<PackagedDatabase, Failure> {
        let tables = &database.catalog.tables;
        let key_fields: Vec<Vec<usize>> =
            tables.iter().map(|table| table.header.key_fields().unwrap_or_default()).collect();
        let mut sorter = Sorter::new(BUDGET, Duplicates::Merge);
        let mut under = Vec::new();
        let mut highest = vec![0; tables.len()];
        let take = &mut |index: usize, row: &[u8]| {
            under.clear();
            under.extend_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_be_bytes());
            key::push_of_row(&mut under, row, &key_fields[index])?;
            if let Some([Field::Integer(number)]) = key::decode(&under[4..]).as_deref() {
                highest[index] = (*number).max(highest[index]);
            }
            Ok(sorter.push(&under, row)?)
        };
        self.check_database(&database, found, take, ctx)?;
        let mut database = database;
        if self.tables.is_none() {
            database.raise_sequences(&highest);
        }
        let tables = &database.catalog.tables;
        let mut spool = self.archived.spool.clone();
        // Records with equal keys are damage, which is told with the other checks.
        let runs = runs(&mut sorter.finish()?, tables.len(), &mut spool)?;
        let rows = database.places.iter().zip(runs).map(|(place, run)| match place {
            Rows::Raw(span, _) => TableRows::Raw(*span),
            Rows::Untold => TableRows::Untold,
            Rows::Fixture => TableRows::Sorted(run),
        });
        let rows = rows.collect();
        Ok(PackagedDatabase { database, rows, spool, damaged: Vec::new() })
    }

    /// A package that is damaged is not imported, unless what is readable of it is to be salvaged.
    fn refuse_damage(&self, found: &Verification) -> Result<(), Failure> {
        let damaged = found.checks.iter().find(|check| check.outcome == Outcome::Damaged);
        let Some(check) = damaged.filter(|_| self.salvage == Salvage::Refuse) else {
            return Ok(());
        };
        let (check, detail) = (check.check, &check.detail);
        let hint = "see all checks with `coeval package verify`; `coeval import --salvage` takes what \
                    is readable of a fixture";
        let text = format!("{check}: {detail}");
        Err(Failure::message(ErrorKind::Damage, text, Some(hint.to_owned())))
    }

    fn storages(&self) -> Result<Vec<PackagedFiles>, Failure> {
        let mut sources: Vec<PackagedFiles> = self.parts(Kind::Storage);
        let mut faults = Vec::new();
        let mut listed = std::collections::BTreeMap::new();
        self.each_stored(&mut |path, stored| {
            listed.insert(self.stored_member(&path), stored);
        })?;
        for (name, member) in &self.archived.members {
            let Some((source, path)) =
                name.strip_prefix("storage/").and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            let MemberKind::File(span) = member.kind else { continue };
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
        if self.configuration.entries.is_empty() {
            for (name, member) in &self.archived.members {
                let Some(path) = name.strip_prefix("configuration/") else { continue };
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
                header: part.header.get().as_bytes().to_vec(),
                ..PackagedFiles::new(kind, &part.name)
            })
            .collect()
    }
}

/// Writes sorted rows as one run per table: lengths of key and row, key, row.
fn runs(
    sorted: &mut Sorted,
    tables: usize,
    spool: &mut Spool,
) -> Result<Vec<Option<Span>>, Failure> {
    use std::io::Write as _;
    let mut runs = vec![None; tables];
    let mut next = sorted.next().transpose()?;
    while let Some((first, _)) = &next {
        let table: [u8; 4] = first.first_chunk().copied().unwrap_or_default();
        let mut out = spool.writer();
        while let Some((key, row)) = next.take_if(|(key, _)| key.starts_with(&table)) {
            let length =
                |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
            for part in [&length(&key[4..])[..], &length(&row), &key[4..], &row] {
                out.write_all(part).map_err(spool_failure)?;
            }
            next = sorted.next().transpose()?;
        }
        let span = out.finish().map_err(spool_failure)?;
        if let Some(run) = runs.get_mut(u32::from_be_bytes(table) as usize) {
            *run = Some(span);
        }
    }
    Ok(runs)
}

/// Where the rows of a table are, now.
#[derive(Debug)]
enum TableRows {
    Sorted(Option<Span>),
    Raw(Span),
    /// Not known: the table is no part of the snapshot.
    Untold,
}

/// A database from a package.
#[derive(Debug)]
pub struct PackagedDatabase {
    database: Prepared,
    rows: Vec<TableRows>,
    spool: Spool,
    /// What was damaged in the package, where what is readable is taken: by check.
    damaged: Vec<(&'static str, String)>,
}

impl Source for PackagedDatabase {
    fn kind(&self) -> Kind {
        Kind::Database
    }

    fn name(&self) -> &str {
        &self.database.name
    }

    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        for (check, reason) in &self.damaged {
            let item = format!("{check} of the package");
            ctx.report(Event::Skipped { item, reason: reason.clone() });
        }
        let told = |(_, rows): &(_, &TableRows)| !matches!(rows, TableRows::Untold);
        let tables = self.database.catalog.tables.iter().zip(&self.rows).filter(told);
        let trees = tables.map(|(table, _)| table.info.clone()).collect();
        Ok(Description { header: self.database.header.clone(), trees, ..Description::default() })
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        _ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let tables = &self.database.catalog.tables;
        let Some(index) = tables.iter().position(|table| table.name() == tree.name) else {
            return Ok(Delta::Everything(Box::new(std::iter::empty())));
        };
        let changes: Changes<'a> = match &self.rows[index] {
            TableRows::Sorted(None) | TableRows::Untold => Box::new(std::iter::empty()),
            TableRows::Sorted(Some(span)) => {
                Box::new(Run { left: span.length, input: BufReader::new(self.spool.open(span)) })
            }
            TableRows::Raw(span) => Box::new(self.raw(index, span)?.map(|entry| {
                let (key, row) = entry?;
                Ok(Change::put(key, Vec::new(), Content::Inline(row)))
            })),
        };
        Ok(Delta::Everything(changes))
    }

    fn end(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl PackagedDatabase {
    /// Sorts a raw table; its lines may come in any order from anybody.
    fn raw(&self, index: usize, span: &Span) -> Result<Sorted, Failure> {
        use std::io::BufRead as _;
        let header = &self.database.catalog.tables[index].header;
        let duplicates =
            if header.key_kind == KeyKind::Hash { Duplicates::Number } else { Duplicates::Refuse };
        let fields = header.key_fields().unwrap_or_default();
        let mut sorter = Sorter::new(BUDGET, duplicates);
        let (mut key, mut line) = (Vec::new(), Vec::new());
        let mut input = BufReader::new(self.spool.open(span));
        while input.read_until(b'\n', &mut line).map_err(spool_failure)? > 0 {
            line.pop();
            key.clear();
            let row = without_rowid(&line, header.key_kind).ok_or(RowError { at: 0 })?;
            match header.key_kind {
                KeyKind::Hash => push_keyless(&mut sorter, row)?,
                KeyKind::Primary => {
                    key::push_of_row(&mut key, row, &fields)?;
                    sorter.push(&key, row)?;
                }
                KeyKind::Rowid => {
                    let digits = &line[..line.len() - row.len() - 1];
                    let number = str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                    key::push(&mut key, &Field::Integer(number.ok_or(RowError { at: 0 })?));
                    sorter.push(&key, row)?;
                }
            }
            line.clear();
        }
        Ok(sorter.finish()?)
    }
}

/// The rows of a table, sorted.
struct Run {
    input: BufReader<SpoolReader>,
    left: u64,
}

impl Run {
    fn step(&mut self) -> std::io::Result<Change> {
        let mut lengths = [[0; 4]; 2];
        self.input.read_exact(&mut lengths[0])?;
        self.input.read_exact(&mut lengths[1])?;
        let [mut key, mut row] = lengths.map(|length| vec![0; u32::from_le_bytes(length) as usize]);
        self.input.read_exact(&mut key)?;
        self.input.read_exact(&mut row)?;
        self.left = self.left.saturating_sub(8 + (key.len() + row.len()) as u64);
        Ok(Change::put(key, Vec::new(), Content::Inline(row)))
    }
}

impl Iterator for Run {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.left = 0;
        }
        Some(step.map_err(spool_failure))
    }
}

/// Files from a package: uploads or configuration.
#[derive(Debug)]
pub struct PackagedFiles {
    kind: Kind,
    name: String,
    header: Vec<u8>,
    entries: Vec<(Vec<u8>, Entry, Option<Span>)>,
    spool: Option<Spool>,
}

impl PackagedFiles {
    fn new(kind: Kind, name: &str) -> Self {
        let name = name.to_owned();
        Self { kind, name, header: b"null".to_vec(), entries: Vec::new(), spool: None }
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
        Some((mode, stored.uid, stored.gid, rfc3339(stored.modified.as_ref()?.as_str()?)?))
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
        Ok(Description { header: self.header.clone(), trees: vec![tree], ..Description::default() })
    }

    fn changes<'a>(
        &'a mut self,
        _tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        _ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let Some(spool) = &self.spool else {
            return Ok(Delta::Everything(Box::new(std::iter::empty())));
        };
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
