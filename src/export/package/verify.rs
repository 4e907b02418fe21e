//! Checks everything that a package says about itself, and lists each check with what it found.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};

use serde::Serialize;

use super::arrange::folded;
use super::layout;
use super::open::{Package, Prepared, Rows, Schema, is_fault};
use super::read::MemberKind;
use super::records::TakeRow;
use crate::context::Context;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::source::key;
use crate::source::record::{Field, KeyKind, RowError, RowReader};
use crate::source::sort::{BUDGET, Duplicates, Sorter};

/// Faults of one kind that are told in full; the others are counted.
const TOLD: usize = 10;

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It could not be made, and the detail says why.
    NotChecked,
    /// Not as it should be, but known of packages that are otherwise good.
    Warning,
    /// The package must not be imported.
    Damaged,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, in a word or two.
    pub check: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// What was found, in a sentence.
    pub detail: String,
}

/// All checks of a package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verification {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Verification {
    /// The worst outcome.
    pub fn outcome(&self) -> Outcome {
        self.checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Ok)
    }

    /// Adds a check.
    pub fn add(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>) {
        self.checks.push(Check { check, outcome, detail: detail.into() });
    }

    /// Adds a check with its faults, each of this weight, or with the sentence for none.
    pub fn conclude(
        &mut self,
        check: &'static str,
        weight: Outcome,
        faults: &Faults,
        well: String,
    ) {
        if faults.count == 0 {
            self.add(check, Outcome::Ok, well);
            return;
        }
        let mut detail = faults.told.join("; ");
        if faults.count > faults.told.len() {
            let _ = write!(detail, "; and {} more", faults.count - faults.told.len());
        }
        self.add(check, weight, detail);
    }
}

/// Faults of one kind.
#[derive(Debug, Default)]
pub struct Faults {
    told: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, fault: String) {
        self.count += 1;
        if self.told.len() < TOLD {
            self.told.push(fault);
        }
    }
}

impl Package {
    /// Makes every check that can be made. `schema` is needed to check the records of a fixture
    /// that coeval did not write.
    pub fn verify(&self, schema: Option<&Schema>, ctx: &Context) -> Result<Verification, Failure> {
        let mut found = Verification::default();
        self.check_package(&mut found, ctx)?;
        if found.outcome() < Outcome::Damaged {
            match self.databases(schema, ctx) {
                Ok(databases) => {
                    for database in &databases {
                        self.check_database(database, &mut found, &mut |_, _| Ok(()), ctx)?;
                    }
                }
                Err(failure) if is_fault(&failure) => {
                    found.add("tables", Outcome::Damaged, failure.to_string());
                }
                Err(failure) if failure.kind() == ErrorKind::Usage => {
                    found.add("tables", Outcome::NotChecked, failure.to_string());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(found)
    }

    /// Makes the checks that need no tables.
    pub fn check_package(&self, found: &mut Verification, ctx: &Context) -> Result<(), Failure> {
        ctx.phase("verifying the package", None);
        let members = self.archived.members.len();
        found.add("archive", Outcome::Ok, format!("{members} members were read to the end"));
        self.check_members(found)?;
        self.check_sums(found)?;
        self.check_storage(found)?;
        self.check_configuration(found);
        self.check_names(found);
        self.check_dump(found)?;
        self.check_counts(found, ctx)
    }

    /// The list of members in `metadata.json`.
    fn check_members(&self, found: &mut Verification) -> Result<(), Failure> {
        if self.metadata.coeval.is_none() {
            let detail = "metadata.json has no list of members; only coeval writes one";
            found.add("members", Outcome::NotChecked, detail);
            return Ok(());
        }
        let (mut faults, mut listed) = (Faults::default(), HashSet::new());
        self.each_listed(&mut |name, entry| {
            match self.archived.file(&name) {
                None => faults.add(format!("{name} is missing")),
                Some(span) if span.length != entry.size || hex(&span.sha) != entry.sha256 => {
                    faults.add(format!("{name} is not what is listed"));
                }
                Some(_) => {}
            }
            listed.insert(name);
        })?;
        for (name, member) in &self.archived.members {
            let file = matches!(member.kind, MemberKind::File(_));
            if file && name != layout::METADATA && !listed.contains(name) {
                faults.add(format!("{name} is not listed"));
            }
        }
        let well = format!("{} members have the listed sizes and checksums", listed.len());
        found.conclude("members", Outcome::Damaged, &faults, well);
        Ok(())
    }

    /// `checksum.txt`. EDMS lists files there that it did not pack.
    fn check_sums(&self, found: &mut Verification) -> Result<(), Failure> {
        let Some(span) = self.archived.file(layout::CHECKSUMS) else {
            let has = self.archived.members.keys().any(|name| name.starts_with("database/"));
            if has {
                found.add("checksum.txt", Outcome::NotChecked, "there is none");
            }
            return Ok(());
        };
        let (mut wrong, mut absent, mut good) = (Faults::default(), Faults::default(), 0);
        let reader = BufReader::new(self.archived.spool.open(&span));
        for line in reader.lines().take(100_000) {
            let line = line.map_err(spool_failure)?;
            // `sum  name`, or `sum *name` for binary.
            let Some((sum, name)) = line.split_once(' ') else {
                if !line.trim().is_empty() {
                    wrong.add("a line cannot be read".to_owned());
                }
                continue;
            };
            let name = name.trim_start_matches([' ', '*']).trim_start_matches("./");
            let name = format!("database/{}", name.strip_prefix("database/").unwrap_or(name));
            match self.archived.file(&name) {
                Some(span) if hex(&span.sha) == sum => good += 1,
                Some(_) => wrong.add(format!("{name} has another checksum")),
                None => absent.add(format!("{name} is listed and not there")),
            }
        }
        found.conclude(
            "checksum.txt",
            Outcome::Damaged,
            &wrong,
            format!("{good} checksums are right"),
        );
        if absent.count > 0 {
            found.conclude("checksum.txt", Outcome::Warning, &absent, String::new());
        }
        Ok(())
    }

    fn check_storage(&self, found: &mut Verification) -> Result<(), Failure> {
        let files = || {
            self.archived.members.iter().filter(|(name, member)| {
                name.starts_with("storage/")
                    && *name != layout::STORAGE
                    && matches!(member.kind, MemberKind::File(_))
            })
        };
        if self.archived.file(layout::STORAGE).is_none() {
            if files().next().is_some() {
                found.add("storage/manifest.json", Outcome::NotChecked, "there is none");
            }
            return Ok(());
        }
        let (mut faults, mut listed) = (Faults::default(), HashSet::new());
        self.each_stored(&mut |path, stored| {
            let name = self.stored_member(&path);
            match self.archived.file(&name) {
                None => faults.add(format!("{name} is missing")),
                Some(span) if span.length != stored.size => {
                    faults.add(format!("{name} has {} bytes, not {}", span.length, stored.size));
                }
                Some(span)
                    if stored.checksum.as_ref().is_some_and(|sum| *sum != hex(&span.sha)) =>
                {
                    faults.add(format!("{name} has another checksum"));
                }
                Some(_) => {}
            }
            listed.insert(name);
        })?;
        let well = format!("{} files have the listed sizes and checksums", listed.len());
        found.conclude("storage/manifest.json", Outcome::Damaged, &faults, well);
        let mut unlisted = Faults::default();
        for (name, _) in files().filter(|(name, _)| !listed.contains(*name)) {
            unlisted.add(format!("{name} is not listed"));
        }
        if unlisted.count > 0 {
            found.conclude("storage/manifest.json", Outcome::Warning, &unlisted, String::new());
        }
        Ok(())
    }

    fn check_configuration(&self, found: &mut Verification) {
        let mut faults = Faults::default();
        for file in &self.configuration.config_files {
            let name = format!("configuration/{}", file.backup_name);
            let right = self.archived.file(&name).map(|span| hex(&span.sha) == file.checksum);
            if right != Some(true) {
                faults.add(format!("{name} is missing or has another checksum"));
            }
            if file.restore_location.starts_with('/')
                || file.restore_location.split('/').any(|part| part == "..")
            {
                faults.add(format!("{name} wants to be restored outside of the application"));
            }
        }
        if !self.configuration.config_files.is_empty() {
            let well = format!("{} files are as listed", self.configuration.config_files.len());
            // EDMS wrote absolute places and no checksums; coeval never restores to either.
            let weight =
                if self.metadata.coeval.is_some() { Outcome::Damaged } else { Outcome::Warning };
            found.conclude("configuration", weight, &faults, well);
        }
    }

    /// Uploads whose names some file systems do not tell apart.
    fn check_names(&self, found: &mut Verification) {
        let (mut faults, mut seen) = (Faults::default(), HashSet::new());
        for name in self.archived.members.keys().filter(|name| name.starts_with("storage/")) {
            if !seen.insert(folded(name)) {
                faults.add(format!("some file systems take {name} for another file"));
            }
        }
        if faults.count > 0 {
            found.conclude("names", Outcome::Warning, &faults, String::new());
        }
    }

    /// The pg_dump archive: that it is one is all that can be told without PostgreSQL.
    fn check_dump(&self, found: &mut Verification) -> Result<(), Failure> {
        let Some(mut dump) = self.dump() else { return Ok(()) };
        let mut start = Vec::new();
        dump.by_ref().take(5).read_to_end(&mut start).map_err(spool_failure)?;
        if start == b"PGDMP" {
            let detail = "it is a pg_dump archive, whose records only pg_restore can read";
            found.add("database.dump", Outcome::NotChecked, detail);
        } else {
            let detail = "it is no pg_dump archive in the custom format";
            found.add("database.dump", Outcome::Damaged, detail);
        }
        Ok(())
    }

    /// The fixture is read to its end, and its counts are compared.
    fn check_counts(&self, found: &mut Verification, ctx: &Context) -> Result<(), Failure> {
        if self.fixture().is_none() {
            if self.tables.is_none() {
                found.add("fixture", Outcome::NotChecked, "there is none");
            }
            return Ok(());
        }
        let survey = match self.survey(ctx) {
            Ok(survey) => survey,
            Err(failure) if is_fault(&failure) => {
                found.add("fixture", Outcome::Damaged, failure.to_string());
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let (total, models) = (survey.total, &survey.models);
        if survey.damage.count > 0 {
            found.conclude("fixture", Outcome::Damaged, &survey.damage, String::new());
        }
        found.add("fixture", Outcome::Ok, format!("{total} records of {} models", models.len()));
        let Some(statistics) = &self.statistics else {
            found.add("counts", Outcome::NotChecked, "there is no backup_metadata.json");
            return Ok(());
        };
        let mut faults = Faults::default();
        if statistics.total_records.is_some_and(|said| said != total) {
            faults.add(format!("{total} records, not {}", statistics.total_records.unwrap_or(0)));
        }
        for (label, said) in &statistics.model_counts {
            let there = models.get(&label.to_lowercase()).map_or(0, |model| model.count);
            if there != *said {
                faults.add(format!("{there} records of {label}, not {said}"));
            }
        }
        found.conclude(
            "counts",
            Outcome::Damaged,
            &faults,
            "as backup_metadata.json says".to_owned(),
        );
        Ok(())
    }

    /// Every record is made a row and handed over, every reference and every upload looked up.
    pub fn check_database(
        &self,
        database: &Prepared,
        found: &mut Verification,
        take: &mut TakeRow<'_>,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let mut raw = (Faults::default(), 0);
        for (table, place) in database.catalog.tables.iter().zip(&database.places) {
            let Rows::Raw(span, expected) = place else { continue };
            let (mut rows, fields) = (0, table.columns.len());
            let (kind, key_fields) = (table.header.key_kind, table.header.key_fields());
            let key_fields = key_fields.unwrap_or_default();
            let mut keys = Sorter::new(BUDGET, Duplicates::Number);
            let mut key = Vec::new();
            let read = self.each_line(span, &mut |line| {
                let row = raw_row(line, kind, &key_fields, &mut key);
                let values = row.and_then(|row| RowReader::new(row).collect::<Result<Vec<_>, _>>());
                let good = values.is_ok_and(|values| values.len() == fields);
                if !good {
                    raw.0.add(format!("record {rows} of {} cannot be read", table.name()));
                } else if kind != KeyKind::Hash {
                    keys.push(&key, &[])?;
                }
                rows += 1;
                Ok(())
            });
            if read.is_err() || rows != *expected {
                raw.0.add(format!("{} has {rows} records, not {expected}", table.name()));
            }
            let mut twice = 0;
            for entry in keys.finish()? {
                twice += u64::from(!entry?.0.ends_with(&[0; 4]));
            }
            if twice > 0 {
                let name = table.name();
                raw.0.add(format!("{twice} records of {name} have the key of another one"));
            }
            raw.1 += rows;
        }
        if raw.1 > 0 || raw.0.count > 0 {
            found.conclude("raw tables", Outcome::Damaged, &raw.0, format!("{} records", raw.1));
        }
        if database.has_fixture {
            self.check_records(database, found, take, ctx)?;
        }
        Ok(())
    }
}

/// The row of a line of a raw table, and its key, where the table has one. The row number that is
/// the key of some tables of SQLite stands before the row and a tab.
pub fn raw_row<'a>(
    line: &'a [u8],
    kind: KeyKind,
    fields: &[usize],
    key: &mut Vec<u8>,
) -> Result<&'a [u8], RowError> {
    key.clear();
    match kind {
        KeyKind::Hash => Ok(line),
        KeyKind::Primary => key::push_of_row(key, line, fields).map(|()| line),
        KeyKind::Rowid => {
            let none = RowError { at: 0 };
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or(none)?;
            let number = str::from_utf8(&line[..tab]).ok().and_then(|text| text.parse().ok());
            key::push(key, &Field::Integer(number.ok_or(none)?));
            Ok(&line[tab + 1..])
        }
    }
}
