//! The one currency of the program: a sorted stream of puts and deletes.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use super::stream::{Stream, StreamReader};
use crate::hint::Failure;
use crate::repo::ChunkReader;

/// Orders the entries of a tree: compared byte by byte. At most 64 KiB.
pub type Key = Vec<u8>;

/// What a tree holds for a key.
#[derive(Debug)]
pub struct Value {
    /// What is always at hand when the entry is read: a file's metadata. At most 64 KiB.
    pub head: Vec<u8>,
    /// What is read only when it is asked for, and may be of any size: a file's bytes, a row.
    pub content: Content,
}

/// The bytes of a value, wherever they are.
pub enum Content {
    /// At hand. A tree keeps short contents in its own nodes.
    Inline(Vec<u8>),
    /// In the repository, as a list of chunks.
    Stored(Stream),
    /// Outside of the repository: what a source hands over on capture, and what a target is
    /// given on restore. Never in a tree.
    Reader(Box<dyn Reading>),
}

/// Bytes outside of the repository. What cannot change while it is read needs no more than to be
/// readable; a live file decides here what is made of a reading that was not of one piece.
pub trait Reading: Read + Send {
    /// About how many bytes there are: work is divided by it, nothing else.
    fn expected(&self) -> u64 {
        0
    }

    /// Asked once all bytes were read, or reading them failed: what is to be made of it. What is
    /// now known better about the value goes into its head.
    fn settle(&mut self, read: io::Result<Outcome>, _head: &mut Vec<u8>) -> io::Result<Settled> {
        read.map(|_| Settled::Stands)
    }
}

/// What reading all bytes has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Bytes that were not read before.
    New,
    /// The same as the reading before.
    Same,
}

/// What is made of the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// They are the content.
    Stands,
    /// They are to be read again, from the first; the reader has gone back there.
    Again,
    /// They cannot be had, which the reader has reported: the entry is left out.
    LeftOut,
}

impl<T: AsRef<[u8]> + Send> Reading for io::Cursor<T> {}
impl<C: Send> Reading for StreamReader<C> where Self: Read {}

/// One entry of a stream of changes: a put where there is a value, else a delete.
#[derive(Debug)]
pub struct Change {
    /// Which entry.
    pub key: Key,
    /// Its new value; `None` deletes it.
    pub value: Option<Value>,
}

/// Changes in strictly ascending order of their keys. After an error the stream is over.
pub type Changes<'a> = Box<dyn Iterator<Item = Result<Change, Failure>> + 'a>;

impl Change {
    /// Sets the value of a key.
    pub fn put(key: impl Into<Key>, head: impl Into<Vec<u8>>, content: Content) -> Self {
        Self { key: key.into(), value: Some(Value { head: head.into(), content }) }
    }

    /// Removes a key.
    pub fn delete(key: impl Into<Key>) -> Self {
        Self { key: key.into(), value: None }
    }
}

impl Value {
    /// The same value with a content that can be read without knowing of the repository: what is
    /// stored there becomes a reader.
    #[must_use]
    pub fn opened<C>(self, chunks: &Arc<C>) -> Self
    where
        C: ChunkReader + Send + Sync + ?Sized + 'static,
    {
        let content = match self.content {
            Content::Stored(stream) => {
                Content::Reader(Box::new(StreamReader::new(Arc::clone(chunks), stream)))
            }
            content => content,
        };
        Self { content, ..self }
    }
}

impl Content {
    /// No bytes at all.
    pub const fn empty() -> Self {
        Self::Inline(Vec::new())
    }

    /// How many bytes there are; 0 for what is outside of the repository, which nobody knows before
    /// it is read.
    pub const fn length(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Stored(stream) => stream.length,
            Self::Reader(_) => 0,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Stored(stream) => stream.fmt(f),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}
