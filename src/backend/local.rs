//! Objects as files in a folder.
//!
//! An object is written to a temporary file beside its place, synced, and then given its name by
//! `link(2)`, which fails when the name is taken: so a name appears only with its whole content,
//! and only once. The folder is synced before the caller is told. A killed process leaves at most
//! a temporary file, which no listing shows; nobody deletes a temporary file but its writer, who
//! alone knows that it is not in use.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::name::{check_folder, check_object, is_part};
use super::{Backend, BackendError, BackendErrorKind, Created, Deleted, Entry};
use crate::id::hex;

const TEMPORARY_PREFIX: &str = ".tmp-";
/// Objects never change, so not even their owner may write to them.
const FILE_MODE: u32 = 0o400;
const FOLDER_MODE: u32 = 0o700;

/// A folder of this host.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    /// Folders whose own entry is known to be durable, so that it is synced once a process.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Local {
    /// The backend in this folder, which is made, for its owner alone, with the first object.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), durable: Mutex::default() }
    }

    fn path(&self, name: &str) -> Result<PathBuf, BackendError> {
        check_object(name)?;
        Ok(self.root.join(name))
    }

    /// Makes a folder of the repository, and those above it, unless they are there. Their entries
    /// are synced even when they are: whoever made them may have died before doing so.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(folder) {
            return Ok(());
        }
        if folder == self.root {
            create_private_dir(folder)?;
        } else if let Some(parent) = folder.parent() {
            self.ensure_folder(parent)?;
            make_folder(folder)?;
            sync_folder(parent)?;
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
        Ok(())
    }

    fn create_file(&self, path: &Path, data: &[u8]) -> io::Result<Created> {
        let folder = path.parent().unwrap_or(&self.root);
        self.ensure_folder(folder)?;
        let temporary = Temporary::write(folder, data)?;
        let created = match fs::hard_link(&temporary.0, path) {
            Ok(()) => Created::New,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_dir() => {
                Created::Existed
            }
            Err(error) => return Err(error),
        };
        drop(temporary);
        // Also when it existed: whoever made it may have died before this.
        sync_folder(folder)?;
        Ok(created)
    }

    fn list_into(&self, name: &str, found: &mut Vec<Entry>) -> Result<(), BackendError> {
        let path = self.root.join(name);
        let failed = |error| BackendError::io("cannot list", path.to_string_lossy(), error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // No folder yet, no objects; or an object and no folder.
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // What no object can be called is none: temporary files, and what others left here.
            let file_name = entry.file_name();
            let Some(part) = file_name.to_str().filter(|part| is_part(part)) else { continue };
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => {
                    self.list_into(&format!("{name}{part}/"), found)?;
                }
                Ok(metadata) if metadata.is_file() => {
                    found.push(Entry { name: format!("{name}{part}"), size: metadata.len() });
                }
                Ok(_) => {}
                // Deleted since it was listed.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

impl Backend for Local {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        let path = self.path(name)?;
        self.create_file(&path, data)
            .map_err(|error| BackendError::io("cannot write", path.to_string_lossy(), error))
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        let path = self.path(name)?;
        fs::read(&path)
            .map(Bytes::from)
            .map_err(|error| BackendError::io("cannot read", path.to_string_lossy(), error))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        let path = self.path(name)?;
        let failed = |error| BackendError::io("cannot read", path.to_string_lossy(), error);
        let file = File::open(&path).map_err(failed)?;
        // Before making room for it: a damaged reference may ask for anything.
        let len = usize::try_from(range.end.saturating_sub(range.start)).ok();
        let len = len.filter(|_| file.metadata().is_ok_and(|file| range.end <= file.len()));
        let Some(len) = len else {
            return Err(BackendError::new(
                BackendErrorKind::Damaged,
                "an object is too short:",
                path.to_string_lossy(),
            ));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, range.start).map_err(failed)?;
        Ok(bytes.into())
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        check_folder(folder)?;
        let mut found = Vec::new();
        self.list_into(folder, &mut found)?;
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        let path = self.path(name)?;
        let removed = match fs::remove_file(&path) {
            // The order of deletions matters to those who come after a crash.
            Ok(()) => sync_folder(path.parent().unwrap_or(&self.root)).map(|()| Deleted::Gone),
            Err(error) if is_absent(&error) => Ok(Deleted::Absent),
            Err(error) => Err(error),
        };
        removed.map_err(|error| BackendError::io("cannot delete", path.to_string_lossy(), error))
    }

    fn place(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }
}

/// A synced file without its final name; dropping it removes this name.
struct Temporary(PathBuf);

impl Temporary {
    fn write(folder: &Path, data: &[u8]) -> io::Result<Self> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let path = folder.join(format!("{TEMPORARY_PREFIX}{}", hex(&nonce)));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        let temporary = Self(path);
        file.write_all(data)?;
        // An error here is final for this file: the kernel may have dropped the pages, and would
        // say yes if asked again.
        file.sync_data()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whether the object was created does not depend on this: a name that stays behind is as
        // after a kill, and shows in no listing.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes one folder; that it is there already is fine.
fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Makes a folder and all missing ones above it, for their owner alone and durably. Those that
/// are there may belong to others and are left alone.
pub fn create_private_dir(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new(""));
    create_private_dir(parent)?;
    make_folder(folder)?;
    sync_folder(parent)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a relative path of one part is written as nothing.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::conformance;
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_folder_conforms() {
        let home = tempfile::tempdir().unwrap();
        let number = std::cell::Cell::new(0);
        conformance::run(&|| {
            number.set(number.get() + 1);
            Local::new(home.path().join(format!("new/repo-{}", number.get())))
        });
    }

    #[test]
    fn objects_are_for_their_owner_and_nobody_writes_to_them() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("a/b");
        Local::new(&root).create("packs/ab/x", b"x").unwrap();
        for folder in ["", "packs", "packs/ab"] {
            assert_eq!(mode(&root.join(folder)), 0o700);
        }
        assert_eq!(mode(&root.join("packs/ab/x")), 0o400);
    }

    #[test]
    fn no_temporary_file_stays_and_those_of_others_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let store = Local::new(home.path());
        let foreign = home.path().join("packs/.tmp-of-a-killed-process");
        store.create("packs/a", b"x").unwrap();
        File::create(&foreign).unwrap();
        File::create(home.path().join("packs/Notes")).unwrap();
        assert_eq!(store.create("packs/a", b"y").unwrap(), Created::Existed);
        store.create("packs/b", b"x").unwrap();
        let left: Vec<_> = fs::read_dir(home.path().join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert_eq!(left, [".tmp-of-a-killed-process"]);
        assert_eq!(store.list("").unwrap().len(), 2);
        assert!(foreign.exists());
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let home = tempfile::tempdir().unwrap();
        let store = Local::new(home.path());
        // A folder where the object should be: the link fails, after the temporary was written.
        store.create("x/y/z", b"").unwrap();
        assert_eq!(store.create("x/y", b"data").unwrap_err().cause(), BackendErrorKind::Io);
        let entries: Vec<_> = fs::read_dir(home.path().join("x")).unwrap().collect();
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn errors_name_the_path_as_the_user_knows_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        File::create(&file).unwrap();
        let error = Local::new(&file).create("config", b"x").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}/config", file.display()));
        let error = Local::new(home.path()).get("config").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}/config", home.path().display()));
    }
}
