//! What a file has besides content and the fields of `stat`: extended attributes, the lists of
//! POSIX access control among them, and the flags of `chattr`.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::entry::{Attribute, Entry};
use crate::tree::MAX_KEY;

/// The kernel's limits of a list of names and of a value.
const LONGEST: usize = 64 << 10;
/// What a value may have in an entry.
const LONGEST_VALUE: usize = u16::MAX as usize;
/// Tag, length, and the NUL after the name.
const OVERHEAD: usize = 6;

/// Of this name space only lists of access control are of the file; the others are views of what
/// a network file system keeps elsewhere.
const SYSTEM: &[u8] = b"system.";
const ACCESS_CONTROL: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Where attributes are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A path, not followed if it is a link: of what cannot be opened without effects.
    At(&'a CStr),
}

/// Reads attributes into buffers that are used again.
#[derive(Debug)]
pub(super) struct Attributes {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Attributes {
    pub(super) fn new() -> Self {
        Self { names: vec![0; LONGEST], value: vec![0; LONGEST] }
    }

    /// Adds to the entry its flags, and all attributes that can be read and that fit into its
    /// head. Says what is missing and why.
    pub(super) fn read(&mut self, place: Place<'_>, entry: &mut Entry) -> Vec<String> {
        let mut missing = Vec::from_iter(place.read_flags(entry));
        missing.extend(self.read_attributes(place, entry));
        missing
    }

    fn read_attributes(&mut self, place: Place<'_>, entry: &mut Entry) -> Vec<String> {
        let length = match place.list(&mut self.names) {
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOSYS) => 0,
            Err(error) => return vec![format!("its attributes cannot be listed: {}", text(error))],
        };
        let mut missing = Vec::new();
        for name in self.names[..length].split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if name.is_empty() || !is_wanted(name.to_bytes()) {
                continue;
            }
            let mut lacks = |why: &str| {
                missing.push(format!("its attribute {} {why}", name.to_string_lossy()));
            };
            match place.get(name, &mut self.value) {
                Ok(length) if length > LONGEST_VALUE => lacks("is left out: it is too long"),
                Ok(length) => {
                    let (name, value) = (name.to_bytes().to_vec(), self.value[..length].to_vec());
                    entry.attributes.push(Attribute { name, value });
                }
                // Removed since it was listed.
                Err(Errno::NODATA) => {}
                Err(error) => lacks(&format!("cannot be read: {}", text(error))),
            }
        }
        missing.extend(fit(entry));
        missing
    }
}

/// Sorts the attributes, and leaves out what makes the head longer than a tree takes.
fn fit(entry: &mut Entry) -> Vec<String> {
    let mut missing = Vec::new();
    if entry.attributes.is_empty() && entry.link.is_none() {
        return missing;
    }
    let mut attributes = std::mem::take(&mut entry.attributes);
    attributes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    attributes.dedup_by(|a, b| a.name == b.name);
    if entry.encode().len() > MAX_KEY {
        entry.link = None;
        missing
            .push("is kept as a file of its own: the path that it is linked to is too long".into());
    }
    // The length of the fields is there only where there are fields.
    let first_field = entry.flags == 0 && entry.link.is_none();
    let mut length = entry.encode().len() + if first_field { size_of::<u32>() } else { 0 };
    for attribute in attributes {
        let more = OVERHEAD + attribute.name.len() + attribute.value.len();
        if length + more <= MAX_KEY {
            length += more;
            entry.attributes.push(attribute);
        } else {
            let name = String::from_utf8_lossy(&attribute.name);
            missing.push(format!("its attribute {name} is left out: there are more than 64 KiB"));
        }
    }
    missing
}

/// Whether an attribute of this name is the file's own.
pub(super) fn is_wanted(name: &[u8]) -> bool {
    !name.starts_with(SYSTEM) || ACCESS_CONTROL.contains(&name)
}

fn text(error: Errno) -> io::Error {
    error.into()
}

impl Place<'_> {
    /// Flags can be asked only of what is open.
    fn read_flags(self, entry: &mut Entry) -> Option<String> {
        let Self::Open(file) = self else { return None };
        match rustix::fs::ioctl_getflags(file) {
            Ok(flags) => {
                entry.flags = flags.bits() & Entry::FLAGS;
                None
            }
            // The file system has none.
            Err(Errno::NOTTY | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => None,
            Err(error) => Some(format!("its flags cannot be read: {}", text(error))),
        }
    }

    fn list(self, names: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => rustix::fs::flistxattr(file, names),
            Self::At(path) => rustix::fs::llistxattr(path, names),
        }
    }

    fn get(self, name: &CStr, value: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(file) => rustix::fs::fgetxattr(file, name, value),
            Self::At(path) => rustix::fs::lgetxattr(path, name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::files::EntryKind;
    use crate::time::Timestamp;

    #[test]
    fn what_does_not_fit_into_a_head_is_told() {
        let mut entry = Entry::new(EntryKind::File, 0o644, 0, 0, Timestamp::new(0, 0));
        let attribute = |name: &str, length| Attribute {
            name: name.as_bytes().to_vec(),
            value: vec![7; length],
        };
        entry.link = Some(vec![b'k'; 1000]);
        entry.attributes =
            vec![attribute("user.c", 100), attribute("user.b", 60_000), attribute("user.a", 5_000)];
        let missing = fit(&mut entry);
        assert_eq!(missing.len(), 1);
        assert!(missing[0].contains("user.b"), "{missing:?}");
        let names: Vec<_> = entry.attributes.iter().map(|a| a.name.as_slice()).collect();
        assert_eq!(names, [b"user.a", b"user.c"]);
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry.clone()));

        // To the last byte.
        let room = MAX_KEY - entry.encode().len() - OVERHEAD - "user.d".len();
        for (length, fits) in [(room, true), (room + 1, false)] {
            let mut entry = entry.clone();
            entry.attributes.push(attribute("user.d", length));
            assert_eq!(fit(&mut entry).is_empty(), fits);
            assert!(entry.encode().len() <= MAX_KEY);
        }

        entry.link = Some(vec![b'k'; MAX_KEY]);
        assert!(fit(&mut entry)[0].contains("file of its own"));
        assert_eq!((entry.link, entry.attributes.len()), (None, 2));
    }

    #[test]
    fn of_the_systems_attributes_only_access_control_is_the_files_own() {
        for name in ["user.x", "security.capability", "trusted.x", "system.posix_acl_default"] {
            assert!(is_wanted(name.as_bytes()), "{name}");
        }
        assert!(!is_wanted(b"system.nfs4_acl"));
    }
}
