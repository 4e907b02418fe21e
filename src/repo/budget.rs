//! Bytes that are under way, with a ceiling.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A number of bytes that may be in use at once.
pub(super) struct Budget {
    limit: usize,
    used: Mutex<usize>,
    changed: Condvar,
}

/// Some of the bytes of a budget; given back when dropped, also by a thread that panics.
pub(super) struct Permit<'a> {
    of: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: Mutex::new(0), changed: Condvar::new() }
    }

    /// Some bytes, if there is room. What is alone always has room, however much it is.
    pub(super) fn try_acquire(&self, bytes: usize) -> Option<Permit<'_>> {
        self.take(self.lock(), bytes).ok()
    }

    /// Waits until there is room. Never to be called where only the caller can make room: what
    /// waits must be in the hands of threads that do not.
    pub(super) fn acquire(&self, bytes: usize) -> Permit<'_> {
        let mut used = self.lock();
        loop {
            match self.take(used, bytes) {
                Ok(permit) => return permit,
                Err(full) => used = self.changed.wait(full).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Waits until nothing is in use. A thread of the pool lends a hand meanwhile: it may be the
    /// one that others wait for.
    pub(super) fn wait_until_unused(&self) {
        while rayon::current_thread_index().is_some() {
            if *self.lock() == 0 {
                return;
            }
            rayon::yield_now();
        }
        let mut used = self.lock();
        while *used > 0 {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take<'a>(
        &'a self,
        mut used: MutexGuard<'a, usize>,
        bytes: usize,
    ) -> Result<Permit<'a>, MutexGuard<'a, usize>> {
        if *used > 0 && *used + bytes > self.limit {
            return Err(used);
        }
        *used += bytes;
        Ok(Permit { of: self, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.of.lock() -= self.bytes;
        self.of.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_what_is_alone_always_has_room() {
        let budget = Budget::new(10);
        let large = budget.try_acquire(1000);
        assert!(large.is_some() && budget.try_acquire(1).is_none());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(budget.acquire(4)));
            scope.spawn(|| budget.wait_until_unused());
            drop(large);
        });
        let (_six, four) = (budget.acquire(6), budget.acquire(4));
        assert!(budget.try_acquire(1).is_none());
        drop(four);
        assert!(budget.try_acquire(4).is_some());
    }
}
