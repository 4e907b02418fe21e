//! A package, opened: its documents read, and what is needed to make rows of its records.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::json::Guarded;
use super::layout::{
    self, ConfigManifest, FileEntry, Listed, Metadata, Place, Statistics, StoredFile, Tables,
};
use super::read::{Archived, Counter, Extra, Limits, PackageError};
use super::records::Survey;
use super::seal::{self, Keys};
use super::spool::{Span, SpoolReader};
use super::tarred::is_tar;
use crate::context::Context;
use crate::export::catalog::{Catalog, Table};
use crate::export::fixture::Names;
use crate::export::fixture::read::{self as fixture, FixtureError, Records, Salvage};
use crate::export::fixture::write::spool_failure;
use crate::export::model_map::ModelMap;
use crate::hint::{ErrorKind, Failure};
use crate::source::record::{Field, RowReader};
use crate::source::{Kind, TreeInfo};

/// Sources that a package may tell of; every upload is looked for in each of them.
const SOURCES: usize = 1000;

/// How to read a package.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// A folder for temporary files, with room for the whole package, unpacked.
    pub scratch: PathBuf,
    /// What it may cost.
    pub limits: Limits,
    /// Whether members that are no part of a package are passed over.
    pub extra: Extra,
}

/// The structure of the database that a fixture of others belongs to: of the live database, or
/// of a snapshot of it. A fixture does not tell the types of its columns.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The database's name in the snapshot to be.
    pub name: String,
    /// Its header.
    pub header: Vec<u8>,
    /// Its tables.
    pub trees: Vec<TreeInfo>,
    /// What the application said about its models.
    pub introspection: Option<String>,
    /// Its content types: number, application, model. Fixtures refer to them by name, and often do
    /// not hold them.
    pub content_types: Vec<(i64, String, String)>,
    /// Its permissions: number, code name, number of the content type.
    pub permissions: Vec<(i64, String, i64)>,
}

/// A package, opened.
#[derive(Debug)]
pub struct Package {
    /// Its members.
    pub archived: Archived,
    /// `metadata.json`.
    pub metadata: Metadata,
    /// `backup_metadata.json`, if any.
    pub statistics: Option<Statistics>,
    /// `tables.json`, if coeval wrote the package.
    pub tables: Option<Tables>,
    /// `config_manifest.json`.
    pub configuration: ConfigManifest,
    /// Whether what can be read of it is taken when it is damaged.
    pub salvage: Salvage,
    /// What the fixture tells, once it was read.
    pub(super) surveyed: OnceLock<Survey>,
}

/// A database of a package, ready to make rows of records.
#[derive(Debug)]
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Its header.
    pub header: Vec<u8>,
    /// Its structure.
    pub catalog: Catalog,
    /// Its models.
    pub map: ModelMap,
    /// Natural keys.
    pub names: Names,
    /// Where the records of each table are, in the order of the catalogue.
    pub places: Vec<Rows>,
    /// Whether the fixture is of this database.
    pub has_fixture: bool,
}

/// Takes the records of a fixture, each with the place where it begins, until it has enough.
pub type TakeRecord<'a> =
    dyn FnMut(u64, &fixture::Record<'_>) -> Result<ControlFlow<()>, Failure> + 'a;

/// Where the records of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// In the fixture.
    Fixture,
    /// As they are, in this member, so many.
    Raw(Span, u64),
    /// Not known: they were left out, or the fixture of others has none. The table is no part of the
    /// snapshot.
    Untold,
}

impl Prepared {
    /// Puts the sequences behind the highest number of each table: a fixture of others does not
    /// tell of them, and those of the database given know nothing of its records.
    pub fn raise_sequences(&mut self, highest: &[i64]) {
        let tables = self.catalog.tables.iter().map(Table::name).zip(highest);
        let highest: HashMap<&str, i64> = tables.map(|(name, highest)| (name, *highest)).collect();
        for sequence in &mut self.catalog.header.sequences {
            let table = sequence.owned_by_table.as_ref().unwrap_or(&sequence.name);
            let number = highest.get(table.as_str()).copied().unwrap_or(0);
            if number > 0 && number >= sequence.last_value {
                (sequence.last_value, sequence.is_called) = (number, true);
            }
        }
        self.header = self.catalog.header.to_json();
    }

    /// Whether the records of this model are taken from elsewhere than the fixture.
    pub fn is_raw(&self, label: &str) -> bool {
        let table = self.map.model(label).map(|model| model.table.as_str());
        let index = table.and_then(|table| self.catalog.index(table));
        index.is_some_and(|index| self.places[index] != Rows::Fixture)
    }
}

impl Package {
    /// Reads a package and its documents. Nothing is verified but that it can be read.
    pub fn open(
        input: &mut dyn Read,
        options: &OpenOptions,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let counter = Counter::default();
        Self::read(&mut counter.count(input), &counter, options, ctx)
    }

    /// The same of a file, which may be sealed, or of a folder that a package was unpacked into.
    pub fn open_path(
        path: &Path,
        keys: &Keys<'_>,
        options: &OpenOptions,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let limits = (options.limits, options.extra);
        if path.is_dir() {
            ctx.phase("reading the folder", None);
            return Self::of(Archived::unpacked(path, &options.scratch, limits, ctx)?);
        }
        let counter = Counter::default();
        let file = File::open(path).map_err(PackageError::Io)?;
        let mut input = BufReader::with_capacity(64 << 10, counter.count(file));
        let start = input.fill_buf().map_err(PackageError::Io)?;
        if seal::is_sealed(start) && !is_tar(start) {
            let mut opened = seal::open(Box::new(input), keys)?;
            return Self::read(&mut opened, &counter, options, ctx);
        }
        Self::read(&mut input, &counter, options, ctx)
    }

    fn read(
        input: &mut dyn Read,
        counter: &Counter,
        options: &OpenOptions,
        ctx: &Context,
    ) -> Result<Self, Failure> {
        ctx.phase("reading the package", None);
        let limits = (options.limits, options.extra);
        Self::of(Archived::read(input, counter, &options.scratch, limits, ctx)?)
    }

    fn of(archived: Archived) -> Result<Self, Failure> {
        let metadata = document(&archived, layout::METADATA)?.unwrap_or_default();
        let statistics = document(&archived, layout::STATISTICS)?;
        let tables: Option<Tables> = document(&archived, layout::TABLES)?;
        let configuration = document(&archived, layout::CONFIGURATION)?.unwrap_or_default();
        let (salvage, surveyed) = (Salvage::default(), OnceLock::new());
        let package =
            Self { archived, metadata, statistics, tables, configuration, salvage, surveyed };
        let origin = package.metadata.coeval.as_ref();
        if let Some(sources) = origin.map(|origin| origin.sources.len()).filter(|n| *n > SOURCES) {
            let text = format!("refused: {} lists {sources} sources", layout::METADATA);
            return Err(Failure::message(ErrorKind::Failed, text, None));
        }
        let newer = package.metadata.coeval.as_ref().map(|origin| origin.format);
        if let Some(format) = newer.filter(|format| *format != layout::FORMAT) {
            return Err(Failure::message(
                ErrorKind::Failed,
                format!(
                    "the package has format {format}, and only {} is known here",
                    layout::FORMAT
                ),
                Some("use a newer coeval".to_owned()),
            ));
        }
        Ok(package)
    }

    /// The fixture, if there is one.
    pub fn fixture(&self) -> Option<Records<impl Read + use<>>> {
        let span = [layout::FIXTURE, layout::FIXTURE_LINES]
            .into_iter()
            .find_map(|name| self.archived.file(name))?;
        let limits = fixture::Limits::default();
        Some(Records::new(self.archived.spool.open(&span), limits, self.salvage))
    }

    /// The pg_dump archive, which only `pg_restore` can read, if there is one.
    pub fn dump(&self) -> Option<SpoolReader> {
        self.archived.file(layout::DUMP).map(|span| self.archived.spool.open(&span))
    }

    /// Hands over every record of the fixture, with the place where it begins.
    pub fn each_record(&self, ctx: &Context, take: &mut TakeRecord<'_>) -> Result<u64, Failure> {
        let Some(mut records) = self.fixture() else { return Ok(0) };
        let mut count = 0;
        while let Some((offset, bytes)) = records.next_record()? {
            let record = fixture::parse(bytes, offset, count)?;
            if take(offset, &record)?.is_break() {
                break;
            }
            count += 1;
            if count % 1024 == 0 {
                ctx.check_cancelled()?;
            }
        }
        Ok(count)
    }

    /// The members that `metadata.json` lists, one after the other.
    pub fn each_listed(&self, take: &mut dyn FnMut(String, Listed)) -> Result<(), Failure> {
        self.stream(layout::METADATA, &["coeval", "members"], take)
    }

    /// The member that `storage/manifest.json` calls so: below `storage/`, which some writers say
    /// and others do not, and which may also be the name of a folder there.
    pub fn stored_member(&self, path: &str) -> String {
        let member = format!("storage/{path}");
        if path.starts_with("storage/") && self.archived.file(&member).is_none() {
            return path.to_owned();
        }
        member
    }

    /// The uploads that `storage/manifest.json` lists.
    pub fn each_stored(&self, take: &mut dyn FnMut(String, StoredFile)) -> Result<(), Failure> {
        self.stream(layout::STORAGE, &["files"], take)
    }

    /// Folders and links of the uploads, as coeval lists them.
    pub fn stored_entries(&self) -> Result<Vec<FileEntry>, Failure> {
        #[derive(Deserialize)]
        struct View {
            #[serde(default)]
            entries: Vec<FileEntry>,
        }
        Ok(document::<View>(&self.archived, layout::STORAGE)?.map_or_else(Vec::new, |v| v.entries))
    }

    fn stream<V: DeserializeOwned>(
        &self,
        member: &str,
        path: &[&str],
        take: &mut dyn FnMut(String, V),
    ) -> Result<(), Failure> {
        let Some(reader) = json(&self.archived, member)? else { return Ok(()) };
        let mut json = serde_json::Deserializer::from_reader(reader);
        Below { path, take }.deserialize(&mut json).map_err(|error| unreadable(member, &error))
    }

    /// The databases of the package: those coeval wrote with their own structure, the fixture of
    /// others with the structure given.
    pub fn databases(
        &self,
        schema: Option<&Schema>,
        ctx: &Context,
    ) -> Result<Vec<Prepared>, Failure> {
        let Some(tables) = &self.tables else {
            return match (schema, self.fixture()) {
                (_, None) => Ok(Vec::new()),
                (Some(schema), Some(_)) => Ok(vec![self.foreign(schema, ctx)?]),
                (None, Some(_)) => Err(Failure::message(
                    ErrorKind::Usage,
                    "a fixture does not tell the types of its columns",
                    Some("name the database it belongs to, migrated: --database URL".to_owned()),
                )),
            };
        };
        tables
            .databases
            .iter()
            .enumerate()
            .map(|(index, database)| self.own(database, index))
            .collect()
    }

    /// A database that coeval exported.
    fn own(&self, database: &layout::DatabaseTables, index: usize) -> Result<Prepared, Failure> {
        // The fixture holds the first one.
        let has_fixture = index == 0;
        let origin = self.metadata.coeval.as_ref();
        let part = origin.and_then(|origin| {
            origin
                .sources
                .iter()
                .find(|part| part.kind == Kind::Database && part.name == database.name)
        });
        let header = part.map(|part| part.header.get().as_bytes().to_vec()).unwrap_or_default();
        let trees = database.tables.iter().map(|table| TreeInfo {
            name: table.name.clone(),
            header: table.header.get().as_bytes().to_vec(),
            estimate: Some(table.records),
        });
        let mut catalog = Catalog::read(&header, trees.collect())?;
        let entries: HashMap<&str, _> =
            database.tables.iter().map(|entry| (entry.name.as_str(), entry)).collect();
        if entries.len() < database.tables.len() {
            let text = format!("{} lists two tables by one name", layout::TABLES);
            return Err(Failure::message(ErrorKind::Damage, text, None));
        }
        let mut places = Vec::new();
        for table in &catalog.tables {
            places.push(
                match entries
                    .get(table.name())
                    .map(|entry| (entry.place, &entry.raw, entry.records))
                {
                    Some((Place::Fixture, _, _)) if has_fixture => Rows::Fixture,
                    Some((Place::Raw, Some(raw), records)) => {
                        let name = format!("database/{raw}");
                        let span = self.archived.file(&name).ok_or_else(|| missing(&name))?;
                        Rows::Raw(span, records)
                    }
                    _ => Rows::Untold,
                },
            );
        }
        let mut names = Names::default();
        let types = self.own_names(&catalog, &places, &mut names)?;
        let untold = catalog.tables.iter().zip(&places);
        let untold = untold.filter(|(_, place)| **place == Rows::Untold);
        let untold: Vec<String> = untold.map(|(table, _)| table.name().to_owned()).collect();
        let header = if untold.is_empty() {
            header
        } else {
            catalog.header.excluded_tables.extend(untold);
            catalog.header.to_json()
        };
        let introspection = database.introspection.as_ref().map(|json| json.get());
        let map = ModelMap::resolve(&catalog, introspection, &types)?;
        Ok(Prepared {
            name: database.name.clone(),
            header,
            catalog,
            map,
            names,
            places,
            has_fixture,
        })
    }

    /// Content types and permissions from their raw tables.
    fn own_names(
        &self,
        catalog: &Catalog,
        places: &[Rows],
        names: &mut Names,
    ) -> Result<Vec<(String, String)>, Failure> {
        let mut types = Vec::new();
        for (name, columns) in [
            ("django_content_type", ["id", "app_label", "model"]),
            ("auth_permission", ["id", "codename", "content_type_id"]),
        ] {
            let Some(index) = catalog.tables.iter().position(|table| table.name() == name) else {
                continue;
            };
            let columns: Option<Vec<usize>> =
                columns.iter().map(|column| catalog.tables[index].column(column)).collect();
            let (Rows::Raw(span, _), Some(columns)) = (places[index], columns) else { continue };
            self.each_line(&span, &mut |line| {
                let values = RowReader::new(line).collect::<Result<Vec<_>, _>>()?;
                let text = |at: usize| match values.get(columns[at]) {
                    Some(Field::Text(text)) => String::from_utf8_lossy(text).into_owned(),
                    _ => String::new(),
                };
                let number = |at: usize| match values.get(columns[at]) {
                    Some(Field::Integer(number)) => *number,
                    _ => 0,
                };
                if name == "auth_permission" {
                    names.permission(number(0), &text(1), number(2))?;
                } else {
                    names.content_type(number(0), &text(1), &text(2))?;
                    types.push((text(1), text(2)));
                }
                Ok(())
            })?;
        }
        Ok(types)
    }

    /// The lines of a raw table.
    pub fn each_line(
        &self,
        span: &Span,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let limit = fixture::Limits::default().record as u64;
        let mut reader = BufReader::new(self.archived.spool.open(span));
        let mut line = Vec::new();
        loop {
            line.clear();
            let read =
                (&mut reader).take(limit).read_until(b'\n', &mut line).map_err(spool_failure)?;
            if read == 0 {
                return Ok(());
            }
            if line.pop() != Some(b'\n') {
                let text = "a raw table ends in the middle, or a line of it is too long";
                return Err(Failure::message(ErrorKind::Damage, text, None));
            }
            take(&line)?;
        }
    }
}

fn document<T: DeserializeOwned>(archived: &Archived, name: &str) -> Result<Option<T>, Failure> {
    let Some(reader) = json(archived, name)? else { return Ok(None) };
    serde_json::from_reader(reader).map(Some).map_err(|error| unreadable(name, &error))
}

/// A document's bytes, if there is one, and if it is no longer than one of this package can be.
fn json(
    archived: &Archived,
    name: &str,
) -> Result<Option<BufReader<Guarded<SpoolReader>>>, Failure> {
    let Some(span) = archived.file(name) else { return Ok(None) };
    // Two documents list members: a line for each, with its name, its checksum and its times.
    let lines = || archived.members.keys().map(|name| 512 + 2 * name.len() as u64).sum::<u64>();
    let longest = match name {
        layout::METADATA => (16 << 20) + lines(),
        layout::STORAGE => (1 << 20) + lines(),
        layout::TABLES => 16 << 20,
        layout::CONFIGURATION => 8 << 20,
        _ => 1 << 20,
    };
    if span.length > longest {
        let text = format!("refused: {name} has {} bytes, over {longest}", span.length);
        return Err(Failure::message(ErrorKind::Failed, text, None));
    }
    Ok(Some(BufReader::new(Guarded::new(archived.spool.open(&span)))))
}

fn unreadable(member: &str, error: &serde_json::Error) -> Failure {
    let text = format!("{member} cannot be read: {error}");
    Failure::message(ErrorKind::Damage, text, Some("fetch or make the package again".to_owned()))
}

fn missing(member: &str) -> Failure {
    let text = format!("{member} is missing from the package");
    Failure::message(ErrorKind::Damage, text, Some("fetch or make the package again".to_owned()))
}

/// Finds the object at a path within JSON and hands over its entries one by one, so that a list
/// of a million members takes no memory.
struct Below<'a, V> {
    path: &'a [&'a str],
    take: &'a mut dyn FnMut(String, V),
}

impl<'de, V: DeserializeOwned> DeserializeSeed<'de> for Below<'_, V> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, V: DeserializeOwned> Visitor<'de> for Below<'_, V> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                None => (self.take)(key, map.next_value()?),
                Some((wanted, path)) if key == *wanted => {
                    map.next_value_seed(Below { path, take: &mut *self.take })?;
                }
                Some(_) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A fixture's own fault, kept apart from faults of the machine.
pub fn is_fault(failure: &Failure) -> bool {
    failure
        .error()
        .downcast_ref::<FixtureError>()
        .is_some_and(|e| !matches!(e, FixtureError::Io(_)))
        || failure.kind() == ErrorKind::Damage
}
