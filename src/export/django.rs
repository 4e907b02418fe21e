//! Asks a Django application what its models are, while its database is captured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::asked::{self, Asked};
use super::catalog::Catalog;
use super::model_map::{Declared, INTROSPECTION_SCRIPT, ModelMap, ReadNotRun};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::report::Event;
use crate::snapshot::{FileColumn, Snapshot};
use crate::source::{Delta, Description, Files, FilesError, Kind, Parent, Source, TreeInfo};

/// Folders within folders in which migrations are looked for.
const DEPTH: usize = 8;
/// Bytes of the longest migration that is read.
const LONGEST: u64 = 4 << 20;
/// Folders of a project that are not its own.
const FOREIGN: [&str; 5] = ["node_modules", "site-packages", "venv", "env", "__pycache__"];

/// Reads the migrations below a folder, those of an application in the order of their names.
fn read_migrations(folder: &Path, declared: &mut Declared, depth: usize) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let name = |folder: &Path| Some(folder.file_name()?.to_str()?.to_owned());
    let is_migrations = name(folder).as_deref() == Some("migrations");
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let Some(own) = name(&path).filter(|own| !own.starts_with('.')) else { continue };
        if kind.is_dir() && depth > 0 && !FOREIGN.contains(&own.as_str()) {
            read_migrations(&path, declared, depth - 1)?;
        } else if kind.is_file()
            && is_migrations
            && path.extension().is_some_and(|ending| ending == "py")
        {
            let app = folder.parent().and_then(name).unwrap_or_default();
            if entry.metadata()?.len() <= LONGEST {
                declared.read(&app, &String::from_utf8_lossy(&std::fs::read(&path)?));
            }
        }
    }
    Ok(())
}

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
    environment: Option<String>,
}

impl DjangoDatabase {
    /// The database of the project of this `manage.py`, which is run with `python`.
    pub fn new(database: Box<dyn Source>, manage: PathBuf, python: PathBuf) -> Self {
        Self { database, manage, python, environment: None }
    }

    /// The application is not asked again as long as its files and this, a digest of the
    /// environment that it runs in, are as they were.
    #[must_use]
    pub fn in_environment(self, environment: String) -> Self {
        Self { environment: Some(environment), ..self }
    }

    /// The notes of the parent, if what they say still holds.
    fn known(&self, parent: Option<&dyn Parent>) -> Result<Option<Notes>, Failure> {
        let (Some(environment), Some(parent)) = (&self.environment, parent) else {
            return Ok(None);
        };
        let notes = parent.description()?.notes;
        let (Some(models), Some(seen)) = (notes.get(NOTE), notes.get(asked::NOTE)) else {
            return Ok(None);
        };
        let holds = serde_json::from_slice::<Asked>(seen)
            .is_ok_and(|seen| seen.still_holds(&self.manage, &self.python, environment));
        let note = |name: &str, note: &Vec<u8>| (name.to_owned(), note.clone());
        Ok(holds.then(|| [note(NOTE, models), note(asked::NOTE, seen)].into()))
    }

    /// What the migrations of the project declare.
    fn declared(&self) -> std::io::Result<Declared> {
        let mut declared = Declared::default();
        let project = self.manage.parent().filter(|folder| !folder.as_os_str().is_empty());
        read_migrations(project.unwrap_or(Path::new(".")), &mut declared, DEPTH)?;
        Ok(declared)
    }

    fn ask(&self, ctx: &Context) -> Result<Notes, Failure> {
        ctx.phase("asking the application for its models", None);
        let time = ctx.clock.now();
        let Answer { models, files } = introspect(&self.manage, &self.python)?;
        let mut notes = Notes::from([(NOTE.to_owned(), models)]);
        if let Some(environment) = &self.environment
            && let Some(asked) = Asked::of(files, (&self.manage, &self.python, environment), time)
        {
            let failed = |error: serde_json::Error| {
                Failure::message(ErrorKind::Failed, error.to_string(), None)
            };
            notes.insert(asked::NOTE.to_owned(), serde_json::to_vec(&asked).map_err(failed)?);
        }
        Ok(notes)
    }
}

/// Notes of a snapshot, by name.
type Notes = BTreeMap<String, Vec<u8>>;

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
        let answer = match self.known(parent)? {
            Some(notes) => Ok(notes),
            None => self.ask(ctx),
        };
        let mut description = self.database.begin(parent, ctx)?;
        match answer {
            Ok(notes) => description.notes.extend(notes),
            Err(error) => {
                let mut reason = error.to_string();
                match self.declared() {
                    Ok(declared) if declared.is_empty() => {}
                    Ok(migrations) => {
                        let note = serde_json::to_vec(&ReadNotRun { migrations });
                        let note = note.map_err(|error| {
                            Failure::message(ErrorKind::Failed, error.to_string(), None)
                        })?;
                        description.notes.insert(NOTE.to_owned(), note);
                        reason.push_str("; its migrations tell the tables, but not all else");
                    }
                    Err(error) => {
                        let _ = write!(reason, "; nor can its migrations be read: {error}");
                    }
                }
                ctx.report(Event::Skipped {
                    item: format!("the models of database {}", self.name()),
                    reason,
                });
            }
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

/// The columns whose values name uploaded files, with the storage that they lead into: by what the
/// application said when its database was captured. The names are relative to its `MEDIA_ROOT`: the
/// storage of that path, or one above it, or the only one that there is.
pub fn file_columns(snapshot: &Snapshot) -> Result<Vec<FileColumn>, Failure> {
    let mut columns = Vec::new();
    let sources = &snapshot.manifest.sources;
    let storages = sources.iter().filter(|source| source.kind == Kind::Storage);
    let mut roots = Vec::new();
    for storage in storages {
        let description = snapshot.description(storage)?;
        match Files::described(storage.kind, &storage.name, &description, None) {
            Ok(files) => roots.push((storage.name.clone(), files.root().to_owned())),
            // Uploads do not come through a pipe.
            Err(FilesError::NoPlace) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for source in sources.iter().filter(|source| source.kind == Kind::Database) {
        let description = snapshot.description(source)?;
        let Some(note) = description.notes.get(NOTE) else { continue };
        let note = String::from_utf8_lossy(note);
        let Some((storage, folder)) = storage_of(&note, &roots) else { continue };
        let catalog = Catalog::read(&description.header, description.trees)?;
        let map = ModelMap::resolve(&catalog, Some(&note), &[])?;
        for model in &map.models {
            let Some(table) = catalog.table(&model.table) else { continue };
            for field in model.fields.iter().filter(|field| field.file) {
                columns.push(FileColumn {
                    database: source.name.clone(),
                    table: model.table.clone(),
                    column: table.columns[field.column].name.clone(),
                    storage: storage.clone(),
                    strip: String::new(),
                    folder: folder.clone(),
                });
            }
        }
    }
    Ok(columns)
}

/// The storage that holds the uploads, and the folder in it that they are in.
fn storage_of(note: &str, roots: &[(String, PathBuf)]) -> Option<(String, String)> {
    let note: serde_json::Value = serde_json::from_str(note).ok()?;
    let media = note["media_root"].as_str().filter(|root| !root.is_empty());
    let below = |(name, root): &(String, PathBuf)| {
        let folder = Path::new(media?).strip_prefix(root).ok()?;
        Some((name.clone(), folder.to_str()?.to_owned()))
    };
    // The folder that is nearest.
    let found = roots.iter().filter_map(below).min_by_key(|(_, folder)| folder.len());
    match roots {
        [(only, _)] if found.is_none() => Some((only.clone(), String::new())),
        _ => found,
    }
}

/// The line with what the answer depends on.
#[derive(Deserialize)]
struct Seen {
    files: Vec<PathBuf>,
}

/// What an application says.
#[derive(Debug)]
pub struct Answer {
    /// Its models, as one line of JSON.
    pub models: Vec<u8>,
    /// The files and folders that this depends on.
    pub files: Vec<PathBuf>,
}

/// Runs `manage.py shell` with the script and gives what it answers.
///
/// The script comes from a file: Django starts an interactive console when a pipe is not readable
/// the moment it looks.
pub fn introspect(manage: &Path, python: &Path) -> Result<Answer, Failure> {
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
    let mut lines = output.stdout.split(|byte| *byte == b'\n');
    let seen = lines.find_map(|line| serde_json::from_slice(line).ok());
    let models = lines.find(|line| line.starts_with(ANSWER.as_bytes()));
    match (models, seen) {
        (Some(models), Some(Seen { files })) => Ok(Answer { models: models.to_vec(), files }),
        _ => Err(failed(format!("{} shell did not answer", manage.display()))),
    }
}
