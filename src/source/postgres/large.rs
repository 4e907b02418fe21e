//! Large objects: values that the server keeps outside of all tables, in pages.
//!
//! All of them are one tree that looks like the table `pg_largeobject`. An object is a record for
//! itself, with its size, owner and rights under page -1, and one for each page that is not all
//! zeros, so that a small edit is a small change and memory does not depend on sizes. What a page
//! lacks up to its natural length is filled with zeros: the server keeps holes as it likes, and
//! equal contents must be equal records (docs/adr/0020).

use serde::Deserialize;

use super::super::key;
use super::super::record::{self, Column, Field, KeyKind, TableHeader};
use super::capture;
use super::catalog::{Table, Watched, ident};
use super::connect::Db;
use super::copytext::{push_field, push_line};
use super::error::PostgresError;
use super::session::Purpose;
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;
use crate::source::{Applied, Fit, Plan, TreeInfo};
use crate::tree::{Changes, Content};

/// The name of their tree: the server allows nobody a table of this name.
pub(crate) const TREE: &str = "pg_catalog.pg_largeobject";
/// Bytes of a page, as servers have it that were not built in another way.
const PAGE: usize = 2048;
/// How many objects get their owners and rights with one statement.
const OWNERS: usize = 500;
const READING: &str = "reading large objects";
const WRITING: &str = "writing large objects";
/// A page of zeros.
const ZEROS: &str = "decode(repeat('00', 2048), 'hex')";
/// Needs `m` (pg_largeobject_metadata).
const OWNER: &str = "pg_get_userbyid(m.lomowner)::text";
/// The rights as JSON: who (nobody in particular is ""), which, and whether they may be passed on.
const RIGHTS: &str = "(SELECT jsonb_agg(DISTINCT jsonb_build_array(
      CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,
      a.privilege_type, a.is_grantable))::text
    FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) a)";

/// How the tree describes itself.
fn header() -> TableHeader {
    let column = |name: &str, of: &str, base: &str, not_null| Column {
        name: name.to_owned(),
        declared_type: of.to_owned(),
        type_oid_name: base.to_owned(),
        typmod: -1,
        not_null,
        collation: None,
        identity: String::new(),
        generated: false,
        default: None,
    };
    let header = TableHeader {
        version: record::VERSION,
        schema: "pg_catalog".to_owned(),
        table: "pg_largeobject".to_owned(),
        columns: vec![
            column("loid", "bigint", "int8", true),
            column("page", "integer", "int4", true),
            column("data", "bytea", "bytea", false),
            column("size", "bigint", "int8", false),
            column("owner", "text", "text", false),
            column("rights", "jsonb", "jsonb", false),
        ],
        key: vec!["loid".to_owned(), "page".to_owned()],
        key_kind: KeyKind::Primary,
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        schema_hash: String::new(),
    };
    header.seal()
}

/// The tree, for descriptions.
pub(crate) fn tree() -> TreeInfo {
    TreeInfo { name: TREE.to_owned(), header: header().to_json(), estimate: None }
}

/// The tree as what other parts know to read.
fn table() -> Table {
    Table {
        tree: TREE.to_owned(),
        oid: 0,
        estimate: None,
        storage: (0, 0),
        logged: false,
        followed: false,
        header: header(),
        key_operators: Vec::new(),
        watched: Watched::All,
    }
}

/// What a transaction knows of the large objects.
#[derive(Debug)]
pub(super) struct Large {
    /// Whether the pages may be read where they are: the owner of an object may read it, but has
    /// to ask for it.
    direct: bool,
    /// What [`Large::witness`] said before a restore wrote.
    before: Option<(i64, i64)>,
    stage: Stage,
}

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has not written.
    Untouched,
    /// All objects are gone.
    Emptied,
    /// They are as wanted, and a temporary table has the owners and rights that could not be.
    Written,
}

impl Large {
    pub(super) fn new(db: &mut Db) -> Result<Self, PostgresError> {
        let sql = "SELECT (has_table_privilege('pg_catalog.pg_largeobject', 'SELECT')
             AND current_setting('block_size') = '8192')::text";
        let direct = db.text(READING, sql)? == "true";
        Ok(Self { direct, before: None, stage: Stage::Untouched })
    }

    /// Keeps others from writing until the end of the transaction. Only a superuser may; for
    /// others the comparison before the commit finds what came in between.
    pub(super) fn lock(db: &mut Db) -> Result<(), PostgresError> {
        let allowed = "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user";
        if db.text("locking large objects", allowed)? == "true" {
            let lock = "LOCK TABLE pg_catalog.pg_largeobject_metadata, pg_catalog.pg_largeobject
                         IN SHARE ROW EXCLUSIVE MODE";
            db.execute("locking large objects", lock)?;
        }
        Ok(())
    }

    /// Two numbers that change when any object does: the log of changes knows nothing of them.
    /// Costs a look at all pages without what they hold; none where the role may not look.
    pub(super) fn witness(&self, db: &mut Db) -> Result<Option<(i64, i64)>, PostgresError> {
        if !self.direct {
            return Ok(None);
        }
        let sql = format!(
            "SELECT json_build_array(sum(n)::int8, sum(h)::int8)::text FROM (
               SELECT count(*) AS n, coalesce(sum(hashtext(xmin::text || ' ' || ctid::text)::int8), 0)
                   AS h FROM pg_catalog.pg_largeobject
               UNION ALL
               SELECT count(*), coalesce(sum(hashtext(concat_ws(' ', m.xmin, m.ctid, {OWNER},
                   m.lomacl))::int8), 0) FROM pg_catalog.pg_largeobject_metadata m) x"
        );
        db.json(READING, &sql).map(Some)
    }

    /// Whether a restore left all as it was before it, which then need not be read again.
    pub(super) fn is_as_before(&mut self, db: &mut Db) -> Result<bool, PostgresError> {
        Ok(self.stage == Stage::Untouched
            && self.before.is_some()
            && self.witness(db)? == self.before)
    }

    /// All objects, in the order of their numbers and pages.
    pub(super) fn read<'a>(
        &mut self,
        db: &'a mut Db,
        purpose: Purpose,
        ctx: &'a Context,
    ) -> Result<Changes<'a>, Failure> {
        if purpose == Purpose::Restore && self.stage == Stage::Untouched {
            self.before = self.witness(db)?;
        }
        let sql = format!("COPY ({}) TO STDOUT", self.select());
        Ok(capture::in_order(db, &table(), &sql, ctx)?)
    }

    fn select(&self) -> String {
        // What a restore could not set, for want of the role, is said to be as it is wanted: so it
        // is with the owners of tables.
        let (owner, rights, join) = if self.stage == Stage::Written {
            let kept =
                |column, live| format!("CASE WHEN k.loid IS NULL THEN {live} ELSE k.{column} END");
            let join = "LEFT JOIN pg_temp.coeval_large_kept k ON k.loid = m.oid";
            (kept("owner", OWNER), kept("rights", RIGHTS), join)
        } else {
            (OWNER.to_owned(), RIGHTS.to_owned(), "")
        };
        let heads = |size: &str| {
            format!(
                "SELECT m.oid AS loid, -1 AS page, NULL::bytea AS data, {size} AS size,
                   {owner} AS owner, {rights} AS rights
                 FROM pg_catalog.pg_largeobject_metadata m {join}"
            )
        };
        if self.direct {
            let size = "coalesce((SELECT l.pageno::int8 * 2048 + octet_length(l.data)
                 FROM pg_catalog.pg_largeobject l WHERE l.loid = m.oid
                 ORDER BY l.pageno DESC LIMIT 1), 0)";
            return format!(
                "{} UNION ALL
                 SELECT l.loid, l.pageno, CASE WHEN octet_length(l.data) < {PAGE} AND EXISTS (
                     SELECT FROM pg_catalog.pg_largeobject n
                      WHERE n.loid = l.loid AND n.pageno > l.pageno)
                   THEN l.data || substr({ZEROS}, 1, {PAGE} - octet_length(l.data))
                   ELSE l.data END, NULL, NULL, NULL
                 FROM pg_catalog.pg_largeobject l
                 WHERE l.data <> substr({ZEROS}, 1, octet_length(l.data))
                 ORDER BY loid, page",
                heads(size)
            );
        }
        format!(
            "SELECT x.loid, x.page, x.data, x.size, x.owner, x.rights FROM (
               SELECT p.loid, p.page, CASE WHEN p.page >= 0
                   THEN lo_get(p.loid, p.page::int8 * {PAGE}, {PAGE}) END AS data,
                   CASE p.page WHEN -1 THEN p.size END AS size,
                   CASE p.page WHEN -1 THEN p.owner END AS owner,
                   CASE p.page WHEN -1 THEN p.rights END AS rights
                 FROM (SELECT h.loid, g.page, h.size, h.owner, h.rights
                     FROM ({} OFFSET 0) h
                     CROSS JOIN LATERAL generate_series(-1, ((h.size - 1) / {PAGE})::int) AS g(page)
                     ORDER BY h.loid, g.page) p OFFSET 0) x
             WHERE x.page = -1 OR x.data <> substr({ZEROS}, 1, octet_length(x.data))",
            heads(&size_of("m.oid"))
        )
    }

    /// Makes the objects those of a plan.
    pub(super) fn apply(
        &mut self,
        db: &mut Db,
        plan: &dyn Plan,
        fit: Fit,
        ctx: &Context,
    ) -> Result<Applied, Failure> {
        let mut applied = Applied::default();
        if fit == Fit::Rebuilt {
            db.execute(WRITING, "SELECT lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata")?;
            self.stage = Stage::Emptied;
        }
        let tree = tree();
        if plan.changes(&tree)?.next().is_none() {
            return Ok(applied);
        }
        ctx.phase("restoring large objects", None);
        stage(db, plan, &tree, &mut applied, ctx)?;
        for statement in write() {
            db.execute(WRITING, &statement)?;
        }
        settle_owners(db, ctx)?;
        self.stage = Stage::Written;
        Ok(applied)
    }
}

/// The size of an object that may only be asked for.
fn size_of(oid: &str) -> String {
    format!(
        "(SELECT CASE WHEN lo_close(o.fd) = 0 THEN o.size END FROM (
           SELECT f.fd, lo_lseek64(f.fd, 0, 2) AS size
             FROM (SELECT lo_open({oid}, x'40000'::int) AS fd OFFSET 0) f OFFSET 0) o)"
    )
}

/// Brings the changes to the server.
fn stage(
    db: &mut Db,
    plan: &dyn Plan,
    tree: &TreeInfo,
    applied: &mut Applied,
    ctx: &Context,
) -> Result<(), Failure> {
    db.execute(
        WRITING,
        "CREATE TEMP TABLE coeval_large_put (loid oid, page int, data bytea, size int8, owner text,
           rights text, PRIMARY KEY (loid, page)) ON COMMIT DROP;
         CREATE TEMP TABLE coeval_large_gone (loid oid, page int, PRIMARY KEY (loid, page))
           ON COMMIT DROP",
    )?;
    let damaged = |source| PostgresError::Row { table: TREE.to_owned(), source };
    let mut copy = db.copy_in(WRITING, "COPY pg_temp.coeval_large_put FROM STDIN")?;
    for change in plan.opened(tree)? {
        ctx.check_cancelled()?;
        let change = change?;
        let Some(value) = change.value else { continue };
        if plan.present(tree, &change.key)?.is_some() {
            applied.updated += 1;
        } else {
            applied.inserted += 1;
        }
        let row = match value.content {
            Content::Inline(row) => row,
            other => super::apply::content(TREE, other)?,
        };
        push_line(copy.buffer(), &row).map_err(damaged)?;
        copy.flush()?;
    }
    copy.finish()?;
    let mut copy = db.copy_in(WRITING, "COPY pg_temp.coeval_large_gone FROM STDIN")?;
    for change in plan.changes(tree)? {
        ctx.check_cancelled()?;
        let change = change?;
        if change.value.is_some() {
            continue;
        }
        applied.deleted += 1;
        let damaged = || PostgresError::Answer {
            doing: WRITING.to_owned(),
            reason: "a key is damaged".to_owned(),
        };
        let fields = key::decode(&change.key).ok_or_else(damaged)?;
        let [loid @ Field::Integer(_), page @ Field::Integer(_)] = fields.as_slice() else {
            return Err(damaged().into());
        };
        let buffer = copy.buffer();
        push_field(buffer, loid).ok_or_else(damaged)?;
        buffer.push(b'\t');
        push_field(buffer, page).ok_or_else(damaged)?;
        buffer.push(b'\n');
        copy.flush()?;
    }
    copy.finish()?;
    db.execute(WRITING, "ANALYZE pg_temp.coeval_large_put, pg_temp.coeval_large_gone")?;
    Ok(())
}

/// What makes the objects what was staged: those that go, those that come, sizes, contents.
fn write() -> [String; 5] {
    // Functions in the list of a subquery run for every row, although nobody looks at the result.
    let each = |call: &str, rows: &str| format!("SELECT count(*) FROM (SELECT {call} {rows}) x");
    [
        each(
            "lo_unlink(g.loid)",
            "FROM pg_temp.coeval_large_gone g WHERE g.page = -1 ORDER BY g.loid",
        ),
        each(
            "lo_create(p.loid)",
            "FROM pg_temp.coeval_large_put p WHERE p.page = -1 AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = p.loid)
             ORDER BY p.loid",
        ),
        "SELECT sum(lo_close(t.fd) + t.done) FROM (
           SELECT o.fd, lo_truncate64(o.fd, o.size) AS done FROM (
             SELECT lo_open(p.loid, x'20000'::int) AS fd, p.size
               FROM pg_temp.coeval_large_put p WHERE p.page = -1 OFFSET 0) o OFFSET 0) t"
            .to_owned(),
        each(
            &format!("lo_put(p.loid, p.page::int8 * {PAGE}, p.data)"),
            "FROM pg_temp.coeval_large_put p WHERE p.page >= 0 ORDER BY p.loid, p.page",
        ),
        // Pages that are gone from objects that stay are all zeros now, or behind the end.
        each(
            &format!(
                "lo_put(z.loid, z.start, substr({ZEROS}, 1, least({PAGE}, z.size - z.start)::int))"
            ),
            &format!(
                "FROM (SELECT g.loid, g.page::int8 * {PAGE} AS start, s.size
                   FROM pg_temp.coeval_large_gone g
                   JOIN (SELECT o.loid, {} AS size FROM (
                       SELECT DISTINCT loid FROM pg_temp.coeval_large_gone a WHERE NOT EXISTS (
                         SELECT FROM pg_temp.coeval_large_gone u
                          WHERE u.loid = a.loid AND u.page = -1)) o OFFSET 0) s ON s.loid = g.loid
                   WHERE g.page::int8 * {PAGE} < s.size OFFSET 0) z ORDER BY z.loid, z.start",
                size_of("o.loid")
            ),
        ),
    ]
}

/// An object whose owner or rights are not those that it must have.
#[derive(Debug, Deserialize)]
struct Owned {
    loid: u32,
    owner: String,
    rights: Option<String>,
    /// Whether the role may give it to this owner.
    may: bool,
    /// Who has rights now.
    present: Vec<String>,
    /// Roles with rights that do not exist here.
    missing: Vec<String>,
}

/// Gives the objects their owners and rights, as far as the roles exist and this one may.
fn settle_owners(db: &mut Db, ctx: &Context) -> Result<(), PostgresError> {
    let differing = format!(
        "FROM pg_temp.coeval_large_put p JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = p.loid
          WHERE p.page = -1 AND (p.owner IS DISTINCT FROM {OWNER}
            OR p.rights::jsonb IS DISTINCT FROM {RIGHTS}::jsonb)"
    );
    let mut omitted = Vec::new();
    let mut last = 0;
    loop {
        let sql = format!(
            "SELECT coalesce(json_agg(x), '[]')::text FROM (
               SELECT m.oid::int8 AS loid, p.owner, p.rights,
                 coalesce((SELECT pg_has_role(r.oid, 'MEMBER') FROM pg_roles r
                            WHERE r.rolname = p.owner), false) AS may,
                 (SELECT coalesce(json_agg(DISTINCT r->>0), '[]')
                    FROM jsonb_array_elements(coalesce({RIGHTS}::jsonb, '[]')) r) AS present,
                 (SELECT coalesce(json_agg(DISTINCT r->>0), '[]')
                    FROM jsonb_array_elements(coalesce(p.rights::jsonb, '[]')) r
                   WHERE r->>0 NOT IN (SELECT rolname FROM pg_roles) AND r->>0 <> '') AS missing
               {differing} AND m.oid::int8 > {last} ORDER BY m.oid LIMIT {OWNERS}) x"
        );
        let objects: Vec<Owned> = db.json(WRITING, &sql)?;
        let Some(object) = objects.last() else { break };
        last = object.loid;
        let mut statements = Vec::new();
        for object in &objects {
            let unknown = object.missing.iter().chain((!object.may).then_some(&object.owner));
            for role in unknown {
                if !omitted.contains(role) {
                    omitted.push(role.clone());
                }
            }
            if object.may {
                statements.extend(object.statements()?);
            }
        }
        db.execute("setting the owners of large objects", &statements.join(";\n"))?;
    }
    for role in omitted {
        ctx.report(Event::Note(format!(
            "large objects: role {role} does not exist here, or may not be given any, so what it \
             owned or had rights to stays with the role that restores"
        )));
    }
    let keep = format!(
        "CREATE TEMP TABLE coeval_large_kept ON COMMIT DROP AS
           SELECT p.loid, p.owner, p.rights {differing}"
    );
    db.execute(WRITING, &keep)?;
    Ok(())
}

impl Owned {
    fn statements(&self) -> Result<Vec<String>, PostgresError> {
        let role = |name: &str| if name.is_empty() { "PUBLIC".to_owned() } else { ident(name) };
        let object = format!("LARGE OBJECT {}", self.loid);
        let mut statements = vec![format!("ALTER {object} OWNER TO {}", ident(&self.owner))];
        let others = [self.owner.clone()];
        for name in self.present.iter().chain(&others) {
            statements.push(format!("REVOKE ALL ON {object} FROM {}", role(name)));
        }
        let rights = self.rights.as_deref().unwrap_or("[]");
        let rights: Vec<(String, String, bool)> =
            serde_json::from_str(rights).map_err(|error| PostgresError::Answer {
                doing: WRITING.to_owned(),
                reason: error.to_string(),
            })?;
        for (name, right, grantable) in &rights {
            // These words become part of a statement.
            if !matches!(right.as_str(), "SELECT" | "UPDATE") {
                return Err(PostgresError::Answer {
                    doing: WRITING.to_owned(),
                    reason: format!("`{right}` is no right to a large object"),
                });
            }
            if !self.missing.contains(name) {
                let option = if *grantable { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {right} ON {object} TO {}{option}", role(name)));
            }
        }
        Ok(statements)
    }
}
