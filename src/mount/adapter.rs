//! What the kernel asks, and the answers in its own forms.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::Access;
use super::answers::{Answer, Mounted, Place, Refusal};
use super::files::Item;
use crate::source::EntryKind;
use crate::tree::Content;

/// What `lsattr` asks: `FS_IOC_GETFLAGS` of `linux/fs.h`.
const GET_FLAGS: u32 = 0x8008_6601;

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ];
        if self.access == Access::Everyone {
            // The kernel then also asks access control lists.
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wanted {
            // An older kernel does without.
            let _missing = config.add_capabilities(flag).err();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent.0, name.as_bytes()) {
            Ok((ttl, attr)) => reply.entry(&ttl, &attr, Generation(0)),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.stat(ino.0) {
            Ok((ttl, attr)) => reply.attr(&ttl, &attr),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let answer = self.place(ino.0).and_then(|place| match place {
            Place::Link(target) => Ok(target.into_bytes()),
            Place::File(_, _, Item { file: Some((entry, _)), .. }) => match entry.kind {
                EntryKind::Symlink { target } => Ok(target),
                _ => Err(Refusal::Errno(Errno::EINVAL)),
            },
            _ => Err(Refusal::Errno(Errno::EINVAL)),
        });
        match answer {
            Ok(target) => reply.data(&target),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let content = self.file(ino.0).map(|(_, item)| match item.file {
            Some((_, content)) => content,
            None => Content::empty(),
        });
        match content {
            Ok(content) => {
                let handle = FileHandle(self.contents.open(content));
                reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.contents.read(fh.0, offset, size as usize) {
            Ok(Some(bytes)) => reply.data(&bytes),
            Ok(None) => reply.error(Errno::EBADF),
            Err(failure) => reply.error(self.errno(Refusal::Failure(failure))),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.contents.close(fh.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(ino.0, offset, &mut |next, name, attr, _| {
            Ok(reply.add(attr.ino, next, attr.kind, OsStr::from_bytes(name)))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.list(ino.0, offset, &mut |next, name, attr, full| {
            let (ttl, full) = full()?;
            let name = OsStr::from_bytes(name);
            Ok(reply.add(attr.ino, next, name, &ttl, &full, Generation(0)))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = self.place(ino.0).and_then(|place| {
            let Place::File(_, _, Item { file: Some((entry, _)), .. }) = place else {
                return Err(Refusal::Errno(Errno::NO_XATTR));
            };
            let found = entry.attributes.into_iter().find(|a| a.name == name.as_bytes());
            found.map(|attribute| attribute.value).ok_or(Refusal::Errno(Errno::NO_XATTR))
        });
        self.reply_xattr(answer, size, reply);
    }

    fn ioctl(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        if cmd != GET_FLAGS {
            return reply.error(Errno::ENOTTY);
        }
        match self.place(ino.0) {
            Ok(Place::File(_, _, Item { file: Some((entry, _)), .. })) => {
                #[expect(clippy::host_endian_bytes, reason = "the kernel runs on this machine")]
                reply.ioctl(0, &entry.flags.to_ne_bytes());
            }
            Ok(_) => reply.ioctl(0, &[0; 4]),
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let answer = self.place(ino.0).map(|place| {
            let Place::File(_, _, Item { file: Some((entry, _)), .. }) = place else {
                return Vec::new();
            };
            let names = entry.attributes.into_iter();
            names.flat_map(|attribute| attribute.name.into_iter().chain([0])).collect()
        });
        self.reply_xattr(answer, size, reply);
    }
}

impl Mounted {
    /// The bytes, or only how many there are, where that was asked for.
    fn reply_xattr(&self, answer: Answer<Vec<u8>>, size: u32, reply: ReplyXattr) {
        match answer {
            Ok(bytes) => match u32::try_from(bytes.len()) {
                Ok(length) if size == 0 => reply.size(length),
                Ok(length) if length <= size => reply.data(&bytes),
                _ => reply.error(Errno::ERANGE),
            },
            Err(refusal) => reply.error(self.errno(refusal)),
        }
    }
}
