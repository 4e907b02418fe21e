//! What the view keeps of chunks and packs, and the bytes it keeps them in. They are this host's
//! own: no other program reads them, and a change of them costs one rebuild of the view.

use crate::id::{ChunkId, PackId, SnapshotId};
use crate::repo::format::pack::ChunkEntry;
use crate::repo::format::segment::PackRecord;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) struct Location {
    /// The pack, by its number in this view.
    pub(in crate::repo) pack: u32,
    /// The block's number in the pack.
    pub(in crate::repo) block: u16,
    /// Where the sealed block begins.
    pub(in crate::repo) offset: u32,
    /// Its sealed length.
    pub(in crate::repo) length: u32,
    /// Where the chunk begins in the decoded block.
    pub(in crate::repo) inner: u32,
    /// The chunk's length.
    pub(in crate::repo) size: u32,
}

/// Where a chunk is that is stored as a difference, and to which other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) location: Location,
    pub(super) base: ChunkId,
}

/// Where a chunk can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) struct Found {
    pub(in crate::repo) location: Location,
    /// The chunk that it is a difference to, and where that one is whole.
    pub(in crate::repo) base: Option<(ChunkId, Location)>,
}

/// What must be known of a pack to read a block from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) struct PackInfo {
    pub(in crate::repo) id: PackId,
    pub(in crate::repo) salt: [u8; 32],
    pub(in crate::repo) size: u64,
}

impl Location {
    /// Stands where only the chunk matters.
    pub(in crate::repo) const NOWHERE: Self =
        Self { pack: 0, block: 0, offset: 0, length: 0, inner: 0, size: 0 };

    /// Appends the fields as LEB128, 15 to 18 bytes for most chunks of a large repository.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let Self { pack, block, offset, length, inner, size } = self;
        for mut number in [pack, u32::from(block), offset, length, inner, size] {
            loop {
                let [low, ..] = number.to_le_bytes();
                number >>= 7;
                if number == 0 {
                    out.push(low);
                    break;
                }
                out.push(low | 0x80);
            }
        }
    }

    pub(super) fn read(mut bytes: &[u8]) -> Option<Self> {
        let mut number = || {
            let end = bytes.iter().position(|byte| *byte < 0x80)?;
            let (digits, rest) = bytes.split_at(end + 1);
            bytes = rest;
            let number =
                digits.iter().rev().fold(0_u64, |number, d| number << 7 | u64::from(d & 0x7f));
            u32::try_from(number).ok().filter(|_| digits.len() <= 5)
        };
        let location = Self {
            pack: number()?,
            block: number()?.try_into().ok()?,
            offset: number()?,
            length: number()?,
            inner: number()?,
            size: number()?,
        };
        bytes.is_empty().then_some(location)
    }
}

impl Difference {
    /// Appends the base and the location.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend(self.base.as_bytes());
        self.location.write(out);
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (base, location) = bytes.split_first_chunk()?;
        Some(Self { location: Location::read(location)?, base: ChunkId::new(*base) })
    }
}

impl PackInfo {
    pub(super) const LEN: usize = 60;

    pub(super) fn of(pack: &PackRecord) -> Self {
        Self { id: pack.id, salt: pack.salt, size: pack.size }
    }

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(self.id.session.as_bytes());
        bytes[16..20].copy_from_slice(&self.id.number.to_le_bytes());
        bytes[20..52].copy_from_slice(&self.salt);
        bytes[52..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        Some(Self {
            id: PackId {
                session: SnapshotId::from_slice(&bytes[..16])?,
                number: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
            },
            salt: bytes[20..52].try_into().ok()?,
            size: u64::from_le_bytes(bytes[52..].try_into().ok()?),
        })
    }
}

/// Every chunk of a pack with its place.
pub(super) fn locations(
    number: u32,
    pack: &PackRecord,
) -> impl Iterator<Item = (&ChunkEntry, Location)> {
    (0..=u16::MAX).zip(&pack.footer.blocks).flat_map(move |(block, entry)| {
        let starts = entry.chunks.iter().scan(0, |next, chunk| {
            let start = *next;
            *next += chunk.length;
            Some(start)
        });
        entry.chunks.iter().zip(starts).map(move |(chunk, inner)| {
            let location = Location {
                pack: number,
                block,
                offset: entry.offset,
                length: entry.length,
                inner,
                size: chunk.length,
            };
            (chunk, location)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn locations_read_as_what_was_written(
            pack: u32, block: u16, offset: u32, length: u32, inner: u32, size: u32,
        ) {
            let location = Location { pack, block, offset, length, inner, size };
            let mut bytes = Vec::new();
            location.write(&mut bytes);
            prop_assert_eq!(Location::read(&bytes), Some(location));
            let difference = Difference { location, base: ChunkId::new([7; 32]) };
            let mut based = Vec::new();
            difference.write(&mut based);
            prop_assert_eq!(Difference::read(&based), Some(difference));
            for end in 0..bytes.len() {
                prop_assert_eq!(Location::read(&bytes[..end]), None);
            }
        }

        #[test]
        fn no_bytes_make_a_location_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Location::read(&bytes), Difference::read(&bytes));
        }
    }
}
