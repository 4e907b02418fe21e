//! A small application in memory, to export in tests: users with groups, documents with every
//! kind of column, a workflow with a text key, a table without a model, one without a key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::contents::{Contents, Facts, SourceFacts};
use crate::hint::Failure;
use crate::source::record::{
    Column, DatabaseHeader, Engine, Field, ForeignKey, KeyKind, RowReader, Schema, TableHeader,
};
use crate::source::sort::{Duplicates, Sorter, push_keyless};
use crate::source::{Delta, Entry, EntryKind, Kind, Source, TreeInfo, key, key_of};
use crate::time::Timestamp;
use crate::tree::{Change, Changes, Content};

/// Keys and rows.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;
/// Keys, what they are, contents.
type Files = Vec<(Vec<u8>, Entry, Vec<u8>)>;

/// Tables and files, all in memory.
#[derive(Debug, Default)]
pub struct Sample {
    pub facts: Facts,
    pub tables: BTreeMap<String, (TreeInfo, Rows)>,
    pub files: BTreeMap<(Kind, String), Files>,
    pub introspection: Option<String>,
}

impl Contents for Sample {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn tables(&self, _database: &str) -> Result<Vec<TreeInfo>, Failure> {
        Ok(self.tables.values().map(|(info, _)| info.clone()).collect())
    }

    fn records<'a>(&'a self, _database: &str, table: &str) -> Result<Changes<'a>, Failure> {
        let rows = self.tables[table].1.iter();
        Ok(Box::new(
            rows.map(|(k, row)| Ok(Change::put(k.clone(), [], Content::Inline(row.clone())))),
        ))
    }

    fn files<'a>(&'a self, kind: Kind, name: &str) -> Result<Changes<'a>, Failure> {
        let files = self.files.get(&(kind, name.to_owned())).map(Vec::as_slice).unwrap_or_default();
        Ok(Box::new(files.iter().map(|(key, entry, bytes)| {
            let content = Content::Reader(Box::new(std::io::Cursor::new(bytes.clone())));
            Ok(Change::put(key.clone(), entry.encode(), content))
        })))
    }

    fn introspection(&self, _database: &str) -> Result<Option<String>, Failure> {
        Ok(self.introspection.clone())
    }
}

pub fn column(name: &str, declared: &str) -> Column {
    let plain = match declared {
        "bigint" | "integer" => "int8",
        "boolean" => "bool",
        other => other,
    };
    Column {
        name: name.to_owned(),
        declared_type: declared.to_owned(),
        type_oid_name: plain.to_owned(),
        typmod: -1,
        not_null: false,
        collation: None,
        identity: if name == "id" { "d".to_owned() } else { String::new() },
        generated: false,
        default: None,
    }
}

impl Sample {
    /// Adds a table; `references` are (column, table, column of it), `rows` JSON arrays.
    pub fn table(
        &mut self,
        name: &str,
        columns: &[(&str, &str)],
        key: &[&str],
        references: &[(&str, &str, &str)],
        rows: &[Value],
    ) {
        let header = TableHeader {
            version: 1,
            schema: "public".to_owned(),
            table: name.to_owned(),
            columns: columns.iter().map(|(name, declared)| column(name, declared)).collect(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            key_kind: if key.is_empty() { KeyKind::Hash } else { KeyKind::Primary },
            foreign_keys: references
                .iter()
                .map(|(column, table, of)| ForeignKey {
                    name: format!("{name}_{column}_fk"),
                    columns: vec![(*column).to_owned()],
                    ref_schema: "public".to_owned(),
                    ref_table: (*table).to_owned(),
                    ref_columns: vec![(*of).to_owned()],
                    on_delete: "no action".to_owned(),
                    deferrable: true,
                })
                .collect(),
            unique: if references.len() == 2 && columns.len() == 3 {
                vec![references.iter().map(|(column, ..)| (*column).to_owned()).collect()]
            } else {
                Vec::new()
            },
            schema_hash: String::new(),
        }
        .seal();
        let fields = header.key_fields().unwrap();
        let duplicates = if key.is_empty() { Duplicates::Number } else { Duplicates::Refuse };
        let mut sorter = Sorter::new(1 << 20, duplicates);
        for row in rows {
            let row = row.to_string().into_bytes();
            assert!(RowReader::new(&row).all(|field: Result<Field<'_>, _>| field.is_ok()));
            if key.is_empty() {
                push_keyless(&mut sorter, &row).unwrap();
            } else {
                let mut under = Vec::new();
                key::push_of_row(&mut under, &row, &fields).unwrap();
                sorter.push(&under, &row).unwrap();
            }
        }
        let rows = sorter.finish().unwrap().collect::<Result<Vec<_>, _>>().unwrap();
        let info = TreeInfo { name: name.to_owned(), header: header.to_json(), estimate: None };
        self.tables.insert(name.to_owned(), (info, rows));
    }

    pub fn file(&mut self, kind: Kind, source: &str, path: &str, kind_of: EntryKind, bytes: &[u8]) {
        let mode = if kind_of == EntryKind::Directory { 0o2755 } else { 0o640 };
        let mtime = Timestamp::new(1_700_000_000, 123_456_789);
        let entry = Entry::new(kind_of, mode, 1000, 33, mtime);
        let files = self.files.entry((kind, source.to_owned())).or_default();
        files.push((key_of(std::path::Path::new(path)).unwrap(), entry, bytes.to_vec()));
        files.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Everything that a capture of these sources would see: (source, tree, key, head, content).
    pub fn seen(&self) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        for source in &self.facts.sources {
            let label = format!("{:?} {} ", source.kind, source.name).into_bytes();
            seen.push([&label, source.header.as_slice()].concat());
            if source.kind == Kind::Database {
                for (info, rows) in self.tables.values() {
                    seen.push([label.as_slice(), info.name.as_bytes(), &info.header].concat());
                    seen.extend(
                        rows.iter().map(|(key, row)| [&label, key.as_slice(), row].concat()),
                    );
                }
            } else {
                let files = self.files.get(&(source.kind, source.name.clone()));
                seen.extend(files.into_iter().flatten().map(|(key, entry, bytes)| {
                    [&label, key.as_slice(), &entry.encode(), bytes].concat()
                }));
            }
        }
        seen
    }
}

/// What a capture of imported sources sees, as [`Sample::seen`] tells it.
pub fn seen_by_capture(sources: Vec<Box<dyn Source>>) -> Vec<Vec<u8>> {
    let ctx = crate::context::Context::new();
    let mut seen = Vec::new();
    for mut source in sources {
        let label = format!("{:?} {} ", source.kind(), source.name()).into_bytes();
        let description = source.begin(None, &ctx).unwrap();
        seen.push([&label, description.header.as_slice()].concat());
        for tree in &description.trees {
            if source.kind() == Kind::Database {
                seen.push([label.as_slice(), tree.name.as_bytes(), &tree.header].concat());
            }
            let Delta::Everything(changes) = source.changes(tree, None, &ctx).unwrap() else {
                panic!("a package has no parent");
            };
            let mut last = None;
            for change in changes {
                let change = change.unwrap();
                assert!(last.as_ref().is_none_or(|last| *last < change.key), "keys must ascend");
                last = Some(change.key.clone());
                let head = change.value.as_ref().unwrap().head.clone();
                let (key, bytes) = super::fixture::write::record_of(change).unwrap();
                seen.push([&label, key.as_slice(), &head, &bytes].concat());
            }
        }
        source.end().unwrap();
    }
    seen
}

/// The application.
#[expect(clippy::too_many_lines, reason = "it is data")]
pub fn edms() -> Sample {
    let mut sample = Sample::default();
    let id = ("id", "bigint");
    sample.table(
        "django_content_type",
        &[id, ("app_label", "character varying(100)"), ("model", "character varying(100)")],
        &["id"],
        &[],
        &[
            json!([1, "contenttypes", "contenttype"]),
            json!([2, "auth", "permission"]),
            json!([3, "auth", "group"]),
            json!([4, "accounts", "user"]),
            json!([5, "documents", "document"]),
            json!([6, "documents", "state"]),
            json!([7, "sessions", "session"]),
            json!([8, "documents", "contract"]),
        ],
    );
    sample.table(
        "auth_permission",
        &[id, ("name", "text"), ("content_type_id", "bigint"), ("codename", "text")],
        &["id"],
        &[("content_type_id", "django_content_type", "id")],
        &[
            json!([10, "Can add user", 4, "add_user"]),
            json!([11, "Can see \"it\"", 5, "view_document"]),
        ],
    );
    sample.table(
        "auth_group",
        &[id, ("name", "text")],
        &["id"],
        &[],
        &[json!([1, "Authors"]), json!([2, "Редакторы"])],
    );
    sample.table(
        "auth_group_permissions",
        &[id, ("group_id", "bigint"), ("permission_id", "bigint")],
        &["id"],
        &[("group_id", "auth_group", "id"), ("permission_id", "auth_permission", "id")],
        &[json!([7, 1, 11]), json!([9, 1, 10])],
    );
    sample.table(
        "users",
        &[
            id,
            ("username", "text"),
            ("manager_id", "bigint"),
            ("is_active", "boolean"),
            ("joined", "timestamp with time zone"),
            ("patronymic", "text"),
        ],
        &["id"],
        &[("manager_id", "users", "id")],
        &[
            json!([1, "admin", null, true, "2024-01-02 03:04:05.123456+00", ""]),
            json!([2, "o'hara", 1, false, "2024-06-30 22:00:00+00", null]),
            json!([10, "late", 2, true, "infinity", "x"]),
        ],
    );
    sample.table(
        "users_groups",
        &[id, ("user_id", "bigint"), ("group_id", "bigint")],
        &["id"],
        &[("user_id", "users", "id"), ("group_id", "auth_group", "id")],
        &[json!([1, 10, 2]), json!([2, 1, 2]), json!([3, 1, 1]), json!([4, 10, 1])],
    );
    sample.table(
        "documents_state",
        &[("code", "character varying(30)"), ("final", "boolean")],
        &["code"],
        &[],
        &[json!(["draft", false]), json!(["EFFECTIVE", true])],
    );
    sample.table(
        "documents_document",
        &[
            id,
            ("uuid", "uuid"),
            ("state_id", "character varying(30)"),
            ("author_id", "bigint"),
            ("file", "text"),
            ("cost", "numeric(15,6)"),
            ("meta", "jsonb"),
            ("keep_for", "interval"),
            ("digest", "bytea"),
            ("tags", "text[]"),
            ("span", "tstzrange"),
            ("attrs", "public.hstore"),
            ("score", "double precision"),
            ("kind_id", "bigint"),
        ],
        &["id"],
        &[
            ("state_id", "documents_state", "code"),
            ("author_id", "users", "id"),
            ("kind_id", "django_content_type", "id"),
        ],
        &[
            json!([
                1,
                "6b1f0a3e-3b1c-4a57-9d9e-0123456789ab",
                "draft",
                1,
                "documents/a.txt",
                "1.500000",
                "{\"a\": 1.0, \"b\": [null]}",
                "-1 days +00:00:03.000007",
                "\\xdeadbeef",
                "{a,\"b c\",NULL}",
                "[\"2024-01-02 03:04:05+00\",)",
                "\"k\"=>\"v\"",
                "0.1",
                5
            ]),
            json!([
                2,
                "6b1f0a3e-3b1c-4a57-9d9e-0123456789ac",
                "EFFECTIVE",
                2,
                "documents/b.txt",
                "NaN",
                "null",
                "2 mons",
                "\\x",
                "{}",
                "empty",
                "",
                "NaN",
                null
            ]),
        ],
    );
    sample.table(
        "documents_contract",
        &[("document_ptr_id", "bigint"), ("amount", "numeric")],
        &["document_ptr_id"],
        &[("document_ptr_id", "documents_document", "id")],
        &[json!([2, "12.50"])],
    );
    sample.table(
        "django_session",
        &[("session_key", "text"), ("session_data", "text")],
        &["session_key"],
        &[],
        &[json!(["abcdefghijklmnop", "secret-session"])],
    );
    sample.table("django_migrations", &[id, ("app", "text")], &["id"], &[], &[json!([1, "auth"])]);
    sample.table(
        "measurements",
        &[("at", "text"), ("value", "numeric")],
        &[],
        &[],
        &[json!(["a", "1"]), json!(["a", "1"]), json!(["b", "2"])],
    );
    let header = DatabaseHeader {
        version: 1,
        engine: Engine::Postgresql,
        server_version: "15.18".to_owned(),
        database: "edms".to_owned(),
        encoding: "UTF8".to_owned(),
        schema: Schema::PgDump {
            pre_data: "CREATE TABLE x ();".to_owned(),
            post_data: String::new(),
        },
        schema_hash: "00".to_owned(),
        extensions: Vec::new(),
        sequences: Vec::new(),
        excluded_tables: Vec::new(),
        large_objects: false,
    };
    for folder in ["documents", "media"] {
        sample.file(Kind::Storage, folder, "", EntryKind::Directory, b"");
    }
    sample.file(Kind::Storage, "documents", "a.txt", EntryKind::File, b"first");
    sample.file(Kind::Storage, "documents", "b.txt", EntryKind::File, b"second");
    sample.file(
        Kind::Storage,
        "documents",
        "latest",
        EntryKind::Symlink { target: b"b.txt".to_vec() },
        b"",
    );
    let long = format!("{}/{}", "f".repeat(120), "é".repeat(100));
    sample.file(Kind::Storage, "media", &"f".repeat(120), EntryKind::Directory, b"");
    sample.file(Kind::Storage, "media", &long, EntryKind::File, &vec![7; 100_000]);
    sample.file(
        Kind::Configuration,
        "files",
        ".env",
        EntryKind::File,
        b"DEBUG=False\nSECRET_KEY=top-secret-value\n",
    );
    sample.file(
        Kind::Configuration,
        "files",
        "edms/settings.py",
        EntryKind::File,
        b"DEBUG = False\n",
    );
    let source = |kind, name: &str, header: Vec<u8>| SourceFacts {
        kind,
        name: name.to_owned(),
        header,
        root: Some("aa".repeat(32)),
    };
    sample.facts = Facts {
        snapshot: "00112233445566778899aabbccddeeff".to_owned(),
        time: Timestamp::new(1_767_528_000, 0),
        host: "app-1".to_owned(),
        application: "edms".to_owned(),
        root: "bb".repeat(32),
        instant: "proved".to_owned(),
        skipped: Vec::new(),
        sources: vec![
            source(Kind::Database, "main", header.to_json()),
            source(
                Kind::Storage,
                "documents",
                br#"{"storage":{"path":"/srv/documents","options":{}}}"#.to_vec(),
            ),
            source(
                Kind::Storage,
                "media",
                br#"{"storage":{"path":"/srv/media","options":{}}}"#.to_vec(),
            ),
            source(
                Kind::Configuration,
                "files",
                br#"{"configuration":{"base":"/srv/app","patterns":[".env"]}}"#.to_vec(),
            ),
        ],
    };
    sample
}
