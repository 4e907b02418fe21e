//! Chunks stored as differences: each is a zstd frame with another chunk, its base, as prefix.
//! Which one that is stands in the pack's footer.
//!
//! ```text
//! 0  u8   codec: 2
//! 1  u32  length of the chunks together
//! 5       for each chunk: u32 its length, u32 length of its frame, its frame
//! ```
//!
//! Every chunk has a frame of its own, so that to read one takes one base, and not those of its
//! neighbours.

use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

use super::FormatError;
use super::block::{Decoder, HEADER, LIMIT};
use super::cursor::Cursor;

const WHAT: &str = "block of differences";
/// The codec in the header of such a block.
pub(super) const CODEC: u8 = 2;
/// What zstd does not take for a prefix: it would look for a dictionary.
const DICTIONARY: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
/// Bytes before each frame.
const FRAME_HEADER: usize = 8;
/// The level whose parameters are the rest.
const LEVEL: i32 = 3;
/// The smallest tables that zstd makes.
const LEAST_WINDOW: u32 = 10;

/// Whether a chunk can be a base.
pub fn is_base(chunk: &[u8]) -> bool {
    !chunk.is_empty() && !chunk.starts_with(&DICTIONARY)
}

/// The frame of a chunk with this base as prefix.
pub fn encode(chunk: &[u8], base: &[u8]) -> Result<Vec<u8>, FormatError> {
    let bad = |code| FormatError { what: WHAT, reason: get_error_name(code).to_owned() };
    // One for each frame: it borrows the base. Its tables are small, as what they are for.
    let mut context = CCtx::try_create().ok_or_else(no_memory)?;
    let both = (chunk.len() + base.len()).max(1);
    // All of the base within reach, and a place in the tables for each fourth byte.
    let window = both.next_power_of_two().ilog2().max(LEAST_WINDOW);
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(window),
        CParameter::HashLog(window - 2),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(bad)?;
    }
    context.ref_prefix(base).map_err(bad)?;
    let mut frame = Vec::with_capacity(compress_bound(chunk.len()));
    context.compress2(&mut frame, chunk).map_err(bad)?;
    Ok(frame)
}

fn no_memory() -> FormatError {
    FormatError { what: WHAT, reason: "there is no memory for it".to_owned() }
}

impl Decoder {
    /// The chunk of this length in a frame.
    pub fn decode_difference(
        &mut self,
        frame: Frame<'_>,
        base: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let bad = |reason: String| FormatError { what: WHAT, reason };
        if !is_base(base) {
            return Err(bad("its base cannot be one".to_owned()));
        }
        let mut chunk = Vec::with_capacity(frame.length as usize);
        self.zstd
            .decompress_using_dict(&mut chunk, frame.bytes, base)
            .map_err(|code| bad(get_error_name(code).to_owned()))?;
        if chunk.len() == frame.length as usize {
            Ok(chunk)
        } else {
            Err(bad(format!("a chunk has {} bytes, not {}", chunk.len(), frame.length)))
        }
    }
}

/// A block that grows by one frame after the other.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    total: u32,
}

impl Builder {
    /// Adds a frame.
    pub fn push(&mut self, frame: Frame<'_>) -> Result<(), FormatError> {
        let too_long = || FormatError { what: WHAT, reason: "it is too long".to_owned() };
        let total = self.total.checked_add(frame.length).ok_or_else(too_long)?;
        let length = u32::try_from(frame.bytes.len()).map_err(|_| too_long())?;
        if total as usize > LIMIT {
            return Err(too_long());
        }
        if self.bytes.is_empty() {
            self.bytes.extend([CODEC, 0, 0, 0, 0]);
        }
        self.bytes.extend(frame.length.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend_from_slice(frame.bytes);
        self.total = total;
        self.bytes[1..HEADER].copy_from_slice(&total.to_le_bytes());
        Ok(())
    }

    /// Length so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Length of the chunks so far, in bytes.
    pub fn total(&self) -> usize {
        self.total as usize
    }

    /// The block.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// One chunk of a block of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Length of the chunk in bytes.
    pub length: u32,
    /// The zstd frame.
    pub bytes: &'a [u8],
}

/// The frames of a block, in order.
pub fn frames(
    block: &[u8],
) -> Result<impl Iterator<Item = Result<Frame<'_>, FormatError>>, FormatError> {
    let mut cursor = Cursor::new(WHAT, block);
    if cursor.u8()? != CODEC {
        return Err(cursor.bad("it is a block of another kind"));
    }
    let total = u64::from(cursor.u32()?);
    if total > LIMIT as u64 {
        return Err(cursor.bad(format!("{total} bytes of chunks are too many")));
    }
    let mut before = 0;
    let mut rest = Some(cursor);
    Ok(std::iter::from_fn(move || {
        let mut cursor = rest.take()?;
        if cursor.is_at_end() {
            let wrong = format!("its chunks have {before} bytes, its header says {total}");
            return (before != total).then(|| Err(cursor.bad(wrong)));
        }
        let frame = next_frame(&mut cursor);
        if let Ok(frame) = &frame {
            before += u64::from(frame.length);
            if before > total {
                return Some(Err(cursor.bad("its chunks are longer than its header says")));
            }
            rest = Some(cursor);
        }
        Some(frame)
    }))
}

fn next_frame<'a>(cursor: &mut Cursor<'a>) -> Result<Frame<'a>, FormatError> {
    let length = cursor.u32()?;
    let count = cursor.u32()? as usize;
    Ok(Frame { length, bytes: cursor.take(count)? })
}

/// The frame of the chunk that begins at `start` of all chunks one after the other.
pub fn frame_at(block: &[u8], start: u32) -> Result<Frame<'_>, FormatError> {
    let mut before = 0;
    for frame in frames(block)? {
        let frame = frame?;
        if before == start {
            return Ok(frame);
        }
        before = before.saturating_add(frame.length);
    }
    let reason = format!("no chunk begins at {start}");
    Err(FormatError { what: WHAT, reason })
}

/// Bytes that a frame adds to a block.
pub const fn size(frame: &[u8]) -> usize {
    FRAME_HEADER + frame.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(block: &[u8], bases: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, FormatError> {
        let mut decoder = Decoder::new().expect("a decoder");
        let frames = frames(block)?.zip(bases);
        frames.map(|(frame, base)| decoder.decode_difference(frame?, base)).collect()
    }

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_changed_little_takes_little_wherever_the_change_is() {
        for length in [600, 8 << 10, 300 << 10, 1 << 20] {
            let base = noise(length, 1);
            for at in [0, length / 2, length - 30] {
                let mut chunk = base.clone();
                chunk.splice(at..at + 10, *b"quite another thing");
                let frame = encode(&chunk, &base).expect("a frame");
                assert!(frame.len() < 110 + length / 1000, "{} of {length}", frame.len());
            }
        }
    }

    #[test]
    fn what_zstd_takes_for_a_dictionary_is_no_base() {
        let base = [&DICTIONARY[..], b"and so on"].concat();
        assert!(!is_base(&base) && !is_base(b"") && is_base(b"a"));
        let bytes = &encode(b"and so on", &base).expect("a frame")[..];
        let frame = Frame { length: 9, bytes };
        assert!(Decoder::new().expect("a decoder").decode_difference(frame, &base).is_err());
    }

    proptest! {
        #[test]
        fn differences_decode_to_what_was_encoded(
            base in proptest::collection::vec(any::<u8>(), 5..3000),
            edits in proptest::collection::vec((any::<usize>(), any::<[u8; 3]>()), 1..6),
            at: usize, value: u8,
        ) {
            let (mut builder, mut chunks, mut bases) = (Builder::default(), Vec::new(), Vec::new());
            for (place, new) in edits {
                let mut chunk = base.clone();
                let place = place % (base.len() - 3);
                chunk.splice(place..place + 2, new);
                let frame = encode(&chunk, &base).expect("a frame");
                let length = u32::try_from(chunk.len()).expect("short");
                let before = u32::try_from(builder.total()).expect("short");
                builder.push(Frame { length, bytes: &frame }).expect("room");
                chunks.push((before, chunk));
                bases.push(base.clone());
            }
            let mut block = builder.finish();
            for (before, chunk) in &chunks {
                let frame = frame_at(&block, *before).expect("a frame");
                let decoded = Decoder::new().unwrap().decode_difference(frame, &base);
                prop_assert_eq!(decoded.as_ref(), Ok(chunk));
            }
            prop_assert_eq!(decode(&block, &bases).map(|d| d.len()), Ok(chunks.len()));
            prop_assert!(frame_at(&block, 1).is_err());
            for end in 0..block.len() {
                prop_assert!(decode(&block[..end], &bases).is_err());
            }
            let at = at % block.len();
            block[at] = value;
            let _ = decode(&block, &bases);
            let _ = decode(&block, &vec![vec![value; at]; chunks.len()]);
        }
    }
}
