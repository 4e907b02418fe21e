//! A backend that breaks by plan, and tells what was asked of it: to test what happens when a
//! store fails, loses its answer, fills up, or returns what was not stored.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Backend, BackendError, BackendErrorKind, Created, Deleted, Entry};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing happened.
    Refuse,
    /// It happened, but the caller is told that it failed.
    LoseAnswer,
    /// A read returns one flipped bit. Calls that read nothing are left alone.
    Flip,
    /// A read returns half of what was asked for. Calls that read nothing are left alone.
    Truncate,
}

/// Which calls go wrong, counted from 0 over all verbs and threads.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    planned: BTreeMap<u64, Fault>,
    seed: Option<(u64, u64)>,
    dead_from: Option<u64>,
    room: Option<u64>,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// The call with this number goes wrong.
    #[must_use]
    pub fn at(mut self, number: u64, fault: Fault) -> Self {
        self.planned.insert(number, fault);
        self
    }

    /// From this call on nothing works any more, as after a crash of the caller.
    #[must_use]
    pub fn dead_from(mut self, number: u64) -> Self {
        self.dead_from = Some(number);
        self
    }

    /// About one call in `one_in` is refused or loses its answer; the same ones for the same
    /// seed, as long as calls come in the same order.
    #[must_use]
    pub fn seeded(mut self, seed: u64, one_in: u64) -> Self {
        self.seed = Some((seed, one_in.max(1)));
        self
    }

    /// The store is full after this many more bytes. Deleting makes no room.
    #[must_use]
    pub fn room(mut self, bytes: u64) -> Self {
        self.room = Some(bytes);
        self
    }

    fn fault(&self, number: u64) -> Option<Fault> {
        if self.dead_from.is_some_and(|from| number >= from) {
            return Some(Fault::Refuse);
        }
        let by_chance = || {
            let (seed, one_in) = self.seed?;
            let chance = mix(seed ^ mix(number));
            let fault = if chance >> 63 == 0 { Fault::Refuse } else { Fault::LoseAnswer };
            chance.is_multiple_of(one_in).then_some(fault)
        };
        self.planned.get(&number).copied().or_else(by_chance)
    }
}

/// Spreads a number over 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// [`Backend::create`].
    Create,
    /// [`Backend::get`].
    Get,
    /// [`Backend::get_range`].
    GetRange,
    /// [`Backend::list`].
    List,
    /// [`Backend::delete`].
    Delete,
}

/// One call, as it was made; its number is its place in [`Faulty::calls`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub verb: Verb,
    /// Of which object or folder.
    pub name: String,
    /// How many bytes were handed over to be stored.
    pub bytes: u64,
}

/// Another backend with faults.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    calls: Vec<Call>,
}

impl<B: Backend> Faulty<B> {
    /// The backend with these faults.
    pub fn new(inner: B, faults: Faults) -> Self {
        Self { inner, state: Mutex::new(State { faults, calls: Vec::new() }) }
    }

    /// All calls until now.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The backend without faults.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the call, makes it unless it is refused, and says which fault is left to apply.
    fn call<T>(
        &self,
        verb: Verb,
        name: &str,
        bytes: u64,
        make: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<(T, Option<Fault>), BackendError> {
        let fault = {
            let state = &mut *self.state();
            let fault = state.faults.fault(state.calls.len() as u64);
            state.calls.push(Call { verb, name: name.to_owned(), bytes });
            if let (Verb::Create, Some(room)) = (verb, &mut state.faults.room) {
                *room = room.checked_sub(bytes).ok_or_else(|| {
                    BackendError::new(BackendErrorKind::Full, "(by plan) no room for", name)
                })?;
            }
            fault
        };
        let failed = || BackendError::new(BackendErrorKind::Io, "(by plan) cannot reach", name);
        match fault {
            Some(Fault::Refuse) => Err(failed()),
            Some(Fault::LoseAnswer) => make().and_then(|_| Err(failed())),
            fault => Ok((make()?, fault)),
        }
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        let make = || self.inner.create(name, data);
        self.call(Verb::Create, name, data.len() as u64, make).map(|(created, _)| created)
    }

    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        let make = || self.inner.create_cold(name, data);
        self.call(Verb::Create, name, data.len() as u64, make).map(|(created, _)| created)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        self.call(Verb::Get, name, 0, || self.inner.get(name)).map(spoil)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.call(Verb::GetRange, name, 0, || self.inner.get_range(name, range)).map(spoil)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        self.call(Verb::List, folder, 0, || self.inner.list(folder)).map(|(entries, _)| entries)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        self.call(Verb::Delete, name, 0, || self.inner.delete(name)).map(|(deleted, _)| deleted)
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}

fn spoil((bytes, fault): (Bytes, Option<Fault>)) -> Bytes {
    match fault {
        Some(Fault::Flip) => {
            let mut spoiled = bytes.to_vec();
            let middle = spoiled.len() / 2;
            if let Some(byte) = spoiled.get_mut(middle) {
                *byte ^= 1;
            }
            spoiled.into()
        }
        Some(Fault::Truncate) => bytes.slice(..bytes.len() / 2),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Memory, conformance};
    use super::*;

    #[test]
    fn without_faults_it_conforms() {
        conformance::run(&|| Faulty::new(Memory::default(), Faults::none()));
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let faults = Faults::none()
            .at(0, Fault::Refuse)
            .at(1, Fault::LoseAnswer)
            .at(3, Fault::Flip)
            .at(4, Fault::Truncate)
            .dead_from(6);
        let store = Faulty::new(Memory::default(), faults);
        assert!(store.create("a", &[0; 8]).is_err());
        assert!(store.inner().get("a").unwrap_err().is_not_found());
        assert!(store.create("b", &[0; 8]).is_err());
        assert_eq!(store.create("b", &[0; 8]).unwrap(), Created::Existed);
        assert_eq!(store.get("b").unwrap().as_ref(), [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(store.get_range("b", 0..8).unwrap().len(), 4);
        assert_eq!(store.get("b").unwrap().as_ref(), [0; 8]);
        assert!(store.list("").is_err() && store.delete("b").is_err());
        assert_eq!(store.calls().len(), 8);
        assert_eq!(store.calls()[1], Call { verb: Verb::Create, name: "b".to_owned(), bytes: 8 });
    }

    #[test]
    fn a_full_store_still_reads_and_deletes() {
        let store = Faulty::new(Memory::default(), Faults::none().room(10));
        assert_eq!(store.create("a", &[0; 8]).unwrap(), Created::New);
        assert_eq!(store.create("b", &[0; 8]).unwrap_err().cause(), BackendErrorKind::Full);
        assert_eq!(store.get("a").unwrap().len(), 8);
        assert_eq!(store.delete("a").unwrap(), Deleted::Gone);
    }

    #[test]
    fn seeded_faults_come_again_and_are_as_many_as_asked_for() {
        let outcomes = |seed| {
            let store = Faulty::new(Memory::default(), Faults::none().seeded(seed, 10));
            (0..1000).map(|_| store.list("").is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(1), outcomes(1));
        assert_ne!(outcomes(1), outcomes(2));
        let failed = outcomes(1).iter().filter(|ok| !**ok).count();
        assert!((60..140).contains(&failed), "{failed}");
    }
}
