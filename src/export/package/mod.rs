//! The archive itself: its layout, its writer, and its reader, which trusts nothing.

pub mod archive;
mod database;
pub mod import;
pub mod layout;
pub mod open;
pub mod read;
mod scripts;
pub mod secrets;
pub mod spool;
pub mod verify;
pub mod write;

pub use secrets::SecretsPolicy;
pub use write::{ExportOptions, Exported, export};

#[cfg(test)]
mod tests;
