//! Hard links where not everything is restored. A further name of a file names the first one
//! (docs/adr/0011); when that is not restored, or when names that stay lose it, another name has
//! to take its place.

use std::collections::HashMap;

use crate::hint::Failure;
use crate::repo::ChunkReader;
use crate::source::Entry;
use crate::tree::{self, Change, Changes, Content, Difference, Key, Tree, Value};

/// Settles what further names are links to: the first name, where it is restored too or is in
/// the target as it is wanted; otherwise the first of them becomes a file of its own, and the
/// others links to that.
pub(super) struct Links<'a> {
    reader: &'a dyn ChunkReader,
    wanted: Tree,
    present: Option<Tree>,
    /// By the first name that is not there, the one that took its place; `None` where it is
    /// there after all.
    heirs: HashMap<Key, Option<Key>>,
}

impl<'a> Links<'a> {
    pub(super) fn new(reader: &'a dyn ChunkReader, wanted: Tree, present: Option<Tree>) -> Self {
        Self { reader, wanted, present, heirs: HashMap::new() }
    }

    /// Settles the link of an entry that is restored, in the order of keys. `admits` says whether
    /// a difference is one that the restore takes up.
    pub(super) fn settle(
        &mut self,
        key: &[u8],
        value: &mut Value,
        admits: impl Fn(&Difference) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut entry = Entry::decode(&value.head)?;
        let Some(first) = entry.link.take() else { return Ok(()) };
        entry.link = match self.heirs.get(&first) {
            Some(Some(heir)) => Some(heir.clone()),
            Some(None) => Some(first),
            None if self.will_be_there(&first, admits)? => {
                self.heirs.insert(first.clone(), None);
                Some(first)
            }
            None => {
                self.heirs.insert(first, Some(key.to_vec()));
                None
            }
        };
        value.head = entry.encode();
        Ok(())
    }

    /// Whether the first name is in the target as it is wanted, or restored.
    fn will_be_there(
        &self,
        key: &[u8],
        admits: impl Fn(&Difference) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let present = self.present.map(|tree| tree::get(self.reader, tree, key)).transpose()?;
        let (old, new) = (present.flatten(), tree::get(self.reader, self.wanted, key)?);
        if new.is_none() || old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| same(old, new))
        {
            return Ok(new.is_some());
        }
        admits(&Difference { key: key.to_vec(), old, new })
    }
}

/// The changes that follow for names that stay in the target while the first name of their file
/// is changed or removed: the first of them is that from now on.
pub(super) fn orphans(reader: &dyn ChunkReader, old: Tree, new: Tree) -> Changes<'_> {
    let mut heirs: HashMap<Key, Option<Key>> = HashMap::new();
    let mut settle = move |key: Key, value: Value| -> Result<Option<Change>, Failure> {
        let mut entry = Entry::decode(&value.head)?;
        let Some(first) = entry.link.take() else { return Ok(None) };
        let unchanged = |key: &[u8]| -> Result<bool, Failure> {
            let (old, new) = (tree::get(reader, old, key)?, tree::get(reader, new, key)?);
            Ok(old.zip(new).is_some_and(|(old, new)| same(&old, &new)))
        };
        if !unchanged(&key)? {
            return Ok(None);
        }
        match heirs.get(&first) {
            Some(None) => return Ok(None),
            Some(Some(heir)) => entry.link = Some(heir.clone()),
            None if unchanged(&first)? => {
                heirs.insert(first, None);
                return Ok(None);
            }
            None => {
                heirs.insert(first, Some(key.clone()));
            }
        }
        Ok(Some(Change { key, value: Some(Value { head: entry.encode(), ..value }) }))
    };
    Box::new(tree::entries(reader, old, &[], &[]).filter_map(move |item| {
        item.map_err(Failure::from).and_then(|(key, value)| settle(key, value)).transpose()
    }))
}

/// Whether two values of trees are the same.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a.head == b.head && same_content(&a.content, &b.content)
}

/// Whether two contents of trees are the same.
pub(super) fn same_content(a: &Content, b: &Content) -> bool {
    match (a, b) {
        (Content::Inline(a), Content::Inline(b)) => a == b,
        (Content::Stored(a), Content::Stored(b)) => a == b,
        _ => false,
    }
}
