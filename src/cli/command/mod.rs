//! The commands, one file each: its arguments, and `run`.

pub mod backup;
pub mod cat;
pub mod check;
pub mod completions;
pub mod database;
pub mod diff;
pub mod drill;
pub mod edms;
pub mod export;
pub mod find;
pub mod import;
pub mod init;
pub mod key;
pub mod log;
pub mod ls;
#[cfg(target_os = "linux")]
pub mod mount;
pub mod package;
pub mod repair;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod undo;
pub mod version;
pub mod watch;
