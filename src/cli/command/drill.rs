//! `coeval drill`

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::{Assert, Login, dereference};
use crate::cli::databases::DatabaseUrl;
use crate::cli::error::usage;
use crate::cli::output::count;
use crate::cli::password;
use crate::cli::references;
use crate::cli::scratch::{self, Place, Scratch};
use crate::cli::targets::{Going, file_name, restore_quietly};
use crate::hint::{ErrorKind, Failure};
use crate::snapshot::{Restored, Snapshot};
use crate::source::record::{DatabaseHeader, Engine, TableHeader};
use crate::source::{Extras, Kind};

/// Restore a snapshot somewhere else, and see that it works
///
/// Everything is restored into scratch databases and a scratch folder, which are removed at the end:
/// SQLite into a file, PostgreSQL into a private server of the version that is installed here, or
/// into a new database of --server. Nothing that is live is touched. Then it is asserted that all
/// is there: equal root hashes, counts of rows, references, what [[drill.assert]] in coeval.toml
/// says, and a login. The exit code is 13 if an assertion fails. What a drill leaves that is killed,
/// the next one removes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The snapshot
    #[arg(default_value = "latest")]
    snapshot: String,
    /// The server of PostgreSQL to make a scratch database on, `coeval_drill_…`, which is dropped
    /// at the end
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The user whose password, in the environment variable DRILL_PASSWORD, must fit the hash in
    /// the column `password` of the same table: auth_user.username=ada
    #[arg(long, value_name = "TABLE.COLUMN=USER")]
    login: Option<String>,
}

/// One thing that must be so.
struct Assertion {
    name: String,
    holds: bool,
    /// What was found.
    found: String,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let snapshot = app.snapshot(&repo, &args.snapshot)?;
    let server = args.server.as_ref().map(|url| DatabaseUrl::new(&dereference(url, "--server")?));
    let login = login(args, app)?;
    let parent = app.scratch_dir()?;
    let server = server.transpose()?;
    scratch::remove_what_was_left(&parent, server.as_ref(), &app.ctx)?;
    let place = Place::new(&parent)?;
    let mut scratch = Scratch::new(&place, server);
    let started = app.ctx.clock.now();
    let (mut going, databases) = targets(&snapshot, &mut scratch, place.path())?;
    let prepared = app.ctx.clock.now();
    let restored = restore_quietly(&snapshot, &mut going, app)?;
    drop(going);
    let done = app.ctx.clock.now();
    let mut assertions = Vec::new();
    roots(&snapshot, &restored, &mut assertions)?;
    for (name, url) in &databases {
        rows(&snapshot, name, url, &mut assertions)?;
    }
    follow(&snapshot, app, &mut assertions)?;
    for assert in &app.config()?.drill.assert {
        assertions.push(ask(assert, one(&databases, assert.database.as_deref())?));
    }
    if let Some((login, password)) = &login {
        let url = one(&databases, login.database.as_deref())?;
        assertions.push(log_in(login, password, url)?);
    }
    let checked = app.ctx.clock.now();
    scratch.remove()?;
    place.close()?;
    app.progress.finish();
    let times = [
        ("prepare", prepared.since(started)),
        ("restore", done.since(prepared)),
        ("assert", checked.since(done)),
        ("remove", app.ctx.clock.now().since(checked)),
    ];
    show(&snapshot, &restored, &assertions, &times, app)?;
    match assertions.iter().filter(|assertion| !assertion.holds).count() {
        0 => Ok(Done::Fully),
        wrong => Err(Failure::message(
            ErrorKind::Damage,
            format!("{} failed", count(wrong as u64, "assertion")),
            Some("what was restored is removed; see it with `coeval restore --target DIR`".into()),
        )),
    }
}

/// The databases, by the names that the snapshot has for them, where they were restored.
type Databases = Vec<(String, DatabaseUrl)>;

/// Everything of a snapshot, going into scratch places; and where its databases are then.
fn targets(
    snapshot: &Snapshot,
    scratch: &mut Scratch,
    folder: &Path,
) -> Result<(Vec<Going>, Databases), Failure> {
    let (mut going, mut databases) = (Vec::new(), Vec::new());
    for source in &snapshot.manifest.sources {
        if source.kind == Kind::Database {
            let header = DatabaseHeader::from_json(&snapshot.header(source)?)?;
            let url = scratch.database(&source.name, header.engine)?;
            going.push(Going::database(snapshot, source, &url)?);
            databases.push((source.name.clone(), url));
            continue;
        }
        let mut root = folder.join(source.kind.as_str());
        if !source.name.is_empty() {
            root.push(file_name(&source.name)?);
        }
        going.push(Going::files(snapshot, source, Some(&root), Extras::Keep)?);
    }
    Ok((going, databases))
}

/// What was read again after the restore has the roots of the snapshot.
fn roots(
    snapshot: &Snapshot,
    restored: &Restored,
    assertions: &mut Vec<Assertion>,
) -> Result<(), Failure> {
    for source in &snapshot.manifest.sources {
        let trees = snapshot.trees(source)?;
        let equal = trees.iter().filter(|tree| {
            let root = tree.tree.root.to_string();
            let is_it = |kind, name: &str, of: &str| {
                kind == source.kind && name == source.name && of == tree.info.name
            };
            restored.verified.iter().any(|v| is_it(v.kind, &v.source, &v.tree) && v.root == root)
        });
        let equal = equal.count();
        assertions.push(Assertion {
            name: format!("roots of {}/{}", source.kind.as_str(), source.name),
            holds: equal == trees.len(),
            found: format!("{equal} of {} equal", trees.len()),
        });
    }
    Ok(())
}

/// Each table has as many rows as the snapshot, by the database's own count.
fn rows(
    snapshot: &Snapshot,
    name: &str,
    url: &DatabaseUrl,
    assertions: &mut Vec<Assertion>,
) -> Result<(), Failure> {
    let Some(source) = snapshot.manifest.source(Kind::Database, name) else { return Ok(()) };
    let engine = DatabaseHeader::from_json(&snapshot.header(source)?)?.engine;
    let mut different = Vec::new();
    let trees = snapshot.trees(source)?;
    for tree in &trees {
        let header = TableHeader::from_json(&tree.info.header)?;
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let table = quote(&header.table);
        let sql = match engine {
            Engine::Sqlite => format!("SELECT count(*) FROM {table}"),
            Engine::Postgresql => {
                format!("SELECT count(*) FROM ONLY {}.{table}", quote(&header.schema))
            }
        };
        let found = url.ask(&sql)?.unwrap_or_default();
        if found != tree.tree.entries.to_string() {
            let (name, wanted) = (&tree.info.name, tree.tree.entries);
            different.push(format!("{name}: {found} instead of {wanted}"));
        }
    }
    assertions.push(Assertion {
        name: format!("rows of database/{name}"),
        holds: different.is_empty(),
        found: if different.is_empty() {
            format!("equal in {}", count(trees.len() as u64, "table"))
        } else {
            different.join(", ")
        },
    });
    Ok(())
}

/// What records refer to is there.
fn follow(snapshot: &Snapshot, app: &App, assertions: &mut Vec<Assertion>) -> Result<(), Failure> {
    let found = references::look(snapshot, app)?;
    assertions.push(Assertion {
        name: "references".to_owned(),
        holds: found.missing + found.dangling == 0,
        found: format!(
            "{} of {} to files and {} of {} to records lead nowhere",
            found.missing, found.named, found.dangling, found.references
        ),
    });
    Ok(())
}

fn ask(assert: &Assert, url: &DatabaseUrl) -> Assertion {
    // What cannot be asked is not true either: a table may be missing.
    let (answer, error) = match url.ask(&assert.sql) {
        Ok(answer) => (answer, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let equals = match &assert.equals {
        None => true,
        Some(toml::Value::String(text)) => answer.as_ref() == Some(text),
        Some(toml::Value::Boolean(value)) => {
            let spelled = if *value { ["true", "1"] } else { ["false", "0"] };
            answer.as_deref().is_some_and(|answer| spelled.contains(&answer))
        }
        Some(other) => answer.as_ref() == Some(&other.to_string()),
    };
    let number = answer.as_ref().and_then(|answer| answer.parse::<f64>().ok());
    let enough = assert.at_least.is_none_or(|least| number.is_some_and(|n| n >= least));
    Assertion {
        name: assert.sql.clone(),
        holds: error.is_none() && equals && enough,
        found: error.or(answer).unwrap_or_else(|| "NULL".to_owned()),
    }
}

/// Who must be able to log in, and the password.
fn login(args: &Args, app: &App) -> Result<Option<(Login, String)>, Failure> {
    let login = match &args.login {
        None => app.config()?.drill.login.clone(),
        Some(text) => {
            let parts = text.split_once('=').filter(|(column, _)| column.contains('.'));
            let (column, user) = parts.ok_or_else(|| {
                usage(format!("`{text}` names no user"), "write auth_user.username=ada")
            })?;
            Some(Login {
                user: user.to_owned(),
                password: "env:DRILL_PASSWORD".to_owned(),
                column: column.to_owned(),
                hash: Login::hash(),
                database: None,
            })
        }
    };
    login
        .map(|login| {
            let password = dereference(&login.password, "the password of the drill's login")?;
            Ok((login, password))
        })
        .transpose()
}

/// The hash of the user's password fits. Neither is ever shown.
fn log_in(login: &Login, password: &str, url: &DatabaseUrl) -> Result<Assertion, Failure> {
    let identifier = |name: &str| {
        let part = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
        name.split('.').map(part).collect::<Vec<_>>().join(".")
    };
    let (table, column) = login.column.rsplit_once('.').ok_or_else(|| {
        usage(format!("`{}` is no column", login.column), "write auth_user.username")
    })?;
    let sql = format!(
        "SELECT {} FROM {} WHERE {} = '{}'",
        identifier(&login.hash),
        identifier(table),
        identifier(column),
        login.user.replace('\'', "''")
    );
    let (holds, found) = match url.ask(&sql)? {
        None => (false, "there is no such user, or no password".to_owned()),
        Some(hash) => match password::verify(password, &hash) {
            Ok(true) => (true, "the password fits".to_owned()),
            Ok(false) => (false, "the password does not fit".to_owned()),
            Err(reason) => (false, reason),
        },
    };
    Ok(Assertion { name: format!("login of {}", login.user), holds, found })
}

fn one<'d>(
    databases: &'d [(String, DatabaseUrl)],
    name: Option<&str>,
) -> Result<&'d DatabaseUrl, Failure> {
    match (databases, name) {
        ([(_, only)], None) => Ok(only),
        (all, Some(name)) if all.iter().any(|(other, _)| other == name) => {
            Ok(all.iter().find(|(other, _)| other == name).map_or(&all[0].1, |(_, url)| url))
        }
        _ => Err(usage(
            "an assertion does not say which database it is about",
            "write `database = \"NAME\"` beside its `sql`, as the snapshot names it",
        )),
    }
}

fn show(
    snapshot: &Snapshot,
    restored: &Restored,
    assertions: &[Assertion],
    times: &[(&str, Duration); 4],
    app: &App,
) -> Result<(), Failure> {
    let output = &app.output;
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    let passed = assertions.iter().all(|assertion| assertion.holds);
    if output.is_json() {
        let seconds =
            |(name, time): &(&str, Duration)| ((*name).to_owned(), json!(time.as_secs_f64()));
        let assertions = assertions.iter().map(|assertion| {
            let Assertion { name, holds, found } = assertion;
            json!({ "name": name, "passed": holds, "found": found })
        });
        return output.json(&json!({
            "message_type": "drill",
            "snapshot_id": snapshot.id.to_string(),
            "snapshot_time": snapshot.manifest.time.to_rfc3339(),
            "passed": passed,
            "seconds": times.iter().map(seconds).collect::<serde_json::Map<_, _>>(),
            "total_seconds": total.as_secs_f64(),
            "restored": restored.applied,
            "bytes_fetched": restored.bytes_fetched,
            "assertions": assertions.collect::<Vec<_>>(),
        }));
    }
    for Assertion { name, holds, found } in assertions {
        output.line(format!("{} {name}: {found}", if *holds { "ok    " } else { "FAILED" }))?;
    }
    let times = times.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()));
    output.line(format!(
        "snapshot {}: {}",
        snapshot.id.short(),
        times.collect::<Vec<_>>().join(", ")
    ))
}
