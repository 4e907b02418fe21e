//! What a package holds, in short: for the person who was sent one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;

use super::layout;
use super::open::{Package, is_fault};
use super::read::MemberKind;
use crate::context::Context;
use crate::export::contents::Skipped;
use crate::export::fixture::read::FixtureError;
use crate::hint::Failure;
use crate::time::Timestamp;

/// What kind of package it is, by what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A package of coeval's, in the format of [`Inspection::format`].
    Coeval,
    /// A package with a fixture that another program wrote.
    Fixture,
    /// A package with table statistics instead of records: nothing can be restored of it.
    MetadataOnly,
    /// A package with a pg_dump archive, the second method of EDMS.
    PgDump,
    /// Files without a database.
    #[default]
    Files,
}

/// A member of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Bytes of its content.
    pub size: u64,
    /// Its permissions.
    pub mode: u16,
    /// When it was last changed, RFC 3339.
    pub modified: String,
}

/// A package in short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Inspection {
    /// What kind of package it is.
    pub form: Form,
    /// Which program wrote it, as far as it says.
    pub written_by: Option<String>,
    /// The version of coeval's part, if coeval wrote it.
    pub format: Option<u32>,
    /// When it was exported, in its own words.
    pub exported: Option<String>,
    /// The snapshot that it was made from.
    pub snapshot: Option<String>,
    /// The hash of everything in that.
    pub root: Option<String>,
    /// When that was taken.
    pub captured: Option<String>,
    /// How well its parts are known to be of one instant.
    pub instant: Option<String>,
    /// Of which application.
    pub application: Option<String>,
    /// On which host.
    pub host: Option<String>,
    /// The version of Django that it says.
    pub django: Option<String>,
    /// Bytes of the file, sealed and compressed as it is.
    pub compressed: u64,
    /// Bytes of all members.
    pub bytes: u64,
    /// Records in the fixture.
    pub total_records: u64,
    /// The same per model.
    pub records: BTreeMap<String, u64>,
    /// Records of tables that are there as they are, by database and table.
    pub raw: BTreeMap<String, u64>,
    /// Bytes of a pg_dump archive.
    pub dump: Option<u64>,
    /// Uploaded files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Names of the configuration files.
    pub configuration: Vec<String>,
    /// What is missing, as it says.
    pub missing: Vec<Skipped>,
    /// What cannot be read, and why.
    pub faults: Vec<String>,
    /// All members that are files.
    pub members: Vec<Item>,
}

impl Package {
    /// Looks at the package without judging it.
    pub fn inspect(&self, ctx: &Context) -> Result<Inspection, Failure> {
        let origin = self.metadata.coeval.as_ref();
        let mut found = Inspection {
            written_by: origin.map(|origin| origin.written_by.clone()),
            format: origin.map(|origin| origin.format),
            exported: self.metadata.export_timestamp.clone(),
            snapshot: origin.map(|origin| origin.snapshot.clone()),
            root: origin.map(|origin| origin.root.clone()),
            captured: origin.map(|origin| origin.captured_at.clone()),
            instant: origin.map(|origin| origin.instant.clone()),
            application: origin.map(|origin| origin.application.clone()),
            host: origin.map(|origin| origin.host.clone()),
            django: self.metadata.django_version.clone(),
            compressed: self.archived.compressed,
            dump: self.archived.file(layout::DUMP).map(|span| span.length),
            missing: origin.map(|origin| origin.missing.clone()).unwrap_or_default(),
            ..Inspection::default()
        };
        self.inspect_members(&mut found);
        for database in self.tables.iter().flat_map(|tables| &tables.databases) {
            for table in database.tables.iter().filter(|table| table.raw.is_some()) {
                found.raw.insert(format!("{}/{}", database.name, table.name), table.records);
            }
        }
        let read = self.each_record(ctx, &mut |_, record| {
            *found.records.entry(record.model.clone()).or_default() += 1;
            found.total_records += 1;
            Ok(ControlFlow::Continue(()))
        });
        let mut metadata_only = false;
        match read {
            Ok(_) => {}
            Err(failure) if is_fault(&failure) => {
                let error = failure.error().downcast_ref::<FixtureError>();
                metadata_only = matches!(error, Some(FixtureError::StatisticsOnly { .. }));
                found.faults.push(failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
        found.form = match () {
            () if origin.is_some() => Form::Coeval,
            () if metadata_only => Form::MetadataOnly,
            () if self.fixture().is_some() => Form::Fixture,
            () if found.dump.is_some() => Form::PgDump,
            () => Form::Files,
        };
        Ok(found)
    }

    fn inspect_members(&self, found: &mut Inspection) {
        for (name, member) in &self.archived.members {
            let MemberKind::File(span) = member.kind else { continue };
            found.bytes += span.length;
            if name.starts_with("storage/") && name != layout::STORAGE {
                found.files += 1;
                found.file_bytes += span.length;
            } else if let Some(name) = name.strip_prefix("configuration/") {
                found.configuration.push(name.to_owned());
            }
            found.members.push(Item {
                name: name.clone(),
                size: span.length,
                mode: member.mode,
                modified: Timestamp::new(member.mtime, 0).to_rfc3339(),
            });
        }
    }
}
