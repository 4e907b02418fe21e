//! Content-defined chunking of byte streams: FastCDC (Xia et al., "The Design of Fast
//! Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020) over a gear table
//! derived from a key.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use fastcdc::v2020::{MASKS, cut_gear};

use super::params::ChunkParams;

/// The keyed gear table: 256 random words, one for each value of a byte.
pub struct Gear {
    table: [u64; 256],
    /// The same words shifted left by one bit: FastCDC rolls two bytes at a time.
    shifted: [u64; 256],
}

impl Gear {
    /// The table of a key: the first 2 KiB of BLAKE3's keyed extendable output for the empty
    /// message, as little-endian words.
    pub fn new(key: &[u8; 32]) -> Self {
        let mut bytes = [0; 256 * 8];
        blake3::Hasher::new_keyed(key).finalize_xof().fill(&mut bytes);
        let mut table = [0; 256];
        for (word, bytes) in table.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self { table, shifted: table.map(|word| word << 1) }
    }

    /// The length of the first chunk of `data`. It depends on no more than the first
    /// [`ChunkParams::max`] bytes; with fewer the data are taken to end there.
    pub fn cut(&self, params: &ChunkParams, data: &[u8]) -> usize {
        // Normalisation level 1: one bit more before the average length, one less after it.
        let bits = params.avg().ilog2() as usize;
        let (strict, loose) = (MASKS[bits + 1], MASKS[bits - 1]);
        let (_, length) = cut_gear(
            data,
            params.min(),
            params.avg(),
            params.max(),
            strict,
            loose,
            strict << 1,
            loose << 1,
            &self.table,
            &self.shifted,
        );
        length
    }

    /// The length of the next chunk of a stream of which `data` are the bytes not yet cut, or
    /// `None` where more bytes (or the end) are needed to tell.
    pub fn next_cut(
        &self,
        params: &ChunkParams,
        data: &[u8],
        position: Position,
        end: End,
    ) -> Option<usize> {
        let ended = end == End::Reached;
        if data.is_empty() {
            None
        } else if position == Position::Start && data.len() <= params.whole() {
            ended.then_some(data.len())
        } else if data.len() < params.max() && !ended {
            None
        } else {
            Some(self.cut(params, data))
        }
    }
}

impl fmt::Debug for Gear {
    /// Without the table, which is as secret as the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gear").finish_non_exhaustive()
    }
}

/// Whether a stream has been cut before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Not yet: the stream may turn out to be one chunk.
    Start,
    /// At least once.
    Within,
}

/// Whether all bytes of a stream are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There may be more.
    Open,
    /// There are no more.
    Reached,
}

/// Cuts streams into chunks, one after the other, over one buffer.
#[derive(Debug)]
pub struct Chunker {
    gear: Arc<Gear>,
    params: ChunkParams,
    buffer: Vec<u8>,
    /// How long the chunks of a long run of zeros are, once there was one.
    zeros: Option<usize>,
}

impl Chunker {
    /// A chunker whose buffer is allocated when the first stream is read.
    pub fn new(gear: Arc<Gear>, params: ChunkParams) -> Self {
        Self { gear, params, buffer: Vec::new(), zeros: None }
    }

    /// Begins a stream.
    pub fn chunks<R: Read>(&mut self, source: R) -> Chunks<'_, R> {
        // Room for several chunks, so that the rest that is moved to the front before each
        // filling is small beside what is read.
        let size = 4 * self.params.max().max(self.params.whole());
        self.buffer.resize(size, 0);
        Chunks {
            gear: &self.gear,
            params: self.params,
            source,
            buffer: &mut self.buffer,
            zeros: &mut self.zeros,
            from: 0,
            to: 0,
            position: Position::Start,
            end: End::Open,
        }
    }
}

/// The chunks of one stream, in order. Together they are the stream; an empty one has none.
#[derive(Debug)]
pub struct Chunks<'a, R> {
    gear: &'a Gear,
    params: ChunkParams,
    source: R,
    buffer: &'a mut [u8],
    zeros: &'a mut Option<usize>,
    /// What is read but not yet handed out is `buffer[from..to]`.
    from: usize,
    to: usize,
    position: Position,
    end: End,
}

/// A chunk of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether it begins a run of zeros so long that all such chunks are equal. Sparse files
    /// consist of little else.
    pub zeros: bool,
}

impl<R: Read> Chunks<'_, R> {
    /// The next chunk, or `None` at the end. How the source divides its bytes among reads moves
    /// no cut.
    pub fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        let (length, zeros) = loop {
            if let Some(length) = self.cut_zeros() {
                break (length, true);
            }
            let data = &self.buffer[self.from..self.to];
            match self.gear.next_cut(&self.params, data, self.position, self.end) {
                Some(length) => break (length, false),
                None if self.end == End::Reached => return Ok(None),
                None => self.fill()?,
            }
        };
        self.position = Position::Within;
        let chunk = self.from..self.from + length;
        self.from = chunk.end;
        Ok(Some(Chunk { bytes: &self.buffer[chunk], zeros }))
    }

    /// The length of the next chunk, if zeros are all that it depends on. Where zeros are cut is
    /// found out once.
    fn cut_zeros(&mut self) -> Option<usize> {
        let data = &self.buffer[self.from..self.to];
        let may_be_whole = self.position == Position::Start && data.len() <= self.params.whole();
        let (data, _) = data.split_at_checked(self.params.max())?;
        if may_be_whole || !is_zero(data) {
            return None;
        }
        Some(*self.zeros.get_or_insert_with(|| self.gear.cut(&self.params, data)))
    }

    /// All of the stream, where that is at most `limit` bytes (and `limit` at most
    /// [`ChunkParams::whole`]). To be asked before the first chunk.
    pub fn short(&mut self, limit: usize) -> io::Result<Option<&[u8]>> {
        if self.end == End::Open {
            self.fill()?;
        }
        let data = &self.buffer[self.from..self.to];
        Ok((self.end == End::Reached && data.len() <= limit).then_some(data))
    }

    /// Fills the buffer, or reads to the end.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        while self.to < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.to..]) {
                Ok(0) => {
                    self.end = End::Reached;
                    break;
                }
                Ok(count) => self.to += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether all bytes are zero; at the speed of memory, since the other side of the comparison
/// stays in the fastest cache.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 1 << 10] = [0; 1 << 10];
    bytes.chunks(ZEROS.len()).all(|bytes| *bytes == ZEROS[..bytes.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = *b"a fixed key for golden vectors..";

    fn small() -> ChunkParams {
        ChunkParams::new(256, 1024, 4096, 2048).unwrap()
    }

    /// Bytes that look random and are the same everywhere.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunks(params: ChunkParams, source: impl Read) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(Arc::new(Gear::new(&KEY)), params);
        let mut chunks = chunker.chunks(source);
        let mut found = Vec::new();
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            found.push(chunk.bytes.to_vec());
        }
        found
    }

    /// Gives its bytes in pieces of changing length.
    struct Dribble<'a>(&'a [u8], Vec<usize>, usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 += 1;
            if self.2.is_multiple_of(7) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let piece = self.1[self.2 % self.1.len()].min(buffer.len());
            self.0.read(&mut buffer[..piece])
        }
    }

    #[test]
    fn cut_points_are_those_of_the_format() {
        let gear = Gear::new(&KEY);
        assert_eq!([gear.table[0], gear.table[255]], GOLDEN_TABLE);
        let lengths: Vec<_> =
            chunks(ChunkParams::default(), &noise(1, 4 << 20)[..]).iter().map(Vec::len).collect();
        assert_eq!(lengths, GOLDEN_DEFAULT);
        let lengths: Vec<_> =
            chunks(small(), &noise(1, 16 << 10)[..]).iter().map(Vec::len).collect();
        assert_eq!(lengths, GOLDEN_SMALL);
    }

    const GOLDEN_TABLE: [u64; 2] = [0x3b6d_8d5b_0e23_3e8f, 0x817d_fc2a_279a_fa7b];
    const GOLDEN_DEFAULT: &[usize] = &[
        441_764, 509_519, 346_512, 280_848, 480_053, 370_039, 302_456, 210_424, 391_624, 418_489,
        442_576,
    ];
    const GOLDEN_SMALL: &[usize] =
        &[400, 486, 694, 1_849, 1_397, 1_386, 2_267, 1_076, 1_520, 1_418, 1_217, 1_407, 346, 921];

    #[test]
    fn another_key_gives_other_cuts() {
        let (data, params) = (noise(2, 1 << 20), ChunkParams::default());
        assert_ne!(Gear::new(&KEY).cut(&params, &data), Gear::new(&[7; 32]).cut(&params, &data));
    }

    #[test]
    fn short_streams_are_one_chunk_and_empty_ones_none() {
        assert!(chunks(small(), &[][..]).is_empty());
        for length in [1, 255, 2047, 2048] {
            assert_eq!(chunks(small(), &noise(3, length)[..]).len(), 1);
        }
        assert!(chunks(small(), &noise(3, 8192)[..]).len() > 1);
    }

    #[test]
    fn a_short_stream_can_be_had_whole() {
        let mut chunker = Chunker::new(Arc::new(Gear::new(&KEY)), small());
        let data = noise(5, 100);
        assert_eq!(chunker.chunks(&data[..]).short(100).unwrap(), Some(&data[..]));
        let mut chunks = chunker.chunks(&data[..]);
        assert_eq!(chunks.short(99).unwrap(), None);
        assert_eq!(chunks.next_chunk().unwrap().unwrap().bytes, data);
        assert_eq!(chunker.chunks(&[][..]).short(0).unwrap(), Some(&[][..]));
    }

    #[test]
    fn data_without_variety_are_cut_at_the_maximum() {
        let lengths: Vec<_> = chunks(small(), &[0; 10_000][..]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4096, 4096, 1808]);
    }

    /// What the chunker does, without its buffer and without regard to zeros.
    fn plainly(params: ChunkParams, data: &[u8]) -> Vec<usize> {
        let gear = Gear::new(&KEY);
        let (mut rest, mut lengths, mut position) = (data, Vec::new(), Position::Start);
        while let Some(length) = gear.next_cut(&params, rest, position, End::Reached) {
            lengths.push(length);
            (rest, position) = (&rest[length..], Position::Within);
        }
        lengths
    }

    #[test]
    fn equal_chunks_of_zeros_are_marked() {
        let mut chunker = Chunker::new(Arc::new(Gear::new(&KEY)), small());
        let mut chunks = chunker.chunks(io::repeat(0).take(100_000));
        let (mut marked, mut first) = (0, None);
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            if chunk.zeros {
                assert_eq!(*first.get_or_insert(chunk.bytes.len()), chunk.bytes.len());
                marked += 1;
            }
        }
        assert!(marked > 20);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(4, 1 << 20);
        let old: std::collections::HashSet<_> = chunks(small(), &before[..]).into_iter().collect();
        for place in [0, 100_000, 524_288, (1 << 20) - 1] {
            let mut after = before.clone();
            after.splice(place..place, *b"some more");
            let new = chunks(small(), &after[..]);
            let changed = new.iter().filter(|chunk| !old.contains(*chunk)).count();
            assert!(changed <= 6, "{changed} of {} chunks changed", new.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn zeros_are_cut_as_if_they_were_looked_at(
            parts in prop::collection::vec((any::<u64>(), 0_usize..9_000, 0_usize..20_000), 0..5),
            whole in prop::sample::select(vec![256, 2048, 6000]),
        ) {
            let params = ChunkParams::new(256, 1024, 4096, whole).unwrap();
            let data: Vec<u8> = parts
                .into_iter()
                .flat_map(|(seed, noisy, zeros)| [noise(seed, noisy), vec![0; zeros]].concat())
                .collect();
            let lengths: Vec<_> = chunks(params, &data[..]).iter().map(Vec::len).collect();
            prop_assert_eq!(lengths, plainly(params, &data));
        }

        #[test]
        fn chunks_are_the_stream_however_it_is_read(
            seed: u64,
            length in 0_usize..60_000,
            pieces in prop::collection::vec(1_usize..9_000, 1..5),
        ) {
            let data = noise(seed, length);
            let whole = chunks(small(), &data[..]);
            prop_assert_eq!(&whole.concat(), &data);
            prop_assert_eq!(&chunks(small(), Dribble(&data, pieces, 0)), &whole);
            for (i, chunk) in whole.iter().enumerate() {
                prop_assert!(chunk.len() <= 4096);
                prop_assert!(chunk.len() >= 256 || i + 1 == whole.len());
            }
        }
    }
}
