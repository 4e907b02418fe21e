//! The archive itself: its layout, its writer, and its reader, which trusts nothing.

pub mod archive;
mod arrange;
mod configuration;
mod database;
pub mod entries;
mod files;
mod folder;
pub mod import;
pub mod inspect;
mod json;
pub mod layout;
pub mod open;
pub mod read;
mod scripts;
pub mod seal;
pub mod secrets;
pub mod spool;
mod tarred;
mod uploads;
pub mod verify;
pub mod write;

pub use database::bare_fixture;
pub use secrets::SecretsPolicy;
pub use write::{ExportOptions, Exported, export};

#[cfg(test)]
mod tests;
