//! The statements that make the empty database: taken by `pg_dump`, which knows every kind of
//! object of every version, or else from the catalogue, and run again when the structure of a
//! target differs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::record::Schema;
use super::catalog::{Server, ident};
use super::connect::{Db, Login};
use super::error::PostgresError;
use super::statements;

/// What became of the attempt to take the schema.
#[derive(Debug)]
pub(super) struct Dumped {
    /// The schema, or the reason why there is none: rows can be captured without.
    pub schema: Schema,
    /// What a `pg_dump` said that should do and failed.
    pub failure: Option<String>,
}

/// Takes the schema as of `snapshot`, or as of now.
pub(super) fn dump(
    db: &mut Db,
    login: &Login,
    server: &Server,
    program: Option<&Path>,
    snapshot: Option<&str>,
) -> Result<Dumped, PostgresError> {
    let program = match find(server.major, program) {
        Ok(program) => program,
        Err(reason) => return Ok(Dumped { schema: of_catalogue(db, &reason)?, failure: None }),
    };
    let section = |name| section(&program, login, name, snapshot);
    match section("pre-data").and_then(|pre_data| Ok((pre_data, section("post-data")?))) {
        Ok((pre_data, post_data)) => {
            Ok(Dumped { schema: Schema::PgDump { pre_data, post_data }, failure: None })
        }
        Err(reason) => Ok(Dumped { schema: of_catalogue(db, &reason)?, failure: Some(reason) }),
    }
}

/// The schema as the catalogue has it. `reason` is why `pg_dump` does not tell.
pub(super) fn of_catalogue(db: &mut Db, reason: &str) -> Result<Schema, PostgresError> {
    Ok(match statements::read(db)? {
        Ok((pre_data, post_data)) => Schema::Catalogue { pre_data, post_data },
        Err(others) => Schema::Unavailable {
            reason: format!("{reason}, and only pg_dump can write down {}", others.join(", ")),
        },
    })
}

/// A `pg_dump` that is not older than the server: of the server's own version if there is one, so
/// that the text does not depend on what else is installed.
fn find(server: u32, program: Option<&Path>) -> Result<PathBuf, String> {
    let candidates = program.map_or_else(installed, |program| vec![program.to_owned()]);
    let mut versions: Vec<(u32, usize, PathBuf)> = candidates
        .into_iter()
        .enumerate()
        .filter_map(|(order, path)| Some((version(&path)?, order, path)))
        .collect();
    versions.sort();
    let newest = versions.last().map(|(version, ..)| *version);
    match (versions.into_iter().find(|(version, ..)| *version >= server), newest) {
        (Some((.., path)), _) => Ok(path),
        (None, Some(newest)) => {
            Err(format!("pg_dump {newest} is older than the server, which is {server}"))
        }
        (None, None) => Err("pg_dump is not installed".to_owned()),
    }
}

/// Where packages put it: `/usr/lib/postgresql/15/bin` (Debian), `/usr/pgsql-15/bin` (Red Hat),
/// else the PATH.
fn installed() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    for parent in ["/usr/lib/postgresql", "/usr"] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let found = entries.filter_map(Result::ok).map(|entry| entry.path().join("bin/pg_dump"));
        candidates.extend(found.filter(|path| path.exists()));
    }
    candidates.push("pg_dump".into());
    candidates
}

/// The major version in `pg_dump (PostgreSQL) 15.18 (Debian …)`.
fn version(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn section(
    program: &Path,
    login: &Login,
    section: &str,
    snapshot: Option<&str>,
) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(["--schema-only", "--no-password", "--encoding=UTF8", "--lock-wait-timeout=30000"])
        .arg(format!("--section={section}"))
        .args(snapshot.map(|snapshot| format!("--snapshot={snapshot}")))
        .envs(login.environment())
        .stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("pg_dump cannot be run: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pg_dump failed: {}", said.trim().replace('\n', "; ")));
    }
    let text = String::from_utf8(output.stdout);
    let text = text.map_err(|error| format!("pg_dump wrote what is not UTF-8: {error}"))?;
    Ok(strip_volatile(&text))
}

/// Leaves out what differs between two dumps of the same schema: versions in comments, the random
/// `\restrict` key (since 15.14, CVE-2025-8714), and settings that only newer servers know. All
/// of it stands before the first object or after the last.
fn strip_volatile(dump: &str) -> String {
    let first_object = dump.find("\n-- Name: ").unwrap_or(dump.len());
    let last = dump.rfind("\n-- PostgreSQL database dump complete").unwrap_or(dump.len());
    let volatile = |line: &str| {
        line.starts_with("-- Dumped ")
            || line.starts_with("\\restrict ")
            || line.starts_with("\\unrestrict ")
            || line.starts_with("SET transaction_timeout ")
    };
    let mut at = 0;
    let mut kept = String::with_capacity(dump.len());
    for line in dump.split_inclusive('\n') {
        if !(volatile(line) && (at < first_object || at > last)) {
            kept.push_str(line);
        }
        at += line.len();
    }
    kept
}

/// Drops everything that the application made, except the extensions in `kept`.
pub(super) fn drop_everything(db: &mut Db, kept: &[String]) -> Result<(), PostgresError> {
    let doing = "removing the present structure";
    let extensions: Vec<String> = db.json(
        doing,
        "SELECT coalesce(json_agg(extname), '[]')::text FROM pg_extension WHERE extname <> 'plpgsql'",
    )?;
    let unwanted = extensions.iter().filter(|name| !kept.contains(name));
    let mut drops: Vec<String> =
        unwanted.map(|name| format!("DROP EXTENSION IF EXISTS {} CASCADE", ident(name))).collect();
    drops.push("SELECT".to_owned());
    db.execute(doing, &drops.join(";\n"))?;
    let statements: Vec<String> = db.json(doing, DROPS)?;
    for statements in statements.chunks(500) {
        db.execute(doing, &statements.join(";\n"))?;
    }
    Ok(())
}

/// One `DROP` per object that is not the server's and not an extension's, in an order that
/// CASCADE and IF EXISTS make safe. A schema in which an extension lives stays.
const DROPS: &str = "
WITH member AS (
  SELECT classid, objid FROM pg_depend WHERE deptype IN ('e', 'i') AND objsubid = 0
), ours AS (
  SELECT oid FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema')
    AND nspname !~ '^pg_(toast|temp)'
), object AS (
  SELECT 1 AS step, 'pg_event_trigger'::regclass AS class, oid FROM pg_event_trigger
  UNION ALL SELECT 1, 'pg_publication'::regclass, oid FROM pg_publication
  UNION ALL SELECT 2, 'pg_class'::regclass, oid FROM pg_class
    WHERE relnamespace IN (SELECT oid FROM ours) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT 3, 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
  UNION ALL SELECT 4, 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
  UNION ALL SELECT 4, 'pg_cast'::regclass, oid FROM pg_cast
  UNION ALL SELECT 5, 'pg_opclass'::regclass, oid FROM pg_opclass
    WHERE opcnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 6, 'pg_opfamily'::regclass, oid FROM pg_opfamily
    WHERE opfnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 7, 'pg_operator'::regclass, oid FROM pg_operator
    WHERE oprnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 8, 'pg_proc'::regclass, oid FROM pg_proc
    WHERE pronamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 9, 'pg_type'::regclass, t.oid FROM pg_type t
    LEFT JOIN pg_class r ON r.oid = t.typrelid
    WHERE t.typnamespace IN (SELECT oid FROM ours) AND coalesce(r.relkind = 'c', true)
    AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
  UNION ALL SELECT 10, 'pg_ts_config'::regclass, oid FROM pg_ts_config
    WHERE cfgnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 11, 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
    WHERE dictnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 12, 'pg_ts_template'::regclass, oid FROM pg_ts_template
    WHERE tmplnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 12, 'pg_ts_parser'::regclass, oid FROM pg_ts_parser
    WHERE prsnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 13, 'pg_collation'::regclass, oid FROM pg_collation
    WHERE collnamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 13, 'pg_conversion'::regclass, oid FROM pg_conversion
    WHERE connamespace IN (SELECT oid FROM ours)
  UNION ALL SELECT 14, 'pg_language'::regclass, oid FROM pg_language
  UNION ALL SELECT 15, 'pg_namespace'::regclass, n.oid FROM pg_namespace n
    WHERE n.oid IN (SELECT oid FROM ours) AND n.nspname <> 'public'
    AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extnamespace = n.oid)
)
SELECT coalesce(json_agg(format('DROP %s IF EXISTS %s CASCADE', i.type, i.identity)
                         ORDER BY o.step, o.oid), '[]')::text
FROM object o CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) i
WHERE o.oid >= 16384 AND NOT EXISTS (
  SELECT FROM member m WHERE m.classid = o.class AND m.objid = o.oid)";

/// The schema's text as this server and this role can run it, and what was left out: statements
/// about roles that do not exist here, and comments on extensions that are not the role's.
pub(super) fn adapted(
    db: &mut Db,
    server: &Server,
    text: &str,
) -> Result<(String, Vec<String>), PostgresError> {
    let doing = "reading the catalogue";
    let roles: Vec<String> = db.json(doing, "SELECT json_agg(rolname)::text FROM pg_roles")?;
    let schemas: Vec<String> =
        db.json(doing, "SELECT json_agg(nspname)::text FROM pg_namespace")?;
    let known = |role: &str| role == "PUBLIC" || roles.iter().any(|r| r == role);
    let mut omitted = Vec::new();
    let mut kept = String::with_capacity(text.len());
    let mut within_object = true;
    for line in text.split_inclusive('\n') {
        // Only a line that begins a statement of `pg_dump` itself: one after an empty line or a
        // like statement. Lines of function bodies mostly have neither before them.
        let starts = !within_object;
        let statement = line.trim_end();
        let missing = role_of(statement).filter(|role| starts && !known(role));
        let schema = statement.strip_prefix("CREATE SCHEMA ").and_then(|s| s.strip_suffix(';'));
        let present = schema.is_some_and(|name| starts && schemas.contains(&unquoted(name)));
        let comment = starts && !server.superuser && statement.starts_with("COMMENT ON EXTENSION ");
        within_object = !(statement.is_empty() || starts && role_of(statement).is_some());
        match missing {
            Some(role) if !omitted.contains(&role) => omitted.push(role),
            Some(_) => {}
            None if present || comment => {}
            None => kept.push_str(line),
        }
    }
    Ok((kept, omitted))
}

/// The role that a one-line statement of `pg_dump` gives an object or a right to.
fn role_of(statement: &str) -> Option<String> {
    let statement = statement.strip_suffix(';')?;
    let after = if statement.starts_with("ALTER ") {
        statement.rsplit_once(" OWNER TO ")
    } else if statement.starts_with("GRANT ") {
        let plain = statement.strip_suffix(" WITH GRANT OPTION").unwrap_or(statement);
        plain.rsplit_once(" TO ")
    } else if statement.starts_with("REVOKE ") {
        statement.rsplit_once(" FROM ")
    } else {
        None
    };
    after.map(|(_, role)| unquoted(role))
}

fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_schemas_give_equal_text() {
        let dump = |key: &str, version: &str| {
            format!(
                "--\n-- PostgreSQL database dump\n--\n\n\\restrict {key}\n\n\
                 -- Dumped from database version {version}\n\nSET statement_timeout = 0;\n\
                 SET transaction_timeout = 0;\n\n\
                 --\n-- Name: f(); Type: FUNCTION\n--\n\nCREATE FUNCTION f() AS $$\n\
                 -- Dumped from the hip\n\\restrict me\n$$;\n\n\
                 --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict {key}\n\n"
            )
        };
        let stripped = strip_volatile(&dump("abc", "15.18"));
        assert_eq!(stripped, strip_volatile(&dump("xyz", "15.19")));
        assert!(stripped.contains("-- Dumped from the hip\n\\restrict me\n"));
        assert!(!stripped.contains("abc") && !stripped.contains("transaction_timeout"));
    }

    #[test]
    fn the_role_of_a_statement_is_found() {
        for (statement, role) in [
            (r#"ALTER TABLE public."a OWNER TO b" OWNER TO "Dr. ""No""";"#, Some(r#"Dr. "No""#)),
            ("GRANT SELECT ON TABLE public.t TO reader WITH GRANT OPTION;", Some("reader")),
            ("REVOKE ALL ON SCHEMA public FROM PUBLIC;", Some("PUBLIC")),
            ("CREATE TABLE public.t (", None),
        ] {
            assert_eq!(role_of(statement).as_deref(), role);
        }
    }
}
