//! What the model's store and processes know; see `model.rs` for what they do.

/// A set of chunks, sessions, or packs.
pub type Set = u16;

/// Chunks; `B` and `C` are each other's base where they are stored as differences.
pub const A: Set = 1;
pub const B: Set = 2;
pub const C: Set = 4;

pub const CHUNKS: [Set; 3] = [A, B, C];
pub const SESSIONS: usize = 4;
pub const PACKS: usize = 8;
pub const SEGMENTS: usize = 10;
pub const ROUNDS: usize = 2;

/// The sessions of the snapshots that are there in the beginning.
pub const T0: usize = 0;
pub const FIRST_WRITER: usize = 2;
pub const FIRST_PACKS: usize = 2;
/// Marks a segment as the merge of others.
pub const MERGED: Set = 1 << 15;

pub const fn base(chunk: Set) -> Set {
    match chunk {
        B => C,
        C => B,
        _ => 0,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Stored {
    #[default]
    Nothing,
    Aborted,
    Committed(Set),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pack {
    pub whole: Set,
    /// Stored as differences.
    pub delta: Set,
    pub present: bool,
    /// Whether it was ever there.
    pub created: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Collection {
    pub condemned: Set,
    pub forgotten: Set,
    pub done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WriterAt {
    #[default]
    Start,
    Began,
    /// Has listed the collections.
    Listed,
    /// Has seen that the parent is valid.
    SawParent,
    Decided,
    Uploaded,
    Published,
    Committed,
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    pub at: WriterAt,
    pub condemned: Set,
    pub parent: bool,
    pub committed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CollectorAt {
    #[default]
    Start,
    /// Has chosen, and not said so yet.
    Chosen,
    Condemned,
    ListedSessions,
    Waiting,
    Decided,
    /// Has the first of the two listings of the marking.
    Listing,
    Marked,
    /// Has listed the collections and read the index.
    Indexed,
    Copied,
    Uploaded,
    Deleting,
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Collector {
    pub at: CollectorAt,
    pub round: u8,
    pub condemned: Set,
    pub forgotten: Set,
    /// Sessions: first those that must be decided, then those that are removed.
    pub sessions: Set,
    pub committed: Set,
    pub live: Set,
    pub held: (Set, Set),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CompactorAt {
    #[default]
    Start,
    Read,
    Deleting,
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Compactor {
    pub at: CompactorAt,
    /// What the segments named that were read.
    pub read: Set,
    pub merged: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reader {
    #[default]
    Start,
    First(Set),
    Second(Set),
    /// What it takes for snapshots, and what of that is none.
    Took(Set),
}

/// The store and all processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    pub sessions: Set,
    pub snapshots: [Stored; SESSIONS],
    pub tombstones: Set,
    /// Snapshots whose manifest cannot be read, for now.
    pub unreadable: Set,
    pub packs: [Pack; PACKS],
    /// What each segment names.
    pub segments: [Set; SEGMENTS],
    /// All packs that a segment ever named: a view of the index may be of any age.
    pub named: Set,
    pub collections: [Collection; ROUNDS],
    pub begun: u8,
    pub writers: [Writer; 2],
    pub collectors: [Collector; 2],
    pub compactor: Compactor,
    pub reader: Reader,
    /// What has happened, for the properties that say that it can.
    pub copied: bool,
    pub aborted: bool,
    pub lost_source: bool,
    pub salvaged: bool,
    pub replaced: bool,
}

/// One store operation, or a decision of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Forget,
    Write(usize),
    /// A writer decides which of its chunks are new, and which of those are differences.
    Decide {
        writer: usize,
        new: Set,
        delta: Set,
    },
    Withdraw(usize),
    LatePack(usize),
    LateSnapshot(usize),
    Collect(usize),
    /// The manifest of the first snapshot cannot be read any more, or can again.
    Damage,
    /// A collector that cannot know what is needed keeps all that can be read.
    Salvage(usize),
    /// What collections removed cannot be read any more, and others take their place.
    Replace,
    Choose {
        collector: usize,
        condemned: Set,
    },
    /// A verdict, perhaps wrong.
    Abort {
        collector: usize,
        session: usize,
    },
    Compact,
    Read,
}

pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..16).filter(move |n| set & 1 << n != 0)
}

pub fn subsets(set: Set) -> impl Iterator<Item = Set> {
    (0..=set).filter(move |subset| subset & !set == 0)
}

impl State {
    pub fn present(&self) -> Set {
        (0..PACKS).filter(|n| self.packs[*n].present).fold(0, |set, n| set | 1 << n)
    }

    pub fn committed(&self) -> Set {
        let is = |n: &usize| matches!(self.snapshots[*n], Stored::Committed(_));
        (0..SESSIONS).filter(is).fold(0, |set, n| set | 1 << n)
    }

    pub fn aborted(&self) -> Set {
        let is = |n: &usize| self.snapshots[*n] == Stored::Aborted;
        (0..SESSIONS).filter(is).fold(0, |set, n| set | 1 << n)
    }

    pub fn begun(&self) -> impl Iterator<Item = &Collection> {
        self.collections[..usize::from(self.begun)].iter()
    }

    pub fn condemned(&self) -> Set {
        self.begun().fold(0, |set, collection| set | collection.condemned)
    }

    pub fn finished(&self) -> Set {
        self.begun().filter(|c| c.done).fold(0, |set, c| set | c.condemned)
    }

    /// All packs that segments name.
    pub fn indexed(&self) -> Set {
        self.segments.iter().fold(0, |set, segment| set | segment) & !MERGED
    }

    /// Snapshots that finished collections have removed.
    pub fn finished_snapshots(&self) -> Set {
        self.begun().filter(|c| c.done).fold(0, |set, c| set | c.forgotten)
    }

    pub fn forgotten(&self) -> Set {
        self.begun().fold(0, |set, collection| set | collection.forgotten)
    }

    /// Chunks that are whole, and that are differences, in these packs.
    pub fn chunks(&self, packs: Set) -> (Set, Set) {
        members(packs).fold((0, 0), |(whole, delta), n| {
            (whole | self.packs[n].whole, delta | self.packs[n].delta)
        })
    }

    /// What can be read from these packs.
    pub fn readable(&self, packs: Set) -> Set {
        let (whole, delta) = self.chunks(packs);
        whole | with_base(delta, whole)
    }

    pub fn findable(&self) -> Set {
        let named = self.segments.iter().fold(0, |set, segment| set | segment);
        self.readable(named & self.present())
    }

    pub fn is_whole(&self, session: usize) -> bool {
        match self.snapshots[session] {
            Stored::Committed(chunks) => chunks & !self.findable() == 0,
            _ => true,
        }
    }

    pub fn publish(&mut self, packs: Set) -> bool {
        let Some(free) = self.segments.iter_mut().find(|segment| **segment == 0) else {
            return false;
        };
        *free = packs;
        self.named |= packs & !MERGED;
        // Which segment is which says nothing.
        self.segments.sort_unstable_by(|a, b| b.cmp(a));
        true
    }
}

/// The chunks whose bases are whole.
pub fn with_base(delta: Set, whole: Set) -> Set {
    CHUNKS.iter().filter(|c| delta & **c != 0 && base(**c) & whole != 0).sum()
}
