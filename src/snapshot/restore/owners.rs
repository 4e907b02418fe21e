//! Owners by name: a tree of files as it would be if this machine had taken the snapshot, where
//! users and groups have other numbers.

use std::collections::BTreeMap;
use std::io;

use super::RestoreError;
use super::rules::Rules;
use crate::context::Context;
use crate::hint::Failure;
use crate::repo::Scratch;
use crate::report::Event;
use crate::source::{Entry, Owners, display_key, group_number, user_number};
use crate::tree::{self, Change, Key, Shape, Tree, Value};

/// The numbers here of the numbers there: `None` where the name is unknown here. A number that had
/// no name there is not in it, and stays.
type Numbers = BTreeMap<u32, Option<u32>>;

/// The tree with the numbers that the owners have here. Those whose names are unknown here keep
/// the number that they had; that is told, where anything of theirs is to be restored.
pub(super) fn renumber(
    scratch: &Scratch<'_>,
    shape: &Shape,
    old: Tree,
    owners: &Owners,
    rules: &Rules,
    ctx: &Context,
) -> Result<Tree, Failure> {
    let users = numbers(&owners.users, user_number)?;
    let groups = numbers(&owners.groups, group_number)?;
    let mut unknown: BTreeMap<(&str, u32), (Key, u64)> = BTreeMap::new();
    let mut renumber = |key: Key, value: Value| -> Result<Option<Change>, Failure> {
        let mut entry = Entry::decode(&value.head)?;
        let is_wanted = rules.cover(&key, &entry);
        for (what, numbers, number) in
            [("owner", &users, &mut entry.uid), ("group", &groups, &mut entry.gid)]
        {
            match numbers.get(number) {
                Some(Some(here)) => *number = *here,
                Some(None) if is_wanted => {
                    unknown.entry((what, *number)).or_insert_with(|| (key.clone(), 0)).1 += 1;
                }
                Some(None) | None => {}
            }
        }
        let head = entry.encode();
        let changed = head != value.head;
        Ok(changed.then(|| Change { key, value: Some(Value { head, ..value }) }))
    };
    let entries = tree::entries(scratch, old, &[], &[]);
    let changes = entries.filter_map(|entry| {
        entry.map_err(Failure::from).and_then(|(key, value)| renumber(key, value)).transpose()
    });
    let tree = tree::edit(scratch, scratch, shape, Some(old), Box::new(changes))?;
    for ((what, number), (first, count)) in unknown {
        let names = if what == "owner" { &owners.users } else { &owners.groups };
        let name = names.get(&number).map_or("", String::as_str);
        let others = match count - 1 {
            0 => String::new(),
            others => format!(", and that of {others} more,"),
        };
        let reason = format!(
            "its {what}{others} is the number {number}: the name `{}` is unknown here",
            name.escape_default()
        );
        ctx.report(Event::Skipped { item: display_key(&first), reason });
    }
    Ok(tree)
}

fn numbers(
    names: &BTreeMap<u32, String>,
    number: impl Fn(&str) -> io::Result<Option<u32>>,
) -> Result<Numbers, RestoreError> {
    let here = |(there, name): (&u32, &String)| Ok((*there, number(name)?));
    names.iter().map(here).collect::<io::Result<_>>().map_err(RestoreError::Owners)
}
