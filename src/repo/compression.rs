//! How hard blocks are compressed, and what is not worth trying.

use std::sync::atomic::{AtomicU32, Ordering};

use super::format::config::Zstd;

/// How hard to compress. Every block says how it was compressed, so each backup may choose anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As the repository is configured, which is fast; what does not compress is hardly tried.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// zstd 1; what does not compress is hardly tried.
    Fast,
    /// zstd 9: a few times the time of a backup.
    Better,
    /// zstd 19: for what is written once over a slow line.
    Max,
}

impl Compression {
    /// The parameters, where those of the repository are `configured`; `None` to store.
    pub(super) fn parameters(self, configured: Zstd) -> Option<Zstd> {
        let stock = |level| Zstd { level, hash_log: 0, chain_log: 0, min_match: 0, dfast: false };
        match self {
            Self::Auto => Some(configured),
            Self::Off => None,
            Self::Fast => Some(stock(1)),
            Self::Better => Some(stock(9)),
            Self::Max => Some(stock(19)),
        }
    }

    /// Whether a block is worth trying after what became of those before it.
    pub(super) fn tries(self, luck: &Luck) -> bool {
        match self {
            Self::Off => false,
            Self::Better | Self::Max => true,
            Self::Auto | Self::Fast => luck.is_worth_a_try(),
        }
    }
}

/// How many blocks in a row did not shrink. Neighbours are alike: where a few of an archive or a
/// film did not, the next will not either.
#[derive(Debug, Default)]
pub(super) struct Luck(AtomicU32);

impl Luck {
    /// Failures after which most blocks are not tried any more.
    const PATIENCE: u32 = 3;
    /// Then one of so many is.
    const PROBE: u32 = 16;

    pub(super) fn is_worth_a_try(&self) -> bool {
        let failures = self.0.load(Ordering::Relaxed);
        if failures < Self::PATIENCE {
            return true;
        }
        let next = failures.wrapping_add(1).max(Self::PATIENCE);
        self.0.store(next, Ordering::Relaxed);
        failures.is_multiple_of(Self::PROBE)
    }

    /// A block that was tried became shorter.
    pub(super) fn shrank(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// One did not.
    pub(super) fn failed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_hardly_tried_until_it_does_again() {
        let luck = Luck::default();
        let tried = |blocks| {
            (0..blocks).filter(|_| Compression::Auto.tries(&luck)).map(|_| luck.failed()).count()
        };
        assert_eq!(tried(3), 3);
        assert!((50..80).contains(&tried(1000)), "about one in sixteen");
        assert!(Compression::Better.tries(&luck) && !Compression::Off.tries(&luck));
        luck.shrank();
        assert!(Compression::Fast.tries(&luck));
    }
}
