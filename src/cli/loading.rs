//! A package's pg_dump archive becomes records: `pg_restore` loads it into an empty database, which
//! is then captured like any other.

use std::io::{self, Read as _, Seek as _};
use std::process::{Command, Stdio};

use super::databases::DatabaseUrl;
use super::error::{failed, usage};
use crate::hint::{ErrorKind, Failure};
use crate::source::Source;

/// What counts as something in a database: tables, views, sequences, functions of users.
const CONTENTS: &str = "SELECT count(*)::text FROM (SELECT relnamespace AS space FROM pg_class \
     UNION ALL SELECT pronamespace FROM pg_proc) AS things JOIN pg_namespace ON oid = space \
     WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'";
/// Whoever loads a dump does what its sender wrote, and a superuser may run programs.
const RIGHTS: &str = "SELECT CASE WHEN rolsuper THEN 'all' ELSE 'some' END FROM pg_roles \
     WHERE rolname = current_user";

/// Loads the archive into the database at this URL, all of it or nothing.
pub fn load(dump: &mut dyn io::Read, name: &str, url: &str) -> Result<Box<dyn Source>, Failure> {
    let url = DatabaseUrl::new(url)?;
    let Some(connection) = url.for_programs()? else {
        return Err(usage(
            "a pg_dump archive can only be loaded into PostgreSQL",
            "write --load-into postgres://user@host/scratch",
        ));
    };
    if url.ask(RIGHTS)?.as_deref() != Some("some") {
        return Err(usage(
            "the user of --load-into is a superuser, who would run whatever the dump says",
            "make another: CREATE ROLE scratch LOGIN; CREATE DATABASE scratch OWNER scratch",
        ));
    }
    if url.ask(CONTENTS)?.as_deref() != Some("0") {
        return Err(usage(
            format!("the database {url} is not empty"),
            "name an empty one: createdb scratch",
        ));
    }
    let mut program = Command::new("pg_restore");
    program.args(["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]);
    program.args(["--no-comments", "--no-publications", "--no-subscriptions"]);
    program.args(["--no-security-labels", "--no-tablespaces", "--dbname"]).arg(&connection.url);
    if let Some(password) = connection.password {
        program.env("PGPASSWORD", password.as_str());
    }
    run(&mut program, dump)?;
    url.source(name, Vec::new(), None)
}

/// Runs `pg_restore` to its end. All that it says is an error, and its last words are told.
fn run(program: &mut Command, dump: &mut dyn io::Read) -> Result<(), Failure> {
    let cannot = |error: io::Error| {
        let hint = "install the client programs of PostgreSQL: apt-get install postgresql-client";
        let text = format!("cannot run pg_restore: {error}");
        Failure::message(ErrorKind::Failed, text, Some(hint.to_owned()))
    };
    let mut said = tempfile::tempfile().map_err(cannot)?;
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(cannot)?)
        .spawn()
        .map_err(cannot)?;
    let copied = match child.stdin.take() {
        Some(mut stdin) => io::copy(dump, &mut stdin).map(drop),
        None => Ok(()),
    };
    let status = child.wait().map_err(cannot)?;
    let mut text = String::new();
    said.rewind().and_then(|()| said.take(1 << 16).read_to_string(&mut text)).map_err(cannot)?;
    if !status.success() {
        let first = text.lines().find(|line| line.contains("error:")).unwrap_or(text.trim());
        return Err(failed(format!("pg_restore did not load the dump: {}", first.escape_debug())));
    }
    // A program that is done has read what it wanted; one that was not has failed above.
    match copied {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot(error)),
        _ => Ok(()),
    }
}
