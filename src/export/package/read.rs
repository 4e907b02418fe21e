//! Reads an archive from anybody. Nothing is unpacked: every member goes into one temporary file
//! without a name, so no name in the archive ever becomes a path.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use tar::{EntryType, Header};

use super::entries::stays_inside;
use super::layout;
use super::spool::{Span, Spool};
use crate::context::Context;
use crate::export::fixture::read::{self as fixture, FixtureError, Records, Salvage};
use crate::hint::{ErrorKind, Hint};

/// The folders and the file at the top of a package.
const KNOWN: [&str; 5] = [layout::METADATA, "database", "configuration", "storage", "scripts"];
/// A PAX header or a long name of GNU tar is at most this long.
const LONGEST_HEADER: u64 = 64 * 1024;

/// What an archive may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Members.
    pub members: usize,
    /// Bytes of all members.
    pub bytes: u64,
    /// How many times its size an archive may grow, once it is beyond [`Limits::free`].
    pub ratio: u64,
    /// Bytes that may come out of any archive.
    pub free: u64,
    /// Bytes of all names.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { members: 500_000, bytes: 1 << 40, ratio: 200, free: 64 << 20, names: 32 << 20 }
    }
}

/// Whether members outside of the known layout are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extra {
    /// They are a reason to refuse the package.
    #[default]
    Refuse,
    /// They are passed over.
    Ignore,
}

/// Why something is not read as a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Reading or spooling failed.
    #[error("the package cannot be read")]
    Io(#[source] io::Error),
    /// The compressed stream or the archive is damaged.
    #[error("the package is damaged after {offset} bytes of the archive: {reason}")]
    Damaged {
        /// How far it could be read, uncompressed.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// It is neither an archive nor a fixture.
    #[error("this is no package: neither a tar.gz nor a fixture")]
    NotAPackage,
    /// A member is not what a package may hold.
    #[error("refused: member {member}: {reason}")]
    Refused {
        /// Which, its bytes escaped.
        member: String,
        /// Why.
        reason: String,
    },
    /// It is too large, or grows too much.
    #[error("refused: {0}")]
    TooLarge(String),
    /// It is of a kind that cannot be imported.
    #[error("{0}")]
    Unsupported(String),
}

impl Hint for PackageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Damaged { .. } => ErrorKind::Damage,
            _ => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(_) => Some("see that the file is readable and the disk has space".to_owned()),
            Self::Damaged { .. } => Some("fetch or make the package again".to_owned()),
            Self::Refused { .. } | Self::TooLarge(_) => {
                Some("ask its sender what this is; look with `coeval package inspect`".to_owned())
            }
            Self::NotAPackage | Self::Unsupported(_) => None,
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file with this content.
    File(Span),
    /// A folder.
    Folder,
    /// A symbolic link that stays inside of `storage/`.
    Link(String),
}

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// Its permissions, without the bits that give rights.
    pub mode: u16,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// An archive, read.
#[derive(Debug)]
pub struct Archived {
    /// Where the contents are.
    pub spool: Spool,
    /// The members by name, without the top folder.
    pub members: BTreeMap<String, Member>,
    /// Bytes of the compressed file.
    pub compressed: u64,
}

impl Archived {
    /// Reads a whole archive, or a bare fixture, which then is the only member.
    pub fn read(
        input: &mut dyn Read,
        scratch: &Path,
        limits: Limits,
        extra: Extra,
        ctx: &Context,
    ) -> Result<Self, PackageError> {
        let spool = Spool::new(scratch).map_err(PackageError::Io)?;
        let compressed = Rc::new(Cell::new(0));
        let mut input =
            BufReader::with_capacity(64 << 10, Counted { input, read: Rc::clone(&compressed) });
        let start = input.fill_buf().map_err(PackageError::Io)?;
        let gzip = start.starts_with(&[0x1f, 0x8b]);
        let plain: Box<dyn Read> =
            if gzip { Box::new(MultiGzDecoder::new(&mut input)) } else { Box::new(&mut input) };
        let mut stream = Stream {
            plain: BufReader::with_capacity(64 << 10, plain),
            offset: 0,
            compressed: Rc::clone(&compressed),
            ctx,
        };
        let start = stream.plain.fill_buf().map_err(|error| damaged(0, &error))?;
        let mut reading =
            Reading { spool, members: BTreeMap::new(), names: 0, pax: Pax::default(), limits };
        if is_tar(start) {
            reading.archive(&mut stream)?;
        } else if is_text(start) {
            let span = reading.bare(&mut stream)?;
            let member = Member { kind: MemberKind::File(span), mode: 0o644, mtime: 0 };
            reading.members.insert(layout::FIXTURE.to_owned(), member);
        } else {
            return Err(PackageError::NotAPackage);
        }
        drop(stream);
        let members = without_top_folder(reading.members, extra)?;
        refuse_paths_through_links(&members)?;
        Ok(Self { spool: reading.spool, members, compressed: compressed.get() })
    }

    /// The content of a file.
    pub fn file(&self, name: &str) -> Option<Span> {
        match self.members.get(name)?.kind {
            MemberKind::File(span) => Some(span),
            _ => None,
        }
    }
}

struct Counted<'a> {
    input: &'a mut dyn Read,
    read: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

/// The uncompressed bytes, counted.
struct Stream<'a> {
    plain: BufReader<Box<dyn Read + 'a>>,
    offset: u64,
    compressed: Rc<Cell<u64>>,
    ctx: &'a Context,
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ctx.cancel.is_cancelled() {
            return Err(io::Error::other(crate::context::Cancelled));
        }
        let read = self.plain.read(into)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A stream that ends where it is damaged or grows too much, and remembers why.
struct UpToDamage<'a, 's> {
    stream: &'a mut Stream<'s>,
    limits: Limits,
    end: &'a mut Option<PackageError>,
}

impl Read for UpToDamage<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let end = match self.stream.read(into) {
            Err(error) if self.stream.ctx.cancel.is_cancelled() => return Err(error),
            Err(error) => damaged(self.stream.offset, &error),
            Ok(read) => match self.limits.check(self.stream) {
                Ok(()) => return Ok(read),
                Err(error) => error,
            },
        };
        *self.end = Some(end);
        Ok(0)
    }
}

impl Stream<'_> {
    /// The next 512 bytes; `None` at the end.
    fn block(&mut self) -> Result<Option<[u8; 512]>, PackageError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.read(&mut block[filled..]).map_err(|error| damaged(self.offset, &error))? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(cut(self.offset)),
                read => filled += read,
            }
        }
        Ok(Some(block))
    }
}

fn damaged(offset: u64, error: &io::Error) -> PackageError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return cut(offset);
    }
    PackageError::Damaged { offset, reason: error.to_string() }
}

fn cut(offset: u64) -> PackageError {
    PackageError::Damaged { offset, reason: "it ends in the middle".to_owned() }
}

/// Whether it may be a fixture, perhaps with something before it, or nothing at all.
fn is_text(start: &[u8]) -> bool {
    let valid = match str::from_utf8(start) {
        Ok(_) => start.len(),
        Err(error) => error.valid_up_to(),
    };
    // A letter of up to four bytes may be cut at the end.
    valid + 4 > start.len() && !start.contains(&0)
}

fn is_tar(start: &[u8]) -> bool {
    start.get(..512).is_some_and(|block| checksum_holds(Header::from_byte_slice(block)))
}

/// The sum over the header's bytes with the field of the sum itself as blanks (POSIX.1-1988).
fn checksum_holds(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    header.cksum().is_ok_and(|said| said == sum)
}

/// What a PAX header or a GNU header says of the next member.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

struct Reading {
    spool: Spool,
    members: BTreeMap<String, Member>,
    names: usize,
    pax: Pax,
    limits: Limits,
}

impl Reading {
    fn archive(&mut self, stream: &mut Stream<'_>) -> Result<(), PackageError> {
        loop {
            let Some(block) = stream.block()? else { return Err(cut(stream.offset)) };
            if block == [0; 512] {
                return Self::end(stream);
            }
            let header = Header::from_byte_slice(&block);
            if !checksum_holds(header) {
                let reason = "a header's checksum is wrong".to_owned();
                return Err(PackageError::Damaged { offset: stream.offset - 512, reason });
            }
            self.member(header, stream)?;
        }
    }

    /// After the first empty block there is only emptiness.
    fn end(stream: &mut Stream<'_>) -> Result<(), PackageError> {
        let mut left = 1024;
        while let Some(block) = stream.block()? {
            left -= 1;
            if block != [0; 512] || left == 0 {
                let reason = "there is something after its end".to_owned();
                return Err(PackageError::Damaged { offset: stream.offset - 512, reason });
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, stream: &mut Stream<'_>) -> Result<(), PackageError> {
        let name = self.pax.path.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&name).escape_debug().to_string();
        let refuse = |reason: &str| {
            Err(PackageError::Refused { member: shown.clone(), reason: reason.to_owned() })
        };
        let Ok(size) = header.entry_size() else { return refuse("its size is no number") };
        let size = self.pax.size.take().unwrap_or(size);
        let kind = match header.entry_type() {
            EntryType::XHeader => return self.extended(size, stream),
            EntryType::GNULongName => {
                self.pax.path = Some(Self::header_text(size, stream)?);
                return Ok(());
            }
            EntryType::GNULongLink => {
                self.pax.link = Some(Self::header_text(size, stream)?);
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous => None,
            EntryType::Directory if size == 0 => Some(MemberKind::Folder),
            EntryType::Symlink if size == 0 => {
                let link = self.pax.link.take();
                let target =
                    link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
                let target = target.and_then(|target| String::from_utf8(target).ok());
                let Some(target) = target else { return refuse("its target is not UTF-8") };
                Some(MemberKind::Link(target))
            }
            EntryType::Link => return refuse("it is a hard link"),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                return refuse("it is a device or a pipe");
            }
            EntryType::GNUSparse => return refuse("it is sparse"),
            EntryType::XGlobalHeader => return refuse("a global PAX header"),
            _ => return refuse("it is of an unknown kind"),
        };
        self.pax = Pax::default();
        let name = match tidy_name(&name) {
            Ok(name) => name,
            Err(reason) => return refuse(reason),
        };
        self.names += name.len() + 64;
        if self.members.len() >= self.limits.members || self.names > self.limits.names {
            let text = format!("it has more than {} members", self.members.len());
            return Err(PackageError::TooLarge(text));
        }
        let mode = u16::try_from(header.mode().unwrap_or(0o644) & 0o777).unwrap_or(0o644);
        let mtime = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        let kind = match kind {
            Some(kind) => kind,
            None => MemberKind::File(self.copy(stream, size)?),
        };
        // The root of the archive itself.
        if name.is_empty() {
            return if kind == MemberKind::Folder { Ok(()) } else { refuse("it has no name") };
        }
        let folder = kind == MemberKind::Folder;
        if let Some(before) = self.members.insert(name, Member { kind, mode, mtime })
            && !(folder && before.kind == MemberKind::Folder)
        {
            return refuse("there is a member of the same name before it");
        }
        Ok(())
    }

    /// Spools the next bytes, watching how much they have grown.
    fn copy(&mut self, stream: &mut Stream<'_>, size: u64) -> Result<Span, PackageError> {
        use std::io::Write as _;
        let offset = stream.offset;
        let mut out = self.spool.writer();
        let mut block = vec![0; super::spool::BLOCK];
        let mut left = size;
        while left > 0 {
            let next = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = stream.read(&mut block[..next]).map_err(|error| damaged(offset, &error))?;
            if read == 0 && size != u64::MAX {
                return Err(cut(stream.offset));
            }
            if read == 0 {
                break;
            }
            left -= read as u64;
            out.write_all(&block[..read]).map_err(PackageError::Io)?;
            self.limits.check(stream)?;
        }
        let span = out.finish().map_err(PackageError::Io)?;
        let padding = if size == u64::MAX { 0 } else { size.next_multiple_of(512) - size };
        let padding = usize::try_from(padding).unwrap_or(0);
        stream.read_exact(&mut block[..padding]).map_err(|error| damaged(stream.offset, &error))?;
        Ok(span)
    }

    /// A bare fixture. One that is compressed and cut off is taken as far as it goes when that is
    /// seen in its text, too: then its fault is told with the records that are readable.
    fn bare(&mut self, stream: &mut Stream<'_>) -> Result<Span, PackageError> {
        let (mut end, limits) = (None, self.limits);
        let span = self.spool.copy(&mut UpToDamage { stream, limits, end: &mut end });
        let span = span.map_err(PackageError::Io)?;
        match end {
            None => {}
            Some(error @ PackageError::Damaged { .. }) => {
                let text = self.spool.open(&span);
                let mut records = Records::new(text, fixture::Limits::default(), Salvage::Refuse);
                loop {
                    match records.next_record() {
                        Ok(Some(_)) => {}
                        Err(FixtureError::Truncated { .. }) => break,
                        Ok(None) | Err(_) => return Err(error),
                    }
                }
            }
            Some(error) => return Err(error),
        }
        Ok(span)
    }

    fn header_text(size: u64, stream: &mut Stream<'_>) -> Result<Vec<u8>, PackageError> {
        let mut text = Self::header_bytes(size, stream)?;
        while text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    fn header_bytes(size: u64, stream: &mut Stream<'_>) -> Result<Vec<u8>, PackageError> {
        if size > LONGEST_HEADER {
            return Err(PackageError::TooLarge(format!("a header of {size} bytes")));
        }
        let mut bytes = Vec::new();
        let padded = size.next_multiple_of(512);
        let read = stream.take(padded).read_to_end(&mut bytes).map_err(|e| damaged(0, &e))?;
        if read as u64 != padded {
            return Err(cut(stream.offset));
        }
        bytes.truncate(usize::try_from(size).unwrap_or(0));
        Ok(bytes)
    }

    /// A PAX header: the keys that say what ustar's fields say are taken under the same rules,
    /// all others refused.
    fn extended(&mut self, size: u64, stream: &mut Stream<'_>) -> Result<(), PackageError> {
        let bytes = Self::header_bytes(size, stream)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let refuse = |reason: &str| PackageError::Refused {
                member: "PAX header".to_owned(),
                reason: reason.to_owned(),
            };
            let (key, value, after) =
                pax_record(rest).ok_or_else(|| refuse("it cannot be read"))?;
            rest = after;
            match key {
                b"path" => self.pax.path = Some(value.to_vec()),
                b"linkpath" => self.pax.link = Some(value.to_vec()),
                b"size" => {
                    let size = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.pax.size = Some(size.ok_or_else(|| refuse("its size is no number"))?);
                }
                // Owners and times are not taken from an archive.
                b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" => {}
                other => {
                    let key = String::from_utf8_lossy(other).escape_debug().to_string();
                    return Err(refuse(&format!("the key {key} is not one of ustar's")));
                }
            }
        }
        Ok(())
    }
}

impl Limits {
    fn check(&self, stream: &Stream<'_>) -> Result<(), PackageError> {
        if stream.offset > self.bytes {
            return Err(PackageError::TooLarge(format!("it unpacks to over {} bytes", self.bytes)));
        }
        let read = stream.compressed.get();
        if stream.offset > self.free && stream.offset / self.ratio > read {
            let text = format!("its first {read} bytes unpack to {}", stream.offset);
            return Err(PackageError::TooLarge(text));
        }
        Ok(())
    }
}

/// `length key=value\n`; the length counts all of it.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// A name without `./` and closing slashes; or why it is none.
fn tidy_name(bytes: &[u8]) -> Result<String, &'static str> {
    let name = str::from_utf8(bytes).ok().ok_or("its name is not UTF-8")?;
    if name.chars().any(char::is_control) {
        return Err("its name has control characters");
    }
    if name.starts_with('/') || name.contains('\\') {
        return Err("its name is absolute or not portable");
    }
    if name.len() > 4096 || name.split('/').any(|part| part.len() > 255) {
        return Err("its name is too long");
    }
    if name.split('/').any(|part| part == "..") {
        return Err("its name leads out of the package");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

/// Takes away the one folder around everything, if that is how it was packed; then nothing but
/// the known layout may be left.
fn without_top_folder(
    members: BTreeMap<String, Member>,
    extra: Extra,
) -> Result<BTreeMap<String, Member>, PackageError> {
    let top = |name: &str| name.split('/').next().unwrap_or(name).to_owned();
    let tops: BTreeSet<String> = members.keys().map(|name| top(name)).collect();
    let mut tops = tops.into_iter();
    let members = match (tops.next(), tops.next()) {
        (Some(only), None) if !KNOWN.contains(&only.as_str()) && !is_dump(&only) => {
            let strip = |(name, member): (String, Member)| {
                name.strip_prefix(&format!("{only}/")).map(|name| (name.to_owned(), member))
            };
            members.into_iter().filter_map(strip).collect()
        }
        _ => members,
    };
    if members.keys().any(|name| is_dump(name)) {
        return Err(PackageError::Unsupported(
            "this package holds a pg_dump archive; coeval does not load those yet".to_owned(),
        ));
    }
    let mut known = BTreeMap::new();
    for (name, member) in members {
        let top = top(&name);
        let fits = KNOWN.contains(&top.as_str())
            && ((top == layout::METADATA)
                == (name == top && !top.is_empty() && matches!(member.kind, MemberKind::File(_))));
        let refuse = |reason: &str| {
            Err(PackageError::Refused { member: name.clone(), reason: reason.to_owned() })
        };
        match (&member.kind, extra) {
            _ if !fits && extra == Extra::Refuse => {
                return refuse("it is no part of a package (--allow-extra passes over it)");
            }
            _ if !fits => {}
            (MemberKind::Link(target), _) => {
                let below = name.strip_prefix("storage/").and_then(|rest| rest.split_once('/'));
                let Some((_, path)) = below else { return refuse("a link outside of storage/") };
                if !stays_inside(path, target.as_bytes()) {
                    return refuse("the link points out of its folder");
                }
                known.insert(name, member);
            }
            _ => {
                known.insert(name, member);
            }
        }
    }
    Ok(known)
}

fn is_dump(name: &str) -> bool {
    matches!(name, "database.dump" | "storage.tar.gz")
}

/// No member lies below something that is no folder.
fn refuse_paths_through_links(members: &BTreeMap<String, Member>) -> Result<(), PackageError> {
    for name in members.keys() {
        let mut end = 0;
        while let Some(at) = name[end..].find('/') {
            end += at;
            if members.get(&name[..end]).is_some_and(|above| above.kind != MemberKind::Folder) {
                let reason = format!("it lies below {}, which is no folder", &name[..end]);
                return Err(PackageError::Refused { member: name.clone(), reason });
            }
            end += 1;
        }
    }
    Ok(())
}
