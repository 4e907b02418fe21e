//! Nodes of a tree as bytes. The layout has one spelling for everything, and the decoder takes
//! nothing else: equal nodes have equal ids only because equal nodes have equal bytes.

use std::ops::Range;

use bytes::Bytes;

use super::MAX_KEY;
use super::change::{Content, Value};
use super::error::TreeError;
use super::stream::Stream;
use crate::id::ChunkId;
use crate::repo::ChunkReader;

/// Magic and version at the start of every node.
const MAGIC: [u8; 2] = *b"T1";
/// Magic, level, number of entries.
const HEADER: usize = 7;
/// Far above any tree: a level holds many times fewer nodes than the one below it.
pub(super) const MAX_LEVEL: u8 = 63;

const INLINE: u8 = 0;
const STORED: u8 = 1;

/// What an inner node says of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) id: ChunkId,
    /// Entries of the tree in and below the child.
    pub(super) entries: u64,
}

/// A node that was read, decoded and found valid.
#[derive(Debug, Clone)]
pub(super) struct Node {
    id: ChunkId,
    bytes: Bytes,
    level: u8,
    entries: u64,
    spans: Vec<Span>,
}

/// Where an entry stands in the bytes of its node: the key ends where the value begins.
#[derive(Debug, Clone, Copy)]
struct Span {
    entry: u32,
    key: u32,
    value: u32,
    end: u32,
}

impl Node {
    /// Reads the root of a tree.
    pub(super) fn read_root(
        reader: &dyn ChunkReader,
        tree: &super::Tree,
    ) -> Result<Self, TreeError> {
        let node = Self::decode(tree.root, reader.read_chunk(&tree.root)?)?;
        if node.entries != tree.entries {
            let reason = "it has not as many entries as its tree";
            return Err(TreeError::BadNode { id: tree.root, reason });
        }
        Ok(node)
    }

    /// Reads the child at `at` of an inner node, and checks that it is what its parent says.
    pub(super) fn read_child(
        &self,
        reader: &dyn ChunkReader,
        at: usize,
    ) -> Result<Self, TreeError> {
        self.decode_child(at, reader.read_chunk(&self.child(at).id)?)
    }

    /// The same of a child whose chunk is read already.
    pub(super) fn decode_child(&self, at: usize, bytes: Bytes) -> Result<Self, TreeError> {
        let Child { id, entries } = self.child(at);
        let child = Self::decode(id, bytes)?;
        let bad = |reason| Err(TreeError::BadNode { id, reason });
        if child.level + 1 != self.level {
            bad("it is at another level than its parent says")
        } else if child.entries != entries {
            bad("it has not as many entries as its parent says")
        } else if child.last_key() != Some(self.key(at)) {
            bad("it ends with another key than its parent says")
        } else {
            Ok(child)
        }
    }

    /// Decodes a node. Every valid node has exactly one encoding.
    pub(super) fn decode(id: ChunkId, bytes: Bytes) -> Result<Self, TreeError> {
        match parse(&bytes) {
            Ok((level, entries, spans)) => Ok(Self { id, bytes, level, entries, spans }),
            Err(reason) => Err(TreeError::BadNode { id, reason }),
        }
    }

    pub(super) fn id(&self) -> ChunkId {
        self.id
    }

    /// 0 for a leaf, else one more than its children.
    pub(super) fn level(&self) -> u8 {
        self.level
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Entries of the tree in and below this node.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn key(&self, at: usize) -> &[u8] {
        let span = self.spans[at];
        self.slice(span.key, span.value)
    }

    pub(super) fn last_key(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|last| self.key(last))
    }

    /// The first entry whose key is not below `key`.
    pub(super) fn lower_bound(&self, key: &[u8]) -> usize {
        self.spans.partition_point(|span| self.slice(span.key, span.value) < key)
    }

    /// The bytes of an entry.
    fn entry(&self, at: usize) -> &[u8] {
        let span = self.spans[at];
        self.slice(span.entry, span.end)
    }

    /// The bytes of an entry after its key: equal exactly if the values are equal.
    pub(super) fn value_bytes(&self, at: usize) -> &[u8] {
        let span = self.spans[at];
        self.slice(span.value, span.end)
    }

    /// The value at `at` of a leaf.
    pub(super) fn value(&self, at: usize) -> Value {
        let (head, content) = self.value_parts(at);
        let content = match content {
            ContentRef::Inline(bytes) => Content::Inline(bytes.to_vec()),
            ContentRef::Stored(stream) => Content::Stored(stream),
        };
        Value { head: head.to_vec(), content }
    }

    /// The stream that an entry of a leaf refers to.
    pub(super) fn stream(&self, at: usize) -> Option<Stream> {
        match self.value_parts(at).1 {
            ContentRef::Inline(_) => None,
            ContentRef::Stored(stream) => Some(stream),
        }
    }

    fn value_parts(&self, at: usize) -> (&[u8], ContentRef<'_>) {
        debug_assert_eq!(self.level, 0, "only leaves have values");
        Input(self.value_bytes(at)).value().expect("decoding the node has parsed this value before")
    }

    /// The child at `at` of an inner node.
    pub(super) fn child(&self, at: usize) -> Child {
        debug_assert_ne!(self.level, 0, "only inner nodes have children");
        Input(self.value_bytes(at)).child().expect("decoding the node has parsed this child before")
    }

    fn slice(&self, from: u32, to: u32) -> &[u8] {
        &self.bytes[from as usize..to as usize]
    }
}

enum ContentRef<'a> {
    Inline(&'a [u8]),
    Stored(Stream),
}

/// Level, entries in and below, and where the entries of the node stand.
fn parse(bytes: &[u8]) -> Result<(u8, u64, Vec<Span>), &'static str> {
    let length = u32::try_from(bytes.len()).ok().ok_or("it is longer than 4 GiB")?;
    let mut input = Input(bytes);
    if input.take(MAGIC.len())? != MAGIC {
        return Err("it does not begin with the magic bytes of a node");
    }
    let level = input.byte()?;
    if level > MAX_LEVEL {
        return Err("its level is too high");
    }
    let count = u32::from_le_bytes(input.array()?);
    if count == 0 && level > 0 {
        return Err("it is an inner node without children");
    }
    // The shortest entry takes four bytes: a wrong count cannot make this large.
    let mut spans: Vec<Span> = Vec::with_capacity((count.min(length / 4)) as usize);
    let mut entries = 0_u64;
    let mut last_key: Option<&[u8]> = None;
    let position = |input: &Input<'_>| length - input.left();
    for _ in 0..count {
        let entry = position(&input);
        let key = input.limited("its key is too long")?;
        let value = position(&input);
        if last_key.is_some_and(|last| last >= key) {
            return Err("its keys are not in ascending order");
        }
        last_key = Some(key);
        let below = if level == 0 { input.value().map(|_| 1)? } else { input.child()?.entries };
        entries = entries.checked_add(below).ok_or("its children have too many entries")?;
        #[expect(clippy::cast_possible_truncation, reason = "a key is at most 64 KiB")]
        let key = value - key.len() as u32;
        spans.push(Span { entry, key, value, end: position(&input) });
    }
    if input.0.is_empty() {
        Ok((level, entries, spans))
    } else {
        Err("bytes follow its last entry")
    }
}

/// What is left of the bytes that are parsed.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn left(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("it is truncated")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or("it is truncated")?;
        self.0 = rest;
        Ok(*taken)
    }

    /// An unsigned LEB128 number in its shortest form.
    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return shortest.then_some(number).ok_or("a number is not in its shortest form");
            }
        }
        Err("a number is too large")
    }

    /// Bytes after their length.
    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Bytes after their length, of which a key or head may have [`MAX_KEY`].
    fn limited(&mut self, reason: &'static str) -> Result<&'a [u8], &'static str> {
        let bytes = self.bytes()?;
        if bytes.len() > MAX_KEY { Err(reason) } else { Ok(bytes) }
    }

    fn id(&mut self) -> Result<ChunkId, &'static str> {
        self.array().map(ChunkId::new)
    }

    fn value(&mut self) -> Result<(&'a [u8], ContentRef<'a>), &'static str> {
        let head = self.limited("the head of a value is too long")?;
        let content = match self.byte()? {
            INLINE => ContentRef::Inline(self.bytes()?),
            STORED => {
                let length = self.number()?;
                let depth = self.byte()?;
                if length == 0 {
                    return Err("an empty content is stored as a stream");
                }
                if depth > Stream::MAX_DEPTH {
                    return Err("a stream is too deep");
                }
                ContentRef::Stored(Stream { length, depth, root: self.id()? })
            }
            _ => return Err("a content is of an unknown kind"),
        };
        Ok((head, content))
    }

    fn child(&mut self) -> Result<Child, &'static str> {
        let child = Child { id: self.id()?, entries: self.number()? };
        if child.entries == 0 { Err("one of its children is empty") } else { Ok(child) }
    }
}

/// A node that grows entry by entry in a buffer that is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Builder {
    level: u8,
    bytes: Vec<u8>,
    count: u32,
    entries: u64,
    last_key: Range<usize>,
    /// What was last pushed, in an inner node.
    last_child: Option<Child>,
}

/// What a builder can be given after a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    Value { head: &'a [u8], content: &'a Stowed },
    Child(Child),
}

/// A content as it stands in a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stowed {
    Inline(Vec<u8>),
    Stored(Stream),
}

impl Builder {
    pub(super) fn new(level: u8) -> Self {
        let mut builder = Self { level, ..Self::default() };
        builder.clear();
        builder
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.extend(MAGIC);
        self.bytes.push(self.level);
        self.bytes.extend([0; 4]);
        (self.count, self.entries, self.last_key, self.last_child) = (0, 0, 0..0, None);
    }

    pub(super) fn level(&self) -> u8 {
        self.level
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What boundaries are decided by: the bytes of the entries of a leaf, the number of entries
    /// of an inner node.
    pub(super) fn weight(&self) -> u64 {
        if self.level == 0 { (self.bytes.len() - HEADER) as u64 } else { u64::from(self.count) }
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn last_key(&self) -> &[u8] {
        &self.bytes[self.last_key.clone()]
    }

    /// The child of a node that has no other.
    pub(super) fn only_child(&self) -> Option<Child> {
        self.last_child.filter(|_| self.count == 1)
    }

    /// Adds an entry. Keys have to ascend.
    pub(super) fn push(&mut self, key: &[u8], item: Item<'_>) {
        self.push_bytes(key);
        let end = self.bytes.len();
        match item {
            Item::Value { head, content } => {
                self.push_bytes(head);
                match content {
                    Stowed::Inline(bytes) => {
                        self.bytes.push(INLINE);
                        self.push_bytes(bytes);
                    }
                    Stowed::Stored(Stream { length, depth, root }) => {
                        self.bytes.push(STORED);
                        push_number(&mut self.bytes, *length);
                        self.bytes.push(*depth);
                        self.bytes.extend(root.as_bytes());
                    }
                }
                self.count(end - key.len()..end, 1);
            }
            Item::Child(child) => {
                self.bytes.extend(child.id.as_bytes());
                push_number(&mut self.bytes, child.entries);
                self.last_child = Some(child);
                self.count(end - key.len()..end, child.entries);
            }
        }
    }

    /// Adds an entry of another node of the same level as it is.
    pub(super) fn copy(&mut self, node: &Node, at: usize) {
        let span = node.spans[at];
        let start = self.bytes.len();
        self.bytes.extend_from_slice(node.entry(at));
        let entries = if self.level == 0 {
            1
        } else {
            let child = node.child(at);
            self.last_child = Some(child);
            child.entries
        };
        let place = |position: u32| start + (position - span.entry) as usize;
        self.count(place(span.key)..place(span.value), entries);
    }

    fn count(&mut self, key: Range<usize>, entries: u64) {
        self.last_key = key;
        self.count += 1;
        self.entries += entries;
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        push_number(&mut self.bytes, bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// The node's bytes.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.bytes[HEADER - 4..HEADER].copy_from_slice(&self.count.to_le_bytes());
        &self.bytes
    }
}

#[expect(clippy::cast_possible_truncation, reason = "LEB128 takes the lowest seven bits each time")]
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> &'static str {
        match Node::decode(ChunkId::new([0; 32]), Bytes::copy_from_slice(bytes)) {
            Err(TreeError::BadNode { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn leaf(count: u8, entries: &[&[u8]]) -> Vec<u8> {
        [b"T1\0", &[count, 0, 0, 0][..], &entries.concat()].concat()
    }

    #[test]
    fn a_node_is_laid_out_as_the_format_says() {
        let mut builder = Builder::new(0);
        builder.push(b"a", Item::Value { head: b"hd", content: &Stowed::Inline(b"xyz".to_vec()) });
        let stream = Stream { length: 300, depth: 2, root: ChunkId::new([7; 32]) };
        builder.push(b"b", Item::Value { head: b"", content: &Stowed::Stored(stream) });
        let entries: [&[u8]; 3] = [b"\x01a\x02hd\0\x03xyz", b"\x01b\0\x01\xac\x02\x02", &[7; 32]];
        assert_eq!(builder.finish(), leaf(2, &entries));

        let mut builder = Builder::new(3);
        builder.push(b"b", Item::Child(Child { id: ChunkId::new([9; 32]), entries: 128 }));
        let expected = [&b"T1\x03\x01\0\0\0\x01b"[..], &[9; 32], b"\x80\x01"].concat();
        assert_eq!(builder.finish(), expected);
        let node = Node::decode(ChunkId::new([0; 32]), expected.into()).unwrap();
        assert_eq!((node.level(), node.entries(), node.key(0)), (3, 128, &b"b"[..]));
    }

    #[test]
    fn what_is_not_exactly_a_node_is_refused_with_a_reason() {
        let (a, b) = (&b"\x01a\0\0\0"[..], &b"\x01b\0\0\0"[..]);
        assert!(Node::decode(ChunkId::new([0; 32]), leaf(2, &[a, b]).into()).is_ok());
        assert!(refusal(b"").contains("truncated"));
        assert!(refusal(b"T2\0\0\0\0\0").contains("magic"));
        assert!(refusal(b"T1\x40\0\0\0\0").contains("too high"));
        assert!(refusal(b"T1\x01\0\0\0\0").contains("without children"));
        assert!(refusal(b"T1\0\xff\xff\xff\xff").contains("truncated"));
        assert!(refusal(&leaf(2, &[b, a])).contains("ascending"));
        assert!(refusal(&leaf(2, &[a, a])).contains("ascending"));
        assert!(refusal(&leaf(1, &[a, b])).contains("bytes follow"));
        assert!(refusal(&leaf(3, &[a, b])).contains("truncated"));
        assert!(refusal(&leaf(1, &[b"\x81\0a\0\0\0"])).contains("shortest"));
        assert!(refusal(&leaf(1, &[&[0xff; 9], b"\x02"])).contains("too large"));
        let long = vec![0; MAX_KEY + 1];
        assert!(refusal(&leaf(1, &[b"\x81\x80\x04", &long])).contains("key is too long"));
        assert!(refusal(&leaf(1, &[b"\0\x81\x80\x04", &long])).contains("head"));
        assert!(refusal(&leaf(1, &[b"\x01a\0\x02"])).contains("unknown kind"));
        assert!(refusal(&leaf(1, &[b"\x01a\0\x01\0\0", &[0; 32]])).contains("empty content"));
        assert!(refusal(&leaf(1, &[b"\x01a\0\x01\x09\xff", &[0; 32]])).contains("too deep"));
        let inner = [&b"T1\x01\x01\0\0\0\0"[..], &[9; 32], b"\0"].concat();
        assert!(refusal(&inner).contains("is empty"));
    }
}
