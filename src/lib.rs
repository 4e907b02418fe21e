//! **coeval** keeps snapshots of whole applications: database, file storage and configuration as
//! of one instant, content-addressed and deduplicated.
//!
//! The house in one sentence: *capture turns a source's changes into a tree; restore turns the
//! difference of two trees into changes on a target.*
//!
//! ```text
//!             capture                                              restore
//!  Source ──▶ Changes ──▶ Tree::edit ──▶ chunks ──▶ Repo    Repo ──▶ Tree::diff ──▶ Changes ──▶ Target
//!  files                  (prolly tree)   dedup     packs                                        directory
//!  configuration                                    index                                        PostgreSQL
//!  postgres sqlite                                  snapshots                                    SQLite
//!                                                      │
//!                                           export ◀───┴───▶ import      migration_package.tar.gz
//! ```
//!
//! [`tree::Changes`] is the one currency: a sorted stream of puts and deletes. A full capture is
//! the changes against an empty tree, an incremental capture those since the parent, a restore
//! plan those between the target's present state and the snapshot. `ARCHITECTURE.md` has the
//! rooms and the rules; `docs/FORMAT.md` every byte on disk.

pub mod backend;
pub mod chunker;
pub mod cli;
pub mod context;
pub mod crypto;
pub mod export;
pub mod hint;
pub mod id;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod repo;
pub mod report;
pub mod snapshot;
pub mod source;
pub mod time;
pub mod tree;
