//! Fixtures both ways, with stock Django 4.2 and 5.2, SQLite and PostgreSQL, and every kind of
//! field and relation: what coeval exports, `loaddata` loads without loss; what `dumpdata` wrote,
//! coeval imports and restores.
#![expect(clippy::disallowed_methods, reason = "a test writes files as applications do")]

use std::path::Path;

use coeval::export::package::SecretsPolicy;
use coeval::export::package::verify::Outcome;

#[path = "common/django.rs"]
mod django;
#[path = "common/postgres.rs"]
#[allow(dead_code, reason = "each file of tests needs a part of it")]
mod postgres;
use django::{Django, EVERY, Store, differing, unpack};
use postgres::Database;

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// With SQLite besides those whose key is no number: each of their rows has a number that is no
/// column.
const SQLITE_LOSSES: [&str; 7] = [
    "every_book",
    "every_cover",
    "every_genre",
    "every_revised",
    "every_seat",
    "every_translation",
    "legacy",
];

/// A project with every kind of field, and its database.
struct Every {
    django: Django,
    _server: Option<Database>,
}

impl Every {
    fn new(series: &str, engine: Engine, prepare: &[&str]) -> Self {
        let server = (engine == Engine::Postgres).then(Database::empty);
        let url = server.as_ref().map(|server| server.url.clone());
        let django = Django::bare(series, EVERY, url);
        django.manage(&[&["prepare"], prepare].concat());
        Self { django, _server: server }
    }
}

/// Tables that are others after `loaddata`: those that no model maps to, and those of
/// many-to-many fields, whose pairs Django numbers anew in an order of its own.
const LOSSES: [&str; 11] = [
    "auth_group_permissions",
    "auth_user_user_permissions",
    "django_migrations",
    "every_author_follows",
    "every_author_friends",
    "every_book_genres",
    "every_grant_about",
    "every_grant_permissions",
    "genre_of_genre",
    "sqlite_sequence",
    "unmapped",
];

fn out_and_in(series: &str, engine: Engine) {
    let (store, source) = (Store::new(), Every::new(series, engine, &[]));
    source.django.manage(&["fill"]);
    let before = store.capture(source.django.sources());
    let (package, exported) = store.export(before.clone(), SecretsPolicy::Redact);
    let (_, verification) = store.open(&package);
    assert!(verification.outcome() < Outcome::Warning, "{verification:#?}");
    let unpacked = store.folder.path().join("unpacked");
    unpack(&package, &unpacked);
    let fixture = unpacked.join("database/database_backup.json").display().to_string();

    // Into an empty database, and again; into one whose content types have other numbers.
    for prepare in [&[][..], &["--shifted"]] {
        let target = Every::new(series, engine, prepare).django;
        for _ in 0..2 {
            let said = target.manage(&["loaddata", &fixture]);
            assert!(said.contains(&format!("Installed {} object(s)", exported.records)), "{said}");
            let (wanted, got) = (source.django.manage(&["tell"]), target.manage(&["tell"]));
            assert_eq!(wanted.lines().collect::<Vec<_>>(), got.lines().collect::<Vec<_>>());
        }
        if prepare.is_empty() {
            let after = store.capture(target.sources());
            for name in differing(&Store::roots(&before), &Store::roots(&after)) {
                let table = name.rsplit('/').next().unwrap_or_default();
                let lost = engine == Engine::Sqlite && SQLITE_LOSSES.contains(&table);
                assert!(lost || LOSSES.contains(&table), "{table} differs after loaddata");
            }
        }
    }
}

#[test]
fn every_kind_of_field_comes_back_through_stock_django_5_and_sqlite() {
    out_and_in("5.2", Engine::Sqlite);
}

#[test]
fn every_kind_of_field_comes_back_through_stock_django_4_and_sqlite() {
    out_and_in("4.2", Engine::Sqlite);
}

#[test]
fn every_kind_of_field_comes_back_through_stock_django_5_and_postgresql() {
    out_and_in("5.2", Engine::Postgres);
}

#[test]
fn every_kind_of_field_comes_back_through_stock_django_4_and_postgresql() {
    out_and_in("4.2", Engine::Postgres);
}
