//! The archive itself: its layout, its writer, and its reader, which trusts nothing.

pub mod archive;
mod arrange;
mod configuration;
mod database;
pub mod entries;
mod files;
mod folder;
mod gzip;
pub mod import;
pub mod inspect;
mod json;
pub mod layout;
pub mod open;
pub mod read;
mod records;
mod schema;
mod scripts;
pub mod seal;
pub mod secrets;
pub mod spool;
mod tarred;
mod uploads;
pub mod verify;
pub mod write;

pub use secrets::SecretsPolicy;
pub use write::{ExportOptions, Exported, Selection, Users, Wrapping, export};

#[cfg(test)]
mod tests;
