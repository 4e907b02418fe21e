//! Which names objects can have.

use super::{BackendError, BackendErrorKind};

const LEN_MAX: usize = 200;

/// Refuses every name that is not an object's.
pub(super) fn check_object(name: &str) -> Result<(), BackendError> {
    if is_name(name) { Ok(()) } else { Err(bad(name)) }
}

/// Refuses everything but `""` and names that end in `/`.
pub(super) fn check_folder(folder: &str) -> Result<(), BackendError> {
    let fine = folder.is_empty() || folder.strip_suffix('/').is_some_and(is_name);
    if fine { Ok(()) } else { Err(bad(folder)) }
}

/// Whether this can be one part of a name.
pub(super) fn is_part(part: &str) -> bool {
    let is_symbol = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_symbol)
}

fn is_name(name: &str) -> bool {
    name.len() <= LEN_MAX && name.split('/').all(is_part)
}

fn bad(name: &str) -> BackendError {
    // Escaped, for it may come from a hostile store.
    let shown = format!("`{}`", name.chars().take(LEN_MAX).collect::<String>().escape_debug());
    BackendError::new(BackendErrorKind::BadName, "no object can be called", shown)
}
