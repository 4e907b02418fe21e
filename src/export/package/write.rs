//! Writes a package. Two passes, because the first member lists all the others with their
//! checksums: the first pass spools what is small or made here and hashes the uploads where they
//! are, the second writes the archive and sees that the uploads are still the same.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Member};
use super::layout::{self, ConfigFile, ConfigManifest, FileEntry, Head, Origin, Part};
use super::secrets::{self, SecretsPolicy};
use super::spool::{Sha, Span, Spool, digest};
use super::{database, scripts};
use crate::context::Context;
use crate::export::contents::{Contents, Facts, Skipped};
use crate::export::fixture::value::quote;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::report::Event;
use crate::source::record::Engine;
use crate::source::{Entry, EntryKind, Kind};
use crate::tree::Content;

/// A configuration file beyond this is no configuration.
const LARGEST_CONFIGURATION: u64 = 16 << 20;

/// How to write a package.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The part of the snapshot that goes in; `None` for all of it.
    pub only: Option<Kind>,
    /// Whether secrets go in.
    pub secrets: SecretsPolicy,
    /// gzip's level, 0 to 9.
    pub level: u32,
    /// A folder for temporary files, with room for the database.
    pub scratch: PathBuf,
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

    /// Adds a member of these bytes.
    pub fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let span = self.spool.append(bytes).map_err(spool_failure)?;
        self.add(name, span);
        Ok(())
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

/// Writes the package of a snapshot to `out`. The same snapshot gives the same bytes.
pub fn export(
    contents: &dyn Contents,
    out: &mut dyn Write,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    let facts = contents.facts();
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
        configuration(&mut draft, contents, options.secrets)?;
    }
    if wants(Kind::Database) && facts.of_kind(Kind::Database).next().is_some() {
        database::write(&mut draft, contents, options.secrets, ctx)?;
    }
    for (name, script) in scripts::ALL {
        draft.add_bytes(name, script.as_bytes())?;
        if let Some(script) = draft.members.last_mut() {
            script.mode = 0o755;
        }
    }
    let storage = if wants(Kind::Storage) && facts.of_kind(Kind::Storage).next().is_some() {
        Some(Storage::survey(&mut draft, contents, [spool()?, spool()?, spool()?], ctx)?)
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
    storage: Option<&Storage>,
    options: &ExportOptions,
    ctx: &Context,
) -> Result<Exported, Failure> {
    let seconds = contents.facts().time.seconds;
    let metadata = metadata(contents.facts(), draft, storage, options)?;
    let failed = |error: io::Error| {
        Failure::message(ErrorKind::Failed, format!("the package cannot be written: {error}"), None)
    };
    ctx.phase("writing the package", None);
    let mut archive = Archive::new(out, options.level);
    let mut exported = Exported {
        records: draft.records,
        missing: draft.missing.clone(),
        notes: draft.notes.clone(),
        ..Exported::default()
    };
    let first = [Staged { name: layout::METADATA.to_owned(), span: metadata, mode: 0o644 }];
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
    archive.finish().and_then(Write::flush).map_err(failed)?;
    Ok(exported)
}

/// `metadata.json`, spooled: the list of members may be long.
fn metadata(
    facts: &Facts,
    draft: &mut Draft,
    storage: Option<&Storage>,
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
            "include_users": wants(Kind::Database),
            "compress": true,
            "encrypt": false,
            "plaintext_secrets": options.secrets == SecretsPolicy::Plaintext,
        }),
        components: json!({
            "database": has("database/"),
            "storage": storage.is_some(),
            "configuration": has("configuration/"),
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
fn line(name: &str, size: u64, sha: &Sha) -> String {
    format!(",\n      {}: {{\"size\": {size}, \"sha256\": \"{}\"}}", quote(name), hex(sha))
}

/// The uploads, surveyed.
struct Storage {
    names: Vec<String>,
    /// The members' lines for metadata.json, and their spool.
    lines: (Spool, Span),
    /// Size (8 bytes) and checksum (32) of each file, in order.
    sums: (Spool, Span),
    manifest: Span,
    manifest_spool: Spool,
}

impl Storage {
    /// Reads all uploads once.
    fn survey(
        draft: &mut Draft,
        contents: &dyn Contents,
        spools: [Spool; 3],
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let facts = contents.facts();
        let [mut line_spool, mut sum_spool, mut manifest_spool] = spools;
        let (mut lines, mut sums) = (line_spool.writer(), sum_spool.writer());
        let mut manifest = manifest_spool.writer();
        let mut entries = Spool::clone(&draft.spool);
        let mut others = entries.writer();
        let mut names: Vec<String> = facts.of_kind(Kind::Storage).map(|s| s.name.clone()).collect();
        names.sort();
        let put = |out: &mut dyn Write, text: String| {
            out.write_all(text.as_bytes()).map_err(spool_failure)
        };
        let created = quote(&facts.time.to_rfc3339());
        put(&mut manifest, format!("{{\n\"created_at\": {created},\n\"files\": {{"))?;
        let (mut first, mut first_other) = (true, true);
        let comma = |first: &mut bool| if std::mem::take(first) { "\n" } else { ",\n" };
        for name in &names {
            ctx.phase(format!("reading storage {name}"), None);
            each_entry(
                contents,
                Kind::Storage,
                name,
                &mut draft.missing,
                ctx,
                &mut |mut found| {
                    let text = if let Some(content) = found.content.take() {
                        let (sha, size) = read_content(content, |mut reader| digest(&mut reader))?;
                        let path = found.member().replacen("storage/", "", 1);
                        put(&mut lines, line(&found.member(), size, &sha))?;
                        let sum = [&size.to_le_bytes()[..], &sha].concat();
                        sums.write_all(&sum).map_err(spool_failure)?;
                        put(
                            &mut manifest,
                            format!(
                                "{}{}: {{\"size\": {size}, \"checksum\": \"{}\", \"modified\": {}, \
                         \"mode\": \"{:04o}\", \"uid\": {}, \"gid\": {}}}",
                                comma(&mut first),
                                quote(&path),
                                hex(&sha),
                                quote(&found.entry.mtime.to_rfc3339()),
                                found.entry.mode,
                                found.entry.uid,
                                found.entry.gid,
                            ),
                        )?;
                        ctx.report(Event::Progress { items: 1, bytes: size });
                        return Ok(());
                    } else {
                        serde_json::to_string(&found.described(None)).unwrap_or_default()
                    };
                    put(&mut others, format!("{}{text}", comma(&mut first_other)))
                },
            )?;
        }
        put(&mut manifest, "\n},\n\"entries\": [".to_owned())?;
        let others = others.finish().map_err(spool_failure)?;
        io::copy(&mut entries.open(&others), &mut manifest).map_err(spool_failure)?;
        put(&mut manifest, "\n]\n}\n".to_owned())?;
        let span = manifest.finish().map_err(spool_failure)?;
        // What was appended through the clone is part of the spool from here on.
        draft.spool = entries;
        put(&mut lines, line(layout::STORAGE, span.length, &span.sha))?;
        let (lines, sums) =
            (lines.finish().map_err(spool_failure)?, sums.finish().map_err(spool_failure)?);
        Ok(Self {
            names,
            lines: (line_spool, lines),
            sums: (sum_spool, sums),
            manifest: span,
            manifest_spool,
        })
    }

    fn lines(&self) -> impl Read + use<> {
        self.lines.0.open(&self.lines.1)
    }

    /// Writes the uploads into the archive, each checked against what was hashed before.
    fn write<W: Write>(
        &self,
        contents: &dyn Contents,
        archive: &mut Archive<W>,
        exported: &mut Exported,
        ctx: &Context,
    ) -> Result<(), Failure> {
        let seconds = contents.facts().time.seconds;
        let mut sums = self.sums.0.open(&self.sums.1);
        let (mut ignored, mut wanted) = (Vec::new(), [0; 32]);
        let mut manifest = Some(self.manifest);
        let mut put_manifest = |archive: &mut Archive<W>| match manifest.take() {
            Some(span) => {
                let mut content = self.manifest_spool.open(&span);
                archive.append(
                    layout::STORAGE.as_bytes(),
                    Member::File(span.length),
                    0o644,
                    seconds,
                    &mut content,
                )
            }
            None => Ok(()),
        };
        for name in &self.names {
            if name.as_str() > "manifest.json" {
                put_manifest(archive).map_err(spool_failure)?;
            }
            each_entry(contents, Kind::Storage, name, &mut ignored, ctx, &mut |mut found| {
                let (path, mode) = (found.member(), u32::from(found.entry.mode));
                let content = found.content.take();
                let (member, name) = match &found.entry.kind {
                    EntryKind::Directory => (Member::Folder, format!("{path}/")),
                    EntryKind::Symlink { target } => (Member::Link(target), path.clone()),
                    EntryKind::File => {
                        let mut sum = [0; 40];
                        sums.read_exact(&mut sum).map_err(spool_failure)?;
                        let (size, sha) = sum.split_at(8);
                        let size = size.try_into().map_or(0, u64::from_le_bytes);
                        exported.files += 1;
                        exported.bytes += size;
                        wanted.copy_from_slice(sha);
                        (Member::File(size), path.clone())
                    }
                };
                let time = found.entry.mtime.seconds;
                let mut append = |content: &mut dyn Read| {
                    archive.append(name.as_bytes(), member, mode, time, content)
                };
                let Some(content) = content else {
                    return append(&mut io::empty()).map_err(spool_failure);
                };
                let sha = read_content(content, |reader| {
                    let mut hashing = Hashing { reader, sha: Sha256::new() };
                    append(&mut hashing)?;
                    Ok(hashing.sha.finalize())
                })?;
                if sha[..] == wanted {
                    Ok(())
                } else {
                    let text = format!("{path} changed while it was exported");
                    Err(Failure::message(ErrorKind::Damage, text, None))
                }
            })?;
        }
        put_manifest(archive).map_err(spool_failure)
    }
}

/// Hashes what is read.
struct Hashing<'a> {
    reader: &'a mut dyn Read,
    sha: Sha256,
}

impl Read for Hashing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(into)?;
        self.sha.update(&into[..read]);
        Ok(read)
    }
}

/// An entry of a source, with its place in the package.
struct Found<'a> {
    kind: Kind,
    source: &'a str,
    path: String,
    entry: Entry,
    content: Option<Content>,
}

impl Found<'_> {
    fn member(&self) -> String {
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}/{}{slash}{}", self.kind.as_str(), self.source, self.path)
    }

    fn described(&self, member: Option<String>) -> FileEntry {
        let (kind, target) = match &self.entry.kind {
            EntryKind::Directory => ("folder", None),
            EntryKind::File => ("file", None),
            EntryKind::Symlink { target } => {
                ("link", Some(String::from_utf8_lossy(target).into_owned()))
            }
        };
        FileEntry {
            source: self.source.to_owned(),
            path: self.path.clone(),
            kind: kind.to_owned(),
            member,
            target,
            mode: format!("{:04o}", self.entry.mode),
            uid: self.entry.uid,
            gid: self.entry.gid,
            modified: self.entry.mtime.to_rfc3339(),
        }
    }
}

/// Hands over all entries of a source that a package can hold, and lists those it cannot.
fn each_entry(
    contents: &dyn Contents,
    kind: Kind,
    source: &str,
    missing: &mut Vec<Skipped>,
    ctx: &Context,
    take: &mut dyn FnMut(Found<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for change in contents.files(kind, source)? {
        ctx.check_cancelled()?;
        let change = change?;
        let Some(value) = change.value else { continue };
        let entry = Entry::decode(&value.head)
            .map_err(|error| Failure::message(ErrorKind::Damage, error.to_string(), None))?;
        let mut leave_out = |reason: &str| {
            let path = crate::source::display_key(&change.key);
            let item = format!("{}/{source}/{path}", kind.as_str());
            missing.push(Skipped { item, reason: reason.to_owned() });
        };
        if entry.mode & 0o4000 != 0 || (entry.mode & 0o2000 != 0 && !entry.is_directory()) {
            leave_out("it runs with the rights of its owner");
            continue;
        }
        let Ok(key) = std::str::from_utf8(&change.key) else {
            leave_out("its name is not UTF-8");
            continue;
        };
        let path = key.replace('\0', "/");
        if let EntryKind::Symlink { target } = &entry.kind
            && !stays_inside(&path, target)
        {
            leave_out("the link points out of the folder");
            continue;
        }
        let content = matches!(entry.kind, EntryKind::File).then_some(value.content);
        take(Found { kind, source, path, entry, content })?;
    }
    Ok(())
}

/// Whether a link at `path` points to something below the same root, without looking.
pub fn stays_inside(path: &str, target: &[u8]) -> bool {
    let Ok(target) = std::str::from_utf8(target) else { return false };
    if target.starts_with('/') || target.is_empty() || target.contains('\0') {
        return false;
    }
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            ".." if depth == 0 => return false,
            ".." => depth -= 1,
            "" | "." => {}
            _ => depth += 1,
        }
    }
    true
}

fn read_content<T>(
    content: Content,
    read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<T, Failure> {
    match content {
        Content::Inline(bytes) => read(&mut bytes.as_slice()).map_err(spool_failure),
        Content::Reader(mut reader) => read(&mut reader).map_err(spool_failure),
        Content::Stored(_) => {
            Err(Failure::message(ErrorKind::Failed, "a file was listed without its bytes", None))
        }
    }
}

/// The members of `configuration/`.
fn configuration(
    draft: &mut Draft,
    contents: &dyn Contents,
    policy: SecretsPolicy,
) -> Result<(), Failure> {
    let facts = contents.facts();
    let mut manifest =
        ConfigManifest { created_at: Some(facts.time.to_rfc3339()), ..ConfigManifest::default() };
    let first = draft.members.len();
    let mut missing = Vec::new();
    for source in facts.of_kind(Kind::Configuration) {
        let base = base_of(&source.header);
        each_entry(
            contents,
            Kind::Configuration,
            &source.name,
            &mut missing,
            &Context::new(),
            &mut |mut found| {
                let Some(content) = found.content.take() else {
                    manifest.entries.push(found.described(None));
                    return Ok(());
                };
                let mut bytes = Vec::new();
                read_content(content, |reader| {
                    reader.take(LARGEST_CONFIGURATION + 1).read_to_end(&mut bytes)
                })?;
                let item = format!("configuration/{}", found.path);
                if bytes.len() as u64 > LARGEST_CONFIGURATION {
                    let reason = "it is larger than 16 MiB".to_owned();
                    draft.missing.push(Skipped { item, reason });
                    return Ok(());
                }
                let redacted = secrets::redact(&String::from_utf8_lossy(&bytes));
                let has_secrets = !redacted.found.is_empty();
                if policy == SecretsPolicy::Redact && has_secrets {
                    bytes = redacted.text.into_bytes();
                    let reason = format!("secrets were taken out ({})", redacted.found.join("; "));
                    draft.missing.push(Skipped { item, reason });
                }
                let taken = |name: &str| draft.members.iter().any(|member| member.name == name);
                let name = member_name(&found.path, &taken);
                draft.add_bytes(&name, &bytes)?;
                let backup_name = name.replacen("configuration/", "", 1);
                manifest.config_files.push(ConfigFile {
                    original_path: format!("{base}{}", found.path),
                    backup_name: backup_name.clone(),
                    size: bytes.len() as u64,
                    contains_secrets: has_secrets,
                    restore_location: found.path.clone(),
                    checksum: draft
                        .members
                        .last()
                        .map(|member| hex(&member.span.sha))
                        .unwrap_or_default(),
                });
                manifest.entries.push(found.described(Some(backup_name)));
                Ok(())
            },
        )?;
    }
    draft.missing.append(&mut missing);
    if !manifest.entries.is_empty() {
        draft.add_bytes(layout::CONFIGURATION, &json_bytes(&manifest)?)?;
        let text = scripts::instructions(facts, &manifest, &draft.missing, policy);
        draft.add_bytes("configuration/RESTORE_INSTRUCTIONS.md", text.as_bytes())?;
    }
    draft.members[first..].sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// The folder that the paths of a configuration begin at.
fn base_of(header: &[u8]) -> String {
    let header: serde_json::Value = serde_json::from_slice(header).unwrap_or_default();
    let base =
        header.pointer("/configuration/base").and_then(serde_json::Value::as_str).unwrap_or("");
    if base.is_empty() { String::new() } else { format!("{}/", base.trim_end_matches('/')) }
}

/// The name that EDMS gives a configuration file, or one below `files/` where that is taken.
fn member_name(path: &str, taken: &dyn Fn(&str) -> bool) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let by_custom = if name == ".env" || name == "environment_variables.env" {
        Some("configuration/environment_variables.env".to_owned())
    } else if std::path::Path::new(name).extension().is_some_and(|extension| extension == "py") {
        Some(format!("configuration/django_settings/{name}"))
    } else {
        None
    };
    by_custom.filter(|name| !taken(name)).unwrap_or_else(|| format!("configuration/files/{path}"))
}
