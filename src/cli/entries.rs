//! Files of a snapshot as people and programs read them: lines of `ls -l`, and JSON with restic's
//! names.

use crate::cli::output::size;
use crate::hint::Failure;
use crate::source::{Entry, EntryKind, FilesError, Owners, display_key, escape};
use crate::time::Timestamp;
use crate::tree::Value;

/// What must be known to show the files of a source.
#[derive(Debug, Default)]
pub struct Style {
    /// What owners and groups were called where the files were captured.
    pub owners: Owners,
    /// How sizes are written.
    pub sizes: Sizes,
}

/// How sizes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sizes {
    /// In bytes.
    #[default]
    Exact,
    /// In KiB, MiB and so on.
    Human,
}

impl Sizes {
    /// A number of bytes.
    pub fn show(self, bytes: u64) -> String {
        match self {
            Self::Exact => bytes.to_string(),
            Self::Human => size(bytes),
        }
    }
}

/// The metadata of a file in a snapshot.
pub fn decode_entry(key: &[u8], value: &Value) -> Result<Entry, Failure> {
    Entry::decode(&value.head)
        .map_err(|source| FilesError::Entry { path: display_key(key), source }.into())
}

/// Type and permissions as `ls -l` shows them: `-rw-r--r--`, with a `+` where an access control
/// list says more.
pub fn mode(entry: &Entry) -> String {
    let letter = match entry.kind {
        EntryKind::Directory => 'd',
        EntryKind::File => '-',
        EntryKind::Symlink { .. } => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharacterDevice(_) => 'c',
        EntryKind::BlockDevice(_) => 'b',
    };
    let mut text: Vec<char> = "rwxrwxrwx".chars().collect();
    for (place, letter) in text.iter_mut().enumerate() {
        if entry.mode >> (8 - place) & 1 == 0 {
            *letter = '-';
        }
    }
    for (bit, place, set, alone) in [(11, 2, 's', 'S'), (10, 5, 's', 'S'), (9, 8, 't', 'T')] {
        if entry.mode >> bit & 1 == 1 {
            text[place] = if text[place] == 'x' { set } else { alone };
        }
    }
    let acl = entry.attributes.iter().any(|a| a.name.starts_with(b"system.posix_acl_"));
    std::iter::once(letter).chain(text).chain(acl.then_some('+')).collect()
}

/// The flags of `chattr` in the letters of `lsattr`.
pub fn flags(entry: &Entry) -> String {
    const LETTERS: [(u32, char); 11] = [
        (0x1, 's'),
        (0x2, 'u'),
        (0x8, 'S'),
        (0x1_0000, 'D'),
        (0x10, 'i'),
        (0x20, 'a'),
        (0x40, 'd'),
        (0x80, 'A'),
        (0x4, 'c'),
        (0x2_0000, 'T'),
        (0x80_0000, 'C'),
    ];
    let set = LETTERS.iter().filter(|(flag, _)| entry.flags & flag != 0);
    set.map(|(_, letter)| letter).collect()
}

/// Owner and group, by name where the names are known.
pub fn owner(entry: &Entry, owners: &Owners) -> [String; 2] {
    let name = |name: Option<&String>, number: u32| name.cloned().unwrap_or(number.to_string());
    [name(owners.users.get(&entry.uid), entry.uid), name(owners.groups.get(&entry.gid), entry.gid)]
}

/// A file as a line of `ls -l`. `link` is the path that it is a hard link to.
pub fn long_line(
    entry: &Entry,
    length: u64,
    path: &str,
    link: Option<&str>,
    style: &Style,
) -> String {
    let [user, group] = owner(entry, &style.owners);
    let (size, target) = match &entry.kind {
        EntryKind::Symlink { target } => {
            (style.sizes.show(target.len() as u64), format!(" -> {}", escape(target)))
        }
        EntryKind::CharacterDevice(device) | EntryKind::BlockDevice(device) => {
            (format!("{}, {}", device.major, device.minor), String::new())
        }
        _ => (style.sizes.show(length), String::new()),
    };
    let link = link.map_or_else(String::new, |link| format!(" link to {link}"));
    let (mode, time) = (mode(entry), Timestamp::to_local(entry.mtime));
    format!("{mode:<11}{user:<8} {group:<8} {size:>12} {time} {path}{target}{link}")
}

/// A file as programs read it; where restic has a field, it is named as there.
pub fn file_json(
    entry: &Entry,
    length: u64,
    path: &str,
    link: Option<&str>,
    owners: &Owners,
) -> serde_json::Map<String, serde_json::Value> {
    let mut json = serde_json::Map::new();
    let mut set = |name: &str, value: serde_json::Value| json.insert(name.to_owned(), value);
    set("message_type", "node".into());
    set("name", path.rsplit('/').next().unwrap_or_default().into());
    set("path", path.into());
    set("type", entry.kind.as_str().into());
    set("size", length.into());
    set("mode", entry.mode.into());
    set("permissions", mode(entry).into());
    set("uid", entry.uid.into());
    set("gid", entry.gid.into());
    set("user", owners.users.get(&entry.uid).cloned().into());
    set("group", owners.groups.get(&entry.gid).cloned().into());
    set("mtime", entry.mtime.to_rfc3339().into());
    match &entry.kind {
        EntryKind::Symlink { target } => drop(set("linktarget", escape(target).into())),
        EntryKind::CharacterDevice(device) | EntryKind::BlockDevice(device) => {
            set("major", device.major.into());
            set("minor", device.minor.into());
        }
        _ => {}
    }
    if let Some(link) = link {
        set("hardlink", link.into());
    }
    if !entry.attributes.is_empty() {
        let names = entry.attributes.iter().map(|attribute| escape(&attribute.name));
        set("extended_attributes", names.collect::<Vec<_>>().into());
    }
    if entry.flags != 0 {
        set("flags", flags(entry).into());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Attribute, Device};

    fn entry(kind: EntryKind, bits: u16) -> Entry {
        Entry::new(kind, bits, 0, 7, Timestamp::default())
    }

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode(&entry(EntryKind::File, 0o644)), "-rw-r--r--");
        assert_eq!(mode(&entry(EntryKind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&entry(EntryKind::File, 0o4755)), "-rwsr-xr-x");
        let mut listed = entry(EntryKind::File, 0o2640);
        let name = b"system.posix_acl_access".to_vec();
        listed.attributes.push(Attribute { name, value: Vec::new() });
        assert_eq!(mode(&listed), "-rw-r-S---+");
    }

    #[test]
    fn every_flag_that_is_captured_has_a_letter() {
        let mut all = entry(EntryKind::File, 0);
        all.flags = Entry::FLAGS;
        assert_eq!(flags(&all), "suSDiadAcTC");
        assert_eq!(flags(&all).len(), Entry::FLAGS.count_ones() as usize);
    }

    #[test]
    fn owners_without_a_name_are_numbers() {
        let mut style = Style::default();
        style.owners.users.insert(0, "root".to_owned());
        let device = EntryKind::BlockDevice(Device { major: 8, minor: 1 });
        let line = long_line(&entry(device, 0o660), 0, "/x", Some("/y"), &style);
        assert!(line.starts_with("brw-rw---- root     7                8, 1 "), "{line}");
        assert!(line.ends_with(" /x link to /y"), "{line}");
    }
}
