//! Writes a package. Two passes, because the first member lists all the others with their
//! checksums: the first pass spools what is small or made here and hashes the uploads where they
//! are, the second writes the archive and sees that the uploads are still the same.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::archive::{Archive, Member};
use super::layout::{self, Head, Origin, Part};
use super::seal::{Seal, sealed};
use super::secrets::SecretsPolicy;
use super::spool::{Sha, Span, Spool};
use super::uploads::Uploads;
use super::{configuration, database, gzip, scripts};
use crate::context::Context;
use crate::export::contents::{Contents, Facts, Skipped};
use crate::export::fixture::value::quote;
use crate::export::fixture::write::Form;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::source::Kind;
use crate::source::record::Engine;

/// What of a database and of uploads goes in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Only these models, as `app.model` or `app`; all of them if there are none.
    pub models: Vec<String>,
    /// Whether the users go in.
    pub users: Users,
    /// Only uploads below these paths, as `documents/2024`; all of them if there are none.
    pub paths: Vec<String>,
}

/// Whether the application's users are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Users {
    /// They are.
    #[default]
    Included,
    /// They stay at home: those of the target are not to be touched.
    Excluded,
}

/// Whether a bare fixture is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wrapping {
    /// It is plain JSON.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// How to write a package.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The part of the snapshot that goes in; `None` for all of it.
    pub only: Option<Kind>,
    /// What goes in of that.
    pub selection: Selection,
    /// The form of the fixture. A package has one list in any case, and [`Form::Lines`] besides.
    pub form: Form,
    /// How a fixture on its own is written.
    pub wrapping: Wrapping,
    /// Whether secrets go in.
    pub secrets: SecretsPolicy,
    /// How the package is sealed as a whole, if it is.
    pub seal: Option<Seal>,
    /// gzip's level, 0 to 9.
    pub level: u32,
    /// A folder for temporary files, with room for the database.
    pub scratch: PathBuf,
}

impl ExportOptions {
    /// A package of everything.
    pub fn new(secrets: SecretsPolicy, scratch: PathBuf) -> Self {
        Self {
            only: None,
            selection: Selection::default(),
            form: Form::List,
            wrapping: Wrapping::None,
            secrets,
            seal: None,
            level: 6,
            scratch,
        }
    }
}

/// What a package holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Exported {
    /// Records in the fixture.
    pub records: u64,
    /// Uploaded files.
    pub files: u64,
    /// Bytes of all members.
    pub bytes: u64,
    /// What was left out, and why.
    pub missing: Vec<Skipped>,
    /// What the person who gets the package should know.
    pub notes: Vec<String>,
}

/// A member that is spooled.
#[derive(Debug)]
pub struct Staged {
    /// Its name.
    pub name: String,
    /// Its bytes in the spool.
    pub span: Span,
    /// Its permissions.
    pub mode: u32,
}

/// A package being put together.
#[derive(Debug)]
pub struct Draft {
    /// Where members lie until the archive is written.
    pub spool: Spool,
    /// The members outside of `storage/`, but for metadata.json.
    pub members: Vec<Staged>,
    /// What is left out.
    pub missing: Vec<Skipped>,
    /// What should be known.
    pub notes: Vec<String>,
    /// Records in the fixture.
    pub records: u64,
    /// The version of Django, where it is known.
    pub django: Option<String>,
    /// The version of Python, where it is known.
    pub python: Option<String>,
    /// The engine of the database in the fixture.
    pub engine: Option<Engine>,
}

impl Draft {
    /// Adds a member that is in the spool.
    pub fn add(&mut self, name: &str, span: Span) {
        self.members.push(Staged { name: name.to_owned(), span, mode: 0o644 });
    }

    /// Adds a member of these bytes, and gives their SHA-256 in hexadecimal.
    pub fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<String, Failure> {
        let span = self.spool.append(bytes).map_err(spool_failure)?;
        self.add(name, span);
        Ok(hex(&span.sha))
    }
}

/// JSON with a line for every value, for people too.
pub fn json_bytes(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| {
        Failure::message(ErrorKind::Failed, format!("a part has no JSON form: {error}"), None)
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes the package of a snapshot to `out`; of its database alone, the fixture. The same snapshot
/// gives the same bytes, unless they are sealed.
pub fn export(
    contents: &dyn Contents,
    out: &mut (dyn Write + Send),
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    match &options.seal {
        Some(seal) => sealed(out, seal, |out| package(contents, out, options, ctx)),
        None => package(contents, out, options, ctx),
    }
}

fn package(
    contents: &dyn Contents,
    out: &mut dyn Write,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    let facts = contents.facts();
    if options.only == Some(Kind::Database) {
        return database::bare(contents, out, options, ctx);
    }
    let spool = || Spool::new(&options.scratch).map_err(spool_failure);
    let wants = |kind| options.only.is_none_or(|only| only == kind);
    let mut draft = Draft {
        spool: spool()?,
        members: Vec::new(),
        missing: facts.skipped.clone(),
        notes: Vec::new(),
        records: 0,
        django: None,
        python: None,
        engine: None,
    };
    if wants(Kind::Configuration) {
        configuration::write(&mut draft, contents, options.secrets, ctx)?;
    }
    if wants(Kind::Database) && facts.of_kind(Kind::Database).next().is_some() {
        database::write(&mut draft, contents, options, ctx)?;
    }
    for (name, script) in scripts::ALL {
        draft.add_bytes(name, script.as_bytes())?;
        if let Some(script) = draft.members.last_mut() {
            script.mode = 0o755;
        }
    }
    let storage = if wants(Kind::Storage) && facts.of_kind(Kind::Storage).next().is_some() {
        let spools = [spool()?, spool()?, spool()?];
        Some(Uploads::survey(&mut draft, contents, &options.selection.paths, spools, ctx)?)
    } else {
        None
    };
    assemble(contents, out, &mut draft, storage.as_ref(), options, ctx)
}

/// The second pass: metadata, spooled members, uploads.
fn assemble(
    contents: &dyn Contents,
    out: &mut dyn Write,
    draft: &mut Draft,
    storage: Option<&Uploads>,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    let seconds = contents.facts().time.seconds;
    let metadata = metadata(contents.facts(), draft, storage, options)?;
    ctx.phase("writing the package", None);
    let mut exported = Exported {
        records: draft.records,
        missing: draft.missing.clone(),
        notes: draft.notes.clone(),
        ..Exported::default()
    };
    let first = [Staged { name: layout::METADATA.to_owned(), span: metadata, mode: 0o644 }];
    gzip::compress(out, options.level, failed, |out| {
        let mut archive = Archive::new(out);
        for member in first.iter().chain(&draft.members) {
            let mut content = draft.spool.open(&member.span);
            let file = Member::File(member.span.length);
            archive
                .append(member.name.as_bytes(), file, member.mode, seconds, &mut content)
                .map_err(failed)?;
            exported.bytes += member.span.length;
        }
        if let Some(storage) = storage {
            storage.write(contents, &mut archive, &mut exported, ctx)?;
        }
        archive.finish().map(|_| ()).map_err(failed)
    })?;
    out.flush().map_err(failed)?;
    Ok(exported)
}

/// The package cannot be written to where it should go.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub fn failed(error: io::Error) -> Failure {
    Failure::message(ErrorKind::Failed, format!("the package cannot be written: {error}"), None)
}

/// `metadata.json`, spooled: the list of members may be long.
fn metadata(
    facts: &Facts,
    draft: &mut Draft,
    storage: Option<&Uploads>,
    options: &ExportOptions,
) -> Result<Span, Failure> {
    let has = |prefix: &str| draft.members.iter().any(|member| member.name.starts_with(prefix));
    let wants = |kind| options.only.is_none_or(|only| only == kind);
    let sources = facts.sources.iter().filter(|source| wants(source.kind)).map(|source| {
        let header = if source.header.is_empty() { b"null" } else { source.header.as_slice() };
        Ok(Part {
            kind: source.kind,
            name: source.name.clone(),
            root: source.root.clone(),
            header: database::raw_json(header)?,
        })
    });
    let origin = Origin {
        format: layout::FORMAT,
        written_by: format!("coeval {}", env!("CARGO_PKG_VERSION")),
        snapshot: facts.snapshot.clone(),
        captured_at: facts.time.to_rfc3339(),
        host: facts.host.clone(),
        application: facts.application.clone(),
        root: facts.root.clone(),
        instant: facts.instant.clone(),
        sources: sources.collect::<Result<_, Failure>>()?,
        missing: draft.missing.clone(),
    };
    let engine = draft.engine.map(|engine| match engine {
        Engine::Postgresql => "django.db.backends.postgresql",
        Engine::Sqlite => "django.db.backends.sqlite3",
    });
    let head = Head {
        export_timestamp: facts.time.to_rfc3339(),
        edms_version: None,
        django_version: draft.django.as_deref(),
        python_version: draft.python.as_deref(),
        export_type: "migration_package",
        database_engine: engine,
        export_options: json!({
            "include_users": options.selection.users == Users::Included,
            "compress": true,
            "encrypt": options.seal.is_some(),
            "plaintext_secrets": options.secrets == SecretsPolicy::Plaintext,
        }),
        components: json!({
            "database": has("database/"),
            "storage": storage.is_some(),
            "configuration": has(layout::CONFIGURATION),
        }),
        coeval: origin,
    };
    let head = json_bytes(&head)?;
    // The members go in before the two closing brackets, one a line.
    let head = head.strip_suffix(b"\n  }\n}\n").unwrap_or(&head);
    let mut listed = String::new();
    for member in &draft.members {
        let _ = write!(listed, "{}", line(&member.name, member.span.length, &member.span.sha));
    }
    let mut out = draft.spool.writer();
    let mut write = || -> io::Result<()> {
        out.write_all(head)?;
        out.write_all(b",\n    \"members\": {")?;
        let mut lines = listed.as_bytes().chain(match storage {
            Some(storage) => Box::new(storage.lines()) as Box<dyn Read>,
            None => Box::new(io::empty()),
        });
        // The first line's comma has nothing before it.
        let mut comma = [0];
        let _ = lines.read(&mut comma)?;
        io::copy(&mut lines, &mut out)?;
        out.write_all(b"\n    }\n  }\n}\n")
    };
    write().map_err(spool_failure)?;
    out.finish().map_err(spool_failure)
}

/// A member in the list.
pub fn line(name: &str, size: u64, sha: &Sha) -> String {
    format!(",\n      {}: {{\"size\": {size}, \"sha256\": \"{}\"}}", quote(name), hex(sha))
}
