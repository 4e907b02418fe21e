//! The archive itself: its layout, its writer, and its reader, which trusts nothing.

pub mod archive;
mod database;
pub mod layout;
mod scripts;
pub mod secrets;
pub mod spool;
pub mod write;

pub use secrets::SecretsPolicy;
pub use write::{ExportOptions, Exported, export};
