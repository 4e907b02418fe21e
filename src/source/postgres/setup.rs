//! What a server needs so that snapshots cost what changed: a replication slot, and the settings
//! and rights that go with it. Everything is done with SQL that the operator sees first.

use serde::{Deserialize, Serialize};

use super::catalog::ident;
use super::connect::Db;
use super::error::PostgresError;
use super::slot::{self, PLUGIN};
use super::{Postgres, catalog};

/// A thing that is needed, and what is found of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// What, in a few words.
    pub what: String,
    /// What is there.
    pub found: String,
    /// How well that does.
    pub state: State,
    /// The statement that brings it about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

/// How well a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should be.
    Met,
    /// It can do without, at a cost.
    Advised,
    /// Missing, and made by running the statement.
    ToDo,
    /// Missing, and for the operator to change: a restart or a right of somebody else.
    Operator,
}

#[derive(Deserialize)]
struct Facts {
    user: String,
    may_replicate: bool,
    wal_level: String,
    keep: Option<String>,
    slots: i64,
    max_slots: i64,
    unreadable: Vec<String>,
}

impl Postgres {
    /// What following the changes needs on this server.
    pub fn requirements(&mut self) -> Result<Vec<Requirement>, PostgresError> {
        let mut db = self.connect()?;
        let facts = facts(&mut db)?;
        let name = self.slot_name();
        let slot = slot::find(&mut db, &name)?;
        let tables = catalog::tables(&mut db)?;
        self.idle = db.reset();
        let mut list = of_server(&facts);
        let rest: Vec<String> =
            tables.iter().filter(|table| !table.followed).map(|table| table.tree.clone()).collect();
        list.push(Requirement {
            what: "every table has a primary key and is logged".to_owned(),
            found: found_tables("read as a whole when they change", &rest),
            state: state(rest.is_empty(), State::Advised),
            sql: None,
        });
        if slot.is_none() {
            list.push(Requirement {
                what: "a free replication slot".to_owned(),
                found: format!("{} of {} are used", facts.slots, facts.max_slots),
                state: state(facts.slots < facts.max_slots, State::Operator),
                sql: (facts.slots >= facts.max_slots).then(|| {
                    "ALTER SYSTEM SET max_replication_slots = 20; -- and restart".to_owned()
                }),
            });
        }
        let trouble = slot.as_ref().map(|slot| slot.trouble(self.config.login.database()));
        list.push(Requirement {
            what: format!("slot {name}"),
            found: match (&slot, trouble.clone().flatten()) {
                (None, _) => "it does not exist".to_owned(),
                (Some(_), Some(trouble)) => trouble,
                (Some(slot), None) => {
                    format!("keeps {} bytes of log", slot.retained.unwrap_or_default())
                }
            },
            state: state(trouble == Some(None), State::ToDo),
            sql: match trouble {
                Some(None) => None,
                Some(Some(_)) => Some(format!("{} {}", drop_sql(&name), create_sql(&name))),
                None => Some(create_sql(&name)),
            },
        });
        Ok(list)
    }

    /// Runs a statement of [`Postgres::requirements`] or [`Postgres::removal`].
    pub fn run(&mut self, sql: &str) -> Result<(), PostgresError> {
        let mut db = self.connect()?;
        for statement in sql.split_inclusive(';') {
            db.execute("preparing the server", statement)?;
        }
        self.idle = db.reset();
        Ok(())
    }

    /// The statement that takes away what `setup` made; none where there is nothing.
    pub fn removal(&mut self) -> Result<Option<String>, PostgresError> {
        let mut db = self.connect()?;
        let name = self.slot_name();
        let slot = slot::find(&mut db, &name)?;
        self.idle = db.reset();
        Ok(slot.map(|_| drop_sql(&name)))
    }

    /// The slot of this database, whether it exists or not.
    pub fn slot_name(&self) -> String {
        let config = &self.config;
        config.slot.clone().unwrap_or_else(|| slot::default_name(config.login.database()))
    }
}

#[expect(clippy::fn_params_excessive_bools, reason = "it is the outcome of a comparison")]
const fn state(met: bool, otherwise: State) -> State {
    if met { State::Met } else { otherwise }
}

/// What the server and the role must be.
fn of_server(facts: &Facts) -> Vec<Requirement> {
    let mut list = vec![
        Requirement {
            what: "wal_level is logical".to_owned(),
            state: state(facts.wal_level == "logical", State::Operator),
            sql: (facts.wal_level != "logical")
                .then(|| "ALTER SYSTEM SET wal_level = 'logical'; -- and restart".to_owned()),
            found: facts.wal_level.clone(),
        },
        Requirement {
            what: format!("role {} may read replication slots", facts.user),
            found: if facts.may_replicate { "it may" } else { "it may not" }.to_owned(),
            state: state(facts.may_replicate, State::Operator),
            sql: (!facts.may_replicate)
                .then(|| format!("ALTER ROLE {} REPLICATION;", ident(&facts.user))),
        },
        Requirement {
            what: "all tables can be read".to_owned(),
            found: found_tables("cannot read", &facts.unreadable),
            state: state(facts.unreadable.is_empty(), State::Operator),
            sql: (!facts.unreadable.is_empty()).then(|| {
                let tables = facts.unreadable.join(", ");
                format!("GRANT SELECT ON {tables} TO {};", ident(&facts.user))
            }),
        },
    ];
    // PostgreSQL 12 has no limit.
    let limited = facts.keep.as_deref().is_none_or(|keep| keep != "-1");
    list.push(Requirement {
        what: "the log that a slot keeps is limited".to_owned(),
        found: match &facts.keep {
            None => "this version has no limit".to_owned(),
            Some(keep) if keep == "-1" => {
                "no limit: a slot that nobody reads fills the disk".to_owned()
            }
            Some(keep) => format!("max_slot_wal_keep_size is {keep}"),
        },
        state: state(limited, State::Advised),
        sql: (!limited).then(|| {
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();".to_owned()
        }),
    });
    list
}

fn create_sql(name: &str) -> String {
    format!("SELECT pg_create_logical_replication_slot('{}', '{PLUGIN}');", quoted(name))
}

fn drop_sql(name: &str) -> String {
    format!("SELECT pg_drop_replication_slot('{}');", quoted(name))
}

fn quoted(name: &str) -> String {
    name.replace('\'', "''")
}

fn found_tables(what: &str, tables: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = tables.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match tables.len() {
        0 => "yes".to_owned(),
        n if n > SHOWN => format!("{what}: {shown} and {} more", n - SHOWN),
        _ => format!("{what}: {shown}"),
    }
}

fn facts(db: &mut Db) -> Result<Facts, PostgresError> {
    let sql = "SELECT json_build_object(
        'user', current_user,
        'may_replicate', (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
        'wal_level', current_setting('wal_level'),
        'keep', current_setting('max_slot_wal_keep_size', true),
        'slots', (SELECT count(*) FROM pg_replication_slots),
        'max_slots', current_setting('max_replication_slots')::int,
        'unreadable', (SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname)), '[]')
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND n.nspname !~ '^pg_(toast|temp)' AND NOT has_table_privilege(c.oid, 'SELECT')))::text";
    db.json("looking at the server", sql)
}
