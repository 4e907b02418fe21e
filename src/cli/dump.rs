//! A database of a snapshot as plain files: for looking at, where there is no database to restore
//! into.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::app::App;
use super::error::{failed, usage};
use super::output::count;
use super::places::{Paths, source_path};
use super::records::Record;
use super::targets::file_name;
use crate::hint::Failure;
use crate::snapshot::{KeyRange, Selection, Snapshot, SourceRecord, TreeRecord};
use crate::source::record::{DatabaseHeader, Schema};
use crate::tree;

/// Writes one JSON-lines file for each table into `folder/NAME`, and beside them what the snapshot
/// knows of the database: `header.json` and `schema.sql`. The folder appears when it is complete.
pub fn dump(
    snapshot: &Snapshot,
    source: &SourceRecord,
    selection: &Selection,
    folder: &Path,
    app: &App,
) -> Result<(), Failure> {
    let place = folder.join(file_name(&source.name)?);
    if place.exists() {
        return Err(usage(
            format!("{} is there already", place.display()),
            "tables are written into a new folder only: name another --target",
        ));
    }
    let error =
        |error: std::io::Error| failed(format!("cannot write {}: {error}", place.display()));
    std::fs::create_dir_all(folder).map_err(error)?;
    let staging = tempfile::Builder::new().prefix(".coeval-").tempdir_in(folder).map_err(error)?;
    let header = snapshot.header(source)?;
    save(&staging.path().join("header.json"), &mut |file| file.write_all(&header).map_err(error))?;
    let schema = DatabaseHeader::from_json(&header)?.schema;
    save(&staging.path().join("schema.sql"), &mut |file| {
        file.write_all(statements(&schema).as_bytes()).map_err(error)
    })?;
    let mut records = 0;
    for tree in snapshot.trees(source)? {
        let keys = match selection {
            Selection::Everything => None,
            Selection::Trees(names) if names.contains(&tree.info.name) => None,
            Selection::Entries { tree: name, keys } if *name == tree.info.name => Some(keys),
            Selection::Trees(_) | Selection::Entries { .. } => continue,
        };
        let file = staging.path().join(format!("{}.jsonl", file_name(&tree.info.name)?));
        save(&file, &mut |out| {
            records += write_table(snapshot, source, &tree, keys, out, app)?;
            Ok(())
        })?;
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "the files in it are durable, the name need not be"
    )]
    std::fs::rename(staging.keep(), &place).map_err(error)?;
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "dumped",
            "path": source_path(source.kind, &source.name),
            "folder": place,
            "records": records,
        }))
    } else {
        let (from, records) = (source_path(source.kind, &source.name), count(records, "record"));
        app.output.detail(format!("wrote {from}: {records} as JSON lines to {}", place.display()))
    }
}

/// Writes the records of a table as JSON lines, and says how many there were.
pub fn write_table(
    snapshot: &Snapshot,
    source: &SourceRecord,
    tree: &TreeRecord,
    keys: Option<&KeyRange>,
    out: &mut dyn Write,
    app: &App,
) -> Result<u64, Failure> {
    let paths = Paths::new(source.kind, &source.name, &tree.info)?;
    let Some(header) = &paths.header else { return Ok(0) };
    let mut written = 0;
    for entry in tree::entries(&*snapshot.repo, tree.tree, &[], &[]) {
        app.ctx.check_cancelled()?;
        let (key, value) = entry?;
        if keys.is_some_and(|keys| !keys.contains(&key)) {
            continue;
        }
        let line = Record::read(header, value.content, &*snapshot.repo)?.to_json();
        writeln!(out, "{line}")
            .map_err(|error| failed(format!("cannot write a table: {error}")))?;
        written += 1;
    }
    Ok(written)
}

/// Writes a file, durably.
fn save(
    path: &PathBuf,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let error = |error: std::io::Error| failed(format!("cannot write {}: {error}", path.display()));
    let mut out = BufWriter::new(std::fs::File::create_new(path).map_err(error)?);
    write(&mut out)?;
    out.into_inner().map_err(|failure| error(failure.into_error()))?.sync_all().map_err(error)
}

/// The statements that make the empty database.
fn statements(schema: &Schema) -> String {
    match schema {
        Schema::PgDump { pre_data, post_data } | Schema::Catalogue { pre_data, post_data } => {
            format!("{pre_data}\n{post_data}")
        }
        Schema::SqliteMaster { objects } => {
            objects.iter().flat_map(|object| [object.sql.as_str(), ";\n"]).collect()
        }
        Schema::Unavailable { reason } => format!("-- {reason}\n"),
    }
}
