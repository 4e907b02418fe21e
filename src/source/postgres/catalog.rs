//! What the server's catalogue says about tables, keys, references and sequences, asked for as
//! JSON so that each question is one statement and one answer.
//!
//! All of it needs `search_path = ''`, which makes the server qualify every name that is not its
//! own.

use globset::GlobSet;
use serde::Deserialize;

use super::super::record::{
    self, Column, ForeignKey, Form, KeyKind, Sequence, TableHeader, tree_name,
};
use super::connect::Db;
use super::error::PostgresError;

/// The schema whose tables go by their bare names.
const DEFAULT_SCHEMA: &str = "public";

/// What of the catalogue is the application's: not the server's, not an extension's, not
/// temporary. Needs `c` (pg_class) and `n` (pg_namespace).
const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND n.nspname !~ '^pg_(toast|temp)' AND c.relpersistence <> 't'
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                    AND e.objid = c.oid AND e.deptype = 'e')";

/// A table with rows of its own: ordinary, or the leaf of a partitioned one.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// The name of its tree.
    pub tree: String,
    /// Tells a table from one that was made anew under the same name.
    pub oid: i64,
    /// How many rows the server believes there are.
    pub estimate: Option<u64>,
    /// Its oid and the number of its file, which changes when it is rewritten.
    pub storage: (i64, i64),
    /// Whether its changes are in the log at all.
    pub logged: bool,
    /// Whether the log tells the keys of all rows that change.
    pub followed: bool,
    /// Everything that the snapshot keeps.
    pub header: TableHeader,
    /// How to compare each key column for equality: `OPERATOR(pg_catalog.=)`.
    pub key_operators: Vec<String>,
    /// Columns, besides the key, that a unique index or exclusion constraint watches.
    pub watched: Watched,
}

/// Which columns cannot be exchanged between two rows by updating one after the other.
#[derive(Debug, Clone)]
pub(super) enum Watched {
    /// These.
    Columns(Vec<String>),
    /// Perhaps any: an index is partial or on expressions.
    All,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "these are columns of the answer")]
struct RawTable {
    oid: i64,
    schema: String,
    table: String,
    estimate: Option<u64>,
    file: i64,
    logged: bool,
    followed: bool,
    columns: Vec<Column>,
    key: Option<Vec<String>>,
    key_operators: Option<Vec<String>>,
    foreign_keys: Vec<ForeignKey>,
    unique: Vec<Vec<String>>,
    watched: Vec<String>,
    opaque: bool,
}

const TABLES: &str = r#"
SELECT coalesce(json_agg(x ORDER BY x.schema COLLATE "C", x."table" COLLATE "C"), '[]')::text FROM (
SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS "table",
  CASE WHEN c.reltuples >= 0 THEN c.reltuples::int8 END AS estimate,
  coalesce(pg_relation_filenode(c.oid), 0)::int8 AS file,
  c.relpersistence = 'p' AS logged, c.relreplident IN ('d', 'f') AS followed,
  (SELECT coalesce(json_agg(json_build_object(
      'name', a.attname,
      'type', format_type(a.atttypid, a.atttypmod),
      'type_oid_name', (
        WITH RECURSIVE base AS (
          SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace
          UNION ALL
          SELECT b.typtype, b.typbasetype, b.typname, b.typnamespace
            FROM base JOIN pg_type b ON b.oid = base.typbasetype WHERE base.typtype = 'd')
        SELECT CASE tn.nspname WHEN 'pg_catalog' THEN '' ELSE tn.nspname || '.' END || typname
          FROM base JOIN pg_namespace tn ON tn.oid = typnamespace WHERE typtype <> 'd'),
      'typmod', a.atttypmod, 'not_null', a.attnotnull,
      'collation', CASE WHEN a.attcollation NOT IN (0, t.typcollation) THEN (
        SELECT format('%I.%I', cn.nspname, o.collname) FROM pg_collation o
          JOIN pg_namespace cn ON cn.oid = o.collnamespace WHERE o.oid = a.attcollation) END,
      'identity', a.attidentity, 'generated', a.attgenerated <> '',
      'default', pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attnum), '[]')
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
  p.key, p.key_operators,
  (SELECT coalesce(json_agg(json_build_object(
      'name', f.conname,
      'columns', (SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum),
      'ref_schema', rn.nspname, 'ref_table', r.relname,
      'ref_columns', (SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(f.confkey) WITH ORDINALITY k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum),
      'on_delete', CASE f.confdeltype WHEN 'a' THEN 'no action' WHEN 'r' THEN 'restrict'
        WHEN 'c' THEN 'cascade' WHEN 'n' THEN 'set null' ELSE 'set default' END,
      'deferrable', f.condeferrable) ORDER BY f.conname COLLATE "C"), '[]')
    FROM pg_constraint f JOIN pg_class r ON r.oid = f.confrelid
    JOIN pg_namespace rn ON rn.oid = r.relnamespace
    WHERE f.conrelid = c.oid AND f.contype = 'f' AND NOT EXISTS (
      SELECT FROM pg_constraint fp WHERE fp.oid = f.conparentid AND fp.conrelid = f.conrelid)
  ) AS foreign_keys,
  (SELECT coalesce(json_agg(u.names ORDER BY u.names::text COLLATE "C"), '[]') FROM (
    SELECT (SELECT json_agg(a.attname ORDER BY k.n)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
        WHERE k.n <= i.indnkeyatts) AS names
      FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary
      AND i.indpred IS NULL AND i.indexprs IS NULL) u) AS unique,
  (SELECT coalesce(json_agg(DISTINCT a.attname), '[]')
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) AND NOT i.indisprimary
  ) AS watched,
  EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)
    AND (i.indpred IS NOT NULL OR i.indexprs IS NOT NULL)) AS opaque
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
  SELECT json_agg(a.attname ORDER BY k.n) AS key,
         json_agg(format('OPERATOR(%I.%s)', qn.nspname, q.oprname) ORDER BY k.n) AS key_operators
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[])
      WITH ORDINALITY k(attnum, opclass, n)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    JOIN pg_opclass oc ON oc.oid = k.opclass
    JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
    JOIN pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3
      AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
    JOIN pg_operator q ON q.oid = m.amopopr JOIN pg_namespace qn ON qn.oid = q.oprnamespace
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.n <= i.indnkeyatts) p ON true
WHERE c.relkind = 'r' AND "#;

/// All tables of the database that have rows of their own, in the order of their trees' names.
pub(super) fn tables(db: &mut Db) -> Result<Vec<Table>, PostgresError> {
    let raw: Vec<RawTable> = db.json("reading the catalogue", &format!("{TABLES}{OURS}) x"))?;
    let mut tables: Vec<Table> = raw.into_iter().map(table).collect();
    tables.sort_by(|a, b| a.tree.cmp(&b.tree));
    Ok(tables)
}

fn table(raw: RawTable) -> Table {
    // A generated column is no part of the row, so a key of one cannot be made from it.
    let stored = |name: &String| raw.columns.iter().any(|c| c.name == *name && !c.generated);
    let key = raw.key.unwrap_or_default();
    let keyed = !key.is_empty() && key.iter().all(stored);
    let header = TableHeader {
        version: record::VERSION,
        columns: raw.columns,
        key_kind: if keyed { KeyKind::Primary } else { KeyKind::Hash },
        key: if keyed { key } else { Vec::new() },
        foreign_keys: raw.foreign_keys,
        unique: raw.unique,
        schema_hash: String::new(),
        schema: raw.schema,
        table: raw.table,
    };
    Table {
        tree: tree_name(&header.schema, &header.table, DEFAULT_SCHEMA),
        oid: raw.oid,
        storage: (raw.oid, raw.file),
        logged: raw.logged,
        followed: raw.logged && raw.followed && keyed,
        estimate: raw.estimate,
        header: header.seal(),
        key_operators: raw.key_operators.unwrap_or_default(),
        watched: if raw.opaque { Watched::All } else { Watched::Columns(raw.watched) },
    }
}

impl Table {
    /// Its name for statements.
    pub(super) fn sql(&self) -> String {
        qualified(&self.header.schema, &self.header.table)
    }

    /// The columns that rows hold, quoted, each after `prefix`.
    pub(super) fn stored(&self, prefix: &str) -> Vec<String> {
        self.header.stored_columns().map(|c| format!("{prefix}{}", ident(&c.name))).collect()
    }

    /// The forms of the fields of a row.
    pub(super) fn forms(&self) -> Vec<Form> {
        self.header.stored_columns().map(Column::form).collect()
    }

    /// `ORDER BY …` where the server can sort as the keys do: integers, booleans, UUIDs, and, in
    /// a UTF-8 database, text by its bytes.
    pub(super) fn server_order(&self, encoding: &str) -> Option<String> {
        let term = |name: &String| {
            let column = self.header.columns.iter().find(|column| column.name == *name)?;
            match column.type_oid_name.as_str() {
                "int2" | "int4" | "int8" | "bool" | "uuid" => Some(ident(name)),
                "text" | "varchar" if encoding == "UTF8" => {
                    Some(format!(r#"{} COLLATE pg_catalog."C""#, ident(name)))
                }
                _ => None,
            }
        };
        if self.header.key_kind != KeyKind::Primary {
            return None;
        }
        let terms: Option<Vec<String>> = self.header.key.iter().map(term).collect();
        terms.map(|terms| format!("ORDER BY {}", terms.join(", ")))
    }
}

/// Which tables the configuration leaves out: patterns of tree names, or of `schema.table`.
pub(super) fn is_excluded(table: &Table, patterns: &GlobSet) -> bool {
    patterns.is_match(&table.tree)
        || patterns.is_match(format!("{}.{}", table.header.schema, table.header.table))
}

/// What the server is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Server {
    pub version: String,
    pub major: u32,
    pub database: String,
    pub encoding: String,
    pub superuser: bool,
    pub large_objects: u64,
    pub foreign_tables: Vec<String>,
    pub materialized_views: Vec<String>,
    pub extensions: Vec<String>,
}

/// Asks the server what it is, and what else there is besides tables.
pub(super) fn server(db: &mut Db) -> Result<Server, PostgresError> {
    let relations = |kind: char| {
        format!(
            "(SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname) ORDER BY c.oid), '[]')
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = '{kind}' AND {OURS})"
        )
    };
    let sql = format!(
        "SELECT json_build_object(
           'version', split_part(current_setting('server_version'), ' ', 1),
           'major', current_setting('server_version_num')::int / 10000,
           'database', current_database(),
           'encoding', getdatabaseencoding(),
           'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
           'large_objects', (SELECT count(*) FROM pg_largeobject_metadata),
           'foreign_tables', {}, 'materialized_views', {},
           'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]')
                          FROM pg_extension WHERE extname <> 'plpgsql'))::text",
        relations('f'),
        relations('m'),
    );
    db.json("reading the catalogue", &sql)
}

#[derive(Deserialize)]
struct RawSequence {
    schema: String,
    name: String,
    increment: i64,
    owner: Option<(String, String, String)>,
}

#[derive(Deserialize)]
struct Position {
    last_value: i64,
    is_called: bool,
}

/// All sequences with their positions.
pub(super) fn sequences(db: &mut Db) -> Result<Vec<Sequence>, PostgresError> {
    let sql = format!(
        r#"SELECT coalesce(json_agg(json_build_object(
             'schema', n.nspname, 'name', c.relname, 'increment', s.seqincrement,
             'owner', (SELECT json_build_array(tn.nspname, t.relname, a.attname)
               FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid
               JOIN pg_namespace tn ON tn.oid = t.relnamespace
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
               WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
               AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') LIMIT 1))
             ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"), '[]')::text
           FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {OURS}"#
    );
    let raw: Vec<RawSequence> = db.json("reading the catalogue", &sql)?;
    if raw.is_empty() {
        return Ok(Vec::new());
    }
    let reads: Vec<String> = raw
        .iter()
        .enumerate()
        .map(|(n, s)| {
            format!("SELECT {n} AS n, last_value, is_called FROM {}", qualified(&s.schema, &s.name))
        })
        .collect();
    let positions = format!(
        "SELECT json_agg(json_build_object('last_value', last_value, 'is_called', is_called)
                         ORDER BY n)::text FROM ({}) s",
        reads.join(" UNION ALL ")
    );
    let positions: Vec<Position> = db.json("reading the sequences", &positions)?;
    let sequence = |(raw, position): (RawSequence, Position)| {
        let (table, column) = match raw.owner {
            Some((schema, table, column)) => {
                (Some(tree_name(&schema, &table, DEFAULT_SCHEMA)), Some(column))
            }
            None => (None, None),
        };
        Sequence {
            schema: raw.schema,
            name: raw.name,
            owned_by_table: table,
            owned_by_column: column,
            last_value: position.last_value,
            is_called: position.is_called,
            increment: raw.increment,
        }
    };
    Ok(raw.into_iter().zip(positions).map(sequence).collect())
}

/// A foreign key, for the search for rows that refer to nothing.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reference {
    pub name: String,
    pub child_oid: i64,
    /// The referring table, quoted.
    pub child: String,
    pub parent_oid: i64,
    /// The table referred to, quoted.
    pub parent: String,
    /// Whether that is partitioned, and so has its rows in others.
    pub partitioned: bool,
    /// Per column: the parent's, the operator that compares them, the child's.
    pub columns: Vec<(String, String, String)>,
    pub on_delete: String,
    pub deferrable: bool,
}

/// All foreign keys that hold.
pub(super) fn references(db: &mut Db) -> Result<Vec<Reference>, PostgresError> {
    let sql = "SELECT coalesce(json_agg(json_build_object(
        'name', f.conname, 'child_oid', f.conrelid::int8, 'parent_oid', f.confrelid::int8,
        'child', format('%I.%I', cn.nspname, c.relname),
        'parent', format('%I.%I', rn.nspname, r.relname), 'partitioned', r.relkind = 'p',
        'on_delete', CASE f.confdeltype WHEN 'a' THEN 'no action' ELSE 'other' END,
        'deferrable', f.condeferrable,
        'columns', (SELECT json_agg(json_build_array(ra.attname,
            format('OPERATOR(%I.%s)', qn.nspname, q.oprname), ca.attname) ORDER BY k.n)
          FROM unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY k(child, parent, op, n)
          JOIN pg_attribute ca ON ca.attrelid = f.conrelid AND ca.attnum = k.child
          JOIN pg_attribute ra ON ra.attrelid = f.confrelid AND ra.attnum = k.parent
          JOIN pg_operator q ON q.oid = k.op JOIN pg_namespace qn ON qn.oid = q.oprnamespace)
        ) ORDER BY f.oid), '[]')::text
      FROM pg_constraint f
      JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
      JOIN pg_class r ON r.oid = f.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
      WHERE f.contype = 'f' AND f.convalidated AND c.relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_constraint fp WHERE fp.oid = f.conparentid AND fp.conrelid = f.conrelid)";
    db.json("reading the catalogue", sql)
}

/// A name as it stands in statements.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name within a schema as it stands in statements.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}
