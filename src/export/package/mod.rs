//! x
pub mod archive;
pub mod spool;
