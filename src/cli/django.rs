//! Asks a Django project about its models, by a script run through its own `manage.py shell`.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

use super::config::Django;
use super::error::failed;
use crate::export::model_map::INTROSPECTION_SCRIPT;
use crate::hint::{ErrorKind, Failure};

/// How the line begins that the script prints.
const ANSWER: &str = "{\"django\"";

/// What the application says about its models, in JSON.
pub fn introspect(django: &Django) -> Result<String, Failure> {
    let manage = django.manage.display();
    let cannot = |error| failed(format!("cannot run {manage} shell: {error}"));
    let python = django.python.as_deref().unwrap_or(Path::new("python3"));
    let folder = django.manage.parent().unwrap_or(Path::new("/"));
    let output = Command::new(python)
        .arg(&django.manage)
        .arg("shell")
        .current_dir(folder)
        .stdin(script().map_err(cannot)?)
        .output()
        .map_err(cannot)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let answer = answer.lines().find(|line| line.starts_with(ANSWER)).map(str::to_owned);
    answer.filter(|_| output.status.success()).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().last().unwrap_or("it printed nothing").to_owned();
        Failure::message(
            ErrorKind::Failed,
            format!("{manage} shell does not tell its models: {complaint}"),
            Some("correct `django` in coeval.toml, or leave it out".to_owned()),
        )
    })
}

/// The script as a file: Django's shell runs what it finds at once on its input, and a pipe may
/// still be empty then.
fn script() -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(INTROSPECTION_SCRIPT.as_bytes())?;
    file.rewind()?;
    Ok(file)
}
