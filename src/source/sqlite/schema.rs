//! What an SQLite file holds besides rows: its objects, columns, keys and settings, read from the
//! file's own catalogue.

use super::SqliteError;
use super::connection::{Answer, Connection};
use crate::source::record::{
    self, Column, DatabaseHeader, Engine, ForeignKey, KeyKind, Schema, Sequence, SqliteObject,
    TableHeader,
};

/// Marks the column of a row that holds the row number of a table whose key is another: it is no
/// column of the table.
pub(super) const ROWID: &str = "rowid";
/// Marks an object that is a setting of the file.
const PRAGMA: &str = "pragma";
/// Settings that are restored with the rows, then those that only a new file can be given.
const SETTINGS: [&str; 5] =
    ["user_version", "application_id", "journal_mode", "page_size", "auto_vacuum"];

/// A table as its rows are read and written.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// The name of its tree.
    pub(super) tree: String,
    pub(super) header: TableHeader,
    /// Whether the file can give the rows in the order of the tree.
    pub(super) ordered: bool,
}

impl Table {
    /// The name that the row number goes by in this table, unless its columns hide it.
    pub(super) fn rowid(&self) -> Option<&'static str> {
        rowid_name(&self.header.columns)
    }

    /// The quoted columns whose values make the key.
    pub(super) fn key_columns(&self) -> Vec<String> {
        match self.header.key_kind {
            KeyKind::Primary => self.header.key.iter().map(|name| quote(name)).collect(),
            _ => self.rowid().map(str::to_owned).into_iter().collect(),
        }
    }

    /// The quoted columns that a row has fields for.
    pub(super) fn columns(&self) -> Vec<String> {
        let name = |column: &Column| {
            if column.type_oid_name == ROWID { column.name.clone() } else { quote(&column.name) }
        };
        self.header.stored_columns().map(name).collect()
    }

    /// Whether rows end with the row number, which is no column.
    pub(super) fn has_rowid_field(&self) -> bool {
        self.header.columns.last().is_some_and(|column| column.type_oid_name == ROWID)
    }
}

/// Everything about the file that is not rows.
pub(super) struct Catalog {
    pub(super) header: DatabaseHeader,
    pub(super) tables: Vec<Table>,
    /// Tables that cannot be captured, with the reason.
    pub(super) hidden: Vec<(String, &'static str)>,
}

/// A name as an SQL identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The objects of a schema that are not settings.
pub(super) fn objects(header: &DatabaseHeader) -> impl Iterator<Item = &SqliteObject> {
    let objects: &[SqliteObject] = match &header.schema {
        Schema::SqliteMaster { objects } => objects,
        _ => &[],
    };
    objects.iter().filter(|object| object.kind != PRAGMA)
}

/// A setting that the header holds.
pub(super) fn setting<'a>(header: &'a DatabaseHeader, name: &str) -> Option<&'a str> {
    let Schema::SqliteMaster { objects } = &header.schema else { return None };
    objects.iter().find(|o| o.kind == PRAGMA && o.name == name).map(|o| o.sql.as_str())
}

/// Reads the catalogue.
pub(super) fn read(
    db: &mut Connection,
    file: &str,
    excluded: &[String],
) -> Result<Catalog, SqliteError> {
    let one = |db: &mut Connection, sql: &str| -> Result<String, SqliteError> {
        Ok(db.rows(sql, &[])?.first().map_or_else(String::new, |row| row.text(0)))
    };
    let encoding = one(db, "PRAGMA encoding")?;
    let mut objects = read_objects(db)?;
    let (mut tables, mut hidden) = (Vec::new(), Vec::new());
    // Shadow tables hold the content of virtual tables such as full-text indexes.
    let listed = db.rows(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' \
         AND type IN ('table', 'shadow') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        &[],
    )?;
    let mut excluded_tables = Vec::new();
    for row in listed {
        let name = row.text(0);
        let tree = record::tree_name("main", &name, "main");
        if excluded.contains(&name) {
            excluded_tables.push(tree);
            continue;
        }
        match read_table(db, &row, &encoding)? {
            Some(table) => tables.push(table),
            None => hidden.push((tree, "its columns hide the row number: rename one of them")),
        }
    }
    tables.sort_by(|a, b| a.tree.cmp(&b.tree));
    let schema_hash = record::hash_json(&objects);
    objects.extend(read_settings(db)?);
    let header = DatabaseHeader {
        version: record::VERSION,
        engine: Engine::Sqlite,
        server_version: one(db, "SELECT sqlite_version()")?,
        database: file.to_owned(),
        encoding,
        schema: Schema::SqliteMaster { objects },
        schema_hash,
        extensions: Vec::new(),
        sequences: read_sequences(db)?,
        excluded_tables,
        large_objects: false,
    };
    Ok(Catalog { header, tables, hidden })
}

/// The objects of the file: tables first, as every restore must make them; otherwise in the order
/// of their creation.
pub(super) fn read_objects(db: &mut Connection) -> Result<Vec<SqliteObject>, SqliteError> {
    let rows = db.rows(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type <> 'table', rowid",
        &[],
    )?;
    let object = |row: Answer| SqliteObject {
        kind: row.text(0),
        name: row.text(1),
        table: row.text(2),
        sql: row.text(3),
    };
    Ok(rows.into_iter().map(object).collect())
}

fn read_settings(db: &mut Connection) -> Result<Vec<SqliteObject>, SqliteError> {
    let mut settings = Vec::new();
    for name in SETTINGS {
        let sql = format!("PRAGMA {name}");
        let Some(row) = db.rows(&sql, &[])?.into_iter().next() else { continue };
        let value = row.optional_text(0).unwrap_or_else(|| row.integer(0).to_string());
        settings.push(SqliteObject {
            kind: PRAGMA.to_owned(),
            name: name.to_owned(),
            table: String::new(),
            sql: value,
        });
    }
    Ok(settings)
}

fn read_sequences(db: &mut Connection) -> Result<Vec<Sequence>, SqliteError> {
    if db.rows("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'", &[])?.is_empty() {
        return Ok(Vec::new());
    }
    let rows = db.rows("SELECT name, seq FROM sqlite_sequence ORDER BY rowid", &[])?;
    let sequence = |row: Answer| Sequence {
        schema: String::new(),
        name: row.text(0),
        owned_by_table: Some(record::tree_name("main", &row.text(0), "main")),
        owned_by_column: None,
        last_value: row.integer(1),
        is_called: true,
        increment: 1,
    };
    Ok(rows.into_iter().map(sequence).collect())
}

/// A table as its rows are to be read; `None` if they cannot be told apart.
fn read_table(
    db: &mut Connection,
    listed: &Answer,
    encoding: &str,
) -> Result<Option<Table>, SqliteError> {
    let (name, without_rowid) = (listed.text(0), listed.integer(1) == 1);
    let rows = db.rows(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?) \
         ORDER BY cid",
        &[&name],
    )?;
    let mut columns: Vec<Column> = rows.iter().map(column).collect();
    let mut key: Vec<&Answer> = rows.iter().filter(|row| row.integer(4) > 0).collect();
    key.sort_by_key(|row| row.integer(4));
    let may_be_null = key.iter().any(|row| row.integer(2) == 0);
    let mut key: Vec<String> = key.into_iter().map(|row| row.text(0)).collect();
    let indexes = Indexes::read(db, &name)?;
    // Such a column is another name of the row number.
    let is_rowid = !without_rowid && key.len() == 1 && indexes.key_collations.is_none();
    let rowid = if without_rowid { None } else { rowid_name(&columns) };
    let mut key_kind = KeyKind::Primary;
    let may_be_null = may_be_null && !without_rowid && !is_rowid;
    if key.is_empty() || (may_be_null && has_null_key(db, &name, &key)?) {
        // An old oddity that SQLite keeps: a primary key may hold NULL, and that more than once.
        if rowid.is_none() {
            return Ok(None);
        }
        key_kind = KeyKind::Rowid;
        key.clear();
    } else if let (Some(rowid), false) = (rowid, is_rowid) {
        columns.push(rowid_field(rowid));
    }
    let is_text = |name: &String| {
        columns.iter().any(|column| column.name == *name && column.type_oid_name == "text")
    };
    let binary = indexes.key_collations.is_some_and(|all| all.iter().all(|one| one == "BINARY"));
    let ordered = is_rowid
        || key_kind == KeyKind::Rowid
        || (encoding == "UTF-8" && binary && key.iter().all(is_text));
    let header = TableHeader {
        version: record::VERSION,
        schema: "main".to_owned(),
        table: name.clone(),
        columns,
        key,
        key_kind,
        foreign_keys: read_foreign_keys(db, &name)?,
        unique: indexes.unique,
        schema_hash: String::new(),
    };
    let tree = record::tree_name("main", &name, "main");
    Ok(Some(Table { tree, header: header.seal(), ordered }))
}

/// What the indexes of a table say of it.
struct Indexes {
    /// How the columns of the primary key are compared, where it has an index of its own.
    key_collations: Option<Vec<String>>,
    /// Sets of columns that are unique besides.
    unique: Vec<Vec<String>>,
}

impl Indexes {
    fn read(db: &mut Connection, table: &str) -> Result<Self, SqliteError> {
        let list =
            "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?) ORDER BY seq";
        let parts = "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key = 1 ORDER BY seqno";
        let mut indexes = Self { key_collations: None, unique: Vec::new() };
        for index in db.rows(list, &[table])? {
            let parts = db.rows(parts, &[&index.text(0)])?;
            if index.text(2) == "pk" {
                indexes.key_collations = Some(parts.iter().map(|part| part.text(1)).collect());
            } else if index.integer(1) == 1 && index.integer(3) == 0 {
                // An expression has no name, and is not a set of columns.
                indexes.unique.extend(
                    parts.iter().map(|part| part.optional_text(0)).collect::<Option<Vec<_>>>(),
                );
            }
        }
        indexes.unique.sort();
        Ok(indexes)
    }
}

fn has_null_key(db: &mut Connection, table: &str, key: &[String]) -> Result<bool, SqliteError> {
    let any: Vec<String> = key.iter().map(|name| format!("{} IS NULL", quote(name))).collect();
    let sql = format!("SELECT 1 FROM {} WHERE {} LIMIT 1", quote(table), any.join(" OR "));
    Ok(!db.rows(&sql, &[])?.is_empty())
}

fn column(row: &Answer) -> Column {
    let declared_type = row.text(1);
    Column {
        name: row.text(0),
        type_oid_name: affinity(&declared_type).to_owned(),
        declared_type,
        typmod: -1,
        not_null: row.integer(2) == 1,
        collation: None,
        identity: String::new(),
        generated: row.integer(5) >= 2,
        default: row.optional_text(3),
    }
}

/// The row number as the last field of each row, so that a restore keeps the order of rows.
fn rowid_field(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        declared_type: String::new(),
        type_oid_name: ROWID.to_owned(),
        typmod: -1,
        not_null: true,
        collation: None,
        identity: String::new(),
        generated: false,
        default: None,
    }
}

fn rowid_name(columns: &[Column]) -> Option<&'static str> {
    let real = |name: &str| {
        columns.iter().any(|c| c.type_oid_name != ROWID && c.name.eq_ignore_ascii_case(name))
    };
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !real(name))
}

fn read_foreign_keys(db: &mut Connection, table: &str) -> Result<Vec<ForeignKey>, SqliteError> {
    let rows = db.rows(
        "SELECT id, \"table\", \"from\", \"to\", on_delete FROM pragma_foreign_key_list(?) \
         ORDER BY id, seq",
        &[table],
    )?;
    let mut keys: Vec<ForeignKey> = Vec::new();
    for row in rows {
        let name = row.integer(0).to_string();
        if keys.last().is_none_or(|key| key.name != name) {
            keys.push(ForeignKey {
                name,
                columns: Vec::new(),
                ref_schema: "main".to_owned(),
                ref_table: row.text(1),
                ref_columns: Vec::new(),
                on_delete: row.text(4).to_lowercase(),
                deferrable: false,
            });
        }
        if let Some(key) = keys.last_mut() {
            key.columns.push(row.text(2));
            // Without columns the reference is to the primary key.
            key.ref_columns.extend(row.optional_text(3));
        }
    }
    Ok(keys)
}

/// Column affinity, by the rules of <https://sqlite.org/datatype3.html> §3.1.
fn affinity(declared: &str) -> &'static str {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    if has(&["INT"]) {
        "integer"
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        "text"
    } else if declared.is_empty() || has(&["BLOB"]) {
        "blob"
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        "real"
    } else {
        "numeric"
    }
}
