//! `coeval key`

use std::path::PathBuf;

use super::init;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::error::usage;
use crate::cli::output::Table;
use crate::cli::unlock::{self, Secret};
use crate::crypto::{KdfCost, RecoveryKey, Unlock};
use crate::hint::Failure;
use crate::repo::NewKey;
use crate::time::Timestamp;

/// Manage what opens the repository
#[derive(Debug, clap::Subcommand)]
pub enum Key {
    /// List the keys
    List,
    /// Add a key: a password asked for on the terminal, unless another kind is named
    Add(Add),
    /// Remove a key. Whoever has it and a copy of the repository can still open that copy
    Remove {
        /// The id of the key, or its first digits
        id: String,
    },
}

/// Which key to add.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// A key file, which is made if it does not exist
    #[arg(long, value_name = "FILE", group = "new")]
    new_key_file: Option<PathBuf>,
    /// A password: the first line of this file
    #[arg(long, value_name = "FILE", group = "new")]
    new_password_file: Option<PathBuf>,
    /// A recovery key, which is printed
    #[arg(long, group = "new")]
    recovery: bool,
    /// What `key list` shows beside it [default: the name of this machine]
    #[arg(long)]
    label: Option<String>,
}

impl Key {
    /// Whether it changes nothing.
    pub const fn is_list(&self) -> bool {
        matches!(self, Self::List)
    }
}

pub fn run(what: &Key, app: &App) -> Result<Done, Failure> {
    match what {
        Key::List => list(app),
        Key::Add(args) => add(args, app),
        Key::Remove { id } => {
            let id = app.open()?.remove_key(id)?;
            if app.output.is_json() {
                app.output.json(
                    &serde_json::json!({ "message_type": "key_removed", "id": id.to_string() }),
                )?;
            } else {
                app.output.detail(format!("removed key {}", id.short()))?;
            }
            Ok(Done::Fully)
        }
    }
}

fn list(app: &App) -> Result<Done, Failure> {
    let slots = app.open()?.keys()?;
    if app.output.is_json() {
        for slot in &slots {
            app.output.json(&serde_json::json!({
                "id": slot.id().to_string(),
                "kind": slot.kind().name(),
                "label": slot.label(),
                "created": slot.created().to_rfc3339(),
            }))?;
        }
        return Ok(Done::Fully);
    }
    if slots.is_empty() {
        app.output.detail("this repository is not encrypted and has no keys")?;
        return Ok(Done::Fully);
    }
    let mut table = Table::new(&["ID", "Kind", "Label", "Created"]);
    for slot in &slots {
        table.row(vec![
            slot.id().short(),
            slot.kind().name().to_owned(),
            slot.label().to_owned(),
            Timestamp::to_local(slot.created()),
        ]);
    }
    table.write(&app.output)?;
    Ok(Done::Fully)
}

fn add(args: &Add, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let mut printed = None;
    let unlock = match (&args.new_key_file, &args.new_password_file) {
        (Some(path), _) => Unlock::KeyFile(unlock::read_or_make_key_file(path)?.0),
        (_, Some(path)) => match Secret::PasswordFile(path.clone()).read()? {
            Unlock::Password(password) => Unlock::Password(password),
            Unlock::KeyFile(_) | Unlock::Recovery(_) => {
                return Err(usage(
                    format!("{} holds a recovery key, not a password", path.display()),
                    "write a password into it, or let --recovery make a new recovery key",
                ));
            }
        },
        _ if args.recovery => {
            let key = RecoveryKey::generate()?;
            printed = Some(key.to_text());
            Unlock::Recovery(key)
        }
        _ => unlock::ask_new(&app.ctx.cancel)?,
    };
    let label = args.label.clone().unwrap_or_else(init::label);
    let id = repo.add_key(&NewKey { unlock, label, cost: KdfCost::DEFAULT }, &app.ctx)?;
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "key_added",
            "id": id.to_string(),
            "recovery_key": printed.as_ref().map(|key| key.as_str()),
        }))?;
        return Ok(Done::Fully);
    }
    app.output.detail(format!("added key {}", id.short()))?;
    printed.map_or(Ok(()), |key| app.output.line(key.as_str())).map(|()| Done::Fully)
}
