//! Snapshots: several sources of one application captured as of one instant, found again by time,
//! compared, brought back and verified.

mod anonymise;
mod capture;
mod check;
mod collect;
mod copy;
mod counts;
mod derive;
mod diff;
mod erase;
mod find;
mod freshness;
mod history;
mod manifest;
mod opened;
mod past;
mod path;
mod recover;
mod references;
mod repair;
mod restore;
mod retention;
mod rewrite;
mod scope;
mod stats;
mod timeline;
mod together;
mod without;

pub use anonymise::{AnonymiseError, Rule, Rules, anonymise};
pub use capture::{CaptureOptions, Captured, Held, Mode, Parent, capture, capture_held};
pub use check::{CheckReport, check, is_sound};
pub use collect::{collect, plan_collection};
pub use copy::{Copier, CopyError};
pub use counts::{Counts, Tally};
pub use derive::{Apply, EditTree, derive};
pub use diff::{DiffItem, diff};
pub use erase::{Erased, Eraser, Unwanted};
pub use find::{Finder, Found};
pub use freshness::{Freshness, freshness};
pub use history::{Step, history};
pub use manifest::{
    Instant, Later, Manifest, Origin, Protection, Reason, RestoredInto, Skipped, SourceRecord,
};
pub use opened::{Snapshot, TreeRecord};
pub use past::{Between, Until, between};
pub use path::{PathError, Paths, Place, SnapshotPath, source_path, tree_path};
pub use recover::{Recovered, recover};
pub use references::{Extent, FileColumn, Loose, References, references};
pub use repair::{Doing, Lost, Repaired, Repairs, repair_snapshots};
pub use restore::{
    Condition, ConditionError, Conflict, Destination, Follow, Kept, KeyRange, Overwrite, Pin,
    PinnedWith, Planned, RecordRules, Relatives, RestoreError, Restored, Selection, Stays,
    TreePlan, VerifiedTree, plan, restore,
};
pub use retention::{Grounds, Policy, Verdict};
pub use rewrite::{rewrite, undelete};
pub use scope::Scope;
pub use stats::{Stats, Usage, stats};
pub use timeline::{Filter, SelectError, Timeline};
