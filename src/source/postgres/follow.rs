//! What changed since the snapshot before, as far as the server can tell: nothing, what its log
//! says, or perhaps everything.

use super::super::Description;
use super::super::record::DatabaseHeader;
use super::catalog::{self, Table};
use super::connect::Db;
use super::error::PostgresError;
use super::position::{self, Now, Position};
use super::session::Config;
use super::slot::{self, Changed};
use crate::context::Context;
use crate::hint::Failure;
use crate::report::Event;

/// From how many bytes of log on that a slot keeps the operator hears of it.
const MUCH_LOG: u64 = 4 << 30;

/// The instant and the header of a database, if it is as it was then.
pub(super) fn unchanged(
    db: &mut Db,
    (then, position): &(Description, Position),
) -> Result<Option<(Now, DatabaseHeader)>, PostgresError> {
    let now = position::now(db)?.filter(|now| now.sees_the_same_as(position));
    let Some(now) = now else { return Ok(None) };
    let mut header = DatabaseHeader::from_json(&then.header)?;
    // Numbers are handed out also by transactions that come to nothing.
    header.sequences = catalog::sequences(db)?;
    Ok(Some((now, header)))
}

/// What the log is read for.
pub(super) struct Following<'a> {
    pub config: &'a Config,
    pub now: &'a Now,
    pub tables: &'a [Table],
    /// The position of the snapshot before.
    pub then: Option<&'a Position>,
}

impl Following<'_> {
    /// Reads the log of the database's slot, if it has one, and notes in `position` how far. Gives
    /// what changed since the snapshot before, or why that cannot be told.
    pub(super) fn read(
        &self,
        db: &mut Db,
        position: &mut Position,
        ctx: &Context,
    ) -> Result<Option<Result<Changed, String>>, Failure> {
        let database = self.config.login.database();
        let name = self.config.slot.clone().unwrap_or_else(|| slot::default_name(database));
        let Some(slot) = slot::find(db, &name)? else {
            let missing = || Err(format!("there is no replication slot {name}"));
            return Ok(self.config.slot.as_ref().map(|_| missing()));
        };
        if let Some(retained) = slot.retained.filter(|bytes| *bytes > MUCH_LOG) {
            ctx.report(Event::Note(format!(
                "database {}: slot {name} keeps {} MiB of log on the server; if nobody takes \
                 snapshots any more, remove it with `coeval database remove`",
                self.config.name,
                retained >> 20
            )));
        }
        if let Some(trouble) = slot.trouble(database) {
            return Ok(Some(Err(trouble)));
        }
        match slot::read(&self.config.login, &slot, self.then, self.now, self.tables, ctx) {
            Ok(log) => {
                position.log = Some(log.position);
                position.snapshot = Some(log.seen);
                Ok(Some(log.changed))
            }
            Err(error) => Ok(Some(Err(error.to_string()))),
        }
    }
}

/// Says why a capture reads more than what changed.
pub(super) fn everything(config: &Config, reason: &str, ctx: &Context) {
    let name = &config.name;
    ctx.report(Event::Note(format!("database {name}: every table is read, because {reason}")));
}
