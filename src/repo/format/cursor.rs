//! Strict reading of little-endian layouts.

use crate::hint::{ErrorKind, Hint};

/// Bytes that are not what their format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: {reason}")]
pub struct FormatError {
    /// Which layout was expected.
    pub what: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl Hint for FormatError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Damage
    }

    fn hint(&self) -> Option<String> {
        Some("see what is affected with `coeval check --read-data`".to_owned())
    }
}

/// Reads fields off the front of a slice.
pub(super) struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(super) fn bad(&self, reason: impl Into<String>) -> FormatError {
        FormatError { what: self.what, reason: reason.into() }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of items of at least `item` bytes each, refused when the rest cannot hold them:
    /// so that no length field can ask for more memory than the object is long.
    pub(super) fn count(&mut self, item: usize) -> Result<usize, FormatError> {
        let count = self.u32()? as usize;
        match count.checked_mul(item) {
            Some(length) if length <= self.rest.len() => Ok(count),
            _ => Err(self.bad(format!("{count} items do not fit into it"))),
        }
    }

    /// So many bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| self.bad("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// Whether everything has been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Fails unless everything has been read.
    pub(super) fn end(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.bad(format!("{} bytes too many", self.rest.len())))
        }
    }
}
