//! `coeval status`

use std::time::Duration;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::output::{Table, count};
use crate::hint::{ErrorKind, Failure};
use crate::snapshot::{self, Filter, Freshness};
use crate::time::Timestamp;

/// Tell how old the newest good snapshot of each application is, for monitoring
///
/// Exit code 0 if each is young enough, 1 if one is too old or there is none, 13 if history went
/// missing. A good snapshot is a backup that is complete and whose trees are there; `coeval check`
/// looks deeper.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How old it may be: 26h, 90m, 2 days [default: any age]
    #[arg(long, value_name = "TIME", value_parser = span)]
    max_age: Option<Duration>,
    /// Only those of this machine
    #[arg(long)]
    host: Option<String>,
    /// Only this application [default: that of coeval.toml, else all]
    #[arg(long)]
    application: Option<String>,
    /// Only snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let of_config = app.filter()?;
    let application = args.application.clone().or(of_config.application);
    let filter =
        Filter { host: args.host.clone(), application, tags: args.tag.clone(), until: None };
    let states = snapshot::freshness(&repo, &timeline, &filter, app.ctx.clock.now())?;
    let is_late = |state: &Freshness| match (state.age, args.max_age) {
        (None, _) => true,
        (Some(age), Some(max)) => age > max,
        (Some(_), None) => false,
    };
    show(&states, &is_late, app)?;
    if !timeline.findings().is_empty() {
        return Err(Failure::message(
            ErrorKind::Damage,
            "snapshots are damaged or went missing",
            Some("`coeval check` names them".to_owned()),
        ));
    }
    let late: Vec<String> = states.iter().filter(|state| is_late(state)).map(complaint).collect();
    let (text, hint) = match (states.is_empty(), &late[..]) {
        (true, _) => ("there is no snapshot".to_owned(), "take one with `coeval backup`"),
        (false, []) => return Ok(Done::Fully),
        (false, late) => (late.join("; "), "see why with `coeval audit` or in the log of the job"),
    };
    Err(Failure::message(ErrorKind::Failed, text, Some(hint.to_owned())))
}

fn show(
    states: &[Freshness],
    is_late: &dyn Fn(&Freshness) -> bool,
    app: &App,
) -> Result<(), Failure> {
    if app.output.is_json() {
        return states.iter().try_for_each(|state| {
            app.output.json(&serde_json::json!({
                "message_type": "status",
                "application": state.application,
                "hostname": state.host,
                "ok": !is_late(state),
                "snapshots": state.snapshots,
                "newest": state.newest.map(|(id, _)| id.to_string()),
                "time": state.newest.map(|(_, time)| time.to_rfc3339()),
                "age_seconds": state.age.map(|age| age.as_secs()),
                "bad_since": state.bad,
            }))
        });
    }
    if app.output.is_quiet() || states.is_empty() {
        return Ok(());
    }
    let mut table =
        Table::new(&["Application", "Host", "State", "Age", "Newest good", "Time", "Snapshots"]);
    for state in states {
        let newest = state.newest.map(|(id, time)| (id.short(), Timestamp::to_local(time)));
        let (id, time) = newest.unwrap_or_default();
        table.row(vec![
            state.application.clone(),
            state.host.clone(),
            if is_late(state) { "LATE" } else { "ok" }.to_owned(),
            state.age.map(age).unwrap_or_default(),
            id,
            time,
            count(state.snapshots, "snapshot"),
        ]);
    }
    table.write(&app.output)
}

fn complaint(state: &Freshness) -> String {
    let name = match state.application.as_str() {
        "" => format!("of {}", state.host),
        application => format!("of {application} on {}", state.host),
    };
    let bad = match state.bad {
        0 => String::new(),
        bad => format!(", {bad} after it are incomplete, damaged or of the future"),
    };
    match state.age {
        None => format!("there is no good snapshot {name}"),
        Some(old) => format!("the newest good snapshot {name} is {} old{bad}", age(old)),
    }
}

/// In the two largest units.
fn age(age: Duration) -> String {
    let minutes = age.as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    crate::time::parse_span(text).ok_or_else(|| "it is written like 26h, 90m or 2 days".to_owned())
}
