//! What, besides its entries, a tree depends on.

use std::sync::Arc;

use crate::chunker::{Boundary, ChunkParams, Gear, ParamsError};
use crate::repo::Class;

/// Sizes of a tree's nodes; the same throughout a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeParams {
    leaf_target: u32,
    fan_out: u32,
    inline_max: u32,
}

impl TreeParams {
    /// Leaves of `leaf_target` bytes and inner nodes of `fan_out` entries, both on average.
    /// Contents of at most `inline_max` bytes stand in the leaves, longer ones in chunks of their
    /// own.
    pub fn new(leaf_target: u32, fan_out: u32, inline_max: u32) -> Result<Self, ParamsError> {
        if !(64..=1 << 20).contains(&leaf_target) {
            return Err(ParamsError::new("leaf size", leaf_target, "64 bytes to 1 MiB"));
        }
        if !(4..=4096).contains(&fan_out) {
            return Err(ParamsError::new("fan-out", fan_out, "4 to 4096 entries"));
        }
        Ok(Self { leaf_target, fan_out, inline_max })
    }
}

impl Default for TreeParams {
    /// 16 KiB, 64 entries, 4 KiB.
    fn default() -> Self {
        Self { leaf_target: 16 << 10, fan_out: 64, inline_max: 4 << 10 }
    }
}

/// Keys and sizes that decide which bytes become one node or chunk. Cheap to clone. Equal entries
/// make equal trees only under equal shapes.
#[derive(Debug, Clone)]
pub struct Shape {
    pub(super) boundary: Boundary,
    pub(super) gear: Arc<Gear>,
    pub(super) chunks: ChunkParams,
    pub(super) content: Class,
    params: TreeParams,
}

impl Shape {
    /// A shape whose contents are stored as file contents, [`Class::Data`].
    pub fn new(
        boundary: Boundary,
        gear: Arc<Gear>,
        params: TreeParams,
        chunks: ChunkParams,
    ) -> Result<Self, ParamsError> {
        // A stream is put in a leaf when its first chunk is all of it and short enough.
        if params.inline_max as usize > chunks.whole() {
            let rule = "no more than the size of a stream that is one chunk";
            return Err(ParamsError::new("inline size", params.inline_max, rule));
        }
        Ok(Self { boundary, gear, params, chunks, content: Class::Data })
    }

    /// The same with contents gathered into blocks of another class: rows too long for a leaf
    /// are read as their tree is. Has no part in any id.
    #[must_use]
    pub fn with_content(self, content: Class) -> Self {
        Self { content, ..self }
    }

    /// The longest content that stands in a leaf, in bytes.
    pub fn inline_max(&self) -> usize {
        self.params.inline_max as usize
    }

    /// Whether a node of this weight (bytes of entries in a leaf, entries in an inner node) ends
    /// after this entry.
    pub(super) fn is_cut(&self, level: u8, key: &[u8], before: u64, after: u64) -> bool {
        let target = if level == 0 { self.params.leaf_target } else { self.params.fan_out };
        self.boundary.is_cut(level, key, before, after, u64::from(target))
    }
}
