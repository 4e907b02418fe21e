//! Reads a package from anybody: an archive, a bare fixture, or a folder that an archive was
//! unpacked into. Nothing is unpacked here: every member goes into one temporary file without a
//! name, so no name in the archive ever becomes a path.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::arrange::{arrange, is_nested};
use super::folder;
use super::layout;
use super::spool::{Span, Spool};
use super::tarred::{Reading, Stream, is_tar, is_text};
use crate::context::Context;
use crate::hint::{ErrorKind, Hint};

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

/// How many bytes were read of what was handed in, compressed or sealed: what growth is measured
/// by. A counter that nothing counts with stands for something that cannot grow.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts what is read.
    pub fn count<R: Read>(&self, input: R) -> Counted<R> {
        Counted { input, counter: self.clone() }
    }

    /// How many there were until now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes that are counted.
#[derive(Debug)]
pub struct Counted<R> {
    input: R,
    counter: Counter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        self.counter.add(read as u64);
        Ok(read)
    }
}

impl Archived {
    /// Reads a whole archive, or a bare fixture, which then is the only member. `counter` counts
    /// what `input` takes.
    pub fn read(
        input: &mut dyn Read,
        counter: &Counter,
        scratch: &Path,
        (limits, extra): (Limits, Extra),
        ctx: &Context,
    ) -> Result<Self, PackageError> {
        let spool = Spool::new(scratch).map_err(PackageError::Io)?;
        let mut reading = Reading::new(spool, limits);
        let mut stream = Stream::new(input, 0, counter, ctx)?;
        let start = stream.peek()?;
        if is_tar(start) {
            reading.archive(&mut stream)?;
        } else if is_text(start) {
            let span = reading.bare(&mut stream)?;
            let member = Member { kind: MemberKind::File(span), mode: 0o644, mtime: 0 };
            reading.members.insert(layout::FIXTURE.to_owned(), member);
        } else {
            return Err(PackageError::NotAPackage);
        }
        let offset = stream.finish();
        Self::arranged(reading, offset, counter, extra, ctx)
    }

    /// Reads a folder that a package was unpacked into.
    pub fn unpacked(
        path: &Path,
        scratch: &Path,
        (limits, extra): (Limits, Extra),
        ctx: &Context,
    ) -> Result<Self, PackageError> {
        let spool = Spool::new(scratch).map_err(PackageError::Io)?;
        let mut reading = Reading::new(spool, limits);
        let counter = Counter::default();
        folder::read(&mut reading, path, &counter, ctx)?;
        Self::arranged(reading, counter.get(), &counter, extra, ctx)
    }

    /// Opens the archive of uploads that EDMS's second method packs into the package, and puts
    /// everything in its place.
    fn arranged(
        mut reading: Reading,
        offset: u64,
        counter: &Counter,
        extra: Extra,
        ctx: &Context,
    ) -> Result<Self, PackageError> {
        let mut members = std::mem::take(&mut reading.members);
        let nested = members.iter().find(|(name, _)| is_nested(name));
        if let Some((name, MemberKind::File(span))) = nested.map(|(name, m)| (name, &m.kind)) {
            let (name, mut packed) = (name.clone(), reading.spool.open(span));
            let mut stream = Stream::new(&mut packed, offset, counter, ctx)?;
            if !is_tar(stream.peek()?) {
                let reason = "it is no tar.gz".to_owned();
                return Err(PackageError::Refused { member: name, reason });
            }
            reading.archive(&mut stream)?;
            members.remove(&name);
        }
        let members = arrange(members, reading.members, extra)?;
        Ok(Self { spool: reading.spool, members, compressed: counter.get() })
    }

    /// The content of a file.
    pub fn file(&self, name: &str) -> Option<Span> {
        match self.members.get(name)?.kind {
            MemberKind::File(span) => Some(span),
            _ => None,
        }
    }
}
