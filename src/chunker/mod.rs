//! Where to cut: bytes → cut points, keys → cut points.
//!
//! Deduplication needs cuts that depend on content alone, so that equal content is cut alike
//! wherever it stands. Both kinds of cut are keyed: without the repository's keys the lengths of
//! its chunks do not tell which well-known file they came from. Everything here is a pure
//! function; nothing knows what becomes of a chunk.
//!
//! Cut points are part of the repository format. The golden vectors in the tests guard them.

mod boundary;
mod gear;
mod params;

pub use boundary::Boundary;
pub use gear::{Chunk, Chunker, Chunks, End, Gear, Position};
pub use params::{ChunkParams, ParamsError};
