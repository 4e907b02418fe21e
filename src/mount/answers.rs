//! Answers from the names and the files: what an inode number means, what is in a folder, and what
//! `stat` says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use super::Access;
use super::contents::Contents;
use super::files::{Files, Item, Number};
use super::names::{Names, Node};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::ChunkId;
use crate::repo::Repo;
use crate::report::Event;
use crate::snapshot::{Filter, Snapshot, SourceRecord, Timeline};
use crate::source::{Device, EntryKind};
use crate::time::Timestamp;

/// How long the kernel may believe what it knows of files, which never change.
const FOREVER: Duration = Duration::from_hours(24);
/// The same of the folders above them, in which snapshots appear.
const A_MOMENT: Duration = Duration::from_secs(1);
/// How old the list of snapshots may be.
const REFRESH_AFTER: Duration = Duration::from_secs(5);

/// An inode number is, from the top: 20 bits for the tree (0: above the files), 6 for the depth of
/// a folder that is no entry, 38 for the number of the entry.
const ENTRY_BITS: u32 = 38;
const DEPTH_BITS: u32 = 6;
const TREES: usize = (1 << 20) - 1;

/// The mounted snapshots.
pub(super) struct Mounted {
    repo: Arc<Repo>,
    filter: Filter,
    pub(super) access: Access,
    ctx: Context,
    names: RwLock<Names>,
    /// When the list of snapshots was read.
    read: Mutex<Timestamp>,
    trees: Mutex<Trees>,
    pub(super) contents: Contents,
    owner: (u32, u32),
}

/// The trees that were looked at: the same in several snapshots only once.
#[derive(Default)]
struct Trees {
    files: Vec<Arc<Files>>,
    by_root: HashMap<ChunkId, usize>,
}

/// What an inode number means.
pub(super) enum Place {
    Folder,
    Link(String),
    File(Arc<Files>, usize, Item),
}

/// Why there is no answer.
pub(super) enum Refusal {
    /// It is not like that.
    Errno(Errno),
    /// The repository cannot be read.
    Failure(Failure),
}

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failure(error.into())
    }
}

pub(super) type Answer<T> = Result<T, Refusal>;

impl Mounted {
    pub(super) fn new(
        repo: Arc<Repo>,
        filter: Filter,
        access: Access,
        ctx: Context,
    ) -> Result<Self, Failure> {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let mounted = Self {
            contents: Contents::new(Arc::clone(&repo)),
            repo,
            filter,
            access,
            read: Mutex::new(ctx.clock.now()),
            ctx,
            names: RwLock::default(),
            trees: Mutex::default(),
            owner,
        };
        mounted.refresh()?;
        Ok(mounted)
    }

    /// Reads the list of snapshots.
    fn refresh(&self) -> Result<(), Failure> {
        let timeline = Timeline::load(&self.repo)?;
        let open = |(id, manifest): &(_, crate::snapshot::Manifest)| {
            let repo = Arc::clone(&self.repo);
            Arc::new(Snapshot { repo, id: *id, manifest: manifest.clone() })
        };
        let snapshots = timeline.iter(&self.filter).map(open).collect();
        self.names.write().unwrap_or_else(PoisonError::into_inner).update(&self.repo, snapshots);
        Ok(())
    }

    fn refresh_in_time(&self) -> Result<(), Failure> {
        let now = self.ctx.clock.now();
        {
            let mut read = lock(&self.read);
            if now.since(*read) < REFRESH_AFTER {
                return Ok(());
            }
            *read = now;
        }
        self.refresh()
    }

    /// What a number above the files means.
    fn node(&self, inode: u64) -> Option<(Node, Timestamp)> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(inode).cloned()
    }

    /// The files of a source.
    fn tree(&self, snapshot: &Snapshot, source: &SourceRecord) -> Answer<(usize, Arc<Files>)> {
        let record = snapshot.tree(source, "")?.ok_or(Refusal::Errno(Errno::ENOENT))?;
        let mut trees = lock(&self.trees);
        let known = trees.by_root.get(&record.tree.root).copied();
        if let Some((at, files)) = known.and_then(|at| Some((at, trees.files.get(at)?))) {
            return Ok((at, Arc::clone(files)));
        }
        let at = trees.files.len();
        if at == TREES {
            return Err(Refusal::Errno(Errno::ENFILE));
        }
        let files = Arc::new(Files::new(Arc::clone(&self.repo), record.tree));
        trees.files.push(Arc::clone(&files));
        trees.by_root.insert(record.tree.root, at);
        Ok((at, files))
    }

    pub(super) fn place(&self, inode: u64) -> Answer<Place> {
        let missing = || Refusal::Errno(Errno::ENOENT);
        let Some(tree) = (inode >> (ENTRY_BITS + DEPTH_BITS)).checked_sub(1) else {
            return match self.node(inode).ok_or_else(missing)?.0 {
                Node::Folder(_) => Ok(Place::Folder),
                Node::Link(target) => Ok(Place::Link(target)),
                Node::Source(snapshot, source) => {
                    let (at, files) = self.tree(&snapshot, &source)?;
                    // A folder that is no entry, where the root is none.
                    let number = Number { entry: 0, depth: 0 };
                    let none = Item { number, key: Vec::new(), file: None };
                    let root = files.root()?.unwrap_or(none);
                    Ok(Place::File(files, at, root))
                }
            };
        };
        let at = usize::try_from(tree).unwrap_or(usize::MAX);
        let files = lock(&self.trees).files.get(at).cloned().ok_or_else(missing)?;
        let depth = u8::try_from(inode >> ENTRY_BITS & ((1 << DEPTH_BITS) - 1)).unwrap_or(0);
        let number = Number { entry: inode & ((1 << ENTRY_BITS) - 1), depth };
        let item = files.item(number)?.ok_or_else(missing)?;
        Ok(Place::File(files, at, item))
    }

    /// A file, and nothing else.
    pub(super) fn file(&self, inode: u64) -> Answer<(Arc<Files>, Item)> {
        match self.place(inode)? {
            Place::File(files, _, item) => Ok((files, item)),
            Place::Folder => Err(Refusal::Errno(Errno::EISDIR)),
            Place::Link(_) => Err(Refusal::Errno(Errno::EINVAL)),
        }
    }

    /// The attributes of something above the files, or of the root folder of a source.
    fn above(&self, inode: u64) -> Answer<FileAttr> {
        let (node, time) = self.node(inode).ok_or(Refusal::Errno(Errno::ENOENT))?;
        let (kind, perm, size) = match &node {
            Node::Folder(_) => (FileType::Directory, 0o555, 0),
            Node::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
            Node::Source(..) => {
                let Place::File(files, _, item) = self.place(inode)? else {
                    return Err(Refusal::Errno(Errno::ENOENT));
                };
                let mut attr = self.attr(&files, inode, &item)?;
                if item.file.is_none() {
                    attr.mtime = time.into();
                }
                return Ok(attr);
            }
        };
        let (uid, gid) = self.owner;
        let time = time.into();
        Ok(FileAttr { uid, gid, perm, size, mtime: time, ..blank(inode, kind) })
    }

    fn attr(&self, files: &Files, inode: u64, item: &Item) -> Answer<FileAttr> {
        let Some((entry, _)) = &item.file else {
            let (uid, gid) = self.owner;
            return Ok(FileAttr { uid, gid, perm: 0o555, ..blank(inode, FileType::Directory) });
        };
        let (kind, rdev) = match &entry.kind {
            EntryKind::Directory => (FileType::Directory, 0),
            EntryKind::File => (FileType::RegularFile, 0),
            EntryKind::Symlink { .. } => (FileType::Symlink, 0),
            EntryKind::Fifo => (FileType::NamedPipe, 0),
            EntryKind::Socket => (FileType::Socket, 0),
            EntryKind::CharacterDevice(device) => (FileType::CharDevice, device_number(*device)),
            EntryKind::BlockDevice(device) => (FileType::BlockDevice, device_number(*device)),
        };
        // Folders have one, too: that says nothing of the folders in it.
        let names = if entry.is_directory() { 1 } else { files.names(item.number.entry)? };
        let size = item.size();
        Ok(FileAttr {
            size,
            blocks: size.div_ceil(512),
            mtime: entry.mtime.into(),
            ctime: entry.mtime.into(),
            atime: entry.mtime.into(),
            perm: entry.mode,
            nlink: u32::try_from(names).unwrap_or(u32::MAX),
            uid: entry.uid,
            gid: entry.gid,
            rdev,
            ..blank(inode, kind)
        })
    }

    /// What `stat` says, and for how long.
    pub(super) fn stat(&self, inode: u64) -> Answer<(Duration, FileAttr)> {
        if inode >> (ENTRY_BITS + DEPTH_BITS) == 0 {
            return Ok((A_MOMENT, self.above(inode)?));
        }
        let (files, item) = self.file(inode)?;
        Ok((FOREVER, self.attr(&files, inode, &item)?))
    }

    /// What has a name in a folder.
    pub(super) fn look_up(&self, parent: u64, name: &[u8]) -> Answer<(Duration, FileAttr)> {
        let missing = Refusal::Errno(Errno::ENOENT);
        match self.place(parent)? {
            Place::Link(_) => Err(Refusal::Errno(Errno::ENOTDIR)),
            Place::Folder => {
                self.refresh_in_time()?;
                let Some((Node::Folder(children), _)) = self.node(parent) else {
                    return Err(missing);
                };
                let name = std::str::from_utf8(name).ok();
                let child = name.and_then(|name| children.get(name)).ok_or(missing)?;
                Ok((A_MOMENT, self.above(*child)?))
            }
            Place::File(_, _, folder) if !folder.is_folder() => Err(Refusal::Errno(Errno::ENOTDIR)),
            Place::File(files, at, folder) => {
                let item = files.find(&folder.key, name)?.ok_or(missing)?;
                let inode = inode(at, item.number)?;
                Ok((FOREVER, self.attr(&files, inode, &item)?))
            }
        }
    }

    /// Calls `each` for what a folder holds from `offset` on, until it says that it has enough:
    /// inode, offset of the next, type, name, and the attributes for who wants them.
    pub(super) fn list(&self, folder: u64, offset: u64, each: &mut Each<'_>) -> Answer<()> {
        for (at, name) in (0..).zip([".", ".."]).filter(|(at, _)| *at >= offset) {
            // What the parent's number is, the kernel knows itself.
            let attr = blank(folder, FileType::Directory);
            if each(at + 1, name.as_bytes(), &attr, &mut || Ok((A_MOMENT, attr)))? {
                return Ok(());
            }
        }
        let begin = offset.saturating_sub(2);
        match self.place(folder)? {
            Place::Link(_) => Err(Refusal::Errno(Errno::ENOTDIR)),
            Place::Folder => {
                self.refresh_in_time()?;
                let Some((Node::Folder(children), _)) = self.node(folder) else { return Ok(()) };
                for (at, (name, child)) in (1..).zip(&children).filter(|(at, _)| *at > begin) {
                    let attr = self.above(*child)?;
                    if each(at + 2, name.as_bytes(), &attr, &mut || Ok((A_MOMENT, attr)))? {
                        break;
                    }
                }
                Ok(())
            }
            Place::File(files, at, item) => {
                let mut refusal = None;
                files.list(&item.key, begin.checked_sub(1), &mut |number, item| {
                    let answer = inode(at, item.number).and_then(|inode| {
                        let kind = kind(&item);
                        let mut full = || Ok((FOREVER, self.attr(&files, inode, &item)?));
                        each(number + 3, item.name(), &blank(inode, kind), &mut full)
                    });
                    match answer {
                        Ok(enough) => Ok(!enough),
                        Err(why) => {
                            refusal = Some(why);
                            Ok(false)
                        }
                    }
                })?;
                refusal.map_or(Ok(()), Err)
            }
        }
    }

    /// The error number for a refusal; what the repository cannot give is told.
    pub(super) fn errno(&self, refusal: Refusal) -> Errno {
        match refusal {
            Refusal::Errno(errno) => errno,
            Refusal::Failure(failure) => {
                self.ctx.report(Event::Note(format!("cannot read from the repository: {failure}")));
                Errno::EIO
            }
        }
    }
}

/// See [`Mounted::list`].
pub(super) type Each<'a> = dyn FnMut(u64, &[u8], &FileAttr, &mut dyn FnMut() -> Answer<(Duration, FileAttr)>) -> Answer<bool>
    + 'a;

fn inode(tree: usize, number: Number) -> Answer<u64> {
    let Number { entry, depth } = number;
    if entry >> ENTRY_BITS != 0 || depth >> DEPTH_BITS != 0 {
        return Err(Refusal::Errno(Errno::EOVERFLOW));
    }
    let tree = (tree as u64 + 1) << (ENTRY_BITS + DEPTH_BITS);
    Ok(tree | u64::from(depth) << ENTRY_BITS | entry)
}

fn kind(item: &Item) -> FileType {
    match item.file.as_ref().map(|(entry, _)| &entry.kind) {
        None | Some(EntryKind::Directory) => FileType::Directory,
        Some(EntryKind::File) => FileType::RegularFile,
        Some(EntryKind::Symlink { .. }) => FileType::Symlink,
        Some(EntryKind::Fifo) => FileType::NamedPipe,
        Some(EntryKind::Socket) => FileType::Socket,
        Some(EntryKind::CharacterDevice(_)) => FileType::CharDevice,
        Some(EntryKind::BlockDevice(_)) => FileType::BlockDevice,
    }
}

/// Attributes that say nothing but the number and the type.
const fn blank(inode: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// A device as the protocol packs it (`new_encode_dev` of Linux): 12 bits for the driver, 20 for
/// the device.
const fn device_number(device: Device) -> u32 {
    let Device { major, minor } = device;
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
