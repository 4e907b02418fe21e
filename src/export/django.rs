//! Asks a Django application what its models are, while its database is captured.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::model_map::INTROSPECTION_SCRIPT;
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::report::Event;
use crate::source::{Delta, Description, Kind, Parent, Source, TreeInfo};

/// The name of the note in which a database's snapshot keeps the answer.
pub const NOTE: &str = "django";

/// How the line with the answer begins; applications print other things too.
const ANSWER: &str = "{\"django\"";

/// The database of a Django application: captured as the database itself, with a note of what the
/// application says about its models. Without one, an export can only guess which model a table
/// belongs to.
pub struct DjangoDatabase {
    database: Box<dyn Source>,
    manage: PathBuf,
    python: PathBuf,
}

impl DjangoDatabase {
    /// The database of the project of this `manage.py`, which is run with `python`.
    pub fn new(database: Box<dyn Source>, manage: PathBuf, python: PathBuf) -> Self {
        Self { database, manage, python }
    }
}

impl Source for DjangoDatabase {
    fn kind(&self) -> Kind {
        self.database.kind()
    }

    fn name(&self) -> &str {
        self.database.name()
    }

    /// An application that does not answer makes the snapshot incomplete, but hinders nothing.
    fn begin(
        &mut self,
        parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        ctx.phase("asking the application for its models", None);
        let answer = introspect(&self.manage, &self.python);
        let mut description = self.database.begin(parent, ctx)?;
        match answer {
            Ok(models) => {
                description.notes.insert(NOTE.to_owned(), models);
            }
            Err(error) => ctx.report(Event::Skipped {
                item: format!("the models of database {}", self.name()),
                reason: error.to_string(),
            }),
        }
        Ok(description)
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        self.database.changes(tree, parent, ctx)
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.database.end()
    }
}

impl std::fmt::Debug for DjangoDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DjangoDatabase").field("manage", &self.manage).finish_non_exhaustive()
    }
}

/// Runs `manage.py shell` with the script and gives the line that it answers with.
///
/// The script comes from a file: Django starts an interactive console when a pipe is not readable
/// the moment it looks.
pub fn introspect(manage: &Path, python: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |text: String| {
        let hint = format!("try `{} {} check`", python.display(), manage.display());
        Failure::message(ErrorKind::Failed, text, Some(hint))
    };
    let run = || {
        let mut script = tempfile::tempfile()?;
        script.write_all(INTROSPECTION_SCRIPT.as_bytes())?;
        script.rewind()?;
        let folder = manage.parent().filter(|folder| !folder.as_os_str().is_empty());
        Command::new(python)
            .arg(manage)
            .arg("shell")
            .current_dir(folder.unwrap_or(Path::new(".")))
            .stdin(Stdio::from(script))
            .output()
    };
    let output =
        run().map_err(|error| failed(format!("cannot run {}: {error}", python.display())))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let last = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(failed(format!("{} shell failed: {last}", manage.display())));
    }
    let answer = output.stdout.split(|byte| *byte == b'\n');
    let mut answer = answer.filter(|line| line.starts_with(ANSWER.as_bytes()));
    answer
        .next()
        .map(<[u8]>::to_vec)
        .ok_or_else(|| failed(format!("{} shell did not answer", manage.display())))
}
