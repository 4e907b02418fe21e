//! Paths as keys: the components below the root, joined by NUL, which no name can hold. The
//! order of the keys is then the order of a walk, depth first, names sorted: a directory, all
//! that is below it, its next sibling. (With `/` as joint, `a-b` would stand between `a` and
//! `a/b`.)

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use super::FilesError;
use crate::tree::Key;

/// Keys are at most this long; a tree takes no longer ones.
pub(super) const LONGEST_KEY: usize = 64 * 1024;

/// The key of a path relative to the root; `None` for a path that leaves it.
pub fn key_of(path: &Path) -> Option<Key> {
    let mut key = Key::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => key = child(&key, name.as_bytes()),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(key)
}

/// The path of a key, for people: bytes that are not UTF-8 are replaced.
pub fn display_key(key: &[u8]) -> String {
    if key.is_empty() {
        return ".".to_owned();
    }
    String::from_utf8_lossy(&path_bytes(key)).into_owned()
}

/// The path of a key, exact, with slashes.
pub(super) fn path_bytes(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect()
}

/// The key of a name in the directory with this key.
pub(super) fn child(directory: &[u8], name: &[u8]) -> Key {
    let mut key = Key::with_capacity(directory.len() + 1 + name.len());
    key.extend_from_slice(directory);
    if !directory.is_empty() {
        key.push(0);
    }
    key.extend_from_slice(name);
    key
}

/// Whether a key lies in the folder with the key `above`.
pub(super) fn is_below(key: &[u8], above: &[u8]) -> bool {
    above.is_empty() || key.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&0))
}

/// The names on the way to a key, checked: a snapshot from elsewhere may say `..`.
pub(super) fn names(key: &[u8]) -> Result<Vec<CString>, FilesError> {
    if key.is_empty() {
        return Ok(Vec::new());
    }
    key.split(|&byte| byte == 0)
        .map(|name| match name {
            b"" | b"." | b".." => None,
            _ if name.contains(&b'/') => None,
            _ => CString::new(name).ok(),
        })
        .collect::<Option<_>>()
        .ok_or_else(|| FilesError::HostilePath { path: display_key(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_a_walk_visits() {
        let mut keys: Vec<_> =
            ["a-b", "a/c", "a", "b", "a/b/c", "a!"].map(|p| key_of(Path::new(p)).unwrap()).into();
        keys.sort();
        let walk: Vec<_> = keys.iter().map(|key| display_key(key)).collect();
        assert_eq!(walk, ["a", "a/b/c", "a/c", "a!", "a-b", "b"]);
    }

    #[test]
    fn no_path_leads_out_of_the_root() {
        assert_eq!(key_of(Path::new("../etc/passwd")), None);
        assert_eq!(key_of(Path::new("/etc/passwd")), None);
        for hostile in [&b".."[..], b"a\0..\0b", b"a\0\0b", b".", b"a/b", b"\0", b"a\0"] {
            assert!(names(hostile).is_err(), "{hostile:?}");
        }
        assert_eq!(names(b"a\0b").unwrap().len(), 2);
    }
}
