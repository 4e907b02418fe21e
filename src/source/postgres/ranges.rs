//! A large table through several connections that share the snapshot of the capture: each copies
//! one range of keys after the other, and turns lines into records, while the ranges before are
//! being stored.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde::Deserialize;
use sqlx::postgres::PgConnection;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::capture::Rows;
use super::catalog::{Table, ident};
use super::connect::{Db, Login, failed};
use super::error::PostgresError;
use crate::context::Context;
use crate::hint::Failure;

/// How many rows a range has, about: what one connection reads ahead.
const ROWS: u64 = 32 << 10;
/// From how many ranges on it is worth it.
const FEW: u64 = 4;
/// Bytes of records that are handed over at once, and how many times that a connection may be
/// ahead.
const BATCH: usize = 64 << 10;
const AHEAD: usize = 128;
/// Keys that are looked at for each bound.
const SAMPLES: u64 = 8;
/// More connections than these are of no use: what they read is stored in order.
const CONNECTIONS: usize = 8;

/// A key and a record.
type Entry = (Vec<u8>, Vec<u8>);
type Batch = Result<Vec<Entry>, PostgresError>;

/// What all connections read.
pub(super) struct Plan {
    login: Arc<Login>,
    snapshot: String,
    table: Table,
    order: String,
    /// Conditions on the first column of the key, in its order.
    ranges: Vec<String>,
    connections: usize,
}

#[derive(Deserialize)]
struct Bound(String);

/// Divides a table into ranges of keys; `None` where it is too small, or one connection is all
/// that was asked for.
pub(super) fn plan(
    db: &mut Db,
    login: &Arc<Login>,
    snapshot: &str,
    table: &Table,
    order: &str,
    ctx: &Context,
) -> Result<Option<Plan>, PostgresError> {
    let rows = table.estimate.unwrap_or(0);
    let count = rows / ROWS;
    let connections = ctx.jobs.min(CONNECTIONS);
    let first = table.header.key.first();
    let column = first.and_then(|name| table.header.columns.iter().find(|c| c.name == *name));
    let (Some(column), true) = (column, count >= FEW && connections > 1) else { return Ok(None) };
    let name = ident(&column.name);
    // As the server sorts them for this table: the order's first term.
    let term = order.trim_start_matches("ORDER BY ").split(", ").next().unwrap_or(&name).to_owned();
    let wanted = count * SAMPLES;
    // In thousandths of a percent.
    let part = (wanted * 100_000 / rows.max(1)).clamp(10, 100_000);
    let sql = format!(
        "SELECT coalesce(json_agg(k), '[]')::text FROM (
           SELECT quote_literal({name}::text) AS k FROM (
             SELECT DISTINCT {term} AS s, {name} FROM ONLY {}
             TABLESAMPLE SYSTEM ({}.{:03}) REPEATABLE (0) ORDER BY 1) x) y",
        table.sql(),
        part / 1000,
        part % 1000
    );
    let sample: Vec<Bound> = db.json(&format!("dividing table {}", table.tree), &sql)?;
    let step = (sample.len() as u64 / count).max(1);
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let kind = &column.declared_type;
    let bounds: Vec<String> = sample
        .iter()
        .skip(step)
        .step_by(step)
        .map(|Bound(text)| format!("{text}::{kind}"))
        .collect();
    if bounds.is_empty() {
        return Ok(None);
    }
    let mut ranges = vec![format!("{term} <= {}", bounds[0])];
    ranges.extend(bounds.windows(2).map(|b| format!("{term} > {} AND {term} <= {}", b[0], b[1])));
    ranges.push(format!("{term} > {}", bounds[bounds.len() - 1]));
    Ok(Some(Plan {
        login: Arc::clone(login),
        snapshot: snapshot.to_owned(),
        table: table.clone(),
        order: order.to_owned(),
        connections: connections.min(ranges.len()),
        ranges,
    }))
}

impl Plan {
    fn statement(&self, range: usize) -> String {
        format!(
            "COPY (SELECT {} FROM ONLY {} WHERE {} {}) TO STDOUT",
            self.table.stored("").join(", "),
            self.table.sql(),
            self.ranges[range],
            self.order
        )
    }

    /// Begins to read.
    pub(super) fn start(self) -> Result<Ranges, PostgresError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.connections)
            .thread_name("coeval-read")
            .enable_all()
            .build()
            .map_err(PostgresError::Runtime)?;
        let (connections, count) = (self.connections, self.ranges.len());
        let (senders, receivers): (Vec<_>, VecDeque<_>) =
            (0..count).map(|_| channel(AHEAD)).unzip();
        let plan = Arc::new(self);
        let mut work: Vec<VecDeque<(usize, Sender<Batch>)>> = Vec::new();
        work.resize_with(connections, VecDeque::new);
        for (range, sender) in senders.into_iter().enumerate() {
            work[range % connections].push_back((range, sender));
        }
        for ranges in work {
            runtime.spawn(read(Arc::clone(&plan), ranges));
        }
        Ok(Ranges { runtime: Some(runtime), receivers, batch: Vec::new().into_iter() })
    }
}

/// Reads some ranges through a connection of its own. A failure is what the range's receiver gets.
async fn read(plan: Arc<Plan>, mut ranges: VecDeque<(usize, Sender<Batch>)>) {
    let mut connection = match plan.login.join(&plan.snapshot).await {
        Ok(connection) => connection,
        Err(error) => {
            if let Some((_, sender)) = ranges.pop_front() {
                // Nobody listens any more: then nobody needs to know.
                let _ = sender.send(Err(error)).await;
            }
            return;
        }
    };
    while let Some((range, sender)) = ranges.pop_front() {
        match copy(&plan, range, &mut connection, &sender).await {
            Ok(Heard::Yes) => {}
            Ok(Heard::No) => return,
            Err(error) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        }
    }
}

async fn copy(
    plan: &Plan,
    range: usize,
    connection: &mut PgConnection,
    sender: &Sender<Batch>,
) -> Result<Heard, PostgresError> {
    let doing = format!("reading table {}", plan.table.tree);
    let statement = plan.statement(range);
    let lines = connection.copy_out_raw(&statement).await;
    let mut lines = lines.map_err(|error| failed(&doing, error))?;
    let mut rows = Rows::new(&plan.table);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(line) = lines.try_next().await.map_err(|error| failed(&doing, error))? {
        let entry = rows.entry(&line)?;
        bytes += entry.0.len() + entry.1.len();
        batch.push(entry);
        if bytes >= BATCH {
            bytes = 0;
            if sender.send(Ok(std::mem::take(&mut batch))).await.is_err() {
                return Ok(Heard::No);
            }
        }
    }
    if !batch.is_empty() && sender.send(Ok(batch)).await.is_err() {
        return Ok(Heard::No);
    }
    // Nothing but a batch of nothing says that this is the end of the range.
    let sent = sender.send(Ok(Vec::new())).await;
    Ok(sent.map_or(Heard::No, |()| Heard::Yes))
}

/// Whether anybody still wants the records.
enum Heard {
    Yes,
    No,
}

/// The records of all ranges, in order.
pub(super) struct Ranges {
    runtime: Option<Runtime>,
    receivers: VecDeque<Receiver<Batch>>,
    batch: std::vec::IntoIter<Entry>,
}

impl Ranges {
    /// The next record.
    pub(super) fn next(&mut self, ctx: &Context) -> Result<Option<Entry>, Failure> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Ok(Some(entry));
            }
            ctx.check_cancelled()?;
            let Some(receiver) = self.receivers.front_mut() else { return Ok(None) };
            let batch = receiver.blocking_recv().transpose()?;
            let batch = batch.ok_or_else(|| PostgresError::Interrupted {
                doing: "reading a table through several connections".to_owned(),
            })?;
            if batch.is_empty() {
                self.receivers.pop_front();
            }
            self.batch = batch.into_iter();
        }
    }
}

impl Drop for Ranges {
    /// Ends what is still being read: the receivers go first, so that nobody waits for them.
    fn drop(&mut self) {
        self.receivers.clear();
        drop(self.runtime.take());
    }
}
