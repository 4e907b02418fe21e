//! `coeval database`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::dereference;
use crate::cli::databases::DatabaseUrl;
use crate::cli::error::usage;
use crate::cli::output::Verbosity;
use crate::hint::Failure;
use crate::source::{Postgres, Requirement, RequirementState as State};

/// Prepare a PostgreSQL server, so that a snapshot costs what changed and not what there is
#[derive(Debug, clap::Subcommand)]
pub enum Database {
    /// Show what following the changes needs, print the SQL for what is missing, and run it
    ///
    /// It makes a replication slot that keeps the server's log until the next snapshot has read
    /// it. What needs a restart or another role's rights is printed for you to run.
    Setup(Args),
    /// Show what following the changes needs, and what is there
    Status(Args),
    /// Take away what `setup` made: the replication slot. Snapshots read every table again
    Remove(Args),
}

/// Which database.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database: its URL, env:VARIABLE, or its name in coeval.toml
    #[arg(value_name = "URL")]
    url: String,
    /// The name of the replication slot [default: that of coeval.toml, or coeval_ and the name of
    /// the database]
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// Print the SQL, and run nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(what: &Database, app: &App) -> Result<Done, Failure> {
    match what {
        Database::Setup(args) => setup(args, app),
        Database::Status(args) => {
            show(&open(args, app)?.requirements()?, app)?;
            Ok(Done::Fully)
        }
        Database::Remove(args) => remove(args, app),
    }
}

fn setup(args: &Args, app: &App) -> Result<Done, Failure> {
    let mut database = open(args, app)?;
    let mut requirements = database.requirements()?;
    show(&requirements, app)?;
    let blocked = |list: &[Requirement]| list.iter().any(|r| r.state == State::Operator);
    if !args.dry_run && !blocked(&requirements) {
        for requirement in requirements.iter().filter(|r| r.state == State::ToDo) {
            database.run(requirement.sql.as_deref().unwrap_or_default())?;
        }
        requirements = database.requirements()?;
    }
    if blocked(&requirements) {
        return Err(usage(
            "the server is not ready to be followed",
            "run the SQL above that is marked with `!`, then `coeval database setup` again",
        ));
    }
    let done = requirements.iter().all(|r| r.state != State::ToDo);
    if !app.output.is_json() {
        app.output.detail(if done {
            "snapshots of this database now cost what changed; undo this with `coeval database remove`"
        } else {
            "nothing was changed"
        })?;
    }
    Ok(Done::Fully)
}

fn remove(args: &Args, app: &App) -> Result<Done, Failure> {
    let mut database = open(args, app)?;
    let removal = database.removal()?;
    if app.output.is_json() {
        app.output.json(&serde_json::json!({ "message_type": "removal", "sql": removal }))?;
    }
    match removal {
        None => app.output.detail("there is nothing to remove")?,
        Some(sql) => {
            app.output.detail(&sql)?;
            if !args.dry_run {
                database.run(&sql)?;
            }
        }
    }
    Ok(Done::Fully)
}

fn show(requirements: &[Requirement], app: &App) -> Result<(), Failure> {
    for requirement in requirements {
        if app.output.is_json() {
            let mut line = serde_json::json!({ "message_type": "requirement" });
            let fields = serde_json::to_value(requirement)
                .map_err(|error| usage(error.to_string(), "leave out --json"))?;
            if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object()) {
                line.extend(fields.clone());
            }
            app.output.json(&line)?;
            continue;
        }
        let mark = match requirement.state {
            State::Met => "✓",
            State::Advised => "~",
            State::ToDo => "+",
            State::Operator => "!",
        };
        let Requirement { what, found, .. } = requirement;
        if app.output.verbosity != Verbosity::Quiet {
            app.output.line(format!("{mark} {what}: {found}"))?;
        }
        if let Some(sql) = &requirement.sql {
            app.output.line(format!("    {sql}"))?;
        }
    }
    Ok(())
}

fn open(args: &Args, app: &App) -> Result<Postgres, Failure> {
    let config = app.config()?;
    let named = config.database.get(&args.url);
    let url = match named {
        Some(database) => dereference(&database.url, &format!("[database.{}] url", args.url))?,
        None => dereference(&args.url, "URL")?,
    };
    let url = DatabaseUrl::new(&url)?;
    let slot = args.slot.clone().or_else(|| named.and_then(|database| database.slot.clone()));
    let name = if named.is_some() { args.url.clone() } else { url.name() };
    url.as_postgres(&name, Vec::new(), slot)?.ok_or_else(|| {
        usage(
            "SQLite needs no preparation",
            "take a snapshot with `coeval backup`; one of an unchanged file is quick",
        )
    })
}
