//! Objects in memory: for tests, and for work that is thrown away.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::name::{check_folder, check_object};
use super::{Backend, BackendError, BackendErrorKind, Created, Deleted, Entry};

/// A backend that lasts as long as the process.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Memory {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // Nothing panics halfway through a change of the map.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        check_object(name)?;
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Created::Existed);
        }
        objects.insert(name.to_owned(), Bytes::copy_from_slice(data));
        Ok(Created::New)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        check_object(name)?;
        let missing = || BackendError::new(BackendErrorKind::NotFound, "there is no object", name);
        self.objects().get(name).cloned().ok_or_else(missing)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        let object = self.get(name)?;
        let end = usize::try_from(range.end).ok().filter(|end| *end <= object.len());
        let too_short =
            || BackendError::new(BackendErrorKind::Damaged, "an object is too short:", name);
        let end = end.ok_or_else(too_short)?;
        let start = usize::try_from(range.start).map_or(end, |start| start.min(end));
        Ok(object.slice(start..end))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        check_folder(folder)?;
        let objects = self.objects();
        let below = objects
            .range::<str, _>((Bound::Included(folder), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(folder))
            .map(|(name, data)| Entry { name: name.clone(), size: data.len() as u64 });
        Ok(below.collect())
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        check_object(name)?;
        Ok(match self.objects().remove(name) {
            Some(_) => Deleted::Gone,
            None => Deleted::Absent,
        })
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[test]
    fn memory_conforms() {
        conformance::run(&Memory::default);
    }
}
