//! Takes an archive apart, header by header, trusting none of them.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, Header};

use super::read::{Counter, Limits, Member, MemberKind, PackageError};
use super::spool::{Span, Spool};
use crate::context::Context;
use crate::export::fixture::read::{self as fixture, FixtureError, Records, Salvage};

/// A PAX header or a long name of GNU tar is at most this long.
const LONGEST_HEADER: u64 = 64 * 1024;

/// The uncompressed bytes, counted.
pub struct Stream<'a> {
    plain: BufReader<Box<dyn Read + 'a>>,
    offset: u64,
    compressed: Counter,
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

impl<'a> Stream<'a> {
    /// Unpacks what is compressed with gzip, and reads on after `offset` bytes that were read
    /// before.
    pub fn new(
        input: &'a mut dyn Read,
        offset: u64,
        counter: &Counter,
        ctx: &'a Context,
    ) -> Result<Self, PackageError> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let start = input.fill_buf().map_err(|error| damaged(offset, &error))?;
        let gzip = start.starts_with(&[0x1f, 0x8b]);
        let plain: Box<dyn Read> =
            if gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
        let plain = BufReader::with_capacity(64 << 10, plain);
        Ok(Self { plain, offset, compressed: counter.clone(), ctx })
    }

    /// The next bytes, which are read again.
    pub fn peek(&mut self) -> Result<&[u8], PackageError> {
        let offset = self.offset;
        self.plain.fill_buf().map_err(|error| damaged(offset, &error))
    }

    /// How many bytes there were.
    pub fn finish(self) -> u64 {
        self.offset
    }

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

fn damaged(offset: u64, error: &io::Error) -> PackageError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return cut(offset);
    }
    PackageError::Damaged { offset, reason: error.to_string() }
}

fn cut(offset: u64) -> PackageError {
    PackageError::Damaged { offset, reason: "it ends in the middle".to_owned() }
}

/// Whether something begins as an archive does.
pub fn is_tar(start: &[u8]) -> bool {
    start.get(..512).is_some_and(|block| checksum_holds(Header::from_byte_slice(block)))
}

/// Whether something may be a fixture, perhaps with something before it, or nothing at all.
pub fn is_text(start: &[u8]) -> bool {
    let valid = match str::from_utf8(start) {
        Ok(_) => start.len(),
        Err(error) => error.valid_up_to(),
    };
    // A letter of up to four bytes may be cut at the end.
    valid + 4 > start.len() && !start.contains(&0)
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
#[derive(Debug, Default, PartialEq, Eq)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// Whether it was a PAX header.
    extended: bool,
}

/// A package being read.
pub struct Reading {
    /// Where the contents go.
    pub spool: Spool,
    /// What was read.
    pub members: BTreeMap<String, Member>,
    count: usize,
    names: usize,
    pax: Pax,
    limits: Limits,
}

impl Reading {
    /// Nothing was read yet.
    pub fn new(spool: Spool, limits: Limits) -> Self {
        let pax = Pax::default();
        Self { spool, members: BTreeMap::new(), count: 0, names: 0, pax, limits }
    }

    /// Reads an archive to its end.
    pub fn archive(&mut self, stream: &mut Stream<'_>) -> Result<(), PackageError> {
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
            self.limits.check(stream)?;
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
        let name = self.pax.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&name).escape_debug().to_string();
        let refuse = |reason: &str| {
            Err(PackageError::Refused { member: shown.clone(), reason: reason.to_owned() })
        };
        let Ok(size) = header.entry_size() else { return refuse("its size is no number") };
        // Readers differ in which of two headers they believe: what one reader checks, another
        // must not see differently.
        let twice = match header.entry_type() {
            EntryType::XHeader => self.pax != Pax::default(),
            EntryType::GNULongName => self.pax.extended || self.pax.path.is_some(),
            EntryType::GNULongLink => self.pax.extended || self.pax.link.is_some(),
            _ => false,
        };
        if twice {
            return refuse("two headers before it say what it is");
        }
        match header.entry_type() {
            EntryType::XHeader => return self.extended(size, stream),
            EntryType::GNULongName => {
                self.pax.path = Some(Self::header_text(size, stream)?);
                return Ok(());
            }
            EntryType::GNULongLink => {
                self.pax.link = Some(Self::header_text(size, stream)?);
                return Ok(());
            }
            _ => {}
        }
        let size = self.pax.size.unwrap_or(size);
        let kind = match header.entry_type() {
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
        let mode = header.mode().unwrap_or(0o644);
        let mtime = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        let content = if kind.is_none() { size } else { 0 };
        self.add(&name, kind, (mode, mtime), |reading| reading.copy(stream, content))
    }

    /// Takes a member, wherever it comes from; a file is one without a kind, whose content is
    /// then copied.
    pub fn add(
        &mut self,
        name: &[u8],
        kind: Option<MemberKind>,
        (mode, mtime): (u32, i64),
        copy: impl FnOnce(&mut Self) -> Result<Span, PackageError>,
    ) -> Result<(), PackageError> {
        let refuse = |reason: &str| {
            let member = String::from_utf8_lossy(name).escape_debug().to_string();
            Err(PackageError::Refused { member, reason: reason.to_owned() })
        };
        let name = match tidy_name(name) {
            Ok(name) => name,
            Err(reason) => return refuse(reason),
        };
        self.names += name.len() + 64;
        self.count += 1;
        if self.count > self.limits.members || self.names > self.limits.names {
            let text = format!("it has more than {} members", self.count - 1);
            return Err(PackageError::TooLarge(text));
        }
        let mode = u16::try_from(mode & 0o777).unwrap_or(0o644);
        let kind = match kind {
            Some(kind) => kind,
            None => MemberKind::File(copy(self)?),
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
    pub fn copy(&mut self, stream: &mut Stream<'_>, size: u64) -> Result<Span, PackageError> {
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
    pub fn bare(&mut self, stream: &mut Stream<'_>) -> Result<Span, PackageError> {
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
        self.pax.extended = true;
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
pub fn tidy_name(bytes: &[u8]) -> Result<String, &'static str> {
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
