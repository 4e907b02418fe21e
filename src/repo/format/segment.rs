//! An index segment: the footers of some packs, so that a host learns where chunks are without
//! reading the packs.

use super::cursor::Cursor;
use super::pack::Footer;
use super::{FormatError, VERSION};
use crate::id::{PackId, SegmentId, SnapshotId};

const WHAT: &str = "index segment";
/// Bytes of a pack's entry without its footer.
const PACK_ENTRY: usize = 65;

/// What an index segment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segment {
    /// Segments whose content this one repeats; they may be deleted once this one is there.
    pub supersedes: Vec<SegmentId>,
    /// The packs that it describes.
    pub packs: Vec<PackRecord>,
}

/// What must be known of a pack to read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Its name.
    pub id: PackId,
    /// The salt in its header.
    pub salt: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
    /// What it holds.
    pub footer: Footer,
}

impl Segment {
    /// The layout:
    ///
    /// ```text
    /// u8   version
    /// u32  number of superseded segments; each 16 id
    /// u32  number of packs; each: 16 session, u32 number, 32 salt, u64 size, footer
    /// ```
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let count = |length: usize| {
            let reason = "it has too many entries".to_owned();
            u32::try_from(length).map_err(|_| FormatError { what: WHAT, reason })
        };
        let mut out = vec![VERSION];
        out.extend_from_slice(&count(self.supersedes.len())?.to_le_bytes());
        out.extend(self.supersedes.iter().flat_map(SegmentId::as_bytes));
        out.extend_from_slice(&count(self.packs.len())?.to_le_bytes());
        for pack in &self.packs {
            out.extend_from_slice(pack.id.session.as_bytes());
            out.extend_from_slice(&pack.id.number.to_le_bytes());
            out.extend_from_slice(&pack.salt);
            out.extend_from_slice(&pack.size.to_le_bytes());
            pack.footer.encode_into(&mut out)?;
        }
        Ok(out)
    }

    /// The segment in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        match cursor.u8()? {
            VERSION => {}
            other => return Err(cursor.bad(format!("version {other} is unknown"))),
        }
        let count = cursor.count(SegmentId::LEN)?;
        let supersedes = (0..count)
            .map(|_| cursor.array().map(SegmentId::new))
            .collect::<Result<_, FormatError>>()?;
        let count = cursor.count(PACK_ENTRY)?;
        let packs = (0..count).map(|_| read_pack(&mut cursor)).collect::<Result<_, _>>()?;
        cursor.end()?;
        Ok(Self { supersedes, packs })
    }
}

fn read_pack(cursor: &mut Cursor<'_>) -> Result<PackRecord, FormatError> {
    Ok(PackRecord {
        id: PackId { session: SnapshotId::new(cursor.array()?), number: cursor.u32()? },
        salt: cursor.array()?,
        size: cursor.u64()?,
        footer: Footer::read(cursor)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;
    use crate::repo::Class;
    use crate::repo::format::pack::{BlockEntry, ChunkEntry};

    #[test]
    fn segments_decode_to_what_was_encoded() {
        let chunk = ChunkEntry { id: ChunkId::new([3; 32]), length: 9, base: None };
        let segment = Segment {
            supersedes: vec![SegmentId::new([1; 16])],
            packs: vec![PackRecord {
                id: PackId { session: SnapshotId::new([2; 16]), number: 5 },
                salt: [4; 32],
                size: 1234,
                footer: Footer {
                    class: Class::Node,
                    blocks: vec![BlockEntry { offset: 40, length: 30, chunks: vec![chunk] }],
                },
            }],
        };
        let bytes = segment.encode().expect("a segment");
        assert_eq!(Segment::decode(&bytes), Ok(segment));
        for length in 0..bytes.len() {
            assert!(Segment::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
    }
}
