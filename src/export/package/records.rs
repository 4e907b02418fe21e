//! The records of a package's fixture as rows: made on all cores, in order, and everything that
//! they refer to looked up, in one reading and in bounded memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rayon::prelude::*;
use serde_json::value::RawValue;

use super::open::{Package, Prepared, Rows, Schema};
use super::verify::{Faults, Outcome, Verification};
use crate::context::Context;
use crate::export::catalog::Catalog;
use crate::export::fixture::decode::{Decoded, Decoder, Numbers, RecordError};
use crate::export::fixture::names::{TooManyNames, candidates};
use crate::export::fixture::read::{self as fixture, FixtureError, Record, Salvage};
use crate::export::fixture::{Names, value};
use crate::export::model_map::{CONTENT_TYPE, ModelMap, PERMISSION};
use crate::hint::{Failure, Hint};
use crate::report::Event;
use crate::source::sort::{BUDGET, Duplicates, Sorter};

/// Bytes and number of the records that are worked on at once.
const BATCH: (usize, usize) = (4 << 20, 8192);
/// How many references are remembered in order not to look up the same again.
const REMEMBERED: usize = 1 << 16;
/// Bytes of memory that what a fixture tells of itself may take, about.
const SURVEY: usize = 32 << 20;
/// What an entry costs besides its text.
const ENTRY: usize = 128;

/// A fixture has more to remember than memory is spent on.
#[derive(Debug, thiserror::Error)]
#[error(
    "refused: the fixture tells of more models, content types, permissions and fields with lists \
     than fit into {} MiB of memory",
    SURVEY >> 20
)]
struct TooMuch;

impl Hint for TooMuch {}

/// Takes rows: the place of the table in the catalogue, and the row.
pub type TakeRow<'a> = dyn FnMut(usize, &[u8]) -> Result<(), Failure> + 'a;

/// What became of one record.
struct Looked {
    decoded: Result<Decoded, RecordError>,
    label: String,
    /// File names that were looked up, and what was missing of them.
    uploads: (u64, Vec<String>),
}

impl Package {
    /// Makes something of every record of the fixture, on all cores, and hands it over in order,
    /// with the place where the record begins. Returns how many records there were. What cannot be
    /// read ends it with an error; or, where what is readable is to be salvaged, is passed over and
    /// handed to `damage`.
    pub fn map_records<T: Send>(
        &self,
        ctx: &Context,
        make: &(dyn Fn(u64, &Record<'_>) -> T + Sync),
        take: &mut dyn FnMut(u64, T) -> Result<(), Failure>,
        damage: &mut dyn FnMut(FixtureError),
    ) -> Result<u64, Failure> {
        let Some(mut records) = self.fixture() else { return Ok(0) };
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        let mut count = 0;
        let mut refuse = |error: FixtureError| match self.salvage {
            Salvage::Refuse => Err(error),
            Salvage::Take => {
                damage(error);
                Ok(())
            }
        };
        loop {
            bytes.clear();
            places.clear();
            let mut ended = Ok(false);
            while bytes.len() < BATCH.0 && places.len() < BATCH.1 {
                match records.next_record() {
                    Ok(Some((place, record))) => {
                        bytes.extend_from_slice(record);
                        places.push((place, bytes.len() - record.len(), bytes.len()));
                    }
                    Ok(None) => ended = Ok(true),
                    Err(error) => ended = Err(error),
                }
                if !matches!(ended, Ok(false)) {
                    break;
                }
            }
            ctx.check_cancelled()?;
            let made: Vec<Result<T, FixtureError>> = places
                .par_iter()
                .enumerate()
                .with_min_len(32)
                .map(|(at, (place, start, end))| {
                    let record = fixture::parse(&bytes[*start..*end], *place, count + at as u64)?;
                    Ok(make(*place, &record))
                })
                .collect();
            for (made, (place, ..)) in made.into_iter().zip(&places) {
                match made {
                    Ok(made) => take(*place, made)?,
                    Err(error) => refuse(error)?,
                }
            }
            count += places.len() as u64;
            ctx.report(Event::Progress { items: places.len() as u64, bytes: bytes.len() as u64 });
            match ended {
                Ok(false) => {}
                Ok(true) => {
                    records.passed_over().map_or(Ok(()), refuse)?;
                    return Ok(count);
                }
                Err(error @ FixtureError::Io(_)) => return Err(error.into()),
                Err(error) => return refuse(error).map(|()| count).map_err(Failure::from),
            }
        }
    }

    /// Reads the fixture once, as far as it tells without any table: how many records of which
    /// model there are, and what it calls by names.
    pub fn survey(&self, ctx: &Context) -> Result<&Survey, Failure> {
        if let Some(survey) = self.surveyed.get() {
            return Ok(survey);
        }
        let mut survey = Survey::default();
        let mut damage = Faults::default();
        let take = &mut |_, seen: Seen| survey.add(seen).map_err(Failure::from);
        let note = &mut |error: FixtureError| damage.add(error.to_string());
        survey.total = self.map_records(ctx, &|_, record| Seen::of(record), take, note)?;
        survey.damage = damage;
        Ok(self.surveyed.get_or_init(|| survey))
    }

    /// The database that a fixture of others belongs to: of its tables those that it tells of.
    pub fn foreign(&self, schema: &Schema, ctx: &Context) -> Result<Prepared, Failure> {
        let survey = self.survey(ctx)?;
        let mut catalog = Catalog::read(&schema.header, schema.trees.clone())?;
        let mut names = Names::default();
        let types = survey.names(schema, &mut names)?;
        let map = ModelMap::resolve(&catalog, schema.introspection.as_deref(), &types)?;
        self.learn(survey, &catalog, &map, &mut names, ctx)?;
        let statistics = self.statistics.as_ref().map(|statistics| &statistics.model_counts);
        let told = |label: &str| {
            survey.models.contains_key(label)
                || statistics.is_some_and(|counts| {
                    counts.keys().any(|counted| counted.eq_ignore_ascii_case(label))
                })
        };
        let tables: BTreeSet<&str> = map
            .models
            .iter()
            .filter(|model| told(&model.label))
            .flat_map(|model| {
                let pairs = map.many(&model.label).map(|through| through.table.as_str());
                pairs.chain([model.table.as_str()])
            })
            .collect();
        let places: Vec<Rows> = catalog
            .tables
            .iter()
            .map(|table| if tables.contains(table.name()) { Rows::Fixture } else { Rows::Untold })
            .collect();
        let untold = catalog.tables.iter().filter(|table| !tables.contains(table.name()));
        let untold = untold.map(|table| table.name().to_owned());
        catalog.header.excluded_tables.extend(untold);
        let (name, header) = (schema.name.clone(), catalog.header.to_json());
        Ok(Prepared { name, header, catalog, map, names, places, has_fixture: true })
    }

    /// Remembers the natural keys by which the fixture refers to its records, and gives numbers to
    /// those that have none.
    fn learn(
        &self,
        survey: &Survey,
        catalog: &Catalog,
        map: &ModelMap,
        names: &mut Names,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let mut columns: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (label, field) in &survey.lists {
            let Some(model) = map.model(label) else { continue };
            let found = model.fields.iter().find(|known| known.name == *field);
            if let Some(target) = found.and_then(|field| field.target.as_ref()) {
                columns.entry(&target.label).or_default().insert(&target.column);
            }
            for through in map.many(label).filter(|through| through.field == *field) {
                let table = map.model(&through.target).and_then(|to| catalog.table(&to.table));
                let key = table.and_then(|table| table.header.key.first());
                columns.entry(&through.target).or_default().extend(key.map(String::as_str));
            }
        }
        columns.retain(|label, _| !names.knows(label));
        if columns.is_empty() && survey.models.values().all(|model| model.without_key == 0) {
            return Ok(());
        }
        for (label, model) in &survey.models {
            names.seen(label, model.highest);
        }
        // The names, the values of the columns (of the key, where it is not written), and whether
        // the record needs a number.
        let make = |_, record: &Record<'_>| {
            let model = map.model(&record.model)?;
            let numbered =
                record.pk.is_none() && !names_only(&record.model) && model.number().is_some();
            let columns = columns.get(record.model.as_str());
            if columns.is_none() && !numbered {
                return None;
            }
            let table = catalog.table(&model.table)?;
            let value = |column: &&str| {
                let at = table.column(column)?;
                let json = if model.pk == [at] {
                    record.pk.map(|pk| pk.get().to_owned())
                } else {
                    let field = model.fields.iter().find(|field| field.column == at)?;
                    record.fields.get(&field.name).map(|json| json.get().to_owned())
                };
                Some(((*column).to_owned(), json))
            };
            let values: Vec<_> = columns.into_iter().flatten().filter_map(value).collect();
            Some((record.model.clone(), candidates(catalog, model, record), values, numbered))
        };
        self.map_records(
            ctx,
            &make,
            &mut |place, made| {
                let Some((label, called, values, numbered)) = made else { return Ok(()) };
                let number = numbered.then(|| names.give(&label, place)).transpose()?;
                let number = number.map(|number| number.to_string());
                for (column, json) in values {
                    let Some(json) = json.or_else(|| number.clone()) else { continue };
                    for name in &called {
                        names.learn(&label, &column, name.clone(), json.clone())?;
                    }
                }
                Ok(())
            },
            &mut |_| {},
        )?;
        Ok(())
    }

    /// Makes every record a row, hands the rows over, and looks up every reference and upload.
    pub fn check_records(
        &self,
        database: &Prepared,
        found: &mut Verification,
        take: &mut TakeRow<'_>,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let is_told = |index: usize| database.places[index] != Rows::Untold;
        let decoder = Decoder::new(&database.catalog, &database.map, &database.names, &is_told);
        let models = database.map.models.iter().map(|model| {
            let files = model.fields.iter().filter(|field| field.file);
            (model.label.as_str(), files.map(|field| field.name.as_str()).collect())
        });
        let files: HashMap<&str, HashSet<&str>> = models.collect();
        let make = |place, record: &Record<'_>| Looked {
            decoded: decoder.decode(record, place),
            label: record.model.clone(),
            uploads: self.uploads(files.get(record.model.as_str()), record),
        };
        let (mut faults, mut only_django, mut missing) =
            (Faults::default(), Faults::default(), Faults::default());
        let (mut references, mut numbers) = (References::new(), Numbers::default());
        let (mut rows, mut checked, mut damaged) = (0_u64, 0, false);
        self.map_records(
            ctx,
            &make,
            &mut |_, looked: Looked| {
                checked += looked.uploads.0;
                looked.uploads.1.into_iter().for_each(|fault| missing.add(fault));
                let raw = database.is_raw(&looked.label);
                match looked.decoded {
                    Ok(decoded) => {
                        references.add(&decoded)?;
                        for row in &decoded.rows {
                            rows += 1;
                            if database.places[row.table] == Rows::Fixture {
                                take(row.table, numbers.encode(row))?;
                            }
                        }
                    }
                    // Import takes these from the raw table; `loaddata` will stumble over them.
                    Err(error) if raw => only_django.add(error.to_string()),
                    Err(error) => faults.add(error.to_string()),
                }
                Ok(())
            },
            &mut |_| damaged = true,
        )?;
        let whole = faults.count == 0 && only_django.count == 0 && !damaged;
        let well = format!("all are rows of their tables: {rows}");
        found.conclude("records", Outcome::Damaged, &faults, well);
        if only_django.count > 0 {
            found.conclude("records for Django", Outcome::Warning, &only_django, String::new());
        }
        let mut anew = Faults::default();
        for (label, count) in database.names.numbered() {
            anew.add(format!(
                "{count} records of {label} came without their primary keys and get new ones: \
                 integers that name them without being foreign keys, as in audit trails and generic \
                 relations, now name others (dump them without --natural-primary)"
            ));
        }
        if anew.count > 0 {
            found.conclude("primary keys", Outcome::Warning, &anew, String::new());
        }
        // What is not there is only missing where all could be read.
        references.conclude(if whole { Outcome::Damaged } else { Outcome::Warning }, found)?;
        if database.map.django.is_none() {
            found.add("uploads", Outcome::NotChecked, "which fields name files is not known");
        } else if self.archived.members.keys().any(|name| name.starts_with("storage/")) {
            let well = format!("{checked} file names lead to files in storage/");
            found.conclude("uploads", Outcome::Warning, &missing, well);
        }
        Ok(())
    }

    /// How many files a record names in these fields, and which of them are missing.
    fn uploads(&self, files: Option<&HashSet<&str>>, record: &Record<'_>) -> (u64, Vec<String>) {
        let (mut checked, mut missing) = (0, Vec::new());
        let Some(files) = files.filter(|files| !files.is_empty()) else { return (0, missing) };
        for (name, json) in record.fields.iter().filter(|(name, _)| files.contains(name.as_str())) {
            let path = value::unquote(json.get());
            let Some(path) = path.filter(|path| !path.is_empty()) else { continue };
            checked += 1;
            if !self.has_upload(&path) {
                let pk = record.pk.map_or("", |pk| pk.get());
                missing
                    .push(format!("{} {pk}: {name} names {path}, which is missing", record.model));
            }
        }
        missing.sort();
        (checked, missing)
    }

    /// Whether `storage/` has the file that a record names: below its root, or below one of its
    /// folders.
    fn has_upload(&self, path: &str) -> bool {
        let path = path.strip_prefix("storage/").unwrap_or(path);
        let is_there = |name: &str| self.archived.file(name).is_some();
        is_there(&format!("storage/{path}"))
            || ["documents", "media"]
                .iter()
                .any(|folder| is_there(&format!("storage/{folder}/{path}")))
            || self.metadata.coeval.iter().flat_map(|origin| &origin.sources).any(|part| {
                part.kind == crate::source::Kind::Storage
                    && is_there(&format!("storage/{}/{path}", part.name))
            })
    }
}

/// What is referred to is sorted beside what is there, so that neither need be in memory.
struct References {
    sorter: Sorter,
    /// References that were made of late.
    remembered: HashSet<Vec<u8>>,
    count: u64,
}

/// What a mark is there for: the mark of a record sorts before the references to it.
const DEFINED: u8 = 0;
const REFERRED: u8 = 1;

impl References {
    fn new() -> Self {
        let sorter = Sorter::new(BUDGET, Duplicates::Number);
        Self { sorter, remembered: HashSet::new(), count: 0 }
    }

    fn add(&mut self, decoded: &Decoded) -> Result<(), Failure> {
        let mut key = Vec::new();
        for mark in &decoded.marks {
            key.clone_from(mark);
            key.push(DEFINED);
            self.sorter.push(&key, &[])?;
        }
        for (mark, missing) in &decoded.references {
            self.count += 1;
            if self.remembered.contains(mark) {
                continue;
            }
            if self.remembered.len() >= REMEMBERED {
                self.remembered.clear();
            }
            self.remembered.insert(mark.clone());
            key.clone_from(mark);
            key.push(REFERRED);
            self.sorter.push(&key, missing.as_bytes())?;
        }
        Ok(())
    }

    /// Tells what refers to nothing as a fault of this weight.
    fn conclude(self, weight: Outcome, found: &mut Verification) -> Result<(), Failure> {
        let (mut dangling, mut twice) = (Faults::default(), 0);
        let mut defined = Vec::new();
        for entry in self.sorter.finish()? {
            let (mut key, missing) = entry?;
            // The number that tells equal entries apart.
            let number = key.split_off(key.len().saturating_sub(4));
            let kind = key.pop();
            if kind == Some(DEFINED) {
                twice += usize::from(number != [0; 4]);
                defined = key;
            } else if defined != key {
                dangling.add(String::from_utf8_lossy(&missing).into_owned());
            }
        }
        if twice > 0 {
            let detail = format!("{twice} records have the key of another one");
            found.add("keys", Outcome::Damaged, detail);
        }
        let well = format!("{} references lead to records of the fixture", self.count);
        found.conclude("references", weight, &dangling, well);
        Ok(())
    }
}

/// What a fixture tells without any table.
#[derive(Debug, Default)]
pub struct Survey {
    /// Records.
    pub total: u64,
    /// Per model.
    pub models: BTreeMap<String, Surveyed>,
    /// What could not be read and was passed over.
    pub damage: Faults,
    /// Fields that hold lists: perhaps natural keys.
    lists: BTreeSet<(String, String)>,
    /// Content types and permissions, in order.
    named: Vec<Seen>,
    /// Bytes taken of [`SURVEY`].
    taken: usize,
}

/// What a fixture tells of a model.
#[derive(Debug, Default)]
pub struct Surveyed {
    /// Records.
    pub count: u64,
    without_key: u64,
    highest: i64,
}

#[derive(Debug)]
struct Seen {
    label: String,
    pk: Option<i64>,
    without_key: bool,
    lists: Vec<String>,
    /// What content types and permissions say.
    fields: Vec<(String, String)>,
}

fn names_only(label: &str) -> bool {
    label == CONTENT_TYPE || label == PERMISSION
}

impl Seen {
    fn of(record: &Record<'_>) -> Self {
        let is_list = |json: &RawValue| {
            let text = json.get();
            text.starts_with("[\"") || text[1..].trim_start().starts_with(['[', '"'])
        };
        let lists = record.fields.iter().filter(|(_, json)| json.get().starts_with('['));
        let lists = lists.filter(|(_, json)| is_list(json)).map(|(name, _)| name.clone());
        let named = names_only(&record.model);
        let fields = record.fields.iter().filter(|_| named);
        Self {
            label: record.model.clone(),
            pk: record.pk.and_then(|pk| pk.get().parse().ok()),
            without_key: record.pk.is_none(),
            lists: lists.collect(),
            fields: fields.map(|(name, json)| (name.clone(), json.get().to_owned())).collect(),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        value::unquote(self.json(name)?)
    }

    fn json(&self, name: &str) -> Option<&str> {
        let (_, json) = self.fields.iter().find(|(field, _)| field == name)?;
        Some(json)
    }
}

impl Survey {
    fn add(&mut self, seen: Seen) -> Result<(), TooMuch> {
        if !self.models.contains_key(&seen.label) {
            self.taken += ENTRY + seen.label.len();
        }
        let model = self.models.entry(seen.label.clone()).or_default();
        model.count += 1;
        model.without_key += u64::from(seen.without_key);
        model.highest = model.highest.max(seen.pk.unwrap_or(0));
        for field in &seen.lists {
            let entry = (seen.label.clone(), field.clone());
            if !self.lists.contains(&entry) {
                self.taken += ENTRY + entry.0.len() + entry.1.len();
                self.lists.insert(entry);
            }
        }
        if names_only(&seen.label) {
            let fields = seen.fields.iter().map(|(name, json)| ENTRY + name.len() + json.len());
            self.taken += ENTRY + fields.sum::<usize>();
            self.named.push(seen);
        }
        if self.taken > SURVEY { Err(TooMuch) } else { Ok(()) }
    }

    /// Remembers content types and permissions: with the numbers that the fixture says, else with
    /// those of the database it belongs to, else with the next. Returns the content types.
    fn names(
        &self,
        schema: &Schema,
        names: &mut Names,
    ) -> Result<Vec<(String, String)>, TooManyNames> {
        let numbers_of = |label: &str| {
            self.models.get(label).is_none_or(|model| model.without_key == model.count)
        };
        if numbers_of(CONTENT_TYPE) {
            for (number, app, model) in &schema.content_types {
                names.content_type(*number, app, model)?;
                names.seen(CONTENT_TYPE, *number);
            }
        }
        let mut types: Vec<(String, String)> = Vec::new();
        for seen in self.named.iter().filter(|seen| seen.label == CONTENT_TYPE) {
            let (Some(app), Some(model)) = (seen.text("app_label"), seen.text("model")) else {
                continue;
            };
            names.seen(CONTENT_TYPE, seen.pk.unwrap_or(0));
            let known = names.number(CONTENT_TYPE, &[&app, &model]);
            let number = seen.pk.or(known).unwrap_or_else(|| names.next(CONTENT_TYPE));
            names.content_type(number, &app, &model)?;
            types.push((app, model));
        }
        if types.is_empty() {
            let known = schema.content_types.iter();
            types = known.map(|(_, app, model)| (app.clone(), model.clone())).collect();
        }
        if numbers_of(PERMISSION) {
            for (number, codename, of) in &schema.permissions {
                names.permission(*number, codename, *of)?;
                names.seen(PERMISSION, *number);
            }
        }
        for seen in self.named.iter().filter(|seen| seen.label == PERMISSION) {
            let of = seen.json("content_type").and_then(|json| names.content_type_of(json));
            let (Some(codename), Some(of)) = (seen.text("codename"), of) else { continue };
            names.seen(PERMISSION, seen.pk.unwrap_or(0));
            let known = names.permission_of(&codename, of);
            let number = seen.pk.or(known).unwrap_or_else(|| names.next(PERMISSION));
            names.permission(number, &codename, of)?;
        }
        Ok(types)
    }
}
