//! A backend that takes no more of the line than it may.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::{Backend, BackendError, Created, Deleted, Entry};

/// Bytes a second, over all threads together; none is as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// For what is stored.
    pub upload: Option<u64>,
    /// For what is read.
    pub download: Option<u64>,
}

/// Another backend, slowed down. Objects are moved whole, so the limit holds on average: over some
/// packs, not within one.
#[derive(Debug)]
pub struct Limited<B> {
    inner: B,
    upload: Option<Pace>,
    download: Option<Pace>,
}

impl<B: Backend> Limited<B> {
    /// The backend within these limits.
    pub fn new(inner: B, limits: Limits) -> Self {
        Self {
            inner,
            upload: limits.upload.map(Pace::new),
            download: limits.download.map(Pace::new),
        }
    }

    fn uploads(&self, data: &[u8]) {
        if let Some(pace) = &self.upload {
            pace.take(data.len());
        }
    }

    fn downloaded(&self, bytes: &Bytes) {
        if let Some(pace) = &self.download {
            pace.take(bytes.len());
        }
    }
}

impl<B: Backend> Backend for Limited<B> {
    fn create(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.uploads(data);
        self.inner.create(name, data)
    }

    fn create_cold(&self, name: &str, data: &[u8]) -> Result<Created, BackendError> {
        self.uploads(data);
        self.inner.create_cold(name, data)
    }

    fn get(&self, name: &str) -> Result<Bytes, BackendError> {
        self.inner.get(name).inspect(|bytes| self.downloaded(bytes))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.inner.get_range(name, range).inspect(|bytes| self.downloaded(bytes))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BackendError> {
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> Result<Deleted, BackendError> {
        self.inner.delete(name)
    }

    fn place(&self) -> String {
        self.inner.place()
    }

    fn worth_keeping(&self) -> u64 {
        self.inner.worth_keeping()
    }
}

/// Bytes pass one after another here, each taking its time, whoever moves them: so no clock is
/// needed, and threads share what there is.
#[derive(Debug)]
struct Pace {
    bytes_a_second: u64,
    turn: Mutex<()>,
}

impl Pace {
    fn new(bytes_a_second: u64) -> Self {
        Self { bytes_a_second: bytes_a_second.max(1), turn: Mutex::default() }
    }

    fn take(&self, bytes: usize) {
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_a_second);
        let turn = self.turn.lock();
        std::thread::sleep(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
        drop(turn);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
mod tests {
    use std::time::Instant;

    use super::super::{Memory, conformance};
    use super::*;

    #[test]
    fn without_limits_it_conforms() {
        conformance::run(&|| Limited::new(Memory::default(), Limits::default()));
    }

    #[test]
    fn threads_share_each_limit() {
        let limits = Limits { upload: Some(1 << 20), download: Some(2 << 20) };
        let store = Limited::new(Memory::default(), limits);
        let object = vec![0; 64 << 10];
        let start = Instant::now();
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let (store, object) = (&store, &object);
                scope.spawn(move || store.create(name, object).unwrap());
            }
        });
        assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
        let start = Instant::now();
        store.get("a").unwrap();
        store.get_range("b", 0..64 << 10).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(62), "{:?}", start.elapsed());
    }
}
