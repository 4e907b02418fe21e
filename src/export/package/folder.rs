//! Reads a folder that a package was unpacked into, under the rules for archives. No link is
//! followed, at the end of a path or within it: the folder is somebody's, and a link in it may
//! lead to what only the reader may see.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

use super::read::{Counter, MemberKind, PackageError};
use super::tarred::Reading;
use crate::context::Context;

/// No package has folders in folders beyond this.
const DEEPEST: usize = 128;

/// Reads all that is in the folder.
pub fn read(
    reading: &mut Reading,
    path: &Path,
    counter: &Counter,
    ctx: &Context,
) -> Result<(), PackageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let mut walk = Walk { reading, counter, ctx };
    walk.folder(&root, &mut Vec::new(), 0)
}

fn failed(error: rustix::io::Errno) -> PackageError {
    PackageError::Io(error.into())
}

struct Walk<'a> {
    reading: &'a mut Reading,
    counter: &'a Counter,
    ctx: &'a Context,
}

impl Walk<'_> {
    fn folder(
        &mut self,
        folder: &OwnedFd,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), PackageError> {
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        let length = path.len();
        for name in names {
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.entry(folder, &name, path, depth)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &CString,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), PackageError> {
        if self.ctx.cancel.is_cancelled() {
            return Err(PackageError::Io(io::Error::other(crate::context::Cancelled)));
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let about = (stat.st_mode & 0o777, stat.st_mtime);
        let refuse = |reason: &str| {
            let member = OsStr::from_bytes(path).to_string_lossy().escape_debug().to_string();
            Err(PackageError::Refused { member, reason: reason.to_owned() })
        };
        let none = |_: &mut Reading| Err(PackageError::NotAPackage);
        // A pipe that took the file's place must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth >= DEEPEST => refuse("it is too deep"),
            FileType::Directory => {
                let flags = flags | OFlags::DIRECTORY;
                let below =
                    rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(failed)?;
                self.reading.add(path, Some(MemberKind::Folder), about, none)?;
                self.folder(&below, path, depth + 1)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(failed)?;
                let Ok(target) = target.into_string() else {
                    return refuse("its target is not UTF-8");
                };
                self.reading.add(path, Some(MemberKind::Link(target)), about, none)
            }
            FileType::RegularFile => {
                let file = rustix::fs::openat(folder, name, flags, Mode::empty());
                let file = File::from(file.map_err(failed)?);
                if !file.metadata().map_err(PackageError::Io)?.is_file() {
                    return refuse("it changed while it was read");
                }
                let mut content = self.counter.count(file);
                self.reading.add(path, None, about, |reading| {
                    reading.spool.copy(&mut content).map_err(PackageError::Io)
                })
            }
            _ => refuse("it is a device, a pipe or a socket"),
        }
    }
}
