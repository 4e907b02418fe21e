//! The protocol of collection as a model: every store operation is one transition, and any process
//! may be arbitrarily late, or never come back.
//!
//! What is bounded: two or three chunks, a few writers, collectors and collections. What is not:
//! the order of everything, the age of every view of the index, verdicts on writers that live,
//! answers that get lost (an operation that happened is tried again, or is not), and objects that
//! are created once more by a duplicated request. A crash is a process that never moves again.

use stateright::{Model, Property};

use super::state::{
    CHUNKS, Collection, Collector, CollectorAt, Compactor, CompactorAt, FIRST_PACKS, FIRST_WRITER,
    MERGED, Pack, Reader, Set, State, Step, Stored, T0, Writer, WriterAt, base, members, subsets,
    with_base,
};

/// A rule that is broken, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    Nothing,
    /// The writer looks for collections before its session can be seen.
    ListBeforeSession,
    /// The writer refers to chunks in condemned packs.
    DedupAgainstCondemned,
    /// The writer takes over from a parent without asking whether that is being collected.
    AnyParent,
    /// The writer's commit overwrites what a collector put there.
    CommitOverwrites,
    /// The writer does not look at its session after the commit.
    NoConfirmation,
    /// The collector does not wait for writers.
    NoWaiting,
    /// The collector lists sessions before snapshots when it marks.
    MarkSessionsFirst,
    /// The collector deletes without copying.
    NoCopy,
    /// The collector takes condemned packs for holders of a chunk.
    HeldByCondemned,
    /// The collector begins a collection while another is going on.
    NextBeforeDone,
    /// The collector deletes the snapshot before its session.
    SnapshotBeforeSession,
    /// The collector deletes the tombstone first.
    TombstoneFirst,
    /// The collector deletes before the segment of what it copied is published.
    DeleteBeforePublish,
    /// Compaction passes over packs of a collection that is going on.
    CompactUnfinished,
    /// Compaction deletes segments before their merge is published.
    CompactDeletesFirst,
    /// The reader lists sessions before snapshots.
    ReadSessionsFirst,
    /// The writer refers to a difference without asking for its base.
    DedupWithoutBase,
    /// The collector takes a difference for a chunk without asking for its base.
    HeldWithoutBase,
    /// The collector does not keep the bases of what it keeps.
    NoPin,
    /// The collector takes a snapshot that it cannot read for one that needs nothing.
    UnreadableNeedsNothing,
    /// The same, once it is forgotten, though the collection does not say so.
    ForgottenNeedsNothing,
    /// After a collection was replaced, old views of the index are still used.
    OldViews,
    /// A collection is replaced while writers that do not know of that are at work.
    ReplaceBesideWriters,
    /// A collection is replaced while a collector is at work on it.
    ReplaceBesideCollector,
}

/// What a run explores.
#[derive(Debug, Clone)]
pub struct World {
    pub writers: usize,
    pub collectors: usize,
    /// Collections that may be begun.
    pub rounds: usize,
    /// What each writer needs.
    pub wants: [Set; 2],
    /// Whole chunks, and differences, in the first packs.
    pub packs: [(Set, Set); FIRST_PACKS],
    /// What the first two snapshots need.
    pub snapshots: [Set; 2],
    pub with: With,
    pub broken: Break,
}

/// What may happen besides writing and collecting.
#[derive(Debug, Clone, Copy, Default)]
pub struct With {
    /// Writers may take over from the first snapshot, forgotten or not.
    pub parent: bool,
    /// Writers may store differences.
    pub delta: bool,
    /// Packs and snapshots may be created once more by a late request.
    pub late: bool,
    /// Segments are compacted.
    pub compaction: bool,
    /// Someone lists the snapshots.
    pub reader: bool,
    /// The first snapshot cannot be read at times.
    pub damage: bool,
    /// Collections are replaced of which nobody knows any more what they removed.
    pub replace: bool,
}

fn writer_pack(writer: usize) -> usize {
    FIRST_PACKS + writer
}

fn collector_pack(collector: usize, round: u8) -> usize {
    FIRST_PACKS + 2 + 2 * collector + usize::from(round)
}

impl World {
    fn is(&self, broken: Break) -> bool {
        self.broken == broken
    }

    /// What a writer may refer to, by a view of any age.
    fn usable(&self, state: &State, writer: Writer) -> Set {
        let condemned = if self.is(Break::DedupAgainstCondemned) { 0 } else { writer.condemned };
        let packs = state.named & !condemned;
        if self.is(Break::DedupWithoutBase) {
            let (whole, delta) = state.chunks(packs);
            return whole | delta;
        }
        state.readable(packs)
    }

    fn decisions(&self, state: &State, number: usize, steps: &mut Vec<Step>) {
        let writer = state.writers[number];
        let wanted = self.wants[number];
        let mut known = self.usable(state, writer);
        if writer.parent {
            known |= self.snapshots[T0];
        }
        let packs = state.named & !writer.condemned;
        let bases = state.chunks(packs).0;
        for new in subsets(wanted).filter(|new| wanted & !new & !known == 0) {
            let possible = if self.with.delta { with_base(new, bases & !new) } else { 0 };
            for delta in subsets(possible) {
                steps.push(Step::Decide { writer: number, new, delta });
            }
        }
    }

    /// The next step of a writer; false where there is none.
    fn write(&self, state: &mut State, number: usize) -> bool {
        let session = FIRST_WRITER + number;
        let pack = writer_pack(number);
        let early = self.is(Break::ListBeforeSession);
        let mut writer = state.writers[number];
        writer.at = match writer.at {
            WriterAt::Start => {
                if early {
                    writer.condemned = state.condemned();
                } else {
                    state.sessions |= 1 << session;
                }
                WriterAt::Began
            }
            WriterAt::Began => {
                if early {
                    state.sessions |= 1 << session;
                } else {
                    writer.condemned = state.condemned();
                }
                WriterAt::Listed
            }
            WriterAt::Listed if self.with.parent && number == 0 => {
                let valid = state.committed() & state.sessions & 1 << T0 != 0;
                if !valid {
                    return false;
                }
                writer.parent = true;
                WriterAt::SawParent
            }
            WriterAt::SawParent => {
                let free = state.forgotten() & 1 << T0 == 0;
                writer.parent = free || self.is(Break::AnyParent);
                // Decides next, with what it has learnt.
                WriterAt::Listed
            }
            WriterAt::Decided => {
                if state.packs[pack].whole | state.packs[pack].delta == 0 {
                    WriterAt::Published
                } else {
                    state.packs[pack].present = true;
                    state.packs[pack].created = true;
                    WriterAt::Uploaded
                }
            }
            WriterAt::Uploaded => {
                if !state.publish(1 << pack) {
                    return false;
                }
                WriterAt::Published
            }
            WriterAt::Published => self.commit(state, number, &mut writer),
            WriterAt::Committed => {
                let there = state.sessions & 1 << session != 0;
                if there || self.is(Break::NoConfirmation) {
                    WriterAt::Succeeded
                } else {
                    WriterAt::Failed
                }
            }
            WriterAt::Listed | WriterAt::Succeeded | WriterAt::Failed => return false,
        };
        state.writers[number] = writer;
        true
    }

    fn commit(&self, state: &mut State, number: usize, writer: &mut Writer) -> WriterAt {
        let snapshot = &mut state.snapshots[FIRST_WRITER + number];
        if *snapshot != Stored::Nothing && !self.is(Break::CommitOverwrites) {
            return WriterAt::Failed;
        }
        *snapshot = Stored::Committed(self.wants[number]);
        writer.committed = true;
        WriterAt::Committed
    }

    /// The next step of a collector that is not a choice; false where it must wait.
    fn collect(&self, state: &mut State, number: usize) -> bool {
        let mut me = state.collectors[number];
        let round = usize::from(me.round);
        me.at = match me.at {
            CollectorAt::Start => {
                let open = state.begun().position(|c| !c.done);
                let Some(open) = open.filter(|_| !self.is(Break::NextBeforeDone)) else {
                    return false;
                };
                let Collection { condemned, forgotten, .. } = state.collections[open];
                let round = u8::try_from(open).expect("few");
                me = Collector { round, condemned, forgotten, ..Collector::default() };
                CollectorAt::Condemned
            }
            CollectorAt::Chosen => begin(state, &mut me),
            CollectorAt::Condemned => {
                me.sessions = state.sessions;
                CollectorAt::ListedSessions
            }
            CollectorAt::ListedSessions => {
                me.sessions &= !(state.committed() | state.aborted());
                CollectorAt::Waiting
            }
            CollectorAt::Waiting => {
                let decided = state.committed() | state.aborted() | !state.sessions;
                if me.sessions & !decided != 0 && !self.is(Break::NoWaiting) {
                    return false;
                }
                me.sessions = 0;
                CollectorAt::Decided
            }
            CollectorAt::Listing if !self.can_mark(state, &me) => return false,
            CollectorAt::Decided | CollectorAt::Listing => self.mark(state, &mut me),
            CollectorAt::Marked => {
                if state.collections[round].done {
                    // Another one has finished this collection.
                    me = Collector::default();
                    CollectorAt::Start
                } else {
                    let dead = if self.is(Break::HeldByCondemned) { 0 } else { state.condemned() };
                    me.held = state.chunks(state.named & !dead);
                    CollectorAt::Indexed
                }
            }
            CollectorAt::Indexed => {
                self.copy(state, number, &mut me);
                CollectorAt::Copied
            }
            CollectorAt::Copied => upload(state, collector_pack(number, me.round)),
            CollectorAt::Uploaded => {
                let publishes = !self.is(Break::DeleteBeforePublish);
                if publishes && !state.publish(1 << collector_pack(number, me.round)) {
                    return false;
                }
                CollectorAt::Deleting
            }
            CollectorAt::Deleting => return self.delete(state, number),
            CollectorAt::Finished => return false,
        };
        state.collectors[number] = me;
        true
    }

    /// Whether every snapshot can be read whose needs must be known.
    fn can_mark(&self, state: &State, me: &Collector) -> bool {
        let needed = me.committed & 0xff & !me.forgotten;
        let passed_over = match self.broken {
            Break::UnreadableNeedsNothing => state.unreadable,
            Break::ForgottenNeedsNothing => state.tombstones,
            _ => 0,
        };
        needed & state.unreadable & !passed_over == 0
    }

    /// Whether nobody is at work who knows what is lost.
    fn can_replace(&self, state: &State) -> bool {
        let undecided = |n: &usize| {
            let at = state.writers[*n].at;
            let session = FIRST_WRITER + n;
            let is_over = matches!(at, WriterAt::Succeeded | WriterAt::Failed);
            at != WriterAt::Start && !is_over && state.snapshots[session] == Stored::Nothing
        };
        self.with.replace
            && state.begun > 0
            && (self.is(Break::ReplaceBesideWriters)
                || (0..self.writers).filter(undecided).count() == 0)
    }

    /// Replaces all collections. Collectors in the middle of one never move again; another begins.
    fn replace(&self, state: &mut State) {
        let indexed = state.indexed();
        let gone = indexed & !state.present();
        let begun = usize::from(state.begun);
        for round in 0..begun {
            let is_open = !state.collections[round].done;
            let forgotten = if is_open { state.tombstones } else { 0 };
            state.collections[round] = Collection { condemned: gone, forgotten, done: true };
            for session in members(forgotten) {
                state.sessions &= !(1 << session);
                state.snapshots[session] = Stored::Nothing;
                state.tombstones &= !(1 << session);
            }
        }
        if !self.is(Break::ReplaceBesideCollector) {
            let at = if begun < self.rounds { CollectorAt::Start } else { CollectorAt::Finished };
            state.collectors = [Collector { at, ..Collector::default() }; 2];
        }
        if !self.is(Break::OldViews) {
            state.named = indexed & !gone;
        }
        state.replaced = true;
    }

    /// Finishes a collection without asking who needs what: all that can be read stays.
    fn salvage(&self, state: &mut State, number: usize) {
        let mut me = state.collectors[number];
        me.at = self.mark(state, &mut me);
        me.live = CHUNKS.iter().sum();
        state.collectors[number] = me;
        state.salvaged = true;
    }

    /// One of the two listings of the marking; what is live is known after the second.
    fn mark(&self, state: &State, me: &mut Collector) -> CollectorAt {
        let sessions_first = self.is(Break::MarkSessionsFirst);
        if me.at == CollectorAt::Decided {
            me.sessions = if sessions_first { state.sessions } else { 0 };
            if !sessions_first {
                me.committed = state.committed() | state.aborted() << 8;
            }
            return CollectorAt::Listing;
        }
        let (sessions, listed) = if sessions_first {
            (me.sessions, state.committed() | state.aborted() << 8)
        } else {
            (state.sessions, me.committed)
        };
        let (committed, aborted) = (listed & 0xff, listed >> 8);
        let valid = committed & sessions & !me.forgotten;
        // A manifest that has gone since belongs to a snapshot that another collector removes.
        me.live = members(valid & !state.unreadable).fold(0, |live, n| match state.snapshots[n] {
            Stored::Committed(chunks) => live | chunks,
            _ => live,
        });
        me.sessions = me.forgotten | aborted | committed & !sessions;
        me.committed = 0;
        CollectorAt::Marked
    }

    /// Decides what is copied out of the condemned packs that are still there, and reads it.
    fn copy(&self, state: &mut State, number: usize, me: &mut Collector) {
        let (held, held_delta) = me.held;
        let (whole, delta) = state.chunks(me.condemned & state.present());
        let bases = held | whole;
        let kept_delta =
            if self.is(Break::HeldWithoutBase) { held_delta } else { with_base(held_delta, bases) };
        let missing = me.live & !held & !kept_delta;
        let mut copy_delta = missing & !whole & with_base(delta, bases);
        let mut copy = missing & whole;
        if !self.is(Break::NoPin) {
            let kept = me.live & !held & kept_delta | copy_delta;
            let pinned: Set = CHUNKS.iter().filter(|c| kept & **c != 0).map(|c| base(*c)).sum();
            copy |= pinned & !held & whole;
        }
        if self.is(Break::NoCopy) {
            (copy, copy_delta) = (0, 0);
        }
        let pack = &mut state.packs[collector_pack(number, me.round)];
        (pack.whole, pack.delta) = (copy, copy_delta & !copy);
        (me.live, me.held) = (0, (0, 0));
    }

    /// One deletion, or the word that all are done.
    fn delete(&self, state: &mut State, number: usize) -> bool {
        let me = state.collectors[number];
        if let Some(pack) = members(me.condemned & state.present()).next() {
            state.packs[pack].present = false;
            state.lost_source |= state.writers.iter().any(|w| w.at == WriterAt::Decided);
            return true;
        }
        let snapshots = state.committed() | state.aborted();
        let session = |state: &mut State| match members(me.sessions & state.sessions).next() {
            Some(n) => {
                state.sessions &= !(1 << n);
                true
            }
            None => false,
        };
        let snapshot = |state: &mut State| match members(me.sessions & snapshots).next() {
            Some(n) => {
                state.snapshots[n] = Stored::Nothing;
                true
            }
            None => false,
        };
        let tombstone = |state: &mut State| match members(me.sessions & state.tombstones).next() {
            Some(n) => {
                state.tombstones &= !(1 << n);
                true
            }
            None => false,
        };
        let deleted = if self.is(Break::SnapshotBeforeSession) {
            snapshot(state) || session(state) || tombstone(state)
        } else if self.is(Break::TombstoneFirst) {
            tombstone(state) || session(state) || snapshot(state)
        } else {
            session(state) || snapshot(state) || tombstone(state)
        };
        if !deleted {
            state.collections[usize::from(me.round)].done = true;
            let more = usize::from(me.round) + 1 < self.rounds;
            let at = if more { CollectorAt::Start } else { CollectorAt::Finished };
            state.collectors[number] = Collector { at, ..Collector::default() };
        }
        true
    }

    fn compact(&self, state: &mut State) -> bool {
        let mut me = state.compactor;
        let first = self.is(Break::CompactDeletesFirst);
        match me.at {
            CompactorAt::Start => {
                let unfinished = self.is(Break::CompactUnfinished);
                let passed_over = if unfinished { state.condemned() } else { state.finished() };
                me.read = state.segments.iter().fold(0, |set, segment| set | segment);
                me.merged = me.read & !passed_over;
                me.at = CompactorAt::Read;
            }
            CompactorAt::Read => {
                if !first && !state.publish(me.merged | MERGED) {
                    return false;
                }
                me.at = CompactorAt::Deleting;
            }
            CompactorAt::Deleting => {
                // A pack is named by one segment, so what names only what was read was read.
                let is_old = |s: &&mut Set| **s != 0 && **s & MERGED == 0 && **s & !me.read == 0;
                if let Some(segment) = state.segments.iter_mut().find(is_old) {
                    *segment = 0;
                    state.segments.sort_unstable_by(|a, b| b.cmp(a));
                    return true;
                }
                if first && !state.publish(me.merged | MERGED) {
                    return false;
                }
                me = Compactor { at: CompactorAt::Finished, ..Compactor::default() };
            }
            CompactorAt::Finished => return false,
        }
        state.compactor = me;
        true
    }

    fn read(&self, state: &mut State) -> bool {
        let first = self.is(Break::ReadSessionsFirst);
        state.reader = match state.reader {
            Reader::Start => Reader::First(if first { state.sessions } else { state.committed() }),
            Reader::First(listed) => {
                Reader::Second(listed & if first { state.committed() } else { state.sessions })
            }
            Reader::Second(listed) => {
                // What is gone when its manifest is asked for is no snapshot, either.
                let found = listed & !state.tombstones & state.committed();
                let broken = |n: &usize| state.sessions & 1 << n == 0 || !state.is_whole(*n);
                let bad = members(found & !state.forgotten()).filter(broken);
                Reader::Took(bad.fold(0, |set, n| set | 1 << n))
            }
            Reader::Took(_) => return false,
        };
        true
    }
}

fn decide(state: &mut State, number: usize, new: Set, delta: Set) {
    let pack = &mut state.packs[writer_pack(number)];
    (pack.whole, pack.delta) = (new & !delta, delta);
    let writer = &mut state.writers[number];
    writer.at = WriterAt::Decided;
    (writer.condemned, writer.parent) = (0, false);
}

/// Stores the copies, if there are any.
fn upload(state: &mut State, pack: usize) -> CollectorAt {
    let pack = &mut state.packs[pack];
    if pack.whole | pack.delta == 0 {
        return CollectorAt::Deleting;
    }
    (pack.present, pack.created) = (true, true);
    state.copied = true;
    CollectorAt::Uploaded
}

/// Says what is condemned, unless somebody else was faster.
fn begin(state: &mut State, me: &mut Collector) -> CollectorAt {
    let round = usize::from(me.round);
    if usize::from(state.begun) != round {
        *me = Collector::default();
        return CollectorAt::Start;
    }
    let Collector { condemned, forgotten, .. } = *me;
    state.collections[round] = Collection { condemned, forgotten, done: false };
    state.begun += 1;
    CollectorAt::Condemned
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State { sessions: 0b11, ..State::default() };
        for (n, chunks) in self.snapshots.into_iter().enumerate() {
            state.snapshots[n] = Stored::Committed(chunks);
        }
        for (n, (whole, delta)) in self.packs.into_iter().enumerate() {
            if whole | delta != 0 {
                state.packs[n] = Pack { whole, delta, present: true, created: true };
                state.publish(1 << n);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.tombstones & 1 << T0 == 0 && state.committed() & state.sessions & 1 << T0 != 0 {
            steps.push(Step::Forget);
        }
        for n in 0..self.writers {
            steps.push(Step::Write(n));
            let writer = &state.writers[n];
            if writer.at == WriterAt::Listed {
                self.decisions(state, n, steps);
                steps.push(Step::Withdraw(n));
            }
            if self.with.late {
                let pack = &state.packs[writer_pack(n)];
                if pack.created && !pack.present {
                    steps.push(Step::LatePack(n));
                }
                if writer.committed && state.snapshots[FIRST_WRITER + n] == Stored::Nothing {
                    steps.push(Step::LateSnapshot(n));
                }
            }
        }
        for n in 0..self.collectors {
            steps.push(Step::Collect(n));
            let me = &state.collectors[n];
            if self.with.damage && me.at == CollectorAt::Listing {
                steps.push(Step::Salvage(n));
            }
            let idle = state.begun().all(|c| c.done) || self.is(Break::NextBeforeDone);
            if me.at == CollectorAt::Start && idle && usize::from(state.begun) < self.rounds {
                let packs = state.present() & !state.condemned();
                steps.extend(
                    subsets(packs)
                        .filter(|packs| *packs != 0)
                        .map(|condemned| Step::Choose { collector: n, condemned }),
                );
            }
            if me.at == CollectorAt::Waiting {
                steps.extend(
                    members(me.sessions & state.sessions)
                        .filter(|session| state.snapshots[*session] == Stored::Nothing)
                        .map(|session| Step::Abort { collector: n, session }),
                );
            }
        }
        if self.with.damage && state.snapshots[T0] != Stored::Nothing {
            steps.push(Step::Damage);
        }
        if self.can_replace(state) {
            steps.push(Step::Replace);
        }
        if self.with.compaction {
            steps.push(Step::Compact);
        }
        if self.with.reader {
            steps.push(Step::Read);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let moved = match step {
            Step::Forget => {
                state.tombstones |= 1 << T0;
                true
            }
            Step::Write(n) => self.write(&mut state, n),
            Step::Decide { writer, new, delta } => {
                decide(&mut state, writer, new, delta);
                true
            }
            Step::Withdraw(n) => {
                state.sessions &= !(1 << (FIRST_WRITER + n));
                state.writers[n] = Writer { at: WriterAt::Failed, ..Writer::default() };
                true
            }
            Step::LatePack(n) => {
                state.packs[writer_pack(n)].present = true;
                true
            }
            Step::LateSnapshot(n) => {
                state.snapshots[FIRST_WRITER + n] = Stored::Committed(self.wants[n]);
                true
            }
            Step::Collect(n) => self.collect(&mut state, n),
            Step::Damage => {
                state.unreadable ^= 1 << T0;
                true
            }
            Step::Replace => {
                self.replace(&mut state);
                true
            }
            Step::Salvage(n) => {
                self.salvage(&mut state, n);
                true
            }
            Step::Choose { collector, condemned } => {
                let (round, forgotten) = (state.begun, state.tombstones);
                let at = CollectorAt::Chosen;
                state.collectors[collector] =
                    Collector { at, round, condemned, forgotten, ..Collector::default() };
                true
            }
            Step::Abort { session, .. } => {
                state.snapshots[session] = Stored::Aborted;
                state.aborted = true;
                true
            }
            Step::Compact => self.compact(&mut state),
            Step::Read => self.read(&mut state),
        };
        (moved && state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no committed snapshot loses a chunk", |_: &Self, state: &State| {
                members(state.committed() & state.sessions & !state.forgotten())
                    .all(|session| state.is_whole(session))
            }),
            Property::always("a success that was told stays one", |world: &Self, state: &State| {
                (0..world.writers).filter(|n| state.writers[*n].at == WriterAt::Succeeded).all(
                    |n| {
                        let session = 1 << (FIRST_WRITER + n);
                        state.committed() & state.sessions & session != 0
                    },
                )
            }),
            Property::always(
                "a reader takes only whole committed snapshots",
                |_: &Self, state: &State| !matches!(state.reader, Reader::Took(bad) if bad != 0),
            ),
            Property::always("what is shown is whole", |_: &Self, state: &State| {
                let shown = state.committed() & state.sessions & !state.tombstones;
                members(shown).all(|session| state.is_whole(session))
            }),
            Property::sometimes("a collection finishes", |_: &Self, state: &State| {
                state.begun().any(|collection| collection.done)
            }),
            Property::sometimes("chunks are copied", |_: &Self, state: &State| state.copied),
            Property::sometimes("a writer is given up", |_: &Self, state: &State| state.aborted),
            Property::sometimes(
                "a pack goes while a writer is at work",
                |_: &Self, state: &State| state.lost_source,
            ),
            Property::sometimes(
                "a writer succeeds after a collection",
                |_: &Self, state: &State| {
                    state.begun().any(|c| c.done)
                        && state.writers.iter().any(|w| w.at == WriterAt::Succeeded)
                },
            ),
        ];
        if self.with.replace {
            properties.push(Property::sometimes(
                "a writer succeeds after a collection was replaced",
                |_: &Self, state: &State| {
                    state.replaced && state.writers.iter().any(|w| w.at == WriterAt::Succeeded)
                },
            ));
        }
        if self.with.damage {
            properties.push(Property::sometimes(
                "a collection finishes that does not know what is needed",
                |_: &Self, state: &State| {
                    state.salvaged
                        && state.unreadable & !state.forgotten() != 0
                        && state.begun().any(|collection| collection.done)
                },
            ));
            properties.push(Property::sometimes(
                "what cannot be read is removed once it is forgotten",
                |_: &Self, state: &State| {
                    !state.salvaged && state.unreadable & state.finished_snapshots() != 0
                },
            ));
        }
        properties
    }
}
