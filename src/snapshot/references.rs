//! Whether what the records of a snapshot refer to is in it: other records by their foreign keys,
//! and the files that they name.
//!
//! All references are sorted by what they refer to, in bounded memory; then each table and each
//! storage that is referred to is read once beside them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::manifest::SourceRecord;
use super::opened::{Snapshot, TreeRecord};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::source::key;
use crate::source::record::{
    self, DatabaseHeader, Engine, Field, ForeignKey, KeyKind, RowReader, TableHeader,
};
use crate::source::sort::{BUDGET, Duplicates, SortError, Sorted, Sorter};
use crate::source::{Entry, EntryKind, FilesError, Kind, display_key, escape, key_of};
use crate::tree::{self, Key, TreeError, Value};

/// A column whose values name files of a storage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileColumn {
    /// The name of the database.
    pub database: String,
    /// The table, as its tree is called.
    pub table: String,
    /// The column.
    pub column: String,
    /// The name of the storage.
    pub storage: String,
    /// What the names begin with and paths in the storage do not.
    pub strip: String,
    /// The folder in the storage from which the rest of the names lead.
    pub folder: String,
}

/// What refers to nothing, or is referred to by nobody.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Loose {
    /// A record names a file that is not in the snapshot.
    Missing {
        /// The path of the record.
        record: String,
        /// Its column.
        column: String,
        /// The path of the file.
        file: String,
    },
    /// A record refers to a record that is not in the snapshot.
    Dangling {
        /// The path of the record.
        record: String,
        /// The columns that refer.
        column: String,
        /// The path of the table referred to, with the values.
        to: String,
    },
    /// No record names this file.
    Unnamed {
        /// Its path.
        file: String,
    },
}

/// How many references there are, and how many of them lead nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct References {
    /// Files named by records, once for each record.
    pub named: u64,
    /// Those of them that are not there.
    pub missing: u64,
    /// Files that no record names, in storages whose files records name.
    pub unnamed: u64,
    /// References between records.
    pub references: u64,
    /// Those of them to records that are not there.
    pub dangling: u64,
    /// References that cannot be followed, because the snapshot leaves out what they refer to.
    pub unchecked: Vec<String>,
}

/// Whether foreign keys are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Files only.
    Files,
    /// Files and records.
    Everything,
}

/// Follows all references of a snapshot, and hands over what is loose.
pub fn references(
    snapshot: &Snapshot,
    columns: &[FileColumn],
    follow: Extent,
    each: &mut dyn FnMut(Loose) -> Result<(), Failure>,
    ctx: &Context,
) -> Result<References, Failure> {
    let mut search = Search {
        snapshot,
        ctx,
        tables: Vec::new(),
        links: Vec::new(),
        targets: Vec::new(),
        summary: References::default(),
    };
    let databases = || snapshot.manifest.sources.iter().filter(|s| s.kind == Kind::Database);
    for source in databases() {
        search.add(source, columns, follow)?;
    }
    let mut sorted = search.gather()?.peekable();
    for target in 0..search.targets.len() {
        search.compare(target, &mut sorted, each)?;
    }
    Ok(search.summary)
}

/// A table that refers to something.
struct Referring {
    path: String,
    record: TreeRecord,
    header: TableHeader,
    /// What stands in its rows, by the numbers of links.
    links: Vec<usize>,
}

/// Something in the rows of a table that refers to a target.
struct Link {
    columns: Vec<String>,
    fields: Vec<usize>,
    target: usize,
    /// How a name becomes a path, where it refers to a file.
    file: Option<FileColumn>,
}

/// What is referred to.
enum Target {
    Files { path: String, record: TreeRecord },
    Rows { path: String, record: TreeRecord, key: RowKey },
}

/// How the rows that are referred to are found.
struct RowKey {
    fields: Vec<usize>,
    /// Whether that is the key of the tree, byte for byte.
    is_key: bool,
    /// Whether values count as equal that are only equal numbers.
    as_numbers: Vec<bool>,
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    ctx: &'a Context,
    tables: Vec<Referring>,
    links: Vec<Link>,
    targets: Vec<Target>,
    summary: References,
}

impl<'a> Search<'a> {
    /// Notes what the tables of a database refer to.
    fn add(
        &mut self,
        source: &SourceRecord,
        columns: &[FileColumn],
        follow: Extent,
    ) -> Result<(), Failure> {
        let header = DatabaseHeader::from_json(&self.snapshot.header(source)?)?;
        let database = format!("/database/{}", source.name);
        let mut trees = BTreeMap::new();
        for record in self.snapshot.trees(source)? {
            let header = TableHeader::from_json(&record.info.header)?;
            trees.insert(record.info.name.clone(), (record, header));
        }
        for (name, (record, table)) in &trees {
            let path = format!("{database}/{name}");
            let mut links = Vec::new();
            for foreign in table.foreign_keys.iter().filter(|_| follow == Extent::Everything) {
                match self.link(&database, table, foreign, header.engine, &trees) {
                    Some(link) => links.push(link),
                    None => self.summary.unchecked.push(format!(
                        "{path} ({}) → {}",
                        foreign.columns.join(", "),
                        foreign.ref_table
                    )),
                }
            }
            let named =
                |column: &&FileColumn| (&column.database, &column.table) == (&source.name, name);
            for column in columns.iter().filter(named) {
                links.push(self.file_link(table, column)?);
            }
            if !links.is_empty() {
                let numbers = self.links.len()..self.links.len() + links.len();
                self.links.extend(links);
                self.tables.push(Referring {
                    path,
                    record: record.clone(),
                    header: table.clone(),
                    links: numbers.collect(),
                });
            }
        }
        let lost = columns.iter().filter(|column| column.database == source.name);
        for column in lost.filter(|column| !trees.contains_key(&column.table)) {
            let FileColumn { table, column, .. } = column;
            self.summary.unchecked.push(format!("{database}/{table} ({column})"));
        }
        Ok(())
    }

    /// A foreign key; none where the snapshot does not hold what it refers to.
    fn link(
        &mut self,
        database: &str,
        table: &TableHeader,
        foreign: &ForeignKey,
        engine: Engine,
        trees: &BTreeMap<String, (TreeRecord, TableHeader)>,
    ) -> Option<Link> {
        let default = if engine == Engine::Sqlite { "main" } else { "public" };
        let wanted = record::tree_name(&foreign.ref_schema, &foreign.ref_table, default);
        // SQLite's names are the same in either case.
        let (name, (record, parent)) = trees.get_key_value(&wanted).or_else(|| {
            trees
                .iter()
                .find(|(name, _)| engine == Engine::Sqlite && name.eq_ignore_ascii_case(&wanted))
        })?;
        let to = if foreign.ref_columns.is_empty() { &parent.key } else { &foreign.ref_columns };
        let fields = fields(table, &foreign.columns)?;
        let parent_fields = self::fields(parent, to).filter(|to| to.len() == fields.len())?;
        let stored: Vec<_> = parent.stored_columns().collect();
        let as_numbers: Vec<bool> = parent_fields
            .iter()
            .map(|field| matches!(stored[*field].type_oid_name.as_str(), "numeric" | "real"))
            .collect();
        let is_key = parent.key_kind == KeyKind::Primary
            && parent.key_fields().as_ref() == Some(&parent_fields)
            && !as_numbers.contains(&true);
        let key = RowKey { fields: parent_fields, is_key, as_numbers };
        let path = format!("{database}/{name}");
        let is_same = |target: &Target| {
            matches!(target, Target::Rows { path: p, key: k, .. }
                if *p == path && k.fields == key.fields)
        };
        let target = self.targets.iter().position(is_same).unwrap_or_else(|| {
            self.targets.push(Target::Rows { path, record: record.clone(), key });
            self.targets.len() - 1
        });
        Some(Link { columns: foreign.columns.clone(), fields, target, file: None })
    }

    fn file_link(&mut self, table: &TableHeader, column: &FileColumn) -> Result<Link, Failure> {
        let fields = fields(table, std::slice::from_ref(&column.column));
        let fields = fields.ok_or_else(|| no_such("column", &column.column))?;
        let path = format!("/storage/{}", column.storage);
        let is_same =
            |target: &Target| matches!(target, Target::Files { path: p, .. } if *p == path);
        let target = match self.targets.iter().position(is_same) {
            Some(target) => target,
            None => {
                let storage = || no_such("storage", &column.storage);
                let source = self.snapshot.manifest.source(Kind::Storage, &column.storage);
                let record = self.snapshot.tree(source.ok_or_else(storage)?, "")?;
                let record = record.ok_or_else(storage)?;
                self.targets.push(Target::Files { path, record });
                self.targets.len() - 1
            }
        };
        let (columns, file) = (vec![column.column.clone()], Some(column.clone()));
        Ok(Link { columns, fields, target, file })
    }

    /// All references: the number of the target and the key there, each with the numbers of the
    /// table and the link and the key of the record.
    fn gather(&mut self) -> Result<Sorted, Failure> {
        let mut sorter = Sorter::new(BUDGET, Duplicates::Number);
        for (number, table) in self.tables.iter().enumerate() {
            self.ctx.phase(
                format!("following the references of {}", table.path),
                Some(table.record.tree.entries),
            );
            let repo = &*self.snapshot.repo;
            for entry in tree::entries(repo, table.record.tree, &[], &[]) {
                self.ctx.check_cancelled()?;
                let (record, value) = entry?;
                let row = value.content.bytes(repo, usize::MAX)?;
                let row = RowReader::new(&row).collect::<Result<Vec<_>, _>>()?;
                for link in &table.links {
                    let Some(to) = self.links[*link].key(&row, &self.targets) else { continue };
                    match self.links[*link].file {
                        Some(_) => self.summary.named += 1,
                        None => self.summary.references += 1,
                    }
                    let key = [&number32(self.links[*link].target)[..], &to].concat();
                    let from = [&number32(number)[..], &number32(*link), &record].concat();
                    sorter.push(&key, &from)?;
                }
            }
        }
        Ok(sorter.finish()?)
    }

    /// Reads a target beside the references to it.
    fn compare(
        &mut self,
        number: usize,
        sorted: &mut Peekable<Sorted>,
        each: &mut dyn FnMut(Loose) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let prefix = number32(number);
        let mut present = self.present(number)?;
        let mut here: Option<Pair> = present.next().transpose()?;
        // Whether what is `here` was referred to.
        let mut is_named = false;
        while let Some((key, from)) = next_of(sorted, &prefix)? {
            self.ctx.check_cancelled()?;
            let order = loop {
                let order =
                    here.as_ref().map_or(Ordering::Greater, |(here, _)| here.as_slice().cmp(&key));
                if order != Ordering::Less {
                    break order;
                }
                self.pass(number, here.take().filter(|_| !is_named), each)?;
                (here, is_named) = (present.next().transpose()?, false);
            };
            if order == Ordering::Equal {
                is_named = true;
            } else {
                self.loose(number, &key, &from, each)?;
            }
        }
        while here.is_some() {
            self.pass(number, here.take().filter(|_| !is_named), each)?;
            (here, is_named) = (present.next().transpose()?, false);
        }
        Ok(())
    }

    /// Goes on behind a file or a row that nothing refers to.
    fn pass(
        &mut self,
        target: usize,
        here: Option<Pair>,
        each: &mut dyn FnMut(Loose) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if let (Target::Files { path, .. }, Some((_, file))) = (&self.targets[target], here) {
            self.summary.unnamed += 1;
            each(Loose::Unnamed { file: format!("{path}/{}", display_key(&file)) })?;
        }
        Ok(())
    }

    /// Tells of a reference that leads nowhere.
    fn loose(
        &mut self,
        target: usize,
        key: &[u8],
        from: &[u8],
        each: &mut dyn FnMut(Loose) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (table, rest) = from.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (link, record) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let (table, link) = (u32::from_be_bytes(*table), u32::from_be_bytes(*link));
        let (table, link) = (&self.tables[table as usize], &self.links[link as usize]);
        let record = format!("{}/{}", table.path, key::format_key(&table.header, record)?);
        let (column, values) = (link.columns.join(", "), key::decode(key).unwrap_or_default());
        each(match &self.targets[target] {
            Target::Files { path, .. } => {
                self.summary.missing += 1;
                let file = match values.first() {
                    Some(Field::Text(at)) => display_key(at),
                    _ => String::new(),
                };
                Loose::Missing { record, column, file: format!("{path}/{file}") }
            }
            Target::Rows { path, .. } => {
                self.summary.dangling += 1;
                let values: Vec<String> = values.iter().map(text).collect();
                Loose::Dangling { record, column, to: format!("{path}/{}", values.join(",")) }
            }
        })
    }

    /// What is there of a target: keys as references have them, and keys of files.
    fn present(&self, number: usize) -> Result<Present<'a>, Failure> {
        let (Target::Files { path, record } | Target::Rows { path, record, .. }) =
            &self.targets[number];
        self.ctx.phase(format!("looking through {path}"), Some(record.tree.entries));
        let repo = &*self.snapshot.repo;
        let entries = tree::entries(repo, record.tree, &[], &[]);
        let Target::Rows { key, .. } = &self.targets[number] else {
            return Ok(Box::new(entries.filter_map(|entry| file(entry).transpose())));
        };
        if key.is_key {
            return Ok(Box::new(entries.map(|entry| Ok((entry?.0, Vec::new())))));
        }
        let mut sorter = Sorter::new(BUDGET, Duplicates::Merge);
        for entry in entries {
            self.ctx.check_cancelled()?;
            let row = entry?.1.content.bytes(repo, usize::MAX)?;
            let row = RowReader::new(&row).collect::<Result<Vec<_>, _>>()?;
            if let Some(to) = key.of(&row, &key.fields) {
                sorter.push(&to, &[])?;
            }
        }
        Ok(Box::new(sorter.finish()?.map(|entry| Ok(entry?))))
    }
}

/// A key and what belongs to it.
type Pair = (Vec<u8>, Vec<u8>);
type Present<'a> = Box<dyn Iterator<Item = Result<Pair, Failure>> + 'a>;

/// A file as references have it, unless it is a folder.
fn file(entry: Result<(Key, Value), TreeError>) -> Result<Option<Pair>, Failure> {
    let (at, value) = entry?;
    let entry = Entry::decode(&value.head)
        .map_err(|source| FilesError::Entry { path: display_key(&at), source })?;
    Ok((entry.kind != EntryKind::Directory).then(|| (of_file(&at), at)))
}

impl Link {
    /// The key in the target that a row refers to; none where it refers to nothing.
    fn key(&self, row: &[Field<'_>], targets: &[Target]) -> Option<Vec<u8>> {
        let Some(file) = &self.file else {
            return match &targets[self.target] {
                Target::Rows { key, .. } => key.of(row, &self.fields),
                Target::Files { .. } => None,
            };
        };
        let Some(Field::Text(name)) = row.get(*self.fields.first()?) else { return None };
        if name.is_empty() {
            return None;
        }
        let name = name.strip_prefix(file.strip.as_bytes()).unwrap_or(name);
        let path = Path::new(&file.folder).join(OsStr::from_bytes(name));
        // What leads out of the storage is not in it: an impossible key says so.
        Some(of_file(&key_of(&path).unwrap_or_else(|| name.to_vec())))
    }
}

impl RowKey {
    /// The values of these fields as a key; none where one of them is NULL.
    fn of(&self, row: &[Field<'_>], fields: &[usize]) -> Option<Vec<u8>> {
        let mut to = Vec::new();
        for (field, as_number) in fields.iter().zip(&self.as_numbers) {
            match row.get(*field)? {
                Field::Null => return None,
                field if *as_number => key::push(&mut to, &number(field)),
                field => key::push(&mut to, field),
            }
        }
        Some(to)
    }
}

/// A number as all numbers are written that are equal to it.
fn number<'a>(field: &Field<'a>) -> Field<'a> {
    let plain = match field {
        Field::Real(value) => format!("{value}"),
        Field::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => return other.clone(),
    };
    let short = if plain.contains('.') && !plain.contains(['e', 'E']) {
        plain.trim_end_matches('0').trim_end_matches('.')
    } else {
        &plain
    };
    match short.parse() {
        Ok(integer) => Field::Integer(integer),
        Err(_not_integer) => Field::Text(short.as_bytes().to_vec().into()),
    }
}

/// The key of a file in a form in which none is the beginning of another.
fn of_file(at: &[u8]) -> Vec<u8> {
    let mut to = Vec::new();
    key::push(&mut to, &Field::Text(at.into()));
    to
}

fn text(field: &Field<'_>) -> String {
    match field {
        Field::Null => "NULL".to_owned(),
        Field::Boolean(value) => value.to_string(),
        Field::Integer(value) => value.to_string(),
        Field::Real(value) => value.to_string(),
        Field::Text(bytes) => escape(bytes),
        Field::Blob(bytes) => format!("x'{}'", hex(bytes)),
    }
}

/// Which fields of a row these columns are; none where a column is computed or not there.
fn fields(table: &TableHeader, columns: &[String]) -> Option<Vec<usize>> {
    // SQLite's names are the same in either case.
    let field = |name: &String| {
        let exact = table.stored_columns().position(|column| column.name == *name);
        exact.or_else(|| table.stored_columns().position(|c| c.name.eq_ignore_ascii_case(name)))
    };
    columns.iter().map(field).collect()
}

/// The next reference to the target with this prefix.
fn next_of(sorted: &mut Peekable<Sorted>, prefix: &[u8]) -> Result<Option<Pair>, Failure> {
    let is_it = |next: &Result<Pair, SortError>| {
        next.as_ref().map_or(true, |(key, _)| key.starts_with(prefix))
    };
    let Some(next) = sorted.next_if(is_it) else { return Ok(None) };
    let (key, from) = next?;
    // After the number of the target, and before the count of equal ones.
    let key = key.get(prefix.len()..key.len().saturating_sub(4)).unwrap_or_default();
    Ok(Some((key.to_vec(), from)))
}

fn number32(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

fn no_such(what: &str, name: &str) -> Failure {
    Failure::message(
        ErrorKind::Usage,
        format!("there is no {what} `{name}` in the snapshot"),
        Some("see `files` in [database.NAME] of coeval.toml, and `coeval ls`".to_owned()),
    )
}
