//! The migration package: one gzip-compressed tar that stock `tar`, `sha256sum` and Django's
//! `loaddata` read, made from a snapshot, and turned into the sources of a new one.

mod asked;
pub mod catalog;
pub mod contents;
pub mod django;
pub mod fixture;
pub mod model_map;
pub mod package;
mod pax;
pub mod snapshot;
pub mod tarball;

#[cfg(test)]
mod testing;
