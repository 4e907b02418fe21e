//! A pack: an immutable file of sealed blocks and a sealed footer that lists every chunk.
//!
//! ```text
//! header   8   "CVPACK" 0 version
//!          32  salt: the pack's key is derived from it
//! blocks       sealed, one after the other; block n is sealed with number n
//! footer       sealed with number 2^32 - 1, padded
//! trailer  4   u32 length of the sealed footer
//!          32  BLAKE3 of everything before
//! ```

use super::cursor::Cursor;
use super::{FormatError, VERSION};
use crate::id::ChunkId;
use crate::repo::Class;

const WHAT: &str = "pack";
const MAGIC: [u8; 7] = *b"CVPACK\0";

/// Length of the header in bytes.
pub const HEADER: usize = 40;
/// Length of the trailer in bytes.
pub const TRAILER: usize = 36;
/// Bytes that sealing adds to a block.
pub const SEAL: usize = 16;
/// The most blocks in a pack: their numbers stand as u16 in the index.
pub const MAX_BLOCKS: usize = 65_000;

const CHUNK_HAS_BASE: u8 = 1;
/// Bytes of a chunk's entry without base, and of a block's entry without chunks.
const CHUNK_ENTRY: usize = 37;
const BLOCK_ENTRY: usize = 12;

/// Length of a footer without blocks.
pub const FOOTER: usize = 5;

/// Bytes that a block adds to the footer.
pub fn block_entry(chunks: &[ChunkEntry]) -> usize {
    let bases = chunks.iter().filter(|chunk| chunk.base.is_some()).count();
    BLOCK_ENTRY + chunks.len() * CHUNK_ENTRY + bases * ChunkId::LEN
}

/// What is sealed; part of the seal's associated data, so that none passes for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// A block of chunks.
    Block = 1,
    /// The footer.
    Footer = 2,
}

/// What a pack holds: its footer, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// What the chunks are for.
    pub class: Class,
    /// The blocks in the order of the file.
    pub blocks: Vec<BlockEntry>,
}

/// One block of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where the sealed block begins in the file.
    pub offset: u32,
    /// Its length as sealed.
    pub length: u32,
    /// Its chunks, one after the other.
    pub chunks: Vec<ChunkEntry>,
}

impl BlockEntry {
    /// Where the sealed block ends in the file.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

/// One chunk of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its name.
    pub id: ChunkId,
    /// Its length in bytes.
    pub length: u32,
    /// The chunk it is stored as a difference to (reserved for the delta codec).
    pub base: Option<ChunkId>,
}

impl Footer {
    /// Number of chunks in the pack.
    pub fn chunk_count(&self) -> usize {
        self.blocks.iter().map(|block| block.chunks.len()).sum()
    }

    /// Appends the layout to `out`:
    ///
    /// ```text
    /// u8   class: 0 data, 1 nodes
    /// u32  number of blocks; each: u32 offset, u32 length, u32 number of chunks; each:
    ///      32 id, u32 length, u8 flags (bit 0: a base follows), [32 base]
    /// ```
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let count = |length: usize| {
            u32::try_from(length).map_err(|_| FormatError {
                what: "pack footer",
                reason: "it has too many entries".to_owned(),
            })
        };
        out.push(match self.class {
            Class::Data => 0,
            Class::Node => 1,
        });
        out.extend_from_slice(&count(self.blocks.len())?.to_le_bytes());
        for block in &self.blocks {
            out.extend_from_slice(&block.offset.to_le_bytes());
            out.extend_from_slice(&block.length.to_le_bytes());
            out.extend_from_slice(&count(block.chunks.len())?.to_le_bytes());
            for chunk in &block.chunks {
                out.extend_from_slice(chunk.id.as_bytes());
                out.extend_from_slice(&chunk.length.to_le_bytes());
                out.push(if chunk.base.is_some() { CHUNK_HAS_BASE } else { 0 });
                out.extend(chunk.base.iter().flat_map(ChunkId::as_bytes));
            }
        }
        Ok(())
    }

    /// Reads a footer off the front of a cursor.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let class = match cursor.u8()? {
            0 => Class::Data,
            1 => Class::Node,
            other => return Err(cursor.bad(format!("class {other} is unknown"))),
        };
        let blocks = cursor.count(BLOCK_ENTRY)?;
        if blocks > MAX_BLOCKS {
            return Err(cursor.bad(format!("{blocks} blocks are too many")));
        }
        let blocks = (0..blocks).map(|_| read_block(cursor)).collect::<Result<_, _>>()?;
        Ok(Self { class, blocks })
    }

    /// The footer in what the seal held; zeros may follow it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new("pack footer", bytes);
        let footer = Self::read(&mut cursor)?;
        let padding = cursor.rest();
        if padding.iter().any(|byte| *byte != 0) {
            let reason = "its padding is not zero".to_owned();
            return Err(FormatError { what: "pack footer", reason });
        }
        Ok(footer)
    }
}

fn read_block(cursor: &mut Cursor<'_>) -> Result<BlockEntry, FormatError> {
    let (offset, length) = (cursor.u32()?, cursor.u32()?);
    let count = cursor.count(CHUNK_ENTRY)?;
    let chunks = (0..count).map(|_| read_chunk(cursor)).collect::<Result<Vec<_>, _>>()?;
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
    if total > super::block::LIMIT as u64 {
        return Err(cursor.bad("a block is too long"));
    }
    Ok(BlockEntry { offset, length, chunks })
}

fn read_chunk(cursor: &mut Cursor<'_>) -> Result<ChunkEntry, FormatError> {
    let id = ChunkId::new(cursor.array()?);
    let length = cursor.u32()?;
    let base = match cursor.u8()? {
        0 => None,
        CHUNK_HAS_BASE => Some(ChunkId::new(cursor.array()?)),
        other => return Err(cursor.bad(format!("chunk flags {other:#x} are unknown"))),
    };
    Ok(ChunkEntry { id, length, base })
}

/// The first bytes of a pack.
pub fn header(salt: &[u8; 32]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (magic, rest) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    rest[0] = VERSION;
    rest[1..].copy_from_slice(salt);
    header
}

/// The salt in a pack's first [`HEADER`] bytes.
pub fn read_header(bytes: &[u8]) -> Result<[u8; 32], FormatError> {
    let mut cursor = Cursor::new(WHAT, bytes);
    if cursor.array()? != MAGIC {
        return Err(cursor.bad("it does not begin like one"));
    }
    match cursor.u8()? {
        VERSION => cursor.array(),
        other => Err(cursor.bad(format!("version {other} is unknown"))),
    }
}

/// The last bytes of a pack whose other bytes are `before` (without the footer's length).
pub fn trailer(footer_length: u32, hasher: &mut blake3::Hasher) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    let (length, hash) = trailer.split_at_mut(4);
    length.copy_from_slice(&footer_length.to_le_bytes());
    hasher.update(length);
    hash.copy_from_slice(hasher.finalize().as_bytes());
    trailer
}

/// The sealed footer's length and the hash in a pack's last [`TRAILER`] bytes.
pub fn read_trailer(bytes: &[u8]) -> Result<(u32, [u8; 32]), FormatError> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let trailer = (cursor.u32()?, cursor.array()?);
    cursor.end()?;
    Ok(trailer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn footers() -> impl Strategy<Value = Footer> {
        let id = any::<[u8; 32]>().prop_map(ChunkId::new);
        let chunk = (id.clone(), 0..1000_u32, proptest::option::of(id))
            .prop_map(|(id, length, base)| ChunkEntry { id, length, base });
        let block = (any::<u32>(), any::<u32>(), proptest::collection::vec(chunk, 0..4))
            .prop_map(|(offset, length, chunks)| BlockEntry { offset, length, chunks });
        (any::<bool>(), proptest::collection::vec(block, 0..4)).prop_map(|(data, blocks)| Footer {
            class: if data { Class::Data } else { Class::Node },
            blocks,
        })
    }

    proptest! {
        #[test]
        fn footers_decode_to_what_was_encoded(footer in footers(), padding in 0..50_usize) {
            let mut bytes = Vec::new();
            footer.encode_into(&mut bytes).expect("a footer");
            let entries = footer.blocks.iter().map(|block| block_entry(&block.chunks));
            prop_assert_eq!(FOOTER + entries.sum::<usize>(), bytes.len());
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(Footer::decode(&bytes), Ok(footer));
        }

        #[test]
        fn damaged_footers_never_panic(footer in footers(), at: usize, value: u8) {
            let mut bytes = Vec::new();
            footer.encode_into(&mut bytes).expect("a footer");
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = Footer::decode(&bytes);
            let _ = Footer::decode(&bytes[..at]);
        }
    }
}
