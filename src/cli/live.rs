//! What of a database that is alive a restore leaves as it is: what `restore` and `undo` share.

use super::app::App;
use super::error::usage;
use crate::hint::Failure;
use crate::snapshot::{Pin, PinnedWith, RecordRules};

/// Tables that hold who is logged in, which is not for a restore to change.
pub const KEEP_LIVE: [&str; 6] = [
    "django_session",
    "token_blacklist_*",
    "authtoken_token",
    "oauth2_provider_*",
    "knox_authtoken",
    "coeval_*",
];

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LiveArgs {
    /// Leave tables that match this pattern as they are when a whole database is restored into one
    /// that is alive [default: what coeval.toml says, else sessions and tokens]; may be given
    /// several times
    #[arg(long, value_name = "TABLE")]
    keep_live: Vec<String>,
    /// Restore sessions and tokens, too
    #[arg(long, conflicts_with = "keep_live")]
    no_keep_live: bool,
    /// Leave this row as it is, as in users/17; may be given several times
    #[arg(long, value_name = "TABLE/KEY")]
    pin: Vec<String>,
    /// The same, with its rows in tables that only link it to others: groups and permissions
    #[arg(long, value_name = "TABLE/KEY")]
    pin_account: Vec<String>,
}

impl LiveArgs {
    /// The rules for all databases.
    pub fn rules(&self, app: &App) -> Result<RecordRules, Failure> {
        let config = &app.config()?.restore;
        let keep_live = match (&self.keep_live[..], &config.keep_live) {
            _ if self.no_keep_live => Vec::new(),
            ([], Some(configured)) => configured.clone(),
            ([], None) => KEEP_LIVE.map(str::to_owned).to_vec(),
            (given, _) => given.to_vec(),
        };
        let of = |rows: &[String], with| {
            rows.iter().map(|row| parse_pin(row, with)).collect::<Result<Vec<_>, _>>()
        };
        let pins = [
            of(&self.pin, PinnedWith::Nothing)?,
            of(&self.pin_account, PinnedWith::Links)?,
            of(&config.pin, PinnedWith::Nothing)?,
            of(&config.pin_account, PinnedWith::Links)?,
        ];
        Ok(RecordRules { keep_live, pins: pins.concat(), ..RecordRules::default() })
    }
}

fn parse_pin(text: &str, with: PinnedWith) -> Result<Pin, Failure> {
    match text.split_once('/') {
        Some((table, key)) if !table.is_empty() && !key.is_empty() => {
            Ok(Pin { table: table.to_owned(), key: key.to_owned(), with })
        }
        _ => Err(usage(format!("`{text}` names no row"), "write it as users/17")),
    }
}
