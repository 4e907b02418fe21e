//! Packages from somebody who means harm, to the program as it is run: each is refused with a
//! reason, within 128 MiB of memory, and nothing is written anywhere.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use world::{World, text};

/// What the program may have of memory, in KiB: `ulimit -d`, all of its data.
const MEMORY: &str = "131072";
const RECORD: &str = r#"[{"model": "a.b", "pk": 1, "fields": {}}]"#;
const FIXTURE: &str = "database/database_backup.json";

/// Packages, each with what is wrong with it.
type Cases = Vec<(String, Vec<u8>)>;

fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().expect("ustar").name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o4777);
    header.set_size(content.len() as u64);
    header.set_mtime(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, content.as_bytes())
}

fn link(name: &str, target: &str) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_ustar_mut().expect("ustar").name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.set_link_name_literal(target).expect("short");
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
    entry(b"PaxHeaders/x", EntryType::XHeader, &record)
}

fn gnu(kind: EntryType, name: &[u8]) -> Vec<u8> {
    entry(b"././@LongLink", kind, &[name, b"\0"].concat())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).expect("memory");
    out.finish().expect("memory")
}

fn packed(parts: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[parts.concat(), vec![0; 1024]].concat())
}

/// Names that lead elsewhere, or that only some readers can read, said in each of the three ways.
fn names(cases: &mut Cases) {
    let outside = format!("/tmp/coeval-evil-{}", std::process::id());
    let names: Vec<&[u8]> = vec![
        b"../evil",
        b"../../evil",
        b"..",
        b"storage/../../evil",
        b"storage/media/../../../evil",
        b"storage/..",
        b"./../evil",
        b"/evil",
        b"//evil",
        outside.as_bytes(),
        b"storage\\..\\evil",
        b"C:\\evil",
        b"\\\\server\\evil",
        b"storage/media/a\nb",
        b"storage/media/\x1b[2J",
        b"storage/media/a\rb",
        b"storage/media/\x7f",
        b"storage/media/\xff\xfe",
        b"storage/media/\xc0\xaf..",
        b"storage/media/\xed\xa0\x80",
        b"evil",
        b"bin/sh",
        b".bashrc",
        b".ssh/authorized_keys",
        b"metadata.json/x",
        b"Storage/a",
        b"etc/passwd",
    ];
    for name in names {
        let shown = name.escape_ascii().to_string();
        let with =
            |parts: Vec<Vec<u8>>| packed(&[&[file("metadata.json", "{}")][..], &parts].concat());
        let bare = entry(name, EntryType::Regular, b"evil");
        cases.push((format!("name {shown}"), with(vec![bare])));
        let named = file("storage/media/x", "evil");
        cases.push((format!("PAX {shown}"), with(vec![pax("path", name), named.clone()])));
        let long = gnu(EntryType::GNULongName, name);
        cases.push((format!("GNU {shown}"), with(vec![long, named])));
    }
    let long = "a".repeat(256);
    for (why, name) in [
        ("NUL", b"storage/media/a\0b".to_vec()),
        ("long part", format!("storage/media/{long}").into_bytes()),
        ("long path", format!("storage/{}", "abcdefgh/".repeat(500)).into_bytes()),
    ] {
        let parts = [pax("path", &name), file("storage/media/x", "evil")];
        cases.push((format!("PAX name with {why}"), packed(&parts)));
    }
}

/// Links that lead out, also through other links, and members below them.
fn links(cases: &mut Cases) {
    let database = || file(FIXTURE, "[]");
    for target in [
        "/",
        "/etc/passwd",
        "..",
        "../..",
        "../documents",
        "../../../../etc/passwd",
        "a/../../..",
        "./../x",
        "a/../../../b",
        "",
    ] {
        let with = |parts: &[Vec<u8>]| packed(&[&[database()], parts].concat());
        let name = "storage/media/l";
        cases.push((format!("link to {target}"), with(&[link(name, target)])));
        let by_pax = [pax("linkpath", target.as_bytes()), link(name, "x")];
        cases.push((format!("PAX link to {target}"), with(&by_pax)));
        let by_gnu = [gnu(EntryType::GNULongLink, target.as_bytes()), link(name, "x")];
        cases.push((format!("GNU link to {target}"), with(&by_gnu)));
    }
    for (name, target) in [
        ("storage", "/tmp"),
        ("storage/media", "/tmp"),
        ("storage/media", "documents"),
        ("database", "/tmp"),
        ("metadata.json", "/etc/passwd"),
        ("scripts/restore.sh", "x"),
        ("configuration/.env", "/etc/shadow"),
        ("database/raw/t.ndjson", "../../x"),
    ] {
        cases.push((format!("{name} is a link"), packed(&[link(name, target)])));
    }
    let below = |first: &str| {
        [
            link(&format!("storage/media/{first}"), "b"),
            file(&format!("storage/media/{first}/x"), "e"),
        ]
    };
    cases.push(("below a link".into(), packed(&below("a"))));
    let [one, other] = below("a");
    cases.push(("below a link that follows".into(), packed(&[other, one])));
    let chain = [
        link("storage/media/a", "b"),
        link("storage/media/b", "c"),
        file("storage/media/b/x", "e"),
    ];
    cases.push(("below a link through links".into(), packed(&chain)));
    let replaced = [file("storage/media/a", "1"), link("storage/media/a", "b")];
    cases.push(("a file becomes a link".into(), packed(&replaced)));
    let replaced = [link("storage/media/a", "b"), file("storage/media/a", "1")];
    cases.push(("a link becomes a file".into(), packed(&replaced)));
    for kind in [
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
        EntryType::XGlobalHeader,
        EntryType::new(b'V'),
        EntryType::new(b'M'),
        EntryType::new(b'D'),
        EntryType::new(b'Z'),
    ] {
        let member = entry(b"storage/media/x", kind, b"");
        cases.push((format!("a member of type {}", kind.as_byte() as char), packed(&[member])));
    }
}

/// Two members for one name, and headers that contradict each other.
fn twins(cases: &mut Cases) {
    for (one, other) in [
        ("storage/a", "storage/a"),
        ("storage/a", "./storage/a"),
        ("storage/a", "storage//a"),
        ("storage/a", "storage/./a"),
        (FIXTURE, FIXTURE),
        ("metadata.json", "metadata.json"),
        (FIXTURE, "database/DATABASE_backup.json"),
        ("scripts/verify.sh", "scripts/Verify.sh"),
        ("configuration/caf\u{e9}", "configuration/cafe\u{301}"),
        ("configuration/a", "configuration/\u{ff21}"),
        ("storage/a", "storage/a/b"),
        ("scripts/stra\u{df}e", "scripts/STRA\u{df}E"),
    ] {
        cases.push((format!("{one} and {other}"), packed(&[file(one, "[]"), file(other, "[]")])));
    }
    let name = |name: &[u8]| gnu(EntryType::GNULongName, name);
    for (why, headers) in [
        ("PAX PAX", [pax("path", b"storage/a"), pax("path", b"storage/b")]),
        ("PAX GNU", [pax("path", b"storage/a"), name(b"storage/b")]),
        ("GNU PAX", [name(b"storage/a"), pax("path", b"storage/b")]),
        ("GNU GNU", [name(b"storage/a"), name(b"storage/b")]),
    ] {
        cases.push((
            format!("two headers: {why}"),
            packed(&[headers.concat(), file("storage/c", "")]),
        ));
    }
    for key in [
        "GNU.sparse.major",
        "GNU.sparse.name",
        "GNU.sparse.realsize",
        "GNU.sparse.map",
        "SCHILY.xattr.security.capability",
        "SCHILY.acl.access",
        "SCHILY.filetype",
        "hdrcharset",
        "LIBARCHIVE.symlinktype",
        "comment",
        "realtime.x",
        "charset",
    ] {
        let parts = [pax(key, b"1"), file("storage/media/x", "e")];
        cases.push((format!("PAX key {key}"), packed(&parts)));
    }
    for value in
        ["-1", "1x", "", "18446744073709551616", "18446744073709551615", "9999999999", "0x10"]
    {
        let parts = [pax("size", value.as_bytes()), file("storage/media/x", "e")];
        cases.push((format!("PAX size {value}"), packed(&parts)));
    }
    for record in
        ["", " ", "nonsense", "5 a=b", "999 path=x\n", "10 path=x", "12path=abc\n", "3 =\n\n"]
    {
        let header = entry(b"PaxHeaders/x", EntryType::XHeader, record.as_bytes());
        let parts = [header, file("../x", "e")];
        cases.push((format!("PAX record {record:?}"), packed(&parts)));
    }
}

/// Lists that say otherwise than the members.
fn lies(cases: &mut Cases) {
    let with = |name: &str, json: &str| {
        packed(&[file(FIXTURE, RECORD), file("storage/documents/a", "x"), file(name, json)])
    };
    let zeros = "0".repeat(64);
    for (name, json) in [
        ("database/checksum.txt", format!("{zeros}  database_backup.json\n")),
        ("database/checksum.txt", format!("{zeros} *./database_backup.json\n")),
        ("database/checksum.txt", "nonsense\n".to_owned()),
        ("database/backup_metadata.json", r#"{"total_records": 515}"#.to_owned()),
        ("database/backup_metadata.json", r#"{"total_records": -1}"#.to_owned()),
        ("database/backup_metadata.json", r#"{"model_counts": {"a.b": 2}}"#.to_owned()),
        ("database/backup_metadata.json", r#"{"model_counts": {"c.d": 1}}"#.to_owned()),
        ("database/backup_metadata.json", "7".to_owned()),
        ("storage/manifest.json", r#"{"files": {"documents/a": {"size": 2}}}"#.to_owned()),
        ("storage/manifest.json", r#"{"files": {"documents/b": {"size": 1}}}"#.to_owned()),
        (
            "storage/manifest.json",
            format!(r#"{{"files": {{"documents/a": {{"size": 1, "checksum": "{zeros}"}}}}}}"#),
        ),
        ("storage/manifest.json", r#"{"files": {"../../etc/passwd": {"size": 1}}}"#.to_owned()),
        ("storage/manifest.json", r#"{"files": 7}"#.to_owned()),
        ("configuration/config_manifest.json", r#"{"config_files": 7}"#.to_owned()),
        ("database/tables.json", "{}".to_owned()),
        ("database/tables.json", "\u{0}".to_owned()),
        ("metadata.json", "{".to_owned()),
        ("metadata.json", "\u{0}\u{0}".to_owned()),
        ("metadata.json", r#"{"coeval": {"format": 99}}"#.to_owned()),
        ("metadata.json", r#"{"coeval": 1}"#.to_owned()),
    ] {
        cases.push((format!("{name} says {json}"), with(name, &json)));
    }
    for json in [
        "",
        " ",
        "null",
        "7",
        "\"\"",
        "\u{0}",
        "[\u{0}]",
        "[1]",
        "[[]]",
        "[{}]",
        "[{}",
        "[",
        "]",
        "RuntimeWarning: KEY=abc\n[]",
        "[{\"model\": \"a.b\"}]",
        "[{\"model\": 7, \"fields\": {}}]",
        "[{\"model\": \"a.b\", \"pk\": 1, \"fields\": []}]",
        "[{\"model\": \"a.b\", \"evil\": 1, \"fields\": {}}]",
        "{\"backup_type\": \"edms_metadata\"}",
        "{\"backup_type\": \"django_native_database\"}",
        "[{\"model\": \"a.b\", \"pk\": 1, \"fields\": {}}] trailing",
        "{\"model\"",
    ] {
        cases.push((format!("the fixture {json:?}"), packed(&[file(FIXTURE, json)])));
    }
    for bytes in [
        &b""[..],
        b"\0",
        b"PK\x03\x04",
        b"hello",
        b"\x1f\x8b",
        b"\x1f\x8b\x08\0",
        b"SQLite format 3\0",
    ] {
        cases.push((format!("no package: {}", bytes.escape_ascii()), bytes.to_vec()));
        cases.push((format!("no package within: {}", bytes.escape_ascii()), gzip(bytes)));
    }
}

/// What is small, and takes all memory or all time.
fn bombs(cases: &mut Cases) {
    let zeros = |header: Vec<u8>| {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&header).expect("memory");
        for _ in 0..400 {
            out.write_all(&vec![0; 1 << 19]).expect("memory");
        }
        out.finish().expect("memory")
    };
    let large = |name: &[u8]| {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().expect("ustar").name[..name.len()].copy_from_slice(name);
        header.set_size(7 << 30);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    for name in [&b"storage/bomb"[..], b"metadata.json", FIXTURE.as_bytes(), b"configuration/x"] {
        cases.push((format!("a bomb in {}", name.escape_ascii()), zeros(large(name))));
    }
    cases.push(("a bomb for a fixture".into(), zeros(b"[".to_vec())));
    cases.push(("a bomb of gzip in gzip".into(), gzip(&zeros(large(b"storage/bomb")))));
    let nested = entry(b"storage.tar.gz", EntryType::Regular, &zeros(large(b"storage/bomb")));
    let dump = file("database.dump", "PGDMP");
    cases.push(("a bomb in the archive within".into(), packed(&[dump, nested])));
    let mut members = Vec::new();
    for number in 0..600_000 {
        let mut header = *b"storage/0000000";
        header[8..].copy_from_slice(format!("{number:07}").as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let mut block = [0; 512];
        block[..header.len()].copy_from_slice(&header);
        // Only sizes of zero, and the sum over the name and eight blanks.
        block[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 256).as_bytes());
        members.extend_from_slice(&block);
    }
    cases.push(("a bomb of members".into(), gzip(&members)));
    let headers = pax("mtime", b"1.5").repeat(200_000);
    cases.push(("a bomb of headers".into(), gzip(&headers)));
    let longs = gnu(EntryType::GNULongName, &b"a".repeat(60_000)).repeat(3_000);
    cases.push(("a bomb of long names".into(), gzip(&longs)));
    let mut names = Vec::new();
    for number in 0..20_000 {
        let name = format!("storage/{number}/{}", "abcdefghijklmno/".repeat(240));
        names.extend(pax("path", name.as_bytes()));
        names.extend(file("storage/x", ""));
    }
    cases.push(("a bomb of names".into(), gzip(&names)));
    for document in [
        "metadata.json",
        "storage/manifest.json",
        "database/tables.json",
        "database/backup_metadata.json",
        "configuration/config_manifest.json",
        FIXTURE,
    ] {
        let with = |json: &str| packed(&[file(document, json)]);
        cases.push((format!("{document} is deep"), with(&"{\"a\":[".repeat(300_000))));
        cases.push((
            format!("{document} has a long text"),
            with(&format!("[\"{}", "x".repeat(60 << 20))),
        ));
        let mut many = String::from("{\"database_info\": [0");
        many.push_str(&",0".repeat(15 << 20));
        cases.push((format!("{document} has a long list"), with(&many)));
    }
}

/// Fixtures with more of something than anybody has.
fn crowds(cases: &mut Cases) {
    for (what, record) in [
        ("models", r#"{"model": "a.b@", "fields": {}},"#),
        ("lists", r#"{"model": "a.b", "fields": {"f@": [["x"]]}},"#),
        ("permissions", r#"{"model": "auth.permission", "fields": {"codename": "@"}},"#),
    ] {
        let mut fixture = String::from("[");
        for number in 0..300_000 {
            fixture.push_str(&record.replace('@', &number.to_string()));
        }
        fixture.pop();
        fixture.push(']');
        cases.push((format!("a fixture of many {what}"), packed(&[file(FIXTURE, &fixture)])));
    }
    let mut record = String::from("[{\"model\": \"a.b\", \"pk\": 1, \"fields\": {\"x\": 1");
    for number in 0..4_000_000 {
        write!(record, ",\"{number}\":1").expect("memory");
    }
    cases.push(("a record with a million fields".into(), packed(&[file(FIXTURE, &record)])));
}

/// A good package, cut at every block and bent in every header.
fn cuts(cases: &mut Cases, good: &[u8]) {
    let mut plain = Vec::new();
    GzDecoder::new(good).read_to_end(&mut plain).expect("gzip");
    for end in (0..plain.len() - 1024).step_by(512) {
        cases.push((format!("cut at block {}", end / 512), gzip(&plain[..end])));
    }
    for end in (0..good.len()).step_by(good.len() / 20) {
        cases.push((format!("cut at byte {end}"), good[..end].to_vec()));
    }
    // The first member lists all others; what it says besides is nowhere else.
    let metadata = Header::from_byte_slice(&plain[..512]).entry_size().expect("a size");
    let others = 512 + usize::try_from(metadata).expect("short").next_multiple_of(512);
    for at in std::iter::once(0).chain((others..plain.len() - 1024).step_by(512)) {
        let mut bent = plain.clone();
        bent[at] ^= 0x20;
        cases.push((format!("bent in block {}", at / 512), gzip(&bent)));
    }
}

fn listing(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.symlink_metadata().expect("metadata").is_dir() {
                folders.push(path.clone());
            }
            found.insert(path.display().to_string());
        }
    }
    found
}

#[test]
fn each_is_refused_with_a_reason_and_within_bounds() {
    let world = World::new();
    world.backup();
    world.ok(&["export", "latest", "-o", "good.tar.gz"]);
    let good = std::fs::read(world.path("good.tar.gz")).expect("a package");
    let mut cases = Cases::new();
    names(&mut cases);
    links(&mut cases);
    twins(&mut cases);
    lies(&mut cases);
    bombs(&mut cases);
    crowds(&mut cases);
    cuts(&mut cases, &good);
    assert!(cases.len() > 350, "{}", cases.len());

    // Three folders deep, so that `../../evil` is still ours to find.
    let arena = world.path("a/b/c");
    std::fs::create_dir_all(&arena).expect("a folder");
    let package = arena.join("package");
    let verify = || {
        let shell = format!("ulimit -d {MEMORY} && exec \"$0\" \"$@\"");
        let mut command = world.command("sh");
        command.args(["-c", &shell, env!("CARGO_BIN_EXE_coeval"), "package", "verify"]);
        command.arg(&package).current_dir(&arena).output().expect("it runs")
    };
    std::fs::write(&package, &good).expect("written");
    assert!(verify().status.success(), "the memory is enough for a good one");
    let before = listing(&world.path(""));
    let mut faults = Vec::new();
    for (why, bytes) in &cases {
        std::fs::write(&package, bytes).expect("written");
        let output = verify();
        let said = text(&[&output.stdout[..], &output.stderr].concat());
        let refused = matches!(output.status.code(), Some(1 | 13));
        if !refused || !said.contains("error: ") || said.contains(['\0', '\x1b']) {
            faults.push(format!("{why}: {} {said:.300}", output.status));
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
    std::fs::write(&package, &good).expect("written");
    assert_eq!(listing(&world.path("")), before, "nothing may be written");
    assert!(!Path::new(&format!("/tmp/coeval-evil-{}", std::process::id())).exists());
}
