//! What can be captured, and restored into. A source describes itself as named trees and hands
//! over each as [`Changes`]; a target takes changes. Neither knows of the repository.

mod files;
pub mod key;
mod piped;
mod postgres;
pub mod record;
pub mod sort;
mod spool;
mod sqlite;
#[cfg(test)]
mod testing;

pub use files::{
    Attribute, Device, Directory, Entry, EntryError, EntryKind, Files, FilesError, FilesOptions,
    Owners, PathFilter, PathList, ResolvedList, display_key, escape, group_number, key_of,
    parse_key, patterns_in, user_number,
};
pub(crate) use files::{LEFT_OUT, LIST, OWNERS, directory_without_place};
pub use piped::{Pipe, PipedFile};
pub(crate) use postgres::{
    CHANGES, COMMITS, Commit, LARGE_OBJECTS, Logged, POSITION, large_objects,
};
pub use postgres::{
    Postgres, PostgresError, PostgresOptions, Requirement, State as RequirementState, parse_lsn,
};
pub use sqlite::{Sqlite, SqliteError, SqliteTarget};

use std::collections::BTreeMap;

use crate::context::Context;
use crate::hint::Failure;
use crate::tree::{Changes, Content, EachRun, Key, Sought, Value};

/// Which part of an application a source is: the first folder of its paths in a snapshot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Tables of records.
    Database,
    /// A directory of files.
    Storage,
    /// A set of configuration files.
    Configuration,
}

impl Kind {
    /// The folder name: `database`, `storage` or `configuration`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Storage => "storage",
            Self::Configuration => "configuration",
        }
    }
}

/// What a source is, as of the instant it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// About the source as a whole, in JSON: a database's engine, schema and sequences; a
    /// directory's path.
    pub header: Vec<u8>,
    /// Its trees, sorted by name. A directory has one, named "".
    pub trees: Vec<TreeInfo>,
    /// Trees that only make the next capture quick: what `stat` said of each file. They are
    /// captured after `trees` and kept with the snapshot, but hold what differs between equal
    /// sources: they have no part in what is shown, compared, proved or restored.
    pub aids: Vec<TreeInfo>,
    /// What else is known of the source, by name, in JSON: how far a database's log was read,
    /// the models of the application whose database it is. Kept with the snapshot; no part of
    /// what is proved either.
    pub notes: BTreeMap<String, Vec<u8>>,
}

/// One tree of a source: a table, or all files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeInfo {
    /// The table's name (with its schema where that is not the default one), or "".
    pub name: String,
    /// About the tree, in JSON: a table's columns and key (see `record`); empty for files.
    pub header: Vec<u8>,
    /// How many entries to expect, for progress; an estimate.
    pub estimate: Option<u64>,
}

/// Something to capture.
pub trait Source {
    /// Which part of the application this is.
    fn kind(&self) -> Kind;

    /// Its name within its kind: `main` of `[database.main]`; unique within a snapshot.
    fn name(&self) -> &str;

    /// Begins one consistent read and says what there is to read. Until [`Source::end`], all
    /// trees are read as of the same instant, where the source can do that. A source that keeps
    /// in its [notes](Description::notes) how far it had come finds them in `parent`.
    fn begin(&mut self, parent: Option<&dyn Parent>, ctx: &Context)
    -> Result<Description, Failure>;

    /// The changes of one tree since `parent`, or all its entries where `parent` is `None`.
    /// A source that cannot tell what changed may ignore the parent by giving
    /// [`Delta::Everything`]. Trees are asked for in the order of the description, aids last,
    /// each read to its end before the next.
    ///
    /// Entries that cannot be read are reported as [`Skipped`](crate::report::Event::Skipped).
    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure>;

    /// Ends the consistent read.
    fn end(&mut self) -> Result<(), Failure>;

    /// Looks at the source as a whole, without reading it and outside of a consistent read: two
    /// equal glances prove that it did not change between them.
    fn glance(&mut self, _ctx: &Context) -> Result<Glance, Failure> {
        Ok(Glance::Unable)
    }

    /// The glance that went with reading [`Source::changes`].
    fn glance_of_read(&self) -> Glance {
        Glance::Unable
    }
}

/// What [`Source::glance`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glance {
    /// This source cannot be looked at so.
    Unable,
    /// It was being changed.
    Unsettled,
    /// A digest of its state.
    State(u128),
}

/// The same source in the snapshot before, for a source that can tell what changed since.
pub trait Parent {
    /// How the source described itself then.
    fn description(&self) -> Result<Description, Failure>;

    /// All entries of one of its trees or aids, as puts; `None` where it has no tree of that name.
    fn entries(&self, tree: &str) -> Result<Option<Changes<'_>>, Failure>;

    /// How many there are.
    fn count(&self, tree: &str) -> Result<Option<u64>, Failure>;
}

/// What [`Source::changes`] hands over.
#[expect(missing_debug_implementations, reason = "holds streams that have no useful text form")]
pub enum Delta<'a> {
    /// All entries: the changes against an empty tree.
    Everything(Changes<'a>),
    /// Only what differs from the parent that was given.
    SinceParent(Changes<'a>),
}

/// Something to restore into. One restore is `begin`, [`Target::fit`], [`Target::apply`] for every
/// tree, `finish`, a last look through [`Target::as_source`], and `commit`; everything before
/// `commit` can be taken back.
pub trait Target {
    /// Opens the target for change: a transaction with its locks, a staging folder.
    fn begin(&mut self, ctx: &Context) -> Result<(), Failure>;

    /// The target's present state, read inside what `begin` opened: what the snapshot before the
    /// restore is taken from, what differences are computed against, and what is compared at
    /// the end. Then it may be given the snapshot before as the parent, and say only what the
    /// restore changed since, where that proves what is there.
    fn as_source(&mut self) -> &mut dyn Source;

    /// Makes the target's structure that of `wanted` (tables, columns, types), or refuses with a
    /// reason. Says whether entries that were there are still there.
    fn fit(&mut self, wanted: &Description, ctx: &Context) -> Result<Fit, Failure>;

    /// Applies a plan. A tree's changes may be asked for more than once: deletions go child to
    /// parent, insertions parent to child.
    fn apply(&mut self, plan: &dyn Plan, ctx: &Context) -> Result<Applied, Failure>;

    /// Makes the changes final, durably.
    fn commit(&mut self) -> Result<(), Failure>;

    /// What a restore that was cut short had got ready and not yet put in place, to be read after
    /// `begin`: what is as the plan wants it need not be fetched again.
    fn leftovers(&mut self) -> Result<Option<Box<dyn Source>>, Failure> {
        Ok(None)
    }

    /// The entries of its tree that, after the commit, are not what the plan wanted, because the
    /// target cannot hold that; in order of their keys. Each was reported as
    /// [`Skipped`](crate::report::Event::Skipped).
    fn shortfalls(&mut self) -> Result<Shortfalls<'_>, Failure> {
        Ok(Box::new(std::iter::empty()))
    }

    /// Takes everything back since `begin`.
    fn rollback(&mut self) -> Result<(), Failure>;
}

/// What [`Target::shortfalls`] hands over.
pub type Shortfalls<'a> = Box<dyn Iterator<Item = Result<(Key, Shortfall), Failure>> + 'a>;

/// What an entry is that could not become what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// It is what it was before the restore, or still not there.
    AsBefore,
    /// It has the wanted content with this head.
    Head(Vec<u8>),
}

/// The changes that a restore will make: the differences between the target's present state and
/// the snapshot. All that it refers to has been fetched and verified once.
pub trait Plan {
    /// The whole source as it is wanted, as its [`Source::begin`] described it on capture.
    fn wanted(&self) -> &Description;

    /// The trees to change: some or all of `wanted`.
    fn trees(&self) -> &[TreeInfo];

    /// The changes of one of them. Contents are [`Inline`](crate::tree::Content::Inline) or
    /// [`Stored`](crate::tree::Content::Stored): for [`Plan::fetch`].
    fn changes<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure>;

    /// The same for a target that reads one content after the other: they are
    /// [`Inline`](crate::tree::Content::Inline) or [`Reader`](crate::tree::Content::Reader)s.
    fn opened<'a>(&'a self, tree: &TreeInfo) -> Result<Changes<'a>, Failure>;

    /// Gets many stored contents in the order in which they are quickest to get, and hands over
    /// their bytes from several threads at once: see [`tree::fetch`](crate::tree::fetch()).
    fn fetch(
        &self,
        sought: &[Sought<'_>],
        ctx: &Context,
        each: &EachRun<'_>,
    ) -> Result<(), Failure>;

    /// What the target had at a key of one of the trees before the restore.
    fn present(&self, tree: &TreeInfo, key: &[u8]) -> Result<Option<Value>, Failure>;

    /// Whether the target's [leftovers](Target::leftovers) have this content at this key.
    fn is_left(&self, key: &[u8], content: &Content) -> Result<bool, Failure>;
}

/// What a plan does about entries of the target that the snapshot does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    /// Deletes them: the target becomes what the snapshot says.
    Delete,
    /// Leaves them alone, but for those that stand where something of the snapshot belongs.
    Keep,
}

/// What became of the target's entries when its structure was fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The structure was right; all entries are as [`Target::as_source`] showed them.
    Kept,
    /// The structure was built anew, and every tree is empty.
    Rebuilt,
}

/// How much a restore changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Applied {
    /// Entries that were not there before.
    pub inserted: u64,
    /// Entries that were there with another value.
    pub updated: u64,
    /// Entries that are gone.
    pub deleted: u64,
}

impl Applied {
    /// Adds what was done elsewhere.
    pub(crate) fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }
}
