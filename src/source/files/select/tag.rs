//! Folders that say of themselves, by a file in them, that nobody needs to save them.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::report::Exclusion;
use crate::source::files::FilesError;

/// The tag of <https://bford.info/cachedir/>, with the beginning that it must have.
const CACHE: (&str, &str) = ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55");

/// A name, and the beginning of the file with that name.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    name: CString,
    header: Vec<u8>,
    pub(super) means: Exclusion,
}

impl Tag {
    /// The tag of caches.
    pub(super) fn cache() -> Result<Self, FilesError> {
        Self::new(CACHE.0, CACHE.1, Exclusion::Cache)
    }

    /// A tag as it is written: `NAME` or `NAME:HEADER`.
    pub(super) fn parse(text: &str) -> Result<Self, FilesError> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        Self::new(name, header, Exclusion::Tagged)
    }

    fn new(name: &str, header: &str, means: Exclusion) -> Result<Self, FilesError> {
        let bad = || FilesError::Pattern {
            pattern: name.to_owned(),
            reason: "it is not the name of a file".to_owned(),
        };
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(bad());
        }
        let name = CString::new(name).map_err(|_| bad())?;
        Ok(Self { name, header: header.as_bytes().to_vec(), means })
    }

    pub(super) fn name(&self) -> &CString {
        &self.name
    }

    /// Whether the folder has the tag. One with a header has to be a regular file.
    pub(super) fn is_in(&self, folder: &OwnedFd) -> io::Result<bool> {
        let found = if self.header.is_empty() {
            rustix::fs::statat(folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).map(|_| true)
        } else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match rustix::fs::openat(folder, &self.name, flags, Mode::empty()) {
                Ok(file) => return self.begins(file),
                Err(error) => Err(error),
            }
        };
        match found {
            // A link or a socket of that name.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(false),
            found => Ok(found?),
        }
    }

    fn begins(&self, file: OwnedFd) -> io::Result<bool> {
        if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file() {
            return Ok(false);
        }
        let mut start = Vec::with_capacity(self.header.len());
        File::from(file).take(self.header.len() as u64).read_to_end(&mut start)?;
        Ok(start == self.header)
    }
}
