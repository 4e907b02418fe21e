//! `coeval audit`

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{Table, count};
use crate::hint::{ErrorKind, Failure};
use crate::repo::format::audit::{Entry, Outcome};
use crate::repo::{AuditLog, Numbered};

/// Who did what with the repository, and when
///
/// Every command that changes the repository or reads what was backed up writes an entry before it
/// begins and one when it has ended.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<Audit>,
    /// Only the newest N
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Only those of this machine
    #[arg(long)]
    host: Option<String>,
}

/// What to do with the log.
#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Find entries that were removed, moved or altered
    Verify,
}

impl Args {
    /// Whether it is to be verified.
    pub const fn verifies(&self) -> bool {
        self.what.is_some()
    }
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let log = app.open_afresh()?.audit_log(&app.ctx)?;
    app.progress.finish();
    if !args.verifies() {
        list(args, &log, app)?;
    } else if app.output.is_json() {
        for finding in &log.findings {
            app.output.json(&serde_json::json!({
                "message_type": "finding",
                "object": finding.object,
                "problem": finding.problem,
            }))?;
        }
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "num_errors": log.findings.len(),
            "entries": log.entries.len(),
            "chains": log.chains,
        }))?;
    } else {
        for finding in &log.findings {
            app.output.line(format!("{}: {}", finding.object, finding.problem))?;
        }
        let (entries, chains) = (log.entries.len() as u64, log.chains as u64);
        let (entries, chains) = (count(entries, "entry"), count(chains, "host"));
        app.output.detail(format!("verified {entries} of {chains}"))?;
    }
    match log.findings.len() {
        0 => Ok(Done::Fully),
        found => Err(Failure::message(
            ErrorKind::Damage,
            format!("the audit log is not whole: {}", count(found as u64, "finding")),
            (!args.verifies()).then(|| "`coeval audit verify` lists them".to_owned()),
        )),
    }
}

/// Commands by the time at which they began, each with what became of it.
fn list(args: &Args, log: &AuditLog, app: &App) -> Result<(), Failure> {
    let mut shown: Vec<(&Numbered, Option<&Numbered>)> = Vec::new();
    let ends: std::collections::HashMap<_, _> = log
        .entries
        .iter()
        .filter_map(|end| match end.entry.outcome {
            Outcome::Ended { begun, .. } => Some(((end.chain, begun), end)),
            Outcome::Begun => None,
        })
        .collect();
    for begun in log.entries.iter().filter(|begun| begun.entry.outcome == Outcome::Begun) {
        if args.host.as_ref().is_none_or(|host| *host == begun.entry.host) {
            shown.push((begun, ends.get(&(begun.chain, begun.number)).copied()));
        }
    }
    shown.sort_by_key(|(begun, _)| (begun.entry.time, begun.chain, begun.number));
    if let Some(latest) = args.latest {
        shown.drain(..shown.len().saturating_sub(latest));
    }
    if app.output.is_json() {
        return shown.into_iter().try_for_each(|(begun, end)| {
            let Entry { time, host, user, program, command, .. } = &begun.entry;
            let (code, message) = ended(end);
            app.output.json(&serde_json::json!({
                "message_type": "entry",
                "chain": begun.chain.to_string(),
                "number": begun.number,
                "time": time.to_rfc3339(),
                "ended": end.map(|end| end.entry.time.to_rfc3339()),
                "host": host,
                "user": user,
                "program_version": program,
                "command": command,
                "exit_code": code,
                "message": message,
            }))
        });
    }
    let mut table = Table::new(&["Time", "Host", "User", "Result", "Command"]);
    for (begun, end) in shown {
        let Entry { time, host, user, command, .. } = &begun.entry;
        let result = match ended(end) {
            (None, _) => "did not end".to_owned(),
            (Some(0), _) => "done".to_owned(),
            (Some(code), _) => format!("exit {code}"),
        };
        table.row(vec![time.to_local(), host.clone(), user.clone(), result, command.clone()]);
    }
    table.write(&app.output)
}

fn ended(end: Option<&Numbered>) -> (Option<u8>, &str) {
    match end.map(|end| &end.entry.outcome) {
        Some(Outcome::Ended { code, message, .. }) => (Some(*code), message),
        _ => (None, ""),
    }
}
