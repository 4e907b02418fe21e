//! The `database/` folder of a package.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, BufWriter, Write};

use serde_json::json;
use serde_json::value::RawValue;

use super::gzip;
use super::layout::{self, DatabaseTables, Place, Statistics, TableEntry, Tables};
use super::secrets::SecretsPolicy;
use super::write::{
    Draft, ExportOptions, Exported, Selection, Users, Wrapping, failed, json_bytes,
};
use crate::context::Context;
use crate::export::catalog::{Catalog, Table};
use crate::export::contents::{Contents, Facts, Skipped};
use crate::export::fixture::Names;
use crate::export::fixture::write::{FixtureWriter, Form, Written, record_of, spool_failure};
use crate::export::model_map::{CONTENT_TYPE, Model, ModelMap, PERMISSION, SESSION};
use crate::hint::{ErrorKind, Failure};
use crate::source::record::{Engine, Field, KeyKind, RowReader};
use crate::source::{Kind, key};

/// A database taken apart for export.
#[derive(Debug)]
pub struct Opened {
    /// Its name.
    pub name: String,
    /// Its structure.
    pub catalog: Catalog,
    /// Its models.
    pub map: ModelMap,
    /// What content types and permissions are called.
    pub names: Names,
    introspection: Option<String>,
}

impl Opened {
    /// Reads what is needed to know before the first record.
    pub fn new(contents: &dyn Contents, facts: &Facts, name: &str) -> Result<Self, Failure> {
        let source = facts.of_kind(Kind::Database).find(|source| source.name == name);
        let header = source.map(|source| source.header.as_slice()).unwrap_or_default();
        let catalog = Catalog::read(header, contents.tables(name)?)?;
        let introspection = contents.introspection(name)?;
        let mut names = Names::default();
        let mut types = Vec::new();
        let each = |table: &str, columns: [&str; 3], take: &mut TakeFields<'_>| {
            rows(contents, &catalog, name, table, columns, take)
        };
        each("django_content_type", ["id", "app_label", "model"], &mut |[id, app, model]| {
            if let (Field::Integer(id), Some(app), Some(model)) = (id, text(&app), text(&model)) {
                names.content_type(id, &app, &model)?;
                types.push((app, model));
            }
            Ok(())
        })?;
        each("auth_permission", ["id", "codename", "content_type_id"], &mut |[
            id,
            codename,
            of,
        ]| {
            if let (Field::Integer(id), Some(codename), Field::Integer(of)) =
                (id, text(&codename), of)
            {
                names.permission(id, &codename, of)?;
            }
            Ok(())
        })?;
        let map = ModelMap::resolve(&catalog, introspection.as_deref(), &types)?;
        Ok(Self { name: name.to_owned(), catalog, map, names, introspection })
    }
}

/// Takes three fields of a row.
type TakeFields<'a> = dyn FnMut([Field<'_>; 3]) -> Result<(), Failure> + 'a;

fn text(field: &Field<'_>) -> Option<String> {
    let Field::Text(bytes) = field else { return None };
    str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Hands over three columns of every row of a table, if there is such a table.
fn rows(
    contents: &dyn Contents,
    catalog: &Catalog,
    database: &str,
    table: &str,
    columns: [&str; 3],
    take: &mut TakeFields<'_>,
) -> Result<(), Failure> {
    let Some(table) = catalog.table(table) else { return Ok(()) };
    let Some(columns) = columns.iter().map(|name| table.column(name)).collect::<Option<Vec<_>>>()
    else {
        return Ok(());
    };
    for change in contents.records(database, table.name())? {
        let (_, row) = record_of(change?)?;
        let values = RowReader::new(&row).collect::<Result<Vec<_>, _>>()?;
        let value = |at: usize| values.get(columns[at]).cloned().unwrap_or(Field::Null);
        take([value(0), value(1), value(2)])?;
    }
    Ok(())
}

/// Writes the members of `database/`.
pub fn write(
    draft: &mut Draft,
    contents: &dyn Contents,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<(), Failure> {
    let facts = contents.facts();
    let names = databases(facts);
    let mut tables = Tables { format: layout::FORMAT, databases: Vec::new() };
    let first = draft.members.len();
    for (index, name) in names.iter().enumerate() {
        let opened = Opened::new(contents, facts, name)?;
        ctx.phase(format!("exporting database {name}"), None);
        let wanted = Wanted { selection: &options.selection, opened: &opened };
        let written = match index {
            0 => Some(fixture(draft, contents, &wanted, options.form, ctx)?),
            _ => None,
        };
        let secrets = options.secrets;
        tables.databases.push(raw(draft, contents, &wanted, written.as_ref(), secrets, ctx)?);
        if let Some(written) = written {
            statistics(draft, facts, &opened, &written)?;
            let sql = sequences(&opened, &written);
            draft.add_bytes("database/restore_instructions.sql", sql.as_bytes())?;
            if let Some(ddl) = opened.catalog.ddl() {
                draft.add_bytes("database/schema.sql", ddl.as_bytes())?;
            }
            draft.django.clone_from(&opened.map.django);
            draft.python.clone_from(&opened.map.python);
            draft.engine = Some(opened.catalog.engine());
        }
    }
    draft.add_bytes(layout::TABLES, &json_bytes(&tables)?)?;
    draft.members[first..].sort_by(|a, b| a.name.cmp(&b.name));
    let mut sums = String::new();
    for member in &draft.members[first..] {
        let name = member.name.strip_prefix("database/").unwrap_or(&member.name);
        let _ = writeln!(sums, "{}  {name}", crate::id::hex(&member.span.sha));
    }
    draft.add_bytes(layout::CHECKSUMS, sums.as_bytes())?;
    draft.members[first..].sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// The databases by name. The package has one fixture: of the database that is called the main one,
/// or the first.
fn databases(facts: &Facts) -> Vec<&str> {
    let mut names: Vec<&str> = facts.of_kind(Kind::Database).map(|s| s.name.as_str()).collect();
    if let Some(main) = names.iter().position(|name| matches!(*name, "main" | "default")) {
        names.swap(0, main);
    }
    names
}

/// Writes the fixture alone.
pub fn bare(
    contents: &dyn Contents,
    out: &mut dyn Write,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    let facts = contents.facts();
    let names = databases(facts);
    let Some((&name, others)) = names.split_first() else {
        let text = "the snapshot has no database";
        return Err(Failure::message(ErrorKind::Usage, text, None));
    };
    let opened = Opened::new(contents, facts, name)?;
    let wanted = Wanted { selection: &options.selection, opened: &opened };
    wanted.refuse_unknown()?;
    ctx.phase(format!("exporting database {name}"), None);
    let write = |out: &mut dyn Write| {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let (catalog, map, names) = (&opened.catalog, &opened.map, &opened.names);
        let writer = FixtureWriter::new(catalog, map, names, options.form, &mut out);
        let written = writer.write(contents, name, &|model| wanted.model(model), ctx)?;
        out.flush().map_err(failed)?;
        Ok(written)
    };
    let written = match options.wrapping {
        Wrapping::None => write(out)?,
        Wrapping::Gzip => gzip::compress(out, options.level, failed, write)?,
    };
    out.flush().map_err(failed)?;
    let tables = opened.catalog.tables.iter();
    let left = tables.filter_map(|table| {
        let name = table.name();
        let reason = wanted.why_not(name).or_else(|| opened.map.unmapped.get(name).cloned())?;
        Some(Skipped { item: format!("database/{name}"), reason })
    });
    let others = others.iter().map(|other| Skipped {
        item: format!("database/{other}"),
        reason: "a fixture holds one database".to_owned(),
    });
    Ok(Exported {
        records: written.counts.iter().map(|(_, count)| count).sum(),
        missing: facts.skipped.iter().cloned().chain(others).chain(left).collect(),
        notes: notes(&opened, &written),
        ..Exported::default()
    })
}

/// What of a database is wanted.
struct Wanted<'a> {
    selection: &'a Selection,
    opened: &'a Opened,
}

impl Wanted<'_> {
    fn model(&self, model: &Model) -> bool {
        let app = model.label.split('.').next().unwrap_or_default();
        let named = |name: &String| name.eq_ignore_ascii_case(&model.label) || name == app;
        let users =
            self.selection.users == Users::Included || model.label != self.opened.map.users();
        users && (self.selection.models.is_empty() || self.selection.models.iter().any(named))
    }

    /// Why a table is left out, if it is.
    fn why_not(&self, table: &str) -> Option<String> {
        let map = &self.opened.map;
        let through = map.through.iter().find(|through| through.table == table);
        let owner = through.and_then(|through| map.model(&through.owner));
        let wanted = match map.model_of_table(table).or(owner) {
            Some(model) => self.model(model),
            None => self.selection.models.is_empty(),
        };
        (!wanted).then(|| "it was not asked for".to_owned())
    }

    /// A model that does not exist is a mistake.
    fn refuse_unknown(&self) -> Result<(), Failure> {
        let models = &self.opened.map.models;
        let known = |name: &&String| {
            models.iter().any(|model| {
                model.label.eq_ignore_ascii_case(name)
                    || model.label.split('.').next() == Some(name.as_str())
            })
        };
        let Some(unknown) = self.selection.models.iter().find(|name| !known(name)) else {
            return Ok(());
        };
        let labels: Vec<&str> = models.iter().map(|model| model.label.as_str()).collect();
        Err(Failure::message(
            ErrorKind::Usage,
            format!("the snapshot has no model {unknown}"),
            Some(format!("it has {}", labels.join(", "))),
        ))
    }
}

/// What the person who gets a fixture should know of it.
fn notes(opened: &Opened, written: &Written) -> Vec<String> {
    let refused = written.refused.iter().map(|(field, count)| {
        format!(
            "{count} values of {field} have no form that Django takes; `loaddata` will refuse them"
        )
    });
    let fields = opened.map.models.iter().flat_map(|model| {
        let custom = model.fields.iter().filter(|field| field.custom);
        custom.map(|field| (model.label.as_str(), field.name.as_str()))
    });
    let custom = fields.map(|(label, field)| {
        format!(
            "{label}.{field} is written to fixtures by the application's own code; the package has \
             the column as it is"
        )
    });
    refused.chain(custom).collect()
}

fn fixture(
    draft: &mut Draft,
    contents: &dyn Contents,
    wanted: &Wanted<'_>,
    form: Form,
    ctx: &Context,
) -> Result<Written, Failure> {
    wanted.refuse_unknown()?;
    let opened = wanted.opened;
    let mut out = draft.spool.writer();
    let (catalog, map, names) = (&opened.catalog, &opened.map, &opened.names);
    let writer = FixtureWriter::new(catalog, map, names, Form::List, &mut out);
    let written = writer.write(contents, &opened.name, &|model| wanted.model(model), ctx)?;
    let span = out.finish().map_err(spool_failure)?;
    draft.add(layout::FIXTURE, span);
    draft.records = written.counts.iter().map(|(_, count)| count).sum();
    draft.notes.extend(notes(opened, &written));
    if form == Form::Lines {
        let list = BufReader::new(draft.spool.open(&span));
        let mut lines = draft.spool.writer();
        // The list has a record a line, between one line that opens it and one that ends it.
        for line in list.lines() {
            let line = line.map_err(spool_failure)?;
            if line.starts_with('{') {
                let line = line.strip_suffix(',').unwrap_or(&line);
                writeln!(lines, "{line}").map_err(spool_failure)?;
            }
        }
        let span = lines.finish().map_err(spool_failure)?;
        draft.add(layout::FIXTURE_LINES, span);
    }
    Ok(written)
}

/// Writes `raw/` for every table that the fixture does not hold exactly, and says of every table
/// where its records are.
fn raw(
    draft: &mut Draft,
    contents: &dyn Contents,
    wanted: &Wanted<'_>,
    written: Option<&Written>,
    secrets: SecretsPolicy,
    ctx: &Context,
) -> Result<DatabaseTables, Failure> {
    let opened = wanted.opened;
    let counts: BTreeMap<&str, u64> = written
        .iter()
        .flat_map(|written| written.counts.iter())
        .map(|(label, count)| (label.as_str(), *count))
        .collect();
    let mut tables = Vec::new();
    for table in &opened.catalog.tables {
        ctx.check_cancelled()?;
        let name = table.name();
        let model = opened.map.model_of_table(name);
        let is_session =
            model.is_some_and(|model| model.label == SESSION) || name == "django_session";
        let why = match written {
            None => Some("the fixture holds another database".to_owned()),
            Some(_) if is_session => Some("sessions are kept out of the fixture".to_owned()),
            Some(written) => {
                written.inexact.get(name).or_else(|| opened.map.unmapped.get(name)).cloned()
            }
        };
        let mut entry = TableEntry {
            name: name.to_owned(),
            records: model.and_then(|model| counts.get(model.label.as_str())).copied().unwrap_or(0),
            model: model.map(|model| model.label.clone()),
            provenance: model.map(|model| provenance(model.provenance).to_owned()),
            place: Place::Fixture,
            raw: None,
            why,
            header: raw_json(&table.info.header)?,
        };
        if let Some(reason) = wanted.why_not(name) {
            (entry.place, entry.records) = (Place::Omitted, 0);
            draft.missing.push(Skipped { item: format!("database/{name}"), reason });
        } else if is_session && secrets == SecretsPolicy::Redact {
            entry.place = Place::Omitted;
            draft.missing.push(Skipped {
                item: format!("database/{name}"),
                reason: "whoever holds a session is logged in".to_owned(),
            });
        } else if entry.why.is_some() {
            let folder =
                if written.is_some() { String::new() } else { format!("{}/", safe(&opened.name)) };
            let member = format!("raw/{folder}{}.ndjson", safe(name));
            entry.records = raw_table(draft, contents, &opened.name, table, &member)?;
            entry.place = Place::Raw;
            entry.raw = Some(member);
        }
        tables.push(entry);
    }
    let introspection = opened.introspection.as_deref().map(|json| raw_json(json.as_bytes()));
    Ok(DatabaseTables {
        name: opened.name.clone(),
        introspection: introspection.transpose()?,
        tables,
    })
}

const fn provenance(provenance: crate::export::model_map::Provenance) -> &'static str {
    use crate::export::model_map::Provenance;
    match provenance {
        Provenance::Introspection => "introspection",
        Provenance::Migrations => "migrations",
        Provenance::ContentType => "content-type",
        Provenance::LikeName => "like-name",
    }
}

/// The records of a table, one row a line. Where the key is SQLite's row number, which is no
/// column, it stands before the row and a tab.
fn raw_table(
    draft: &mut Draft,
    contents: &dyn Contents,
    database: &str,
    table: &Table,
    member: &str,
) -> Result<u64, Failure> {
    let mut out = draft.spool.writer();
    let mut count = 0;
    for change in contents.records(database, table.name())? {
        let (key, row) = record_of(change?)?;
        if table.header.key_kind == KeyKind::Rowid {
            let number = match key::decode(&key).as_deref() {
                Some([Field::Integer(number)]) => *number,
                _ => {
                    return Err(Failure::message(
                        ErrorKind::Damage,
                        "a row number cannot be read",
                        None,
                    ));
                }
            };
            write!(out, "{number}\t").map_err(spool_failure)?;
        }
        out.write_all(&row).and_then(|()| out.write_all(b"\n")).map_err(spool_failure)?;
        count += 1;
    }
    let span = out.finish().map_err(spool_failure)?;
    draft.add(&format!("database/{member}"), span);
    Ok(count)
}

/// JSON that is embedded to the byte.
pub fn raw_json(bytes: &[u8]) -> Result<Box<RawValue>, Failure> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    RawValue::from_string(text).map_err(|error| {
        Failure::message(ErrorKind::Damage, format!("a header is not JSON: {error}"), None)
    })
}

/// A name as one component of a path. Tree names have no slashes; dots at the beginning and
/// names that are too long are kept out here.
fn safe(name: &str) -> String {
    let mut safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' })
        .collect();
    if safe != name || safe.starts_with('.') || safe.len() > 80 {
        safe.truncate(60);
        let hash = crate::id::hex(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
        safe = format!("_{safe}-{hash}");
    }
    safe
}

fn statistics(
    draft: &mut Draft,
    facts: &Facts,
    opened: &Opened,
    written: &Written,
) -> Result<(), Failure> {
    let mut apps: Vec<String> = written
        .counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .filter_map(|(label, _)| Some(label.split_once('.')?.0.to_owned()))
        .collect();
    apps.sort();
    apps.dedup();
    let header = &opened.catalog.header;
    let statistics = Statistics {
        backup_type: "django_complete_data".to_owned(),
        created_at: Some(facts.time.to_rfc3339()),
        database_info: json!({
            "vendor": if header.engine == Engine::Postgresql { "postgresql" } else { "sqlite" },
            "version": header.server_version,
            "name": header.database,
            "tables": opened.catalog.tables.len(),
            "unmapped_tables": opened.map.unmapped.keys().collect::<Vec<_>>(),
        }),
        apps_included: apps,
        excluded_models: opened
            .map
            .model(SESSION)
            .iter()
            .map(|model| model.label.clone())
            .collect(),
        total_records: Some(written.counts.iter().map(|(_, count)| count).sum()),
        model_counts: written.counts.iter().cloned().collect(),
    };
    draft.add_bytes(layout::STATISTICS, &json_bytes(&statistics)?).map(drop)
}

/// What to run in psql after `loaddata`: sequences behind the highest number, then a count of
/// every table beside the count it should have.
fn sequences(opened: &Opened, written: &Written) -> String {
    let mut sql = String::from(
        "-- Run in psql after loaddata: psql -f restore_instructions.sql\n\
         -- Sets every sequence behind the highest number in use.\nBEGIN;\n",
    );
    let through = opened.map.through.iter().map(|through| through.table.as_str());
    let models = opened.map.models.iter().filter(|model| model.label != SESSION);
    let mut tables: Vec<&str> =
        models.clone().map(|model| model.table.as_str()).chain(through).collect();
    tables.sort_unstable();
    for table in tables.into_iter().filter_map(|name| opened.catalog.table(name)) {
        if let Some(column) = counted(opened.catalog.engine(), table) {
            let table = identifier(table);
            let column_identifier = column.replace('"', "\"\"");
            let _ = writeln!(
                sql,
                "SELECT setval(pg_get_serial_sequence({},{}), coalesce(max(\"{column_identifier}\"), 1), \
                 max(\"{column_identifier}\") IS NOT null) FROM {table};",
                literal(&table),
                literal(column),
            );
        }
    }
    sql.push_str("COMMIT;\n\n-- Every line must say t.\n");
    let counts: BTreeMap<&str, u64> =
        written.counts.iter().map(|(l, c)| (l.as_str(), *c)).collect();
    for model in models {
        let (Some(table), Some(count)) =
            (opened.catalog.table(&model.table), counts.get(model.label.as_str()))
        else {
            continue;
        };
        // A migrated database has content types and permissions of its own besides.
        let compare =
            if matches!(model.label.as_str(), CONTENT_TYPE | PERMISSION) { ">=" } else { "=" };
        let _ = writeln!(
            sql,
            "SELECT {} AS model, count(*) AS records, {count} AS expected, count(*) {compare} {count} AS ok \
             FROM {};",
            literal(&model.label),
            identifier(table),
        );
    }
    sql
}

/// The column of a table that the database counts.
fn counted(engine: Engine, table: &Table) -> Option<&str> {
    let [only] = table.header.key.as_slice() else { return None };
    let column = table.columns.get(table.column(only)?)?;
    let counts = match engine {
        Engine::Postgresql => {
            !column.identity.is_empty()
                || column.default.as_deref().is_some_and(|text| text.starts_with("nextval("))
        }
        // A reference that is the key of a child table is counted by its parent.
        Engine::Sqlite => {
            column.declared_type.eq_ignore_ascii_case("integer")
                && table.foreign_key(only).is_none()
        }
    };
    counts.then_some(only.as_str())
}

fn identifier(table: &Table) -> String {
    format!("\"{}\"", table.header.table.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
