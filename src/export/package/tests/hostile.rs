//! Packages from somebody who means harm: each is refused with a reason, and nothing is written.

use std::io::{Read as _, Write as _};
use std::sync::LazyLock;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{Outcome, SecretsPolicy, edms, open, packed};
use crate::context::Context;
use crate::export::testing::seen_by_capture;

const RECORD: &str = r#"[{"model": "a.b", "pk": 1, "fields": {}}]"#;

fn header(name: &[u8], kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    let field = &mut header.as_ustar_mut().unwrap().name;
    field[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, b"x")
}

fn link(name: &str, target: &str) -> Vec<u8> {
    let mut header = header(name.as_bytes(), EntryType::Symlink, 0);
    header.set_link_name_literal(target).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn pax(records: &str) -> Vec<u8> {
    entry(b"PaxHeaders/x", EntryType::XHeader, records.as_bytes())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[parts.concat(), vec![0; 1024]].concat())
}

/// Why a package was refused, on opening or in its checks.
fn refusal(bytes: &[u8]) -> Result<String, String> {
    match open(bytes) {
        Err(failure) => Ok(failure.to_string()),
        Ok(package) => match package.verify(None, &Context::new()) {
            Err(failure) => Ok(failure.to_string()),
            Ok(found) if found.outcome() == Outcome::Damaged => {
                let bad = found.checks.iter().filter(|check| check.outcome == Outcome::Damaged);
                Ok(bad.map(|check| check.detail.clone()).collect::<Vec<_>>().join("; "))
            }
            Ok(found) => Err(format!("taken: {found:?}")),
        },
    }
}

fn refused(bytes: &[u8], reason: &str) {
    let said = refusal(bytes).unwrap_or_else(|taken| panic!("{reason}: {taken}"));
    assert!(said.contains(reason), "wanted `{reason}`, got `{said}`");
    assert!(!said.contains('\0') && !said.contains('\x1b'), "{said:?} must be safe to print");
}

/// Failure 31: path traversal.
#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (name, reason) in [
        ("../evil", "leads out"),
        ("storage/../../evil", "leads out"),
        ("storage/a/..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("storage\\..\\evil", "not portable"),
        ("C:\\evil", "not portable"),
        ("evil.sh", "no part of a package"),
        ("metadata.json/x", "no part of a package"),
        ("database/\u{1b}[31mred", "control characters"),
        ("database/a\nb", "control characters"),
    ] {
        refused(&archive(&[file("metadata.json"), file(name)]), reason);
    }
    let member = entry(b"database/\xff\xfe", EntryType::Regular, b"x");
    refused(&archive(&[file("metadata.json"), member]), "not UTF-8");
    let member = entry(b"", EntryType::Regular, b"x");
    refused(&archive(&[file("metadata.json"), member]), "no name");
}

#[test]
fn links_that_lead_elsewhere_are_refused() {
    for (name, target, reason) in [
        ("storage/media/a", "/etc/passwd", "points out"),
        ("storage/media/a", "../../../etc/passwd", "points out"),
        ("storage/media/a", "../documents", "points out"),
        ("storage/media/a", "b/../../..", "points out"),
        ("storage/media", "/etc", "a link outside of storage/"),
        ("database/raw", "..", "a link outside of storage/"),
        ("metadata.json", "/etc/passwd", "no part of a package"),
    ] {
        refused(&archive(&[file("database/x"), link(name, target)]), reason);
    }
    let through = [link("storage/media/a", "b"), file("storage/media/a/c")];
    refused(&archive(&through), "no folder");
    let through = [file("storage/media/a/c"), link("storage/media/a", "b")];
    refused(&archive(&through), "no folder");
    refused(&archive(&[file("storage/a"), file("storage/a/b")]), "no folder");
}

#[test]
fn members_of_other_kinds_are_refused() {
    for (kind, reason) in [
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "device or a pipe"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::XGlobalHeader, "global PAX"),
        (EntryType::new(b'Z'), "unknown kind"),
    ] {
        refused(&archive(&[entry(b"storage/media/a", kind, b"")]), reason);
    }
    let folder = entry(b"storage/a/", EntryType::Directory, b"content");
    refused(&archive(&[folder]), "unknown kind");
}

#[test]
fn twins_are_refused() {
    refused(&archive(&[file("storage/a"), file("storage/a")]), "same name");
    refused(&archive(&[file("storage/a"), file("./storage//a")]), "same name");
    let twin = [pax("18 path=storage/a\n"), file("storage/b")];
    refused(&archive(&[vec![file("storage/a")], twin.to_vec()].concat()), "same name");
    refused(&archive(&[file("storage/a"), link("storage/a", "b")]), "same name");
}

#[test]
fn headers_that_override_are_held_to_the_same_rules() {
    refused(&archive(&[pax("16 path=../evil\n"), file("storage/a")]), "leads out");
    refused(&archive(&[pax("21 GNU.sparse.major=1\n"), file("storage/a")]), "cannot be read");
    refused(&archive(&[pax("22 GNU.sparse.major=1\n"), file("storage/a")]), "not one of ustar's");
    refused(
        &archive(&[pax("30 SCHILY.xattr.user.evil=yes\n"), file("storage/a")]),
        "not one of ustar's",
    );
    refused(&archive(&[pax("99999999999 path=a\n"), file("storage/a")]), "cannot be read");
    refused(&archive(&[pax("nonsense"), file("storage/a")]), "cannot be read");
    refused(&archive(&[pax("12 size=-1x\n"), file("storage/a")]), "size is no number");
    let long = entry(b"././@LongLink", EntryType::GNULongName, b"../evil\0");
    refused(&archive(&[long, file("storage/a")]), "leads out");
    let long = entry(b"././@LongLink", EntryType::GNULongLink, b"/etc/passwd\0");
    refused(&archive(&[long, link("storage/media/a", "b")]), "points out");
    let huge = header(b"././@LongLink", EntryType::GNULongName, 1 << 40).as_bytes().to_vec();
    refused(&gzip(&huge), "a header of 1099511627776 bytes");
    refused(&archive(&[pax("25 size=9223372036854775807\n"), file("storage/a")]), "cannot be read");
    refused(
        &archive(&[pax("28 size=9223372036854775807\n"), file("storage/a")]),
        "ends in the middle",
    );
}

/// Failure 6: truncated and empty dumps were kept as backups.
#[test]
fn what_is_cut_or_bent_is_refused_wherever_it_is_cut() {
    let plain = [file("metadata.json"), file("storage/documents/a"), vec![0; 1024]].concat();
    for end in [512, 700, 1024, 1536, 2000, 2048] {
        let said = refusal(&gzip(&plain[..end])).unwrap();
        assert!(
            said.contains("ends in the middle") || said.contains("cannot be read"),
            "{end}: {said}"
        );
    }
    let whole = gzip(&plain);
    for end in 0..whole.len() {
        assert!(refusal(&whole[..end]).is_ok(), "cut at {end}");
    }
    let mut bent = plain.clone();
    bent[600] ^= 1;
    assert!(refusal(&gzip(&bent)).is_ok(), "metadata is not JSON");
    let mut bent = plain.clone();
    bent[1030] ^= 1;
    refused(&gzip(&bent), "checksum is wrong");
    let mut more = plain.clone();
    more.extend_from_slice(&file("storage/hidden"));
    refused(&gzip(&more), "something after its end");
    refused(&gzip(&[plain, vec![0; 2 << 20]].concat()), "something after its end");
    refused(b"", "is empty");
    refused(b"PK\x03\x04\0", "no package");
    refused(&gzip(b"hello"), "other text at byte 0");
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(header(b"storage/bomb", EntryType::Regular, 8 << 30).as_bytes()).unwrap();
    for _ in 0..512 {
        out.write_all(&vec![0; 1 << 18]).unwrap();
    }
    let bomb = out.finish().unwrap();
    refused(&bomb, "unpack to");
    let many: Vec<Vec<u8>> = vec![pax("12 mtime=1.5\n"); 3];
    refused(&archive(&[many.concat(), file("../x")]), "cannot be read");
}

/// Failure 3: a "full" backup held column counts, no rows. Failure 7: warnings preceded the JSON.
#[test]
fn fixtures_that_are_none_are_refused() {
    let with = |json: &str| {
        archive(&[entry(b"database/database_backup.json", EntryType::Regular, json.as_bytes())])
    };
    for (json, reason) in [
        ("", "is empty"),
        ("null", "other text at byte 0"),
        ("RuntimeWarning: MASTER_KEY=abc\n[]", "other text at byte 0"),
        ("[{\"model\": \"a.b\"", "in the middle"),
        ("[{\"model\": \"a.b\", \"pk\": 1}]", "not a record"),
        ("[{\"model\": 7, \"pk\": 1, \"fields\": {}}]", "not a record"),
        ("[{\"model\": \"a.b\", \"pk\": 1, \"fields\": []}]", "not a record"),
        ("[[]]", "instead of a record"),
        (r#"{"backup_type": "edms_metadata", "tables": {}}"#, "holds table statistics, no rows"),
        (r#"{"backup_type": "django_native_database"}"#, "holds table statistics, no rows"),
    ] {
        refused(&with(json), reason);
    }
    refused(&with(&format!("[{}", "{\"a\":[".repeat(100_000))), "nested too deeply");
    refused(&RECORD.as_bytes()[..20], "in the middle");
    refused(&gzip(&RECORD.as_bytes()[..20]), "in the middle");
}

/// Failure 33: file checksums were never verified. Failure 10: fewer records came than had gone.
#[test]
fn sums_and_counts_that_lie_are_refused() {
    let fixture = || entry(b"database/database_backup.json", EntryType::Regular, RECORD.as_bytes());
    let sums = format!("{}  database_backup.json\n", "0".repeat(64));
    let sums = entry(b"database/checksum.txt", EntryType::Regular, sums.as_bytes());
    refused(&archive(&[fixture(), sums]), "another checksum");
    let counts =
        entry(b"database/backup_metadata.json", EntryType::Regular, br#"{"total_records": 515}"#);
    refused(&archive(&[fixture(), counts]), "1 records, not 515");
    let counts = entry(
        b"database/backup_metadata.json",
        EntryType::Regular,
        br#"{"model_counts": {"a.b": 2}}"#,
    );
    refused(&archive(&[fixture(), counts]), "1 records of a.b, not 2");
    let manifest = br#"{"files": {"documents/a": {"size": 1}}}"#;
    let manifest = entry(b"storage/manifest.json", EntryType::Regular, manifest);
    refused(&archive(&[manifest]), "storage/documents/a is missing");
    let manifest = br#"{"files": {"documents/a": {"size": 1, "checksum": "00"}}}"#;
    let manifest = entry(b"storage/manifest.json", EntryType::Regular, manifest);
    refused(&archive(&[manifest, file("storage/documents/a")]), "another checksum");
}

/// What is no table is told before anything is stored, also of tables that are not in the fixture.
#[test]
fn raw_tables_that_are_none_are_refused() {
    let raw = |from: &'static str, to: &'static str| {
        altered(&move |_, content| {
            let text = String::from_utf8_lossy(content);
            if text.contains(from) {
                *content = text.replacen(from, to, 1).into_bytes();
            }
        })
    };
    refused(&raw("[9,1,10]", "[7,1,10]"), "1 records of auth_group_permissions have the key");
    refused(&raw("[9,1,10]", "[9,1,10]x"), "record 1 of auth_group_permissions cannot be read");
    refused(&raw("[9,1,10]", "[9,1]"), "record 1 of auth_group_permissions cannot be read");
}

#[test]
fn packages_of_others_are_read_whatever_folder_they_are_in() {
    let fixture = |folder: &str| {
        let name = format!("{folder}database/database_backup.json");
        entry(name.as_bytes(), EntryType::Regular, RECORD.as_bytes())
    };
    for folder in ["", "./", "edms_migration_20260104/", "./tmp_17/"] {
        let package =
            open(&archive(&[fixture(folder), file(&format!("{folder}storage/media/a"))])).unwrap();
        assert_eq!(package.archived.members.len(), 2, "{folder}");
        assert_eq!(package.fixture().unwrap().next_record().unwrap().unwrap().0, 1);
    }
    for bare in [
        RECORD.as_bytes().to_vec(),
        gzip(RECORD.as_bytes()),
        RECORD.as_bytes()[1..RECORD.len() - 1].to_vec(),
    ] {
        assert!(open(&bare).unwrap().fixture().unwrap().next_record().unwrap().is_some());
    }
}

/// EDMS lists files that it did not pack, says that it has components that it has not, counts
/// wrong, and forgets its manifest. None of that is the data, and all that can be told is told.
#[test]
fn the_mistakes_of_edms_are_known_and_told() {
    let member =
        |name: &str, text: &str| entry(name.as_bytes(), EntryType::Regular, text.as_bytes());
    let sum = crate::id::hex(&Sha256::digest(RECORD));
    let sums = format!("{sum}  database_backup.json\n{sum}  /tmp/tmp_x/database/database.dump\n");
    let metadata = r#"{"export_type": "migration_package", "edms_version": "1.0.0",
        "components": {"database": true, "storage": true, "configuration": true},
        "files_backed_up": 500}"#;
    let parts = [
        member("./metadata.json", metadata),
        member("./database/database_backup.json", RECORD),
        member("./database/checksum.txt", &sums),
        member("./database/backup_metadata.json", r#"{"backup_type": "django_complete_data"}"#),
        member("./storage/documents/x.pdf", "x"),
        member("./storage/media/y.png", "y"),
    ];
    let package = open(&archive(&parts)).unwrap();
    let found = package.verify(None, &Context::new()).unwrap();
    let told = |check: &str| -> Vec<_> {
        let told = found.checks.iter().filter(|told| told.check == check);
        told.map(|told| (told.outcome, told.detail.as_str())).collect()
    };
    assert_eq!(found.outcome(), Outcome::Warning, "{found:?}");
    let absent = "database//tmp/tmp_x/database/database.dump is listed and not there";
    assert_eq!(
        told("checksum.txt"),
        [(Outcome::Ok, "1 checksums are right"), (Outcome::Warning, absent)]
    );
    assert_eq!(told("storage/manifest.json"), [(Outcome::NotChecked, "there is none")]);
    let inspected = package.inspect(&Context::new()).unwrap();
    assert_eq!((inspected.files, inspected.total_records), (2, 1));
    assert!(inspected.configuration.is_empty());
}

/// What EDMS's second method packs: a dump, and the uploads in an archive within the archive.
fn hybrid(folder: &str, dump: &[u8], uploads: &[u8]) -> Vec<u8> {
    let name = |name: &str| format!("{folder}{name}").into_bytes();
    archive(&[
        entry(&name("database.dump"), EntryType::Regular, dump),
        entry(&name("storage.tar.gz"), EntryType::Regular, uploads),
        entry(&name("manifest.json"), EntryType::Regular, b"{}"),
        entry(&name(".env"), EntryType::Regular, b"DEBUG=0"),
    ])
}

/// Failure 32: a folder around everything made the uploads vanish, and nobody was told.
#[test]
fn failure_32_packages_of_the_second_method_keep_their_uploads() {
    let below = archive(&[file("storage/documents/a"), file("storage/b")]);
    let bare = archive(&[file("./documents/a"), file("./b"), link("./documents/l", "a")]);
    for (folder, uploads) in [("", &below), ("tmp_20260104_080000/", &bare), ("./x/", &below)] {
        let package = open(&hybrid(folder, b"PGDMP...", uploads)).unwrap();
        for name in ["storage/documents/a", "storage/b", "configuration/.env"] {
            assert!(package.archived.file(name).is_some(), "{folder}{name}");
        }
        assert!(package.dump().is_some());
        let found = package.verify(None, &Context::new()).unwrap();
        assert!(found.outcome() < Outcome::Damaged, "{found:?}");
        let seen = seen_by_capture(package.into_sources(None, &Context::new()).unwrap());
        let seen = seen.iter().map(|seen| String::from_utf8_lossy(seen)).collect::<String>();
        for name in ["database.dump", "manifest.json", ".env"] {
            assert!(seen.contains(name), "{name} in {seen}");
        }
    }
}

#[test]
fn packages_of_the_second_method_are_held_to_the_same_rules() {
    let good = archive(&[file("storage/documents/a")]);
    refused(&hybrid("", b"-- PostgreSQL database dump", &good), "no pg_dump archive");
    refused(&hybrid("", b"PGDMP", b"x"), "no tar.gz");
    for (uploads, reason) in [
        (archive(&[file("../evil")]), "leads out"),
        (archive(&[file("storage/../../evil")]), "leads out"),
        (archive(&[link("storage/media/a", "/etc/passwd")]), "points out"),
        (archive(&[link("documents", "/etc")]), "a link outside"),
        (archive(&[file("storage/a"), file("storage/a/b")]), "no folder"),
        (archive(&[file("storage/a"), file("storage/a")]), "same name"),
        (good[..good.len() - 6].to_vec(), "ends in the middle"),
    ] {
        refused(&hybrid("t/", b"PGDMP", &uploads), reason);
    }
    let mut zeros = GzEncoder::new(Vec::new(), Compression::best());
    zeros.write_all(header(b"storage/bomb", EntryType::Regular, 8 << 30).as_bytes()).unwrap();
    for _ in 0..512 {
        zeros.write_all(&vec![0; 1 << 18]).unwrap();
    }
    refused(&hybrid("", b"PGDMP", &zeros.finish().unwrap()), "unpack to");
    // A second one is none of the package's parts.
    let twice = archive(&[file("database.dump"), file("storage.tar.gz.gz")]);
    refused(&twice, "no part of a package");
}

/// The wrong file was loaded because its name contains "db".
#[test]
fn failure_30_only_the_fixture_is_taken_for_it() {
    let names = [
        "database/db.json",
        "database/old/database_backup.json",
        "storage/database_backup.json",
        "storage/media/db_backup.json",
        "configuration/database.json",
        "database/a.json",
    ];
    let named = |name: &&str| entry(name.as_bytes(), EntryType::Regular, RECORD.as_bytes());
    let package = open(&archive(&names.iter().map(named).collect::<Vec<_>>())).unwrap();
    assert!(package.fixture().is_none());
    assert!(package.dump().is_none());
}

/// Absolute restore locations were trusted.
#[test]
fn failure_34_a_package_does_not_say_where_its_files_go() {
    let manifest = |location: &str| {
        let json = format!(
            r#"{{"config_files": [{{"original_path": "/etc/x", "backup_name": "x", "size": 1,
               "contains_secrets": false, "restore_location": "{location}",
               "checksum": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}}]}}"#
        );
        let manifest =
            entry(b"configuration/config_manifest.json", EntryType::Regular, json.as_bytes());
        open(&archive(&[file("configuration/x"), manifest])).unwrap()
    };
    for (location, warned) in [("x", false), ("/etc/passwd", true), ("../../etc/passwd", true)] {
        let package = manifest(location);
        let outcome = package.verify(None, &Context::new()).unwrap().outcome();
        assert_eq!(outcome >= Outcome::Warning, warned, "{location}");
        // Where it says it belongs is not what it is called.
        let seen = seen_by_capture(package.into_sources(None, &Context::new()).unwrap());
        let seen = seen.iter().map(|seen| String::from_utf8_lossy(seen)).collect::<String>();
        assert!(!seen.contains("passwd"), "{seen}");
    }
}

#[test]
fn two_headers_that_contradict_each_other_are_refused() {
    let long = |name: &[u8]| entry(b"././@LongLink", EntryType::GNULongName, name);
    for headers in [
        vec![pax("18 path=storage/a\n"), pax("18 path=storage/b\n")],
        vec![pax("18 path=storage/a\n"), long(b"storage/b\0")],
        vec![long(b"storage/a\0"), pax("18 path=storage/b\n")],
        vec![long(b"storage/a\0"), long(b"storage/b\0")],
    ] {
        refused(&archive(&[headers.concat(), file("storage/c")]), "two headers");
    }
    // GNU tar itself writes one for the link and one for the name.
    let target = entry(b"././@LongLink", EntryType::GNULongLink, b"b\0");
    let both = [target, long(b"storage/media/a\0"), link("storage/media/x", "y")];
    let package = open(&archive(&both)).unwrap();
    assert!(package.archived.members.contains_key("storage/media/a"));
    // A size of a PAX header is the next member's, not the next header's.
    let sized = [pax("9 size=1\n"), file("storage/documents/a")];
    assert!(open(&archive(&sized)).is_ok());
}

#[test]
fn names_that_some_file_systems_take_for_one_are_refused_where_it_matters() {
    for (one, other) in [
        ("database/database_backup.json", "database/Database_Backup.json"),
        ("scripts/restore.sh", "scripts/RESTORE.SH"),
        ("configuration/caf\u{e9}", "configuration/cafe\u{301}"),
        ("configuration/a", "configuration/\u{ff21}"),
    ] {
        refused(&archive(&[file(one), file(other)]), "some file systems");
    }
    // What users call their uploads is the application's business; who imports is told.
    let package = open(&archive(&[file("storage/media/a"), file("storage/media/A")])).unwrap();
    let found = package.verify(None, &Context::new()).unwrap();
    assert_eq!(found.outcome(), Outcome::Warning);
}

/// The package, uncompressed.
static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut plain = Vec::new();
    let package = packed(&edms(), SecretsPolicy::Plaintext);
    GzDecoder::new(&package[..]).read_to_end(&mut plain).unwrap();
    plain
});

/// Opens it and does all that can be done with a package.
fn tried(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(package) = open(bytes) else { return Ok(()) };
    drop(package.inspect(&Context::new()));
    let verified = package.verify(None, &Context::new());
    let good = verified.is_ok_and(|found| found.outcome() < Outcome::Damaged);
    if let Ok(sources) = package.into_sources(None, &Context::new()) {
        prop_assert!(good);
        seen_by_capture(sources);
    }
    Ok(())
}

/// Where texts, numbers and words of JSON are.
fn scalars(json: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < json.len() {
        let start = at;
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        at += match json[at] {
            b'"' => {
                let end = json[at + 1..].iter().position(|byte| *byte == b'"');
                end.map_or(1, |end| end + 2)
            }
            byte if is_word(&byte) => json[at..].iter().take_while(|byte| is_word(byte)).count(),
            _ => {
                at += 1;
                continue;
            }
        };
        found.push(start..at);
    }
    found
}

/// The package with this member's content made another, and all that is listed of it made true.
fn altered(alter: &dyn Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
    let mut archive = tar::Archive::new(&PLAIN[..]);
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, header) = (entry.path().unwrap().into_owned(), entry.header().clone());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.push((name, header, content));
    }
    members.retain(|(name, ..)| !name.ends_with("checksum.txt"));
    let mut metadata: serde_json::Value = serde_json::from_slice(&members[0].2).unwrap();
    let listed = metadata["coeval"]["members"].as_object_mut().unwrap();
    listed.remove("database/checksum.txt");
    for (index, (name, _, content)) in members.iter_mut().enumerate().skip(1) {
        alter(index, content);
        if let Some(listed) = listed.get_mut(name.to_str().unwrap()) {
            listed["size"] = content.len().into();
            listed["sha256"] = crate::id::hex(&Sha256::digest(&content)).into();
        }
    }
    members[0].2 = serde_json::to_vec(&metadata).unwrap();
    let (_, _, content) = &mut members[0];
    alter(0, content);
    let mut out = tar::Builder::new(Vec::new());
    for (name, mut header, content) in members {
        header.set_size(content.len() as u64);
        match header.link_name().unwrap().map(std::borrow::Cow::into_owned) {
            Some(target) if header.entry_type() == EntryType::Symlink => {
                out.append_link(&mut header, name, target).unwrap();
            }
            _ => out.append_data(&mut header, name, &content[..]).unwrap(),
        }
    }
    out.into_inner().unwrap()
}

/// What stands in place of a text or a number.
const OTHERS: [&str; 20] = [
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "9223372036854775808",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "[\"a\"]",
    "[null, null]",
    "\"\\u0000\"",
    "\"-1\"",
    "\"infinity\"",
    "\"\\ud800\"",
    "\"..\"",
    "\"id\"",
    "{\"id\": 1}",
];

/// Else what is bent and believed would be refused for its checksums.
#[test]
fn a_package_whose_checksums_were_made_anew_is_believed() {
    let package = open(&altered(&|_, _| {})).unwrap();
    let found = package.verify(None, &Context::new()).unwrap();
    assert!(found.outcome() < Outcome::Damaged, "{found:?}");
    let fixture = b"\"o'hara\"";
    let changed = altered(&|_, content| {
        if let Some(at) = content.windows(fixture.len()).position(|here| here == fixture) {
            content[at + 1] = b'O';
        }
    });
    let seen =
        seen_by_capture(open(&changed).unwrap().into_sources(None, &Context::new()).unwrap());
    assert!(seen.iter().any(|row| String::from_utf8_lossy(row).contains("\"O'hara\"")));
}

proptest! {
    // PROPTEST_CASES=400000 gives a hundred thousand.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    /// What fuzz/ does for hours: whatever is changed in a package, it is read or refused, and what
    /// was verified can be captured.
    #[test]
    fn whatever_is_bent_is_refused_or_read(
        bends in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = PLAIN.clone();
        for (at, byte) in bends {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Half of them whole.
        let end = end.index(2 * bytes.len());
        bytes.truncate(end);
        tried(&bytes)?;
    }

    /// The same where the sender made every checksum anew, so that what is bent is believed.
    #[test]
    fn whatever_is_bent_and_believed_is_refused_or_read(
        bends in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..40_usize), 1..4),
        member in any::<prop::sample::Index>(),
    ) {
        let wanted = ["metadata.json", "database/", "storage/manifest", "configuration/config"];
        let mut archive = tar::Archive::new(&PLAIN[..]);
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let names: Vec<_> = names.filter(|name| !name.ends_with("checksum.txt")).collect();
        let told: Vec<_> = (0..names.len())
            .filter(|at| wanted.iter().any(|start| names[*at].starts_with(start)))
            .collect();
        let member = told[member.index(told.len())];
        let bytes = altered(&|index, content| {
            if index != member {
                return;
            }
            for (at, from, what) in &bends {
                let places = scalars(content);
                if places.is_empty() {
                    continue;
                }
                let place = places[at.index(places.len())].clone();
                let other = places[from.index(places.len())].clone();
                let new = match OTHERS.get(*what) {
                    Some(other) => other.as_bytes().to_vec(),
                    None if *what < 35 => content[other].to_vec(),
                    None => Vec::new(),
                };
                content.splice(place, new);
            }
        });
        tried(&bytes)?;
    }
}
