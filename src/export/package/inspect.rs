//! What a package holds, in short: for the person who was sent one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::Serialize;

use super::open::{Package, is_fault};
use super::read::MemberKind;
use crate::context::Context;
use crate::export::contents::Skipped;
use crate::hint::Failure;

/// A package in short.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Inspection {
    /// Which program wrote it, as far as it says.
    pub written_by: Option<String>,
    /// The version of coeval's part, if coeval wrote it.
    pub format: Option<u32>,
    /// When it was exported, in its own words.
    pub exported: Option<String>,
    /// The snapshot that it was made from.
    pub snapshot: Option<String>,
    /// When that was taken.
    pub captured: Option<String>,
    /// The version of Django that it says.
    pub django: Option<String>,
    /// Bytes of the file.
    pub compressed: u64,
    /// Bytes of all members.
    pub bytes: u64,
    /// Records in the fixture, per model.
    pub records: BTreeMap<String, u64>,
    /// Records of tables that are there as they are.
    pub raw: BTreeMap<String, u64>,
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
            captured: origin.map(|origin| origin.captured_at.clone()),
            django: self.metadata.django_version.clone(),
            compressed: self.archived.compressed,
            missing: origin.map(|origin| origin.missing.clone()).unwrap_or_default(),
            ..Inspection::default()
        };
        for (name, member) in &self.archived.members {
            let MemberKind::File(span) = member.kind else { continue };
            found.bytes += span.length;
            if name.starts_with("storage/") && name != super::layout::STORAGE {
                found.files += 1;
                found.file_bytes += span.length;
            } else if let Some(name) = name.strip_prefix("configuration/") {
                found.configuration.push(name.to_owned());
            }
        }
        for table in self.tables.iter().flat_map(|tables| &tables.databases).flat_map(|d| &d.tables)
        {
            if table.raw.is_some() {
                found.raw.insert(table.name.clone(), table.records);
            }
        }
        let read = self.each_record(ctx, &mut |_, record| {
            *found.records.entry(record.model.clone()).or_default() += 1;
            Ok(ControlFlow::Continue(()))
        });
        match read {
            Ok(_) => {}
            Err(failure) if is_fault(&failure) => found.faults.push(failure.to_string()),
            Err(failure) => return Err(failure),
        }
        Ok(found)
    }
}
