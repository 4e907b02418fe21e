//! The promises of streams of bytes.

use super::*;

#[test]
fn a_content_is_stored_alike_however_it_comes() {
    let (store, shape) = (Counted::default(), tiny());
    for length in [0, 32, 33, 256, 257, 5_000] {
        let data = noise(1, length);
        let put =
            |content| build(&store, &shape, changes([Change::put("k", "h", content)])).unwrap();
        let inline = put(Content::Inline(data.clone()));
        assert_eq!(put(Content::Reader(Box::new(io::Cursor::new(data.clone())))), inline);
        assert_eq!(put(store_(&store, &shape, &data)), inline);
    }
    let root = ChunkId::new([0; 32]);
    let stored = Content::Stored(Stream { length: 32, depth: 0, root });
    let error = build(&store, &shape, changes([Change::put("k", [], stored)])).unwrap_err();
    assert!(matches!(error, TreeError::StoredTooShort { length: 32, .. }));
}

#[test]
fn an_edit_within_a_large_stream_adds_few_chunks() {
    let (store, shape) = (Counted::default(), tiny());
    let mut data = noise(1, 2 << 20);
    let before = store_(&store, &shape, &data);
    assert!(matches!(before, Content::Stored(Stream { depth: 3.., .. })), "{before:?}");
    let chunks = store.chunks.len();
    data.splice(1 << 20..1 << 20, *b"inserted");
    store_(&store, &shape, &data);
    let added = store.chunks.len() - chunks;
    assert!(added <= 20, "{added} of {chunks} chunks added");
}

#[test]
fn a_range_of_a_stream_reads_no_chunks_before_it() {
    let (store, shape) = (Counted::default(), tiny());
    let Content::Stored(stream) = store_(&store, &shape, &noise(1, 200_000)) else { panic!() };
    store.counts();
    let mut byte = Vec::new();
    let reader: &dyn ChunkReader = &store;
    StreamReader::range(reader, stream, 199_000, 1).read_to_end(&mut byte).unwrap();
    assert_eq!(byte.len(), 1);
    let lists = 200_000 / 300 * 36 / 300;
    assert!(store.counts().0 < lists * 2, "all chunks would be about 600");
}

#[test]
fn streams_that_are_not_what_they_say_are_refused() {
    let (store, shape) = (Counted::default(), tiny());
    let Content::Stored(stream) = store_(&store, &shape, &noise(1, 20_000)) else { panic!() };
    let small = store_(&store, &shape, &noise(2, 100));
    let Content::Stored(small) = small else { panic!() };
    let empty = store.write_chunk(Class::Node, &[0; 36]).unwrap();
    let ragged = store.write_chunk(Class::Node, &[1; 50]).unwrap();
    for wrong in [
        Stream { length: 19_999, ..stream },
        Stream { length: 20_001, ..stream },
        Stream { depth: 0, ..stream },
        Stream { depth: stream.depth + 1, ..stream },
        Stream { depth: u8::MAX, ..stream },
        Stream { length: u64::MAX, ..stream },
        Stream { length: 99, ..small },
        Stream { length: u64::MAX, ..small },
        Stream { length: 1, depth: 1, root: empty },
        Stream { length: 1, depth: 1, root: ragged },
    ] {
        let error = Content::Stored(wrong).open(&store).read_to_end(&mut Vec::new()).unwrap_err();
        let error = TreeError::from_io(error);
        assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
    }
}

#[test]
fn contents_go_from_one_repository_to_another_as_readers() {
    let (from, to) = (Arc::new(Counted::default()), Counted::default());
    let data = noise(1, 5_000);
    let Content::Stored(stream) = store_(&from, &tiny(), &data) else { panic!() };
    let value = Value { head: vec![], content: Content::Stored(stream) }.opened(&from);
    let put = Change { key: b"k".to_vec(), value: Some(value) };
    let tree = build(&to, &usual(), changes([put])).unwrap();
    assert_eq!(contents(&to, tree)[&b"k"[..]].1, data);
    // What was the fault of the repository it comes from is told as that.
    let lost = StreamReader::new(Arc::new(Counted::default()), stream);
    let put = Change::put("k", [], Content::Reader(Box::new(lost)));
    let error = build(&to, &usual(), changes([put])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damage);
}
