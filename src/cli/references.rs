//! What the records of a snapshot refer to and the snapshot does not hold: for `check --refs`,
//! `drill`, and a word after each backup.

use super::app::App;
use super::output::{Verbosity, count};
use crate::export::django;
use crate::hint::Failure;
use crate::report::Event;
use crate::snapshot::{
    Captured, Extent, FileColumn, Loose, References, Snapshot, Timeline, references,
};
use crate::source::Kind;

/// How many missing files a backup names.
const NAMED: u64 = 10;

/// The columns of a snapshot's records that name files: what coeval.toml says, else what the Django
/// application said.
pub fn columns(snapshot: &Snapshot, app: &App) -> Result<Vec<FileColumn>, Failure> {
    let mut columns = Vec::new();
    let sources = &snapshot.manifest.sources;
    for source in sources.iter().filter(|source| source.kind == Kind::Database) {
        let rules = app.config()?.database.get(&source.name).map(|database| &database.files);
        columns.extend(rules.into_iter().flatten().cloned().map(|rule| FileColumn {
            database: source.name.clone(),
            table: rule.table,
            column: rule.column,
            storage: rule.storage,
            strip: rule.strip,
            folder: String::new(),
        }));
    }
    for column in django::file_columns(snapshot)? {
        let same = |other: &FileColumn| {
            (&other.database, &other.table, &other.column)
                == (&column.database, &column.table, &column.column)
        };
        if !columns.iter().any(same) {
            columns.push(column);
        }
    }
    Ok(columns)
}

/// One thing that is loose, as a line.
pub fn line(loose: &Loose) -> String {
    match loose {
        Loose::Missing { record, column, file } => {
            format!("{record}: {column} names {file}, which is not in the snapshot")
        }
        Loose::Dangling { record, column, to } => {
            format!("{record}: {column} refers to {to}, which is not in the snapshot")
        }
        Loose::Unnamed { file } => format!("{file}: no record names it"),
    }
}

/// Follows everything, and prints what is loose; files that no record names only with -v.
pub fn show(snapshot: &Snapshot, app: &App) -> Result<References, Failure> {
    let columns = columns(snapshot, app)?;
    let output = &app.output;
    let verbose = output.verbosity == Verbosity::Verbose;
    let mut each = |loose: Loose| match loose {
        Loose::Unnamed { .. } if !verbose => Ok(()),
        loose if output.is_json() => output.json(&serde_json::json!({
            "message_type": "finding",
            "object": match &loose {
                Loose::Missing { record, .. } | Loose::Dangling { record, .. } => record,
                Loose::Unnamed { file } => file,
            },
            "problem": line(&loose),
            "details": loose,
        })),
        loose => output.line(line(&loose)),
    };
    let found = references(snapshot, &columns, Extent::Everything, &mut each, &app.ctx)?;
    app.progress.finish();
    Ok(found)
}

/// Follows everything, and only counts.
pub fn look(snapshot: &Snapshot, app: &App) -> Result<References, Failure> {
    let columns = columns(snapshot, app)?;
    references(snapshot, &columns, Extent::Everything, &mut |_| Ok(()), &app.ctx)
}

/// Says which files the records of a new snapshot name that are not in it. That is no fault of the
/// backup: it captured what was there. Where neither the records nor the files changed since the
/// snapshot before, nothing is said anew.
pub fn tell_missing(captured: &Captured, snapshot: &Snapshot, app: &App) -> Result<(), Failure> {
    let columns = columns(snapshot, app)?;
    if columns.is_empty() || is_as_before(captured, snapshot)? {
        return Ok(());
    }
    let mut told = 0;
    let mut each = |loose: Loose| {
        if matches!(loose, Loose::Missing { .. }) && told < NAMED {
            told += 1;
            app.ctx.report(Event::Note(line(&loose)));
        }
        Ok(())
    };
    let found = references(snapshot, &columns, Extent::Files, &mut each, &app.ctx)?;
    if found.missing > 0 {
        app.ctx.report(Event::Note(format!(
            "records name {} not in the snapshot; `coeval check --refs {}` lists all",
            match found.missing {
                1 => "1 file that is".to_owned(),
                many => format!("{} that are", count(many, "file")),
            },
            snapshot.id.short()
        )));
    }
    Ok(())
}

fn is_as_before(captured: &Captured, snapshot: &Snapshot) -> Result<bool, Failure> {
    let Some(parent) = captured.manifest.parent else { return Ok(false) };
    let timeline = Timeline::load(&snapshot.repo)?;
    let Some(before) = timeline.get(parent) else { return Ok(false) };
    let roots = |sources: &[crate::snapshot::SourceRecord]| -> Vec<_> {
        let counted = sources.iter().filter(|source| source.kind != Kind::Configuration);
        counted.map(|source| (source.kind, source.name.clone(), source.catalogue.root)).collect()
    };
    Ok(roots(&before.sources) == roots(&snapshot.manifest.sources))
}
