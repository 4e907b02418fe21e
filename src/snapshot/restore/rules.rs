//! Which differences between a target and a snapshot a restore takes up.

use super::wanted::{KeyRange, is_below};
use crate::hint::Failure;
use crate::source::{Entry, EntryError, Extras, PathFilter};
use crate::tree::{Difference, Key, Value};

/// What a restore does about a file or record that the target has in another form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Makes it what the snapshot says.
    #[default]
    Always,
    /// The same, but takes a file of equal size and time of modification for equal.
    IfChanged,
    /// Only where the snapshot's was modified later.
    IfNewer,
    /// Leaves it: only what is missing is restored.
    Never,
}

/// What is taken up.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) is_files: bool,
    pub(super) keys: Option<KeyRange>,
    pub(super) paths: PathFilter,
    pub(super) extras: Extras,
    pub(super) overwrite: Overwrite,
}

/// What was decided about folders on the way, which goes for what is below them.
#[derive(Debug, Default)]
pub(super) struct Above {
    /// A folder of the target that becomes something else: with extras kept, what is in it must
    /// go all the same.
    replaced: Option<Key>,
    /// Something of the target that is kept where the snapshot has a folder, or the other way
    /// round: nothing below it can be as in the snapshot.
    kept: Option<Key>,
}

impl Rules {
    /// Whether all that the snapshot has is wanted where the target has nothing.
    pub(super) fn take_all(&self) -> bool {
        self.keys.is_none() && self.paths.is_empty()
    }

    /// Whether the target becomes exactly what the snapshot says.
    pub(super) fn take_everything(&self) -> bool {
        let all = self.take_all() && self.extras == Extras::Delete;
        all && self.overwrite == Overwrite::Always
    }

    /// Whether an entry of files is one of those that the restore is about.
    pub(super) fn cover(&self, key: &[u8], entry: &Entry) -> bool {
        let is_selected = self.keys.as_ref().is_none_or(|keys| keys.contains(key));
        is_selected && self.paths.admits(key, entry.is_directory())
    }

    /// Whether a difference is taken up; they are asked for in the order of keys.
    pub(super) fn admit(
        &self,
        difference: &Difference,
        above: &mut Above,
    ) -> Result<bool, Failure> {
        let Difference { key, old, new } = difference;
        if !self.keys.as_ref().is_none_or(|keys| keys.contains(key)) {
            return Ok(false);
        }
        if !self.is_files {
            let overwrites = old.is_none() || self.overwrite != Overwrite::Never;
            return Ok(if new.is_some() { overwrites } else { self.extras == Extras::Delete });
        }
        let is_in = |above: &Option<Key>| above.as_ref().is_some_and(|top| is_below(key, top));
        let Some(value) = new.as_ref().or(old.as_ref()) else { return Ok(false) };
        let is_directory = Entry::decode(&value.head)?.is_directory();
        if is_in(&above.kept) {
            return Ok(false);
        }
        let Some(new) = new else {
            let wanted = self.extras == Extras::Delete && self.paths.admits(key, is_directory);
            return Ok(is_in(&above.replaced) || wanted);
        };
        if !self.paths.admits(key, is_directory) || !self.overwrites(old.as_ref(), new)? {
            let was = old.as_ref().map(|old| Entry::decode(&old.head)).transpose()?;
            if was.is_some_and(|was| was.is_directory() != is_directory) {
                above.kept = Some(key.clone());
            }
            return Ok(false);
        }
        if !is_directory {
            above.replaced = Some(key.clone());
        }
        Ok(true)
    }

    /// Whether an entry that both sides have is taken from the snapshot; where only one has it,
    /// there is nothing to overwrite.
    pub(super) fn overwrites(&self, old: Option<&Value>, new: &Value) -> Result<bool, EntryError> {
        let Some(old) = old else { return Ok(true) };
        let modified = |value: &Value| Ok(Entry::decode(&value.head)?.mtime);
        Ok(match self.overwrite {
            Overwrite::Always => true,
            Overwrite::Never => false,
            Overwrite::IfNewer => modified(new)? > modified(old)?,
            Overwrite::IfChanged => {
                let kind = |value: &Value| Ok(Entry::decode(&value.head)?.kind);
                modified(new)? != modified(old)?
                    || kind(new)? != kind(old)?
                    || new.content.length() != old.content.length()
            }
        })
    }
}
