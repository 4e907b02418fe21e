//! `coeval forget`

use std::collections::BTreeMap;
use std::sync::Arc;

use super::prune;
use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::config::Retention;
use crate::cli::error::usage;
use crate::cli::output::{Table, count, size};
use crate::hint::{ErrorKind, Failure};
use crate::id::SnapshotId;
use crate::repo::{CollectOptions, Repo};
use crate::snapshot::{self, Filter, Grounds, Manifest, Policy, Snapshot, Timeline, Verdict};
use crate::time::Period;

/// Forget snapshots, by rules or by their ids
///
/// Snapshots are grouped; in each group every rule keeps some, and the rest is forgotten. Without
/// rules those of [retention] in coeval.toml hold. Only complete snapshots count. What is forgotten
/// can be brought back with `coeval undelete` until `coeval prune` removes it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Forget these and no others
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    rules: Rules,
    /// What tells groups apart: host, application, tags; or nothing
    #[arg(short, long, value_name = "LIST", default_value = "host,application")]
    group_by: String,
    /// Only snapshots of this machine
    #[arg(long)]
    host: Option<String>,
    /// Only snapshots with this tag; with several, with all of them
    #[arg(long)]
    tag: Vec<String>,
    #[command(flatten)]
    then: Then,
    /// Forget also the last snapshot of a group
    #[arg(long)]
    unsafe_allow_remove_all: bool,
}

#[derive(Debug, clap::Args)]
struct Then {
    /// Say what would be forgotten, and forget nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Then remove what no snapshot needs any more
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "they are named as in restic")]
struct Rules {
    /// Keep the newest N
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the last of each hour, for N hours in which there is one; likewise the others
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<u32>,
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<u32>,
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<u32>,
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<u32>,
    #[arg(long, value_name = "N")]
    keep_quarterly: Option<u32>,
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all that are younger than this: 30d, 12 hours
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<String>,
    /// Of those that are younger than this, keep the last of each hour; likewise the others
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<String>,
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<String>,
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<String>,
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<String>,
    #[arg(long, value_name = "SPAN")]
    keep_within_quarterly: Option<String>,
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<String>,
    /// Keep all with this tag; may be given several times
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Keep the one with this id; may be given several times
    #[arg(long, value_name = "ID")]
    keep_id: Vec<String>,
}

/// One group and what becomes of its snapshots.
struct Group<'a> {
    name: String,
    snapshots: Vec<&'a (SnapshotId, Manifest)>,
    verdicts: Vec<Verdict>,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let repo = app.open()?;
    let timeline = app.timeline(&repo)?;
    let filter = Filter { host: args.host.clone(), tags: args.tag.clone(), ..app.filter()? };
    let mut groups = group(&timeline, &filter, &args.group_by)?;
    if args.snapshots.is_empty() {
        let policy = args.rules.policy(app)?;
        if policy.is_empty() {
            return Err(usage(
                "no rule says which snapshots to keep",
                "give one, such as --keep-daily 7, or write [retention] into coeval.toml",
            ));
        }
        judge(&mut groups, &policy, &repo, app)?;
    } else {
        name(args, &mut groups, &timeline, &filter, app)?;
    }
    let forgotten: Vec<SnapshotId> = groups
        .iter()
        .flat_map(|group| &group.verdicts)
        .filter(|verdict| verdict.kept.is_empty())
        .map(|verdict| verdict.id)
        .collect();
    for group in &groups {
        show(group, app)?;
    }
    if !args.then.dry_run {
        for id in &forgotten {
            repo.forget(*id)?;
        }
    }
    let number = count(forgotten.len() as u64, "snapshot");
    if app.output.is_json() {
        app.output.json(&serde_json::json!({
            "message_type": "summary",
            "forgotten": forgotten.len(),
            "dry_run": args.then.dry_run,
        }))?;
    } else if args.then.dry_run {
        app.output.detail(format!("would forget {number}"))?;
    } else if forgotten.is_empty() || args.then.prune {
        app.output.detail(format!("forgot {number}"))?;
    } else {
        let undo = "`coeval prune` makes room, `coeval undelete` brings one back until then";
        app.output.detail(format!("forgot {number}; {undo}"))?;
    }
    if args.then.prune && !args.then.dry_run && !forgotten.is_empty() {
        return prune::prune(&repo, &CollectOptions::default(), app);
    }
    Ok(Done::Fully)
}

impl Rules {
    /// These rules, or those of the configuration if there is none.
    fn policy(&self, app: &App) -> Result<Policy, Failure> {
        let now = app.ctx.clock.now();
        let given = Retention {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_quarterly: self.keep_quarterly,
            keep_yearly: self.keep_yearly,
            keep_within: self.keep_within.clone(),
            keep_within_hourly: self.keep_within_hourly.clone(),
            keep_within_daily: self.keep_within_daily.clone(),
            keep_within_weekly: self.keep_within_weekly.clone(),
            keep_within_monthly: self.keep_within_monthly.clone(),
            keep_within_quarterly: self.keep_within_quarterly.clone(),
            keep_within_yearly: self.keep_within_yearly.clone(),
            keep_tag: self.keep_tag.clone(),
        };
        let policy = Policy { ids: self.keep_id.clone(), ..given.policy(now)? };
        if policy.is_empty() { app.config()?.retention.policy(now) } else { Ok(policy) }
    }
}

fn group<'a>(timeline: &'a Timeline, filter: &Filter, by: &str) -> Result<Vec<Group<'a>>, Failure> {
    let by: Vec<&str> = by.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if let Some(other) = by.iter().find(|part| !["host", "application", "tags"].contains(part)) {
        return Err(usage(
            format!("snapshots cannot be grouped by `{other}`"),
            "group them by host, application or tags, joined by commas",
        ));
    }
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for snapshot in timeline.iter(filter) {
        let manifest = &snapshot.1;
        let part = |part: &&str| match *part {
            "host" => format!("host {}", manifest.host),
            "application" => format!("application {}", manifest.application),
            _ => {
                let mut tags = manifest.tags.clone();
                tags.sort();
                format!("tags {}", tags.join(","))
            }
        };
        let name = by.iter().map(part).collect::<Vec<_>>().join(", ");
        let new = || Group { name: name.clone(), snapshots: Vec::new(), verdicts: Vec::new() };
        groups.entry(name.clone()).or_insert_with(new).snapshots.push(snapshot);
    }
    Ok(groups.into_values().collect())
}

/// Decides by the rules.
fn judge(
    groups: &mut [Group<'_>],
    policy: &Policy,
    repo: &Arc<Repo>,
    app: &App,
) -> Result<(), Failure> {
    let sound = |id, manifest: &Manifest| {
        snapshot::is_sound(&Snapshot { repo: Arc::clone(repo), id, manifest: manifest.clone() })
    };
    for group in groups {
        group.verdicts = policy.verdicts(&group.snapshots, app.ctx.clock.now(), &sound)?;
    }
    Ok(())
}

/// Decides by what the user named.
fn name(
    args: &Args,
    groups: &mut [Group<'_>],
    timeline: &Timeline,
    filter: &Filter,
    app: &App,
) -> Result<(), Failure> {
    let mut named = Vec::new();
    for text in &args.snapshots {
        let (id, manifest) = timeline.select(text, filter, &app.ctx)?;
        if manifest.is_protected(app.ctx.clock.now()) {
            return Err(Failure::message(
                ErrorKind::Failed,
                format!("snapshot {} is protected", id.short()),
                Some(format!("take that away with `coeval tag --unprotect {}`", id.short())),
            ));
        }
        named.push(*id);
    }
    for group in groups {
        let verdict = |(id, _): &&(SnapshotId, Manifest)| {
            let kept = if named.contains(id) { Vec::new() } else { vec![Grounds::Id] };
            Verdict { id: *id, kept }
        };
        group.verdicts = group.snapshots.iter().map(verdict).collect();
        let all = group.verdicts.iter().all(|verdict| verdict.kept.is_empty());
        if all && !args.unsafe_allow_remove_all {
            return Err(Failure::message(
                ErrorKind::Usage,
                format!("this would forget every snapshot of {}", group.name),
                Some("take a new one first, or add --unsafe-allow-remove-all".to_owned()),
            ));
        }
        if !all && group.verdicts.iter().all(|verdict| !verdict.kept.is_empty()) {
            group.verdicts.clear();
        }
    }
    Ok(())
}

fn show(group: &Group<'_>, app: &App) -> Result<(), Failure> {
    let output = &app.output;
    let rows = || group.snapshots.iter().zip(&group.verdicts);
    if output.is_json() {
        for ((id, manifest), verdict) in rows() {
            let grounds: Vec<_> = verdict.kept.iter().copied().map(grounds).collect();
            output.json(&serde_json::json!({
                "message_type": if grounds.is_empty() { "forget" } else { "keep" },
                "id": id.to_string(),
                "time": manifest.time.to_rfc3339(),
                "hostname": manifest.host,
                "application": manifest.application,
                "tags": manifest.tags,
                "reasons": grounds,
            }))?;
        }
        return Ok(());
    }
    if output.is_quiet() || group.verdicts.is_empty() {
        return Ok(());
    }
    for keep in [true, false] {
        let mut table = Table::new(&["ID", "Time", "Host", "Tags", "Size", "Reason"]);
        let mut number = 0;
        for ((id, manifest), verdict) in rows().filter(|(_, v)| v.kept.is_empty() != keep) {
            number += 1;
            table.row(vec![
                id.short(),
                manifest.time.to_local(),
                manifest.host.clone(),
                manifest.tags.join(","),
                size(manifest.bytes()),
                verdict.kept.iter().copied().map(grounds).collect::<Vec<_>>().join(", "),
            ]);
        }
        if number > 0 {
            let verb = if keep { "keep" } else { "forget" };
            output.line(format!("{}: {verb} {}", group.name, count(number, "snapshot")))?;
            table.write(output)?;
        }
    }
    Ok(())
}

fn grounds(grounds: Grounds) -> String {
    let of = |period: Period| match period {
        Period::Hour => "hourly",
        Period::Day => "daily",
        Period::Week => "weekly",
        Period::Month => "monthly",
        Period::Quarter => "quarterly",
        Period::Year => "yearly",
    };
    match grounds {
        Grounds::Last => "last".to_owned(),
        Grounds::Periodic(period) => of(period).to_owned(),
        Grounds::Within(None) => "within".to_owned(),
        Grounds::Within(Some(period)) => format!("within, {}", of(period)),
        Grounds::Tag => "tag".to_owned(),
        Grounds::Id => "not named".to_owned(),
        Grounds::Protected => "protected".to_owned(),
        Grounds::Newest => "newest good one".to_owned(),
        Grounds::Future => "dated after now".to_owned(),
        Grounds::Jump => "before a jump of the clock".to_owned(),
    }
}
