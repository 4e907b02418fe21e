//! A verified package as sources: capture is the only way into a snapshot, for packages too.

use std::io::{BufReader, Read};

use super::open::{Package, Prepared, Rows, Schema};
use super::spool::{Span, Spool, SpoolReader};
use super::verify::{Outcome, Verification, raw_row};
use crate::context::Context;
use crate::export::fixture::read::Salvage;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::report::Event;
use crate::source::record::{Field, KeyKind};
use crate::source::sort::{BUDGET, Duplicates, Sorted, Sorter, push_keyless};
use crate::source::{Delta, Description, Kind, Parent, Source, TreeInfo, key};
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
        for files in self.files()? {
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
            let row = raw_row(&line, header.key_kind, &fields, &mut key)?;
            match header.key_kind {
                KeyKind::Hash => push_keyless(&mut sorter, row)?,
                KeyKind::Primary | KeyKind::Rowid => sorter.push(&key, row)?,
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
