//! The `storage/` folder of a package: read once to know every checksum, and once more to write.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Member};
use super::entries::{Found, each_entry, read_content};
use super::layout;
use super::spool::{Span, Spool, digest};
use super::write::{Draft, Exported, line};
use crate::context::Context;
use crate::export::contents::{Contents, Facts, Skipped};
use crate::export::fixture::value::quote;
use crate::export::fixture::write::spool_failure;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::report::Event;
use crate::source::{EntryKind, Kind};

/// The uploads, surveyed.
#[derive(Debug)]
pub struct Uploads {
    names: Vec<String>,
    /// Only what is below these, if there are any.
    paths: Vec<String>,
    /// The members' lines for metadata.json, and their spool.
    lines: (Spool, Span),
    /// Size (8 bytes) and checksum (32) of each file, in order.
    sums: (Spool, Span),
    manifest: Span,
    manifest_spool: Spool,
}

impl Uploads {
    /// Reads all uploads once.
    pub fn survey(
        draft: &mut Draft,
        contents: &dyn Contents,
        paths: &[String],
        spools: [Spool; 3],
        ctx: &Context,
    ) -> Result<Self, Failure> {
        let facts = contents.facts();
        let [mut line_spool, mut sum_spool, mut manifest_spool] = spools;
        let (mut lines, mut sums) = (line_spool.writer(), sum_spool.writer());
        let mut manifest = manifest_spool.writer();
        let mut entries = Spool::clone(&draft.spool);
        let mut others = entries.writer();
        let names = names(draft, facts, paths);
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
                    if !is_selected(paths, &found) {
                        return Ok(());
                    }
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
            paths: paths.to_vec(),
            lines: (line_spool, lines),
            sums: (sum_spool, sums),
            manifest: span,
            manifest_spool,
        })
    }

    /// The lines of the members, each with a comma before it.
    pub fn lines(&self) -> impl Read + use<> {
        self.lines.0.open(&self.lines.1)
    }

    /// Writes the uploads into the archive, each checked against what was hashed before.
    pub fn write<W: Write>(
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
                if !is_selected(&self.paths, &found) {
                    return Ok(());
                }
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
                    // Pipes, sockets and devices: `each_entry` has listed them as left out.
                    _ => return Ok(()),
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

#[expect(clippy::needless_pass_by_value, reason = "texts are made where they are put")]
fn put(out: &mut dyn Write, text: String) -> Result<(), Failure> {
    out.write_all(text.as_bytes()).map_err(spool_failure)
}

/// The storages by name. What of them was not asked for is listed as missing.
fn names(draft: &mut Draft, facts: &Facts, paths: &[String]) -> Vec<String> {
    if !paths.is_empty() {
        let reason = format!("only {} was asked for", paths.join(", "));
        draft.missing.push(Skipped { item: "storage".to_owned(), reason });
    }
    let mut names: Vec<String> = facts.of_kind(Kind::Storage).map(|s| s.name.clone()).collect();
    names.sort();
    names
}

/// Whether an entry is below one of the paths, or a folder on the way there.
fn is_selected(paths: &[String], found: &Found<'_>) -> bool {
    let member = found.member();
    let within = |path: &str, folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    paths.is_empty()
        || paths.iter().any(|path| {
            let path = path.trim_matches('/');
            let path = format!("storage/{}", path.strip_prefix("storage/").unwrap_or(path));
            within(&member, &path) || (found.content.is_none() && within(&path, &member))
        })
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
