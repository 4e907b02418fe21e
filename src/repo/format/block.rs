//! A block: chunks compressed together.
//!
//! ```text
//! 0  u8   codec: 0 stored, 1 zstd; 2 see `difference`
//! 1  u32  length of the chunks together
//! 5  …    their bytes, encoded
//! ```

use std::io;

use zstd::zstd_safe::{DCtx, get_error_name};

use super::config::Zstd;
use super::cursor::Cursor;
use super::{FormatError, difference};

const WHAT: &str = "block";
const STORED: u8 = 0;
const ZSTD: u8 = 1;
/// Length of the header in bytes.
pub(super) const HEADER: usize = 5;
/// What compression must save to be kept, as a part of the whole.
const NOTICEABLE: usize = 64;

/// The most bytes of chunks a block may hold: a reader allocates no more than this.
pub const LIMIT: usize = 32 << 20;

/// Compresses blocks; keeps its working memory between them.
#[expect(missing_debug_implementations, reason = "a compressor has nothing to show")]
pub struct Encoder(zstd::bulk::Compressor<'static>);

impl Encoder {
    /// An encoder with these parameters.
    pub fn new(parameters: Zstd) -> io::Result<Self> {
        use zstd::zstd_safe::{CParameter, Strategy};
        let mut zstd = zstd::bulk::Compressor::new(parameters.level)?;
        let Zstd { level: _, hash_log, chain_log, min_match, dfast } = parameters;
        for (value, parameter) in [
            (hash_log, CParameter::HashLog(hash_log)),
            (chain_log, CParameter::ChainLog(chain_log)),
            (min_match, CParameter::MinMatch(min_match)),
            (u32::from(dfast), CParameter::Strategy(Strategy::ZSTD_dfast)),
        ] {
            if value != 0 {
                zstd.set_parameter(parameter)?;
            }
        }
        // The block's length stands in its header, its integrity is the seal's business.
        zstd.set_parameter(CParameter::ContentSizeFlag(false))?;
        zstd.set_parameter(CParameter::ChecksumFlag(false))?;
        Ok(Self(zstd))
    }

    /// The block of these chunks, compressed unless that does not shrink it noticeably: what is
    /// stored is read faster.
    pub fn encode(&mut self, chunks: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut block = begin(ZSTD, chunks, zstd::zstd_safe::compress_bound(chunks.len()))?;
        let mut room = io::Cursor::new(&mut block);
        room.set_position(HEADER as u64);
        let used = self
            .0
            .compress_to_buffer(chunks, &mut room)
            .map_err(|error| FormatError { what: WHAT, reason: error.to_string() })?;
        if used < chunks.len() - chunks.len() / NOTICEABLE { Ok(block) } else { store(chunks) }
    }
}

/// The block of these chunks as they are.
pub fn store(chunks: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut block = begin(STORED, chunks, chunks.len())?;
    block.extend_from_slice(chunks);
    Ok(block)
}

/// Whether the chunks of a block are compressed.
pub fn is_compressed(block: &[u8]) -> bool {
    block.first() != Some(&STORED)
}

/// The header of a block, with room for the rest and the seal.
fn begin(codec: u8, chunks: &[u8], room: usize) -> Result<Vec<u8>, FormatError> {
    let too_long = |_| FormatError { what: WHAT, reason: "it is too long".to_owned() };
    let length = u32::try_from(chunks.len()).map_err(too_long)?;
    let mut block = Vec::with_capacity(HEADER + room + super::pack::SEAL);
    block.push(codec);
    block.extend_from_slice(&length.to_le_bytes());
    Ok(block)
}

/// Decodes blocks, one after the other, into one buffer.
#[expect(missing_debug_implementations, reason = "a decompressor has nothing to show")]
pub struct Decoder {
    pub(super) zstd: DCtx<'static>,
    chunks: Vec<u8>,
}

impl Decoder {
    /// A decoder whose buffer grows with the blocks.
    pub fn new() -> io::Result<Self> {
        let zstd = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { zstd, chunks: Vec::new() })
    }

    /// The chunks in a block, one after the other.
    pub fn decode<'a>(&'a mut self, block: &'a [u8]) -> Result<&'a [u8], FormatError> {
        let mut cursor = Cursor::new(WHAT, block);
        let codec = cursor.u8()?;
        let length = cursor.u32()? as usize;
        if length > LIMIT {
            return Err(cursor.bad(format!("{length} bytes of chunks are too many")));
        }
        let bad = |reason: String| FormatError { what: WHAT, reason };
        let payload = cursor.rest();
        let chunks = match codec {
            STORED => payload,
            ZSTD => {
                self.chunks.clear();
                self.chunks.reserve_exact(length);
                self.zstd
                    .decompress(&mut self.chunks, payload)
                    .map_err(|code| bad(get_error_name(code).to_owned()))?;
                self.chunks.as_slice()
            }
            difference::CODEC => return Err(bad("its chunks are differences".to_owned())),
            other => return Err(bad(format!("codec {other} is unknown"))),
        };
        if chunks.len() == length {
            Ok(chunks)
        } else {
            Err(bad(format!("it holds {} bytes, its header says {length}", chunks.len())))
        }
    }

    /// The same in a buffer of their own.
    pub fn decode_owned(&mut self, block: &[u8]) -> Result<Vec<u8>, FormatError> {
        let is_here = is_compressed(block);
        let chunks = self.decode(block)?;
        if is_here {
            return Ok(std::mem::take(&mut self.chunks));
        }
        Ok(chunks.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepoId;
    use crate::repo::format::config::Config;
    use crate::time::Timestamp;

    fn encoder() -> Encoder {
        let config = Config::new(RepoId::new([0; 16]), Timestamp::default());
        Encoder::new(config.data.zstd).expect("an encoder")
    }

    #[test]
    fn blocks_decode_to_what_was_encoded() {
        let mut noise = vec![0; 70_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut encoder = encoder();
        for chunks in [Vec::new(), b"a".to_vec(), vec![7; 300_000], noise] {
            let block = encoder.encode(&chunks).expect("a block");
            assert!(block.len() <= chunks.len() + HEADER, "what does not shrink is stored");
            assert_eq!(Decoder::new().unwrap().decode(&block), Ok(chunks.as_slice()));
        }
    }

    #[test]
    fn lying_lengths_and_unknown_codecs_are_refused() {
        let good = encoder().encode(&[7; 1000]).expect("a block");
        for (at, value) in [(0, 2), (0, 9), (1, 0xff), (2, 0xff), (4, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Decoder::new().unwrap().decode(&bad).is_err(), "byte {at} = {value}");
        }
        for length in 0..good.len() {
            assert!(Decoder::new().unwrap().decode(&good[..length]).is_err(), "cut to {length}");
        }
    }
}
