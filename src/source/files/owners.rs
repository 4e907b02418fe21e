//! Names of users and groups. An entry has only numbers: they are what the kernel keeps, and what
//! makes equal directories look equal. The names are an aid, for people and for a restore on a
//! machine where they have other numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::unistd::{Gid, Group, Uid, User};

use crate::context::Context;
use crate::report::Event;
use crate::tree::{Change, Content};

/// First byte of a key of the aid; the number follows, big-endian.
const USER: u8 = b'u';
const GROUP: u8 = b'g';

/// More numbers than any directory has that people look after; what is beyond has no name.
const LIMIT: usize = 1 << 16;

/// What the owners and groups of files were called where the files were captured. A number that
/// had no name is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Names of users by number.
    pub users: BTreeMap<u32, String>,
    /// Names of groups by number.
    pub groups: BTreeMap<u32, String>,
}

impl Owners {
    /// Takes up an entry of the aid; leaves alone what is none.
    pub(crate) fn insert(&mut self, key: &[u8], name: &[u8]) {
        let Some((&kind, Ok(number))) =
            key.split_first().map(|(kind, number)| (kind, number.try_into()))
        else {
            return;
        };
        let names = match kind {
            USER => &mut self.users,
            GROUP => &mut self.groups,
            _ => return,
        };
        names.insert(u32::from_be_bytes(number), String::from_utf8_lossy(name).into_owned());
    }
}

/// The number of the user of this name on this machine; `None` where there is no such user.
pub fn user_number(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}

/// What the user who runs this process is called; their number where that has no name.
pub fn effective_user() -> io::Result<String> {
    let number = Uid::effective();
    Ok(User::from_uid(number)?.map_or_else(|| number.to_string(), |user| user.name))
}

/// The number of the group of this name on this machine; `None` where there is no such group.
pub fn group_number(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// The numbers that a capture has come across.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
    /// Most files have the same owner as the one before.
    last: Option<(u32, u32)>,
}

impl Numbers {
    pub(super) fn note(&mut self, uid: u32, gid: u32) {
        if self.last == Some((uid, gid)) {
            return;
        }
        self.last = Some((uid, gid));
        for (numbers, number) in [(&mut self.users, uid), (&mut self.groups, gid)] {
            if numbers.len() < LIMIT {
                numbers.insert(number);
            }
        }
    }

    /// The entries of the aid, in the order of their keys. Each name is looked up once, in
    /// whatever the machine keeps them; a directory service that does not answer is told, and
    /// makes nothing incomplete.
    pub(super) fn changes(&self, ctx: &Context) -> impl Iterator<Item = Change> {
        let mut failed = None;
        let group = |gid| Group::from_gid(Gid::from_raw(gid)).map(|group| Some(group?.name));
        let user = |uid| User::from_uid(Uid::from_raw(uid)).map(|user| Some(user?.name));
        let groups = self.groups.iter().map(move |&gid| (GROUP, gid, group(gid)));
        let users = self.users.iter().map(move |&uid| (USER, uid, user(uid)));
        groups.chain(users).filter_map(move |(kind, number, name): (_, u32, _)| {
            let name = name.unwrap_or_else(|error| {
                if failed.replace(error) != Some(error) {
                    let note = format!("names of owners cannot be looked up: {error}");
                    ctx.report(Event::Note(note));
                }
                None
            })?;
            let key = [&[kind], &number.to_be_bytes()[..]].concat();
            Some(Change::put(key, [], Content::Inline(name.into_bytes())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_for_the_numbers_that_have_one() {
        let mut numbers = Numbers::default();
        for number in [0, 4_000_000_123, 0, 0] {
            numbers.note(number, number);
        }
        let mut owners = Owners::default();
        let mut keys = Vec::new();
        for change in numbers.changes(&Context::new()) {
            let Some(Content::Inline(name)) = change.value.map(|value| value.content) else {
                panic!("a name is short");
            };
            owners.insert(&change.key, &name);
            keys.push(change.key);
        }
        assert!(keys.is_sorted());
        let root = BTreeMap::from([(0, "root".to_owned())]);
        assert_eq!(owners, Owners { users: root.clone(), groups: root });
        assert_eq!(user_number("root").unwrap(), Some(0));
        assert_eq!(group_number("no such group").unwrap(), None);
    }
}
