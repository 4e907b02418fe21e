//! Writes a tar that is the same byte for byte wherever it is written: plain ustar, owner root, the
//! times it is told. A PAX header (POSIX.1-2001) stands only before a member that ustar cannot name
//! or whose size it cannot hold.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::spool::BLOCK;
use crate::export::pax::{USTAR_MAX, record, split_name};

/// What kind of member it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member<'a> {
    /// A regular file of this many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Link(&'a [u8]),
}

/// A tar being written.
pub struct Archive<W: Write> {
    out: W,
}

impl<W: Write> Archive<W> {
    /// Begins an archive.
    pub const fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes a member. The content must have exactly the bytes that [`Member::File`] says.
    pub fn append(
        &mut self,
        name: &[u8],
        member: Member<'_>,
        mode: u32,
        seconds: i64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let size = if let Member::File(size) = member { size } else { 0 };
        let mut header = Header::new_ustar();
        header.set_mode(mode & 0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        let seconds = u64::try_from(seconds).unwrap_or(0).min(USTAR_MAX);
        header.set_mtime(seconds);
        let mut pax = Vec::new();
        if !split_name(&mut header, name) {
            record(&mut pax, b"path", name);
        }
        if size > USTAR_MAX {
            record(&mut pax, b"size", size.to_string().as_bytes());
        }
        header.set_size(if size > USTAR_MAX { 0 } else { size });
        header.set_entry_type(match member {
            Member::File(_) => EntryType::Regular,
            Member::Folder => EntryType::Directory,
            Member::Link(_) => EntryType::Symlink,
        });
        match member {
            Member::Link(target) if target.len() > 100 || !target.is_ascii() => {
                record(&mut pax, b"linkpath", target);
            }
            Member::Link(target) => header.set_link_name_literal(target)?,
            _ => {}
        }
        header.set_cksum();
        if !pax.is_empty() {
            self.extended(&pax, seconds)?;
        }
        self.out.write_all(header.as_bytes())?;
        self.content(content, size)
    }

    /// The extended header that belongs to the next member.
    fn extended(&mut self, records: &[u8], seconds: u64) -> io::Result<()> {
        let mut header = Header::new_ustar();
        split_name(&mut header, b"PaxHeaders/member");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(seconds);
        header.set_size(records.len() as u64);
        header.set_entry_type(EntryType::XHeader);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.content(&mut &records[..], records.len() as u64)
    }

    /// Content, and padding to the next 512 bytes.
    fn content(&mut self, content: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut block = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK))];
        let mut left = size;
        while left > 0 {
            let next = block.len().min(usize::try_from(left).unwrap_or(BLOCK));
            content.read_exact(&mut block[..next])?;
            self.out.write_all(&block[..next])?;
            left -= next as u64;
        }
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.out.write_all(&[0; 512][..padding])
    }

    /// Ends the archive and gives back what it was written to, not yet flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }
}

impl<W: Write> std::fmt::Debug for Archive<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Archive")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_content_arrives_does_not_change_the_bytes() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let next = self.0.len().min(into.len()).min(777);
                into[..next].copy_from_slice(&self.0[..next]);
                self.0 = &self.0[next..];
                Ok(next)
            }
        }
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(i) % 255) as u8).collect();
        let write = |content: &mut dyn Read| {
            let mut archive = Archive::new(Vec::new());
            archive.append(b"a", Member::File(300_000), 0o644, 9, content).unwrap();
            archive.finish().unwrap()
        };
        assert_eq!(write(&mut &bytes[..]), write(&mut Drip(&bytes)));
    }

    #[test]
    fn a_content_that_ends_early_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.append(b"a", Member::File(3), 0o644, 0, &mut &b"ab"[..]).is_err());
    }
}
