//! Which paths of a snapshot a restore takes up, by the same patterns as on capture.

use std::sync::Arc;

use rustix::fs::FileType;

use super::ignore::{Case, Ignore};
use crate::source::files::FilesError;
use crate::source::files::path::path_bytes;

/// Paths to take up: those that match one of the patterns to include, or lie below one that does,
/// if there are any such patterns, but none that match one to exclude.
#[derive(Debug, Clone, Default)]
pub struct PathFilter {
    include: Option<Arc<Ignore>>,
    exclude: Option<Arc<Ignore>>,
}

impl PathFilter {
    /// Compiles patterns in the syntax of `.gitignore`.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, FilesError> {
        let compile = |patterns: &[String]| -> Result<_, FilesError> {
            if patterns.is_empty() {
                return Ok(None);
            }
            let patterns = patterns.iter().map(|pattern| (pattern.as_str(), Case::Matters));
            Ok(Some(Arc::new(Ignore::new(patterns)?)))
        };
        Ok(Self { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// Whether it takes up everything.
    pub const fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Whether it takes up the entry with this key.
    #[expect(clippy::fn_params_excessive_bools, reason = "there is one, and its callers name it")]
    pub fn admits(&self, key: &[u8], is_directory: bool) -> bool {
        let path = path_bytes(key);
        let matches = |patterns: &Ignore| {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let folders = ends.map(|(end, _)| (&path[..end], FileType::Directory));
            let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
            let mut ways = folders.chain([(&path[..], kind)]);
            ways.any(|(path, kind)| patterns.leaves_out(path, kind))
        };
        self.include.as_deref().is_none_or(matches) && !self.exclude.as_deref().is_some_and(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_match_is_taken_up_too() {
        let filter = |include: &[&str], exclude: &[&str]| {
            let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            PathFilter::new(&strings(include), &strings(exclude)).unwrap()
        };
        assert!(filter(&[], &[]).is_empty());
        let docs = filter(&["docs", "*.md"], &["*.tmp", "/docs/old/"]);
        for (key, taken) in [
            (&b"docs"[..], true),
            (b"docs\0a\0b", true),
            (b"a\0README.md", true),
            (b"a", false),
            (b"docs\0x.tmp", false),
            (b"docs\0old\0x", false),
        ] {
            assert_eq!(docs.admits(key, false), taken, "{key:?}");
        }
        let others = filter(&[], &["docs"]);
        assert!(others.admits(b"a", false) && !others.admits(b"docs\0a", false));
    }
}
