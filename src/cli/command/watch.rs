//! `coeval watch`

use std::sync::Arc;
use std::time::Duration;

use super::backup;
use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::cli::sources::SourceArgs;
use crate::context::Cancel;
use crate::hint::{ErrorKind, Failure};
use crate::repo::{Compression, Repo};
use crate::report::Event;
use crate::snapshot::{self, CaptureOptions, Filter, Manifest, Mode, Parent, Reason, Snapshot};
use crate::source::Source;

/// Take a snapshot again and again, keeping connections open
///
/// A snapshot is saved when something changed. With a replication slot (`coeval database setup`)
/// each one holds the transactions since the one before, so that `restore --at` reaches any of
/// them. What the [retention] of coeval.toml does not keep is forgotten. A failure is reported, and
/// tried again later and later; Ctrl-C ends it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,
    /// How often: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = span)]
    every: Duration,
    /// How often everything is read and compared with what the log of changes told: 24h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
    compare_every: Duration,
    /// Give the snapshots a tag; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Name this machine differently
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// End after so many tries
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// How soon a signal is noticed.
const STEP: Duration = Duration::from_millis(100);

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let mut sources = args.sources.open(app)?;
    let repo = app.open()?;
    let mut options = CaptureOptions {
        host: args.host.clone().unwrap_or_else(host),
        application: app.application()?,
        tags: args.tag.clone(),
        parent: Parent::Newest,
        reason: Reason::Backup,
        compression: Compression::Auto,
        compare: false,
    };
    let mut failures = 0_u32;
    let clock = &app.ctx.clock;
    let mut compared = clock.now();
    let mut tries = 0;
    let mut done = Done::Fully;
    while args.count.is_none_or(|count| tries < count) {
        tries += 1;
        let started = clock.now();
        options.compare = clock.now().since(compared) >= args.compare_every;
        let mode = Mode::CommitUnlessUnchanged;
        let attempt = backup::capture(&repo, &mut sources, &options, mode, app).and_then(|taken| {
            app.progress.finish();
            if taken.id.is_some() {
                done = backup::show(&taken, app)?;
                forget(&repo, &options, app)?;
            }
            Ok(())
        });
        let pause = match attempt {
            Ok(()) => {
                failures = 0;
                if options.compare {
                    compared = clock.now();
                }
                // A server that is busy is not asked more than half of the time.
                let took = clock.now().since(started);
                args.every.saturating_sub(took).max(took)
            }
            Err(failure) => {
                if app.ctx.cancel.is_cancelled() {
                    return Ok(done);
                }
                if !may_pass(&failure) {
                    return Err(failure);
                }
                end(&mut sources);
                failures = failures.saturating_add(1);
                let hint = failure.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                app.ctx.report(Event::Note(format!("no snapshot: {failure}{hint}")));
                let pause = args.every.saturating_mul(1 << failures.min(10));
                pause.min(LONGEST_PAUSE.max(args.every))
            }
        };
        let last = args.count.is_some_and(|count| tries >= count);
        if !last && !sleep(pause, &app.ctx.cancel) {
            break;
        }
    }
    Ok(done)
}

/// Whether the same may go well later.
fn may_pass(failure: &Failure) -> bool {
    matches!(failure.kind(), ErrorKind::Failed | ErrorKind::Busy)
}

/// Gives up what a failed attempt left open; that a broken connection cannot be ended well is what
/// was reported already.
fn end(sources: &mut [Box<dyn Source>]) {
    for source in sources {
        drop(source.end());
    }
}

/// Forgets what the configured rules do not keep.
fn forget(repo: &Arc<Repo>, options: &CaptureOptions, app: &App) -> Result<(), Failure> {
    let policy = app.config()?.retention.policy(app.ctx.clock.now())?;
    let filter = Filter {
        host: Some(options.host.clone()),
        application: Some(options.application.clone()),
        ..Filter::default()
    };
    if policy.is_empty() {
        return Ok(());
    }
    let timeline = app.timeline(repo)?;
    let snapshots: Vec<_> = timeline.iter(&filter).collect();
    let sound = |id, manifest: &Manifest| {
        let manifest = manifest.clone();
        snapshot::is_sound(&Snapshot { repo: Arc::clone(repo), id, manifest })
    };
    let verdicts = policy.verdicts(&snapshots, app.ctx.clock.now(), &sound)?;
    for verdict in verdicts.iter().filter(|verdict| verdict.kept.is_empty()) {
        repo.forget(verdict.id)?;
        app.output.verbose(format!("forgot snapshot {}", verdict.id.short()))?;
    }
    Ok(())
}

/// Waits; says whether to go on.
fn sleep(pause: Duration, cancel: &Cancel) -> bool {
    let mut left = pause;
    while !left.is_zero() && !cancel.is_cancelled() {
        let step = STEP.min(left);
        std::thread::sleep(step);
        left -= step;
    }
    !cancel.is_cancelled()
}

fn span(text: &str) -> Result<Duration, String> {
    crate::time::parse_span(text).ok_or_else(|| "it is written like 30s, 5m or 1h".to_owned())
}
