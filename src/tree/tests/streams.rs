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

/// A content that wants to be read more than once, or cannot be had.
struct Restless {
    readings: Vec<io::Result<&'static [u8]>>,
    now: &'static [u8],
}

impl Restless {
    fn content(mut readings: Vec<io::Result<&'static [u8]>>) -> Content {
        readings.reverse();
        Content::Reader(Box::new(Self { readings, now: b"torn" }))
    }
}

impl Read for Restless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.now.read(buffer)
    }
}

impl Reading for Restless {
    fn settle(&mut self, read: io::Result<Outcome>, head: &mut Vec<u8>) -> io::Result<Settled> {
        read?;
        head.push(b'+');
        match self.readings.pop() {
            None => Ok(Settled::Stands),
            Some(Ok(next)) => {
                self.now = next;
                Ok(Settled::Again)
            }
            Some(Err(_)) => Ok(Settled::LeftOut),
        }
    }
}

#[test]
fn a_content_is_what_stood_in_the_end() {
    let (store, shape) = (Counted::default(), tiny());
    let long: &[u8] = &[7; 1000];
    let gone = || Err(io::ErrorKind::NotFound.into());
    let entry = (b"key 2".to_vec(), (vec![], b"before".to_vec()));
    let old = built(&store, &shape, &Model::from([entry]));
    let puts = [
        Change::put("key 0", "h", Restless::content(vec![Ok(b"whole")])),
        Change::put("key 1", "h", Restless::content(vec![Ok(b"torn"), Ok(long)])),
        Change::put("key 2", "h", Restless::content(vec![Ok(long), gone()])),
        Change::put("key 3", "h", Restless::content(vec![])),
    ];
    let tree = edit(&store, &store, &shape, Some(old), changes(puts)).unwrap();
    let found = contents(&store, tree);
    assert_eq!(found[&b"key 0"[..]], (b"h++".to_vec(), b"whole".to_vec()));
    assert_eq!(found[&b"key 1"[..]], (b"h+++".to_vec(), long.to_vec()));
    assert!(!found.contains_key(&b"key 2"[..]));
    assert_eq!(found[&b"key 3"[..]], (b"h+".to_vec(), b"torn".to_vec()));
}

#[test]
fn many_contents_make_the_same_tree_on_any_number_of_threads() {
    let (store, shape) = (Counted::default(), tiny());
    let model: Model = (0..3000_u32)
        .map(|n| (n.to_be_bytes().to_vec(), (vec![], noise(n.into(), n as usize % 700))))
        .collect();
    let all: Edit = model.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let tree = built(&store, &shape, &model);
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // On a thread of the pool, which has to do the work that it waits for.
        let again = pool.install(|| build(&store, &shape, as_changes(&all)).unwrap());
        assert_eq!(again, tree);
    }
}

#[test]
fn of_several_failures_the_first_one_is_told() {
    struct Late(&'static str);
    impl Read for Late {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(self.0))
        }
    }
    impl Reading for Late {
        fn expected(&self) -> u64 {
            1 << 30
        }
    }
    let (store, shape) = (Counted::default(), tiny());
    let put = |key, why| Change::put(key, [], Content::Reader(Box::new(Late(why))));
    let error = build(&store, &shape, changes([put("a", "first"), put("b", "second")]));
    assert!(Failure::from(error.unwrap_err()).to_string().ends_with("first"));
}

#[test]
fn a_long_run_of_zeros_is_hashed_and_stored_once() {
    let (store, shape) = (Counted::default(), usual());
    let mut zeros = io::repeat(0).take(256 << 20);
    let Content::Stored(stream) = super::store(&store, &shape, &mut zeros).unwrap() else {
        panic!()
    };
    assert_eq!(stream.length, 256 << 20);
    let (_, written) = store.counts();
    assert!(written <= 4, "{written} chunks were written");
    let reader: &dyn ChunkReader = &store;
    let mut end = Vec::new();
    StreamReader::range(reader, stream, (256 << 20) - 5, 9).read_to_end(&mut end).unwrap();
    assert_eq!(end, [0; 5]);
}

#[test]
fn a_content_that_is_read_again_is_compared_with_what_it_was() {
    let (store, shape) = (Counted::default(), tiny());
    let model: Model = (0..500_u32)
        .map(|n| (n.to_be_bytes().to_vec(), (vec![], noise(n.into(), 33 + n as usize % 200))))
        .collect();
    let old = built(&store, &shape, &model);
    // Every third entry is put again, every ninth as another; and some that were not there.
    let mut again = Model::new();
    for (key, (head, content)) in model.iter().step_by(3) {
        let content = if again.len().is_multiple_of(3) { noise(1000, 40) } else { content.clone() };
        again.insert(key.clone(), (head.clone(), content));
        again.insert([key, &b"x"[..]].concat(), (vec![], noise(2000, 50)));
    }
    let puts = again.clone().into_iter().map(|(key, (head, content))| {
        Change::put(key, head, Content::Reader(Box::new(io::Cursor::new(content))))
    });
    let tree = edit(&store, &store, &shape, Some(old), changes(puts)).unwrap();
    assert_eq!(store.known.load(Ordering::Relaxed), 111);
    let mut expected = model;
    expected.extend(again);
    assert_eq!(tree, built(&store, &shape, &expected));
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn what_a_stream_has_in_common_with_its_basis_is_not_fetched() {
    let (store, shape) = (Counted::default(), tiny());
    let old = noise(1, 100_000);
    let mut new = old.clone();
    new.splice(50_000..50_010, *b"inserted, and longer");
    // Twice the same, so that some chunks belong at two places.
    new.extend_from_slice(&old);
    let stream = |bytes: &[u8]| match store_(&store, &shape, bytes) {
        Content::Stored(stream) => stream,
        other => panic!("{other:?}"),
    };
    let (have, want) = (stream(&old), stream(&new));
    let fetched = |stream, bytes: &Vec<u8>| {
        let found = std::sync::Mutex::new(vec![0; new.len()]);
        let each = |run: &[u8], places: &[Place]| {
            for place in places {
                let start = usize::try_from(place.offset).unwrap();
                let mut found = found.lock().unwrap();
                let there = &mut found[start..start + run.len()];
                assert!(there.iter().all(|byte| *byte == 0), "each byte comes once");
                there.copy_from_slice(run);
            }
            Ok(())
        };
        let basis = Some(Basis { stream, bytes });
        let fetched = fetch(&store, &[Sought { stream: want, basis }], 2, &each).unwrap();
        assert!(found.into_inner().unwrap() == new);
        fetched
    };
    assert_eq!(fetched(want, &new), 0);
    assert!((1..8_000).contains(&fetched(have, &old)));

    // A basis that is no longer what it was is found out, and what it lacks is fetched.
    let mut changed = old.clone();
    changed[20_000..40_000].fill(7);
    assert!((20_000..40_000).contains(&fetched(have, &changed)));
    changed.truncate(10_000);
    assert!((90_000..110_000).contains(&fetched(have, &changed)));
    assert!((100_000..110_000).contains(&fetched(have, &Vec::new())));
}
