use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::context::Context;
use crate::export::contents::SourceFacts;
use crate::export::package::open::{OpenOptions, Package};
use crate::export::package::read::{Extra, Limits};
use crate::export::package::verify::Outcome;
use crate::export::testing::{Sample, edms, seen_by_capture};
use crate::report::Silent;

fn packed(sample: &Sample, secrets: SecretsPolicy) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let options = ExportOptions::new(secrets, folder.path().to_owned());
    let mut out = Vec::new();
    export(sample, &mut out, &options, &Context::new()).unwrap();
    out
}

pub(super) fn open(bytes: &[u8]) -> Result<Package, crate::hint::Failure> {
    let scratch = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        scratch: scratch.path().to_owned(),
        limits: Limits::default(),
        extra: Extra::Refuse,
    };
    let package = Package::open(&mut &bytes[..], &options, &Context::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing may lie about");
    package
}

/// A folder with the package in it, unpacked by tar.
fn unpacked(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("package.tar.gz"), bytes);
    run(folder.path(), "tar", &["-xzf", "package.tar.gz", "--no-same-owner"]);
    folder
}

#[expect(clippy::disallowed_methods, reason = "a file for a test needs not be durable")]
pub(super) fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

mod hostile;
mod sealed;

#[test]
fn an_import_has_what_was_exported() {
    let sample = edms();
    let package = open(&packed(&sample, SecretsPolicy::Plaintext)).unwrap();
    let verification = package.verify(None, &Context::new()).unwrap();
    let warned: Vec<_> =
        verification.checks.iter().filter(|check| check.outcome > Outcome::NotChecked).collect();
    assert_eq!(warned.len(), 1, "{warned:#?}");
    assert_eq!(warned[0].detail, "accounts.user 10: \"infinity\" is no value for the field joined");
    let mut seen = seen_by_capture(package.into_sources(None, &Context::new()).unwrap());
    let mut wanted = sample.seen();
    seen.sort();
    wanted.sort();
    for (seen, wanted) in seen.iter().zip(&wanted) {
        assert_eq!(String::from_utf8_lossy(seen), String::from_utf8_lossy(wanted));
    }
    assert_eq!(seen.len(), wanted.len());
}

#[test]
fn the_same_snapshot_gives_the_same_bytes() {
    assert_eq!(packed(&edms(), SecretsPolicy::Redact), packed(&edms(), SecretsPolicy::Redact));
}

#[test]
fn secrets_and_sessions_stay_at_home_and_are_listed() {
    let bytes = packed(&edms(), SecretsPolicy::Redact);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
    let plain = String::from_utf8_lossy(&plain);
    assert!(!plain.contains("top-secret-value"));
    assert!(!plain.contains("secret-session"));
    assert!(plain.contains("configuration/.env"));
    let package = open(&bytes).unwrap();
    let missing = &package.metadata.coeval.as_ref().unwrap().missing;
    let items: Vec<&str> = missing.iter().map(|missing| missing.item.as_str()).collect();
    assert_eq!(items, ["configuration/.env", "database/django_session"]);
    assert!(package.verify(None, &Context::new()).unwrap().outcome() < Outcome::Damaged);
}

#[test]
fn the_fixture_is_the_hybrid_one() {
    let folder = unpacked(&packed(&edms(), SecretsPolicy::Redact));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let fixture = read("database/database_backup.json");
    let lines: Vec<&str> = fixture.lines().collect();
    assert_eq!(lines[0], "[");
    assert_eq!(
        lines[1],
        r#"{"model": "contenttypes.contenttype", "fields": {"app_label": "contenttypes", "model": "contenttype"}},"#
    );
    assert_eq!(
        lines[9],
        r#"{"model": "auth.permission", "fields": {"name": "Can add user", "content_type": ["accounts", "user"], "codename": "add_user"}},"#
    );
    assert_eq!(
        lines[11],
        r#"{"model": "auth.group", "pk": 1, "fields": {"name": "Authors", "permissions": [["view_document", "documents", "document"], ["add_user", "accounts", "user"]]}},"#
    );
    assert_eq!(
        lines[13],
        r#"{"model": "accounts.user", "pk": 1, "fields": {"username": "admin", "manager": null, "is_active": true, "joined": "2024-01-02T03:04:05.123456Z", "patronymic": "", "groups": [2, 1]}},"#
    );
    assert!(fixture.contains(r#""uuid": "6b1f0a3e-3b1c-4a57-9d9e-0123456789ab", "state": "draft", "author": 1, "file": "documents/a.txt", "cost": "1.500000", "meta": {"a": 1.0, "b": [null]}, "keep_for": "-1 00:00:03.000007", "digest": "3q2+7w==", "tags": "[\"a\", \"b c\", null]", "span": "{\"bounds\": \"[)\", \"lower\": \"2024-01-02T03:04:05Z\", \"upper\": null}", "attrs": "{\"k\": \"v\"}", "score": 0.1, "kind": ["documents", "document"]}"#), "{fixture}");
    assert!(
        fixture
            .contains(r#"{"model": "documents.contract", "pk": 2, "fields": {"amount": "12.50"}}"#)
    );
    assert!(!fixture.contains("session_data"));
    let sql = read("database/restore_instructions.sql");
    assert!(sql.contains("SELECT setval(pg_get_serial_sequence('\"users\"','id'), coalesce(max(\"id\"), 1), max(\"id\") IS NOT null) FROM \"users\";\n"), "{sql}");
    assert!(sql.contains("pg_get_serial_sequence('\"users_groups\"','id')"));
    for raw in ["django_migrations", "measurements", "users_groups", "auth_permission"] {
        assert!(folder.path().join(format!("database/raw/{raw}.ndjson")).exists(), "{raw}");
    }
    assert!(!folder.path().join("database/raw/documents_contract.ndjson").exists());
}

#[test]
fn stock_tools_read_it() {
    let bytes = packed(&edms(), SecretsPolicy::Redact);
    let folder = unpacked(&bytes);
    let names = run(folder.path(), "tar", &["-tf", "package.tar.gz"]);
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(names[0], "metadata.json");
    let tops: Vec<&str> = names[1..].iter().map(|name| name.split('/').next().unwrap()).collect();
    assert!(tops.is_sorted(), "{names:?}");
    run(folder.path(), "gzip", &["-t", "package.tar.gz"]);
    run(&folder.path().join("database"), "sha256sum", &["-c", "checksum.txt"]);
    let python = "import tarfile, json; t = tarfile.open('package.tar.gz'); \
        [t.extractfile(m).read() for m in t if m.isfile()]; \
        assert all(m.uid == 0 and m.uname == 'root' for m in t); \
        json.load(t.extractfile('metadata.json'))['coeval']['members']['storage/manifest.json']";
    run(folder.path(), "python3", &["-c", python]);
    for script in ["scripts/restore.sh", "scripts/verify.sh"] {
        run(folder.path(), "bash", &["-n", script]);
    }
}

#[test]
fn the_packaged_script_finds_what_is_wrong() {
    let folder = unpacked(&packed(&edms(), SecretsPolicy::Redact));
    std::fs::remove_file(folder.path().join("package.tar.gz")).unwrap();
    let said = run(folder.path(), "sh", &["scripts/verify.sh"]);
    assert!(said.contains("records of 7 models"), "{said}");
    let file = folder.path().join("storage/documents/a.txt");
    put(&file, b"other");
    let output =
        Command::new("sh").arg("scripts/verify.sh").current_dir(folder.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("storage/documents/a.txt has another checksum")
    );
}

#[test]
fn a_part_can_be_exported_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let options = ExportOptions {
        only: Some(crate::source::Kind::Storage),
        ..ExportOptions::new(SecretsPolicy::Redact, scratch.path().to_owned())
    };
    let mut out = Vec::new();
    let exported = export(&edms(), &mut out, &options, &Context::new()).unwrap();
    assert_eq!((exported.files, exported.records), (3, 0));
    let package = open(&out).unwrap();
    assert!(package.archived.members.keys().all(|name| !name.starts_with("database/")));
    let ctx = Context { reporter: std::sync::Arc::new(Silent), ..Context::new() };
    assert_eq!(package.into_sources(None, &ctx).unwrap().len(), 2);
}

/// A fixture has no place for a second database, and says so rather than pass over it.
#[test]
fn the_databases_that_a_bare_fixture_leaves_out_are_listed() {
    let mut sample = edms();
    let database = sample.facts.of_kind(crate::source::Kind::Database).next().unwrap().clone();
    for name in ["archive", "events"] {
        sample.facts.sources.push(SourceFacts { name: name.to_owned(), ..database.clone() });
    }
    let scratch = tempfile::tempdir().unwrap();
    let options = ExportOptions {
        only: Some(crate::source::Kind::Database),
        ..ExportOptions::new(SecretsPolicy::Redact, scratch.path().to_owned())
    };
    let exported = export(&sample, &mut Vec::new(), &options, &Context::new()).unwrap();
    let others = exported.missing.iter().filter(|left| left.reason.contains("one database"));
    let others: Vec<&str> = others.map(|left| left.item.as_str()).collect();
    assert_eq!(others, ["database/archive", "database/events"]);
}
