//! gzip on all cores, as one member that is the same to the byte whatever the number of threads.
//!
//! The input is cut every 256 KiB. Each block is compressed on its own, with the 32 KiB before it
//! as its dictionary, and ends on a byte (the empty stored block of a sync flush, RFC 1951 §3.2.4),
//! so that the blocks one after the other are one stream; so does pigz. Checksums of the blocks
//! combine into the checksum of the whole (RFC 1952).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use rayon::Scope;

/// Bytes that are compressed at once.
const BLOCK: usize = 256 << 10;
/// Bytes that deflate can refer back to.
const WINDOW: usize = 32 << 10;
/// Magic, deflate, no flags, no time, no hint, unknown system: the same on every machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses on the threads of the process what `write` writes, into `out`. `level` is gzip's, 0 to
/// 9, and `failed` makes an error of what kept `out` from being written. Holds a few blocks of
/// 256 KiB per thread. Not to be called on one of the threads that it waits for.
pub fn compress<T, E>(
    out: &mut dyn Write,
    level: u32,
    failed: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, E> {
    out.write_all(&HEADER).map_err(&failed)?;
    rayon::in_place_scope(|scope| {
        let mut gzip = Gzip {
            out,
            level: Compression::new(level),
            scope,
            block: Arc::new(Vec::with_capacity(BLOCK)),
            before: Arc::default(),
            waiting: VecDeque::new(),
            most: 3 * rayon::current_num_threads(),
            crc: Crc::new(),
        };
        let done = write(&mut gzip)?;
        gzip.finish().map_err(&failed)?;
        Ok(done)
    })
}

struct Gzip<'a, 'scope> {
    out: &'a mut dyn Write,
    level: Compression,
    scope: &'a Scope<'scope>,
    block: Arc<Vec<u8>>,
    /// The block before.
    before: Arc<Vec<u8>>,
    /// Blocks that are being compressed, in order.
    waiting: VecDeque<Receiver<io::Result<Deflated>>>,
    most: usize,
    crc: Crc,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

impl Gzip<'_, '_> {
    /// Hands the block over to a thread.
    fn submit(&mut self, flush: FlushCompress) -> io::Result<()> {
        while self.waiting.len() >= self.most {
            self.take()?;
        }
        let block = std::mem::replace(&mut self.block, Arc::new(Vec::with_capacity(BLOCK)));
        let before = std::mem::replace(&mut self.before, Arc::clone(&block));
        let (level, (send, receive)) = (self.level, sync_channel(1));
        self.scope.spawn(move |_| {
            let window = &before[before.len().saturating_sub(WINDOW)..];
            // Nobody waits for it when writing failed.
            let _ = send.send(deflate(&block, window, level, flush));
        });
        self.waiting.push_back(receive);
        Ok(())
    }

    /// Writes the first of the blocks, waiting for it.
    fn take(&mut self) -> io::Result<()> {
        let Some(first) = self.waiting.pop_front() else { return Ok(()) };
        let deflated = first.recv().map_err(io::Error::other)??;
        self.crc.combine(&deflated.crc);
        self.out.write_all(&deflated.bytes)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.submit(FlushCompress::Finish)?;
        while !self.waiting.is_empty() {
            self.take()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())
    }
}

impl Write for Gzip<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The block is not shared before it is submitted.
        let block = Arc::make_mut(&mut self.block);
        let taken = bytes.len().min(BLOCK - block.len());
        block.extend_from_slice(&bytes[..taken]);
        if block.len() == BLOCK {
            self.submit(FlushCompress::Sync)?;
        }
        Ok(taken)
    }

    /// What is in the block stays there: where blocks end must not depend on the writer.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn deflate(
    block: &[u8],
    window: &[u8],
    level: Compression,
    flush: FlushCompress,
) -> io::Result<Deflated> {
    let mut crc = Crc::new();
    crc.update(block);
    let mut deflate = Compress::new(level, false);
    if !window.is_empty() {
        deflate.set_dictionary(window)?;
    }
    let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
    let mut read = 0;
    loop {
        let before = deflate.total_in();
        let status = deflate.compress_vec(&block[read..], &mut bytes, flush)?;
        read += usize::try_from(deflate.total_in() - before).unwrap_or(0);
        let flushed = read == block.len() && bytes.len() < bytes.capacity();
        match flush {
            FlushCompress::Finish if status == Status::StreamEnd => break,
            FlushCompress::Sync if flushed => break,
            _ => bytes.reserve(BLOCK),
        }
    }
    Ok(Deflated { bytes, crc })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8], level: u32, piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        compress(&mut out, level, std::convert::identity, |gzip| {
            bytes.chunks(piece.max(1)).try_for_each(|piece| gzip.write_all(piece))
        })
        .unwrap();
        out
    }

    fn sample(length: usize, seed: u32) -> Vec<u8> {
        let byte = |at: usize| {
            let mixed = (at as u64).wrapping_mul(u64::from(seed)).rotate_left(9);
            mixed.to_le_bytes()[0] % 23
        };
        (0..length).map(|at| if at % 5000 < 4000 { byte(at / 7) } else { byte(at) }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_compressed_comes_back_from_one_member(
            length in prop_oneof![0_usize..3, 0_usize..700_000, Just(BLOCK), Just(2 * BLOCK)],
            seed: u32,
            level in 0_u32..10,
            piece in 1_usize..100_000,
        ) {
            let plain = sample(length, seed);
            let packed = gzip(&plain, level, piece);
            let mut back = Vec::new();
            // Not the decoder of several members: there is one, and nothing behind it.
            let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
            decoder.read_to_end(&mut back).unwrap();
            prop_assert!(back == plain);
            prop_assert!(decoder.into_inner().is_empty());
            prop_assert!(packed == gzip(&plain, level, length.max(1)));
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_the_bytes() {
        let plain = sample(3_000_000, 77);
        let one_after_the_other = {
            let mut out = HEADER.to_vec();
            let (mut crc, mut at) = (Crc::new(), 0);
            while at <= plain.len() {
                let end = (at + BLOCK).min(plain.len());
                let last = end - at < BLOCK;
                let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
                let window = &plain[at.saturating_sub(WINDOW)..at];
                let block = deflate(&plain[at..end], window, Compression::new(6), flush).unwrap();
                out.extend(block.bytes);
                crc.combine(&block.crc);
                at += BLOCK;
            }
            out.extend([crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat());
            out
        };
        assert!(gzip(&plain, 6, 4096) == one_after_the_other);
    }

    #[test]
    fn a_disk_that_is_full_ends_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let taken = bytes.len().min(self.0);
                self.0 -= taken;
                Ok(taken)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let plain = sample(6_000_000, 5);
        let failed =
            compress(&mut Full(10_000), 1, std::convert::identity, |gzip| gzip.write_all(&plain));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
