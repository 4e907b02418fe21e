//! Paths in snapshots, written out: `/database/main/users/17`.

use std::os::unix::ffi::OsStrExt as _;

use clap::builder::{OsStringValueParser, TypedValueParser};

pub use crate::snapshot::{Paths, Scope, source_path, tree_path};
use crate::source::escape;

/// Reads an argument that may name a file: bytes that are not UTF-8 become `\xHH`, which is what
/// paths in a snapshot have in their place.
pub fn lossless() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|argument| {
        let mut text = String::new();
        for chunk in argument.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.push_str(&escape(chunk.invalid()));
        }
        text
    })
}
