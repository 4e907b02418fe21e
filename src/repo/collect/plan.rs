//! Choosing what to remove.

use std::collections::{HashMap, HashSet};

use super::super::check::pack_id;
use super::super::chunks::Class;
use super::super::error::RepoError;
use super::super::format::name;
use super::super::format::segment::PackRecord;
use super::super::open::Repo;
use super::super::seen::SeenChunks;
use super::super::snapshots::Listed;
use super::mark::{Live, Mark};
use super::{CollectOptions, Unused};
use crate::context::Context;
use crate::hint::Failure;
use crate::id::{PackId, SnapshotId};

/// A pack is small below this part of the size that packs should have.
const SMALL: u64 = 8;
/// So many small packs are worth being made into few large ones.
const MANY: usize = 24;

/// What a collection would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionPlan {
    /// Packs that go.
    pub condemned: Vec<PackId>,
    /// Snapshots that were forgotten and cannot come back after this.
    pub forgotten: Vec<SnapshotId>,
    /// What was left by backups that were given up, and is not a snapshot.
    pub void: u64,
    /// Bytes of all packs.
    pub size: u64,
    /// Bytes of packs of which nothing is needed.
    pub unneeded: u64,
    /// Bytes of packs that are partly needed and go.
    pub partly: u64,
    /// About how many bytes of those are needed, and copied.
    pub copied: u64,
    /// About how many bytes that nobody needs stay, in packs that are not worth copying.
    pub stays: u64,
}

impl CollectionPlan {
    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.condemned.is_empty() && self.forgotten.is_empty() && self.void == 0
    }

    /// About how many bytes it makes free.
    pub const fn frees(&self) -> u64 {
        (self.unneeded + self.partly).saturating_sub(self.copied)
    }
}

/// How much of a pack is needed.
#[derive(Debug, Clone, Copy)]
struct Use {
    id: PackId,
    class: Class,
    size: u64,
    /// Bytes of blocks, by the share of their chunks that are needed.
    needed: u64,
    /// The other bytes of blocks.
    waste: u64,
}

impl Repo {
    pub(super) fn plan(
        &self,
        options: &CollectOptions,
        live: &mut Live,
        mark: Mark<'_>,
        ctx: &Context,
    ) -> Result<CollectionPlan, Failure> {
        let Listed { valid, void, forgotten } = self.list_snapshots()?;
        let needed: Vec<_> = valid.into_iter().filter(|id| !forgotten.contains(id)).collect();
        self.mark(&needed, live, mark, ctx)?;
        let undecided: HashSet<SnapshotId> = self.open_sessions()?.into_iter().collect();
        let mut present: HashMap<PackId, u64> = self
            .backend
            .list(name::PACKS)
            .map_err(RepoError::from)?
            .iter()
            .filter_map(|entry| Some((pack_id(&entry.name)?, entry.size)))
            .filter(|(id, _)| !self.collections().is_dead(*id))
            .collect();
        let mut plan =
            CollectionPlan { forgotten: forgotten.into_iter().collect(), ..Default::default() };
        plan.void = void.len() as u64;
        plan.forgotten.sort_unstable();
        plan.size = present.values().sum();
        ctx.phase("reading the index", None);
        self.pin_bases(live, &HashMap::new(), ctx)?;
        let mut uses = self.uses(&mut present, live, ctx)?;
        // What no segment names was left by somebody who died, or is by somebody at work.
        for (id, size) in present {
            if !undecided.contains(&id.session) {
                uses.push(Use { id, class: Class::Data, size, needed: 0, waste: size });
            }
        }
        choose(&mut plan, uses, &undecided, options, |class| match class {
            Class::Data => self.config.data.pack.into(),
            Class::Node => self.config.nodes.pack.into(),
        });
        Ok(plan)
    }

    /// How much is needed of each pack that a segment names; takes these out of `present`.
    fn uses(
        &self,
        present: &mut HashMap<PackId, u64>,
        live: &Live,
        ctx: &Context,
    ) -> Result<Vec<Use>, Failure> {
        let mut uses = Vec::new();
        // Of two copies of a chunk only one is needed; but a difference is no copy of what is whole.
        let mut met = [SeenChunks::default(), SeenChunks::default()];
        self.each_indexed_pack(&mut |pack| {
            ctx.check_cancelled()?;
            if present.remove(&pack.id).is_some() {
                uses.push(usage(&pack, live, &mut met)?);
            }
            Ok(())
        })?;
        Ok(uses)
    }
}

fn usage(pack: &PackRecord, live: &Live, met: &mut [SeenChunks; 2]) -> Result<Use, RepoError> {
    let (mut needed, mut waste) = (0, 0);
    for block in &pack.footer.blocks {
        let (mut some, mut all) = (0, 0);
        for chunk in &block.chunks {
            all += u64::from(chunk.length);
            let met = &mut met[usize::from(chunk.base.is_some())];
            if live.needs(chunk)? && met.insert(chunk.id)? {
                some += u64::from(chunk.length).max(1);
            }
        }
        let share = u64::from(block.length) * some / all.max(some).max(1);
        needed += share;
        waste += u64::from(block.length) - share;
    }
    Ok(Use { id: pack.id, class: pack.footer.class, size: pack.size, needed, waste })
}

/// Chooses all packs of which nothing is needed; of the others those that hold most that is not,
/// until little enough is left; and small ones, when there are many.
fn choose(
    plan: &mut CollectionPlan,
    uses: Vec<Use>,
    undecided: &HashSet<SnapshotId>,
    options: &CollectOptions,
    target: impl Fn(Class) -> u64,
) {
    let total: u64 = uses.iter().map(|pack| pack.needed).sum();
    let (unneeded, mut rest): (Vec<_>, Vec<_>) =
        uses.into_iter().partition(|pack| pack.needed == 0);
    for pack in unneeded.iter().filter(|pack| !undecided.contains(&pack.id.session)) {
        plan.condemned.push(pack.id);
        plan.unneeded += pack.size;
    }
    rest.retain(|pack| !undecided.contains(&pack.id.session));
    let is_small = |pack: &Use| pack.size < target(pack.class) / SMALL;
    let small = |class| {
        let few = rest.iter().filter(|pack| pack.class == class && is_small(pack)).count();
        few >= MANY
    };
    let merges = [(Class::Data, small(Class::Data)), (Class::Node, small(Class::Node))];
    let merges = |pack: &Use| is_small(pack) && merges.contains(&(pack.class, true));
    let mut left: u64 = rest.iter().map(|pack| pack.waste).sum();
    #[expect(clippy::cast_precision_loss, reason = "a limit, not a count")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let allowed = match options.max_unused {
        Unused::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        Unused::Bytes(bytes) => bytes,
        Unused::Unlimited => u64::MAX,
    };
    // The largest part of waste first: it costs least for what it frees.
    rest.sort_by(|a, b| {
        let (first, second) = (u128::from(a.waste), u128::from(b.waste));
        (second * u128::from(a.size)).cmp(&(first * u128::from(b.size))).then(a.id.cmp(&b.id))
    });
    let may_copy = options.max_unused != Unused::Unlimited;
    for pack in rest {
        let is_worth_it = left > allowed && pack.waste > pack.size / 50;
        let fits = plan.partly.saturating_add(pack.size) <= options.max_repack;
        if may_copy && fits && (is_worth_it || merges(&pack)) {
            plan.condemned.push(pack.id);
            plan.partly += pack.size;
            plan.copied += pack.needed;
            left -= pack.waste;
        }
    }
    plan.stays = left;
    // Neighbours in time stay neighbours.
    plan.condemned.sort_unstable();
}
