//! Byte streams as lists of chunks: a content of any length under one id, cut where its bytes say
//! so, so that an edit in the middle of a large file adds a few chunks and no more.

use std::io::{self, Read};
use std::ops::Deref;

use bytes::Bytes;

use super::change::{Content, Outcome, Reading, Settled};
use super::error::TreeError;
use super::node::Stowed;
use super::shape::Shape;
use super::succession::Succession;
use crate::chunker::{Chunker, End, Position};
use crate::id::ChunkId;
use crate::repo::{ChunkReader, ChunkWriter, Class, RepoError};

/// A run of bytes in the repository. A list of chunks longer than one is itself stored as a
/// stream, recursively, up to one root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Length in bytes of the whole.
    pub length: u64,
    /// How many lists stand between the root and the bytes: 0 when the root chunk is the bytes.
    pub depth: u8,
    /// The chunk at the top.
    pub root: ChunkId,
}

impl Stream {
    /// Deeper than any stream of 2⁶⁴ bytes: a list is at least seven times shorter than what it
    /// lists, and in practice thousands of times.
    pub const MAX_DEPTH: u8 = 24;
}

/// One chunk of a stream or of a list, as lists refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: ChunkId,
    pub(super) length: u32,
}

impl Piece {
    const LEN: usize = ChunkId::LEN + 4;

    fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (id, length) = bytes.split_first_chunk()?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        Some(Self { id: ChunkId::new(*id), length })
    }
}

/// Stores a stream of bytes as the content of a value: inline when it is short, else as chunks.
/// The same bytes under the same shape always give the same content.
pub fn store(
    writer: &dyn ChunkWriter,
    shape: &Shape,
    source: &mut dyn Read,
) -> Result<Content, TreeError> {
    match Stower::new(writer, shape)
        .stow_stream(source, &Before::Nothing)
        .map_err(StowError::without_key)?
    {
        Stowed::Inline(bytes) => Ok(Content::Inline(bytes)),
        Stowed::Stored(stream) => Ok(Content::Stored(stream)),
    }
}

/// Brings contents into the form in which they stand in a tree; its buffers serve one after the
/// other.
pub(super) struct Stower<'a> {
    writer: &'a dyn ChunkWriter,
    shape: &'a Shape,
    chunker: Chunker,
    /// The chunk that a long run of zeros consists of, once it is stored.
    zeros: Option<Piece>,
}

/// What a content takes the place of.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    Nothing,
    /// A stream in the repository, of which the content may have much.
    Stream(&'a dyn ChunkReader, Stream),
}

/// A failure to stow a content, before anyone has said whose content it is.
pub(super) enum StowError {
    Source(io::Error),
    Repo(RepoError),
    TooShort(u64),
}

impl StowError {
    pub(super) fn of(self, key: &[u8]) -> TreeError {
        match self {
            Self::Source(source) => TreeError::Content { key: key.to_vec(), source },
            Self::TooShort(length) => TreeError::StoredTooShort { key: key.to_vec(), length },
            Self::Repo(error) => TreeError::Repo(error),
        }
    }

    fn without_key(self) -> TreeError {
        match self {
            Self::Source(error) => TreeError::from_io(error),
            other => other.of(b""),
        }
    }
}

impl From<RepoError> for StowError {
    fn from(error: RepoError) -> Self {
        Self::Repo(error)
    }
}

impl<'a> Stower<'a> {
    pub(super) fn new(writer: &'a dyn ChunkWriter, shape: &'a Shape) -> Self {
        let chunker = Chunker::new(std::sync::Arc::clone(&shape.gear), shape.chunks);
        Self { writer, shape, chunker, zeros: None }
    }

    /// The content as it stands in a tree; `None` where it cannot be had and the entry is to be
    /// left out. What is found out about the value goes into its head. `before` is what stood there.
    pub(super) fn stow(
        &mut self,
        content: Content,
        before: &Before<'_>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Stowed>, StowError> {
        match content {
            Content::Inline(bytes) if bytes.len() <= self.shape.inline_max() => {
                Ok(Some(Stowed::Inline(bytes)))
            }
            Content::Inline(bytes) => self.stow_stream(&mut &bytes[..], before).map(Some),
            Content::Stored(stream) if stream.length <= self.shape.inline_max() as u64 => {
                Err(StowError::TooShort(stream.length))
            }
            Content::Stored(stream) => Ok(Some(Stowed::Stored(stream))),
            Content::Reader(mut source) => self.stow_reading(&mut *source, before, head),
        }
    }

    fn stow_reading(
        &mut self,
        source: &mut dyn Reading,
        before: &Before<'_>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Stowed>, StowError> {
        let mut last = None;
        loop {
            let (read, stowed) = match self.stow_stream(source, before) {
                Ok(stowed) if last.as_ref() == Some(&stowed) => (Ok(Outcome::Same), Some(stowed)),
                Ok(stowed) => (Ok(Outcome::New), Some(stowed)),
                Err(StowError::Source(error)) => (Err(error), None),
                Err(error) => return Err(error),
            };
            match source.settle(read, head).map_err(StowError::Source)? {
                Settled::Stands => return Ok(stowed),
                Settled::LeftOut => return Ok(None),
                Settled::Again => last = stowed,
            }
        }
    }

    fn stow_stream<R: Read + ?Sized>(
        &mut self,
        source: &mut R,
        before: &Before<'_>,
    ) -> Result<Stowed, StowError> {
        let mut chunks = self.chunker.chunks(source);
        if let Some(bytes) = chunks.short(self.shape.inline_max()).map_err(StowError::Source)? {
            return Ok(Stowed::Inline(bytes.to_vec()));
        }
        let mut lists = Lists { writer: self.writer, shape: self.shape, levels: Vec::new() };
        let mut length = 0;
        let mut succession = match *before {
            Before::Stream(reader, stream) => Some(Succession::new(reader, stream)),
            Before::Nothing => None,
        };
        while let Some(chunk) = chunks.next_chunk().map_err(StowError::Source)? {
            let size = chunk.bytes.len();
            let piece = match self.zeros {
                Some(zeros) if chunk.zeros => zeros,
                _ => {
                    let before = match &mut succession {
                        Some(succession) => succession.predecessor(length, size as u64)?,
                        None => None,
                    };
                    lists.store(self.shape.content, chunk.bytes, before)?
                }
            };
            if chunk.zeros {
                self.zeros = Some(piece);
            }
            lists.enter(0, piece)?;
            length += size as u64;
        }
        let (depth, root) = lists.finish()?;
        Ok(Stowed::Stored(Stream { length, depth, root }))
    }
}

/// The lists above the bytes of a stream while it is written: memory grows with their number, not
/// with the length of the stream.
struct Lists<'a> {
    writer: &'a dyn ChunkWriter,
    shape: &'a Shape,
    /// The list at `n` names the chunks at depth `n`.
    levels: Vec<List>,
}

#[derive(Default)]
struct List {
    /// Encoded pieces that are not yet in a chunk.
    bytes: Vec<u8>,
    first: Option<Piece>,
    count: u64,
}

impl Lists<'_> {
    /// Writes a chunk, which takes the place of another.
    fn store(
        &self,
        class: Class,
        bytes: &[u8],
        before: Option<ChunkId>,
    ) -> Result<Piece, RepoError> {
        #[expect(clippy::cast_possible_truncation, reason = "chunks are at most 16 MiB")]
        let length = bytes.len() as u32;
        Ok(Piece { id: self.writer.write_successor(class, bytes, before)?, length })
    }

    /// Enters a chunk into the list of its depth.
    fn enter(&mut self, depth: usize, piece: Piece) -> Result<(), RepoError> {
        if self.levels.len() == depth {
            self.levels.push(List::default());
        }
        let list = &mut self.levels[depth];
        list.bytes.extend(piece.id.as_bytes());
        list.bytes.extend(piece.length.to_le_bytes());
        list.first.get_or_insert(piece);
        list.count += 1;
        self.cut(depth, End::Open)
    }

    /// Writes the chunks of a list that are certain.
    fn cut(&mut self, depth: usize, end: End) -> Result<(), RepoError> {
        loop {
            let position =
                if self.levels.len() == depth + 1 { Position::Start } else { Position::Within };
            let list = &mut self.levels[depth];
            let Shape { gear, chunks, .. } = self.shape;
            let Some(length) = gear.next_cut(chunks, &list.bytes, position, end) else {
                return Ok(());
            };
            let mut bytes = std::mem::take(&mut list.bytes);
            let piece = self.store(Class::Node, &bytes[..length], None)?;
            self.enter(depth + 1, piece)?;
            bytes.drain(..length);
            self.levels[depth].bytes = bytes;
        }
    }

    /// Depth and root of a stream with at least one chunk.
    fn finish(mut self) -> Result<(u8, ChunkId), RepoError> {
        let mut depth = 0;
        loop {
            match self.levels.get(depth) {
                Some(List { count: 1, first: Some(piece), .. }) => {
                    #[expect(clippy::cast_possible_truncation, reason = "see Stream::MAX_DEPTH")]
                    return Ok((depth as u8, piece.id));
                }
                _ => self.cut(depth, End::Reached)?,
            }
            depth += 1;
        }
    }
}

/// Reads a stream, or a range of it, in order. Holds one chunk of each depth in memory. What it
/// gives is exactly what was stored; where that is not possible it fails.
///
/// `C` is how the repository is held: `&dyn ChunkReader`, or an `Arc` for a reader that has to
/// outlive its maker.
#[derive(Debug)]
pub struct StreamReader<C> {
    chunks: C,
    stream: Stream,
    /// Where the next chunk of bytes begins in the stream.
    position: u64,
    /// How many bytes are still to be passed over.
    skip: u64,
    /// How many bytes are still wanted.
    wanted: u64,
    /// What is left of the chunk at each depth, the bytes themselves at 0.
    layers: Vec<Bytes>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The root has not been read.
    Fresh,
    Reading,
    /// Everything that was wanted has been read.
    Done,
}

impl<C: Deref<Target: ChunkReader>> StreamReader<C> {
    /// Reads all of a stream.
    pub fn new(chunks: C, stream: Stream) -> Self {
        Self::range(chunks, stream, 0, stream.length)
    }

    /// Reads `length` bytes from `offset` on, or those of them that the stream has. Chunks before
    /// the range are not read.
    pub fn range(chunks: C, stream: Stream, offset: u64, length: u64) -> Self {
        Self {
            chunks,
            stream,
            position: 0,
            skip: offset.min(stream.length),
            wanted: length.min(stream.length.saturating_sub(offset)),
            layers: Vec::new(),
            state: State::Fresh,
        }
    }

    /// The next run of bytes, without copying them; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, TreeError> {
        if !self.fill()? {
            return Ok(None);
        }
        let chunk = std::mem::take(&mut self.layers[0]);
        self.wanted -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Makes sure that there are bytes at depth 0, or says that there are no more.
    fn fill(&mut self) -> Result<bool, TreeError> {
        if self.state == State::Fresh {
            if self.stream.depth > Stream::MAX_DEPTH {
                return Err(self.bad(self.stream.root, "it is too deep"));
            }
            self.layers.resize(usize::from(self.stream.depth) + 1, Bytes::new());
        }
        while self.wanted > 0 && self.layers[0].is_empty() {
            let Some(piece) = self.next_piece(0)? else {
                return Err(self.bad(self.stream.root, "it ends too early"));
            };
            let length = u64::from(piece.length);
            self.position += length;
            if self.position > self.stream.length {
                return Err(self.bad(piece.id, "it is longer than it should be"));
            }
            if self.skip >= length {
                self.skip -= length;
                continue;
            }
            let mut chunk = self.load(0, piece)?;
            // Both lie within the chunk, whose length is a `u32`.
            #[expect(clippy::cast_possible_truncation, reason = "less than the chunk's length")]
            let from = std::mem::take(&mut self.skip) as usize;
            let to = from.saturating_add(usize::try_from(self.wanted).unwrap_or(usize::MAX));
            chunk.truncate(to);
            self.layers[0] = chunk.split_off(from);
        }
        if self.wanted == 0 && self.state != State::Done {
            // To reach the end means to have seen that nothing follows.
            if self.position == self.stream.length
                && let Some(piece) = self.next_piece(0)?
            {
                return Err(self.bad(piece.id, "it is longer than it should be"));
            }
            self.state = State::Done;
        }
        Ok(self.wanted > 0)
    }

    /// The next chunk at a depth, according to the list above it.
    fn next_piece(&mut self, depth: u8) -> Result<Option<Piece>, TreeError> {
        if depth == self.stream.depth {
            if self.state != State::Fresh {
                return Ok(None);
            }
            self.state = State::Reading;
            // How long a list at the top is nobody says.
            let length = if depth == 0 { self.stream.length } else { 0 };
            return match u32::try_from(length) {
                Ok(length) => Ok(Some(Piece { id: self.stream.root, length })),
                Err(_) => Err(self.bad(self.stream.root, "it is too long for one chunk")),
            };
        }
        let mut entry = [0; Piece::LEN];
        let mut filled = 0;
        let above = depth + 1;
        while filled < Piece::LEN {
            if self.layers[usize::from(above)].is_empty() {
                let Some(piece) = self.next_piece(above)? else { break };
                self.layers[usize::from(above)] = self.load(above, piece)?;
                continue;
            }
            let layer = &mut self.layers[usize::from(above)];
            let part = layer.split_to(layer.len().min(Piece::LEN - filled));
            entry[filled..filled + part.len()].copy_from_slice(&part);
            filled += part.len();
        }
        match (filled, Piece::decode(&entry)) {
            (0, _) => Ok(None),
            (Piece::LEN, Some(piece)) if piece.length > 0 => Ok(Some(piece)),
            (Piece::LEN, _) => Err(self.bad(self.stream.root, "a list names an empty chunk")),
            _ => Err(self.bad(self.stream.root, "a list ends within an entry")),
        }
    }

    /// Reads a chunk of a depth, and checks its length against the list that names it.
    fn load(&self, depth: u8, piece: Piece) -> Result<Bytes, TreeError> {
        let bytes = self.chunks.read_chunk(&piece.id)?;
        let is_top_list = depth > 0 && depth == self.stream.depth;
        if is_top_list || bytes.len() as u64 == u64::from(piece.length) {
            Ok(bytes)
        } else {
            Err(self.bad(piece.id, "the chunk is not as long as it should be"))
        }
    }

    fn bad(&self, chunk: ChunkId, reason: &'static str) -> TreeError {
        TreeError::BadStream { root: self.stream.root, chunk, reason }
    }
}

impl<C: Deref<Target: ChunkReader>> Read for StreamReader<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.fill()? {
            return Ok(0);
        }
        let layer = &mut self.layers[0];
        let part = layer.split_to(layer.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        self.wanted -= part.len() as u64;
        Ok(part.len())
    }
}

impl Content {
    /// The bytes in order, wherever they are.
    pub fn open<'a>(self, reader: &'a dyn ChunkReader) -> Box<dyn Read + Send + 'a> {
        match self {
            Self::Inline(bytes) => Box::new(io::Cursor::new(bytes)),
            Self::Stored(stream) => Box::new(StreamReader::new(reader, stream)),
            Self::Reader(source) => source,
        }
    }

    /// All bytes at once, or an error when there are more than `limit`.
    pub fn bytes(self, reader: &dyn ChunkReader, limit: usize) -> Result<Vec<u8>, TreeError> {
        let too_long = Err(TreeError::ContentTooLong { limit });
        match self {
            Self::Inline(bytes) if bytes.len() <= limit => Ok(bytes),
            Self::Inline(_) => too_long,
            Self::Stored(stream) if stream.length > limit as u64 => too_long,
            source => {
                let mut bytes = Vec::new();
                let within = (limit as u64).saturating_add(1);
                source
                    .open(reader)
                    .take(within)
                    .read_to_end(&mut bytes)
                    .map_err(TreeError::from_io)?;
                if bytes.len() > limit { too_long } else { Ok(bytes) }
            }
        }
    }
}

/// The chunks at one depth of a stream, in order, read through the lists above them: what `check`
/// walks. The root is at the depth of the stream.
pub(super) fn pieces(
    reader: &dyn ChunkReader,
    stream: Stream,
    depth: u8,
) -> impl Iterator<Item = Result<Piece, TreeError>> + '_ {
    let mut lists = StreamReader::new(reader, stream);
    lists.layers.resize(usize::from(stream.depth) + 1, Bytes::new());
    std::iter::from_fn(move || lists.next_piece(depth).transpose())
}
