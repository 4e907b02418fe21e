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

/// The path of a key as text, exact: [`parse_key`] reads it back. See [`escape`].
pub fn display_key(key: &[u8]) -> String {
    if key.is_empty() {
        return ".".to_owned();
    }
    // A slash is in no name of a directory, but a snapshot from elsewhere may hold anything.
    let name = |name: &[u8]| escape(name).replace('/', "\\x2f");
    key.split(|&byte| byte == 0).map(name).collect::<Vec<_>>().join("/")
}

/// The key of a path that [`display_key`] wrote, or a person; slashes too many do no harm.
pub fn parse_key(path: &str) -> Key {
    let names = path.split('/').filter(|name| !matches!(*name, "" | ".")).map(unescape);
    names.collect::<Vec<_>>().join(&0)
}

/// Bytes as text that fits into a line and can be typed: what is not UTF-8 and control characters
/// become `\xHH`, byte by byte, and so does a backslash where it would be read as the beginning of
/// that. [`unescape`] gives the bytes back.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str("\\x");
            text.push_str(&crate::id::hex(&[*byte]));
        }
    };
    let mut rest = bytes;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let (here, after) = rest.split_at(c.len_utf8());
            if c.is_control() || escaped(rest).is_some() {
                hex(&mut text, here);
            } else {
                text.push(c);
            }
            rest = after;
        }
        hex(&mut text, chunk.invalid());
        rest = rest.get(chunk.invalid().len()..).unwrap_or_default();
    }
    text
}

/// The bytes that [`escape`] wrote. Backslashes that begin no `\xHH` stand for themselves.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match escaped(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// The byte that `\xHH` at the beginning stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let &[b'\\', b'x', high, low, ..] = text else { return None };
    let digit =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
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
    use proptest::prelude::*;

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
    fn names_look_as_they_are_where_they_can() {
        for (name, shown) in [
            (&b"a b"[..], "a b"),
            ("Übersicht.pdf".as_bytes(), "Übersicht.pdf"),
            (b"dos\\path", "dos\\path"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"two\nlines", "two\\x0alines"),
            (b"dev\\x2dsda", "dev\\x5cx2dsda"),
        ] {
            assert_eq!(escape(name), shown);
            assert_eq!(unescape(shown), name);
        }
        assert_eq!(parse_key("/a//b/./c/"), b"a\0b\0c");
    }

    proptest! {
        #[test]
        fn whatever_the_name_its_text_is_one_line_and_leads_back(
            // Few distinct bytes, so that beginnings of escapes are common.
            names in prop::collection::vec(
                prop::collection::vec(prop::sample::select(&b"\\x2fF\xff\xc3\xbc\n/"[..]), 1..12),
                1..4,
            ),
        ) {
            let key = names.join(&0);
            let text = display_key(&key);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(parse_key(&text), key);
        }
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
