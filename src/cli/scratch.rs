//! Databases to throw away: a drill restores into them, and they are gone when it ends, whichever
//! way it ends. One that is killed leaves a note of what it made, and the next one removes that.

use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::databases::DatabaseUrl;
use super::error::failed;
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::report::Event;
use crate::source::record::Engine;

/// What the folders of drills, and of their servers, begin with.
const PREFIX: &str = "drill-";
/// The file in a drill's folder that tells what else belongs to the drill.
const NOTE: &str = ".scratch.json";

/// What a drill made outside of its folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The folder of a server of our own.
    cluster: Option<PathBuf>,
    /// Databases: on which server, without the password, and what they are called.
    databases: Vec<(String, String)>,
}

impl Note {
    #[expect(clippy::disallowed_methods, reason = "of use only until the machine stops")]
    fn save(&self, folder: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        let saved = text.and_then(|text| std::fs::write(folder.join(NOTE), text));
        saved.map_err(|error| failed(format!("cannot write in {}: {error}", folder.display())))
    }
}

/// The folder of a drill, locked as long as it goes on.
pub struct Place {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Place {
    /// A new one in `parent`.
    pub fn new(parent: &Path) -> Result<Self, Failure> {
        let cannot = |error| failed(format!("cannot make a scratch folder: {error}"));
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(cannot)?;
        let lock = lock(folder.path()).map_err(cannot)?;
        let lock = lock.ok_or_else(|| failed("somebody else locked the scratch folder"))?;
        // Only now: without a note nobody takes the folder for one that was left.
        Note::default().save(folder.path())?;
        Ok(Self { folder, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it.
    pub fn close(self) -> Result<(), Failure> {
        let closed = self.folder.close();
        closed.map_err(|error| failed(format!("cannot remove the scratch folder: {error}")))
    }
}

/// Locks a folder, unless somebody else has.
fn lock(folder: &Path) -> std::io::Result<Option<File>> {
    let file = File::open(folder)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what drills left in `parent` and elsewhere that were killed. Of databases those on
/// `server`; others stay noted until it is named. What cannot be removed is told, and left for the
/// next time.
pub fn remove_what_was_left(
    parent: &Path,
    server: Option<&DatabaseUrl>,
    ctx: &Context,
) -> Result<(), Failure> {
    let cannot = |error| failed(format!("cannot read {}: {error}", parent.display()));
    for entry in std::fs::read_dir(parent).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let folder = entry.path();
        let is_drill = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_drill || !folder.join(NOTE).exists() {
            continue;
        }
        let Some(_lock) = lock(&folder).map_err(cannot)? else { continue };
        if let Err(failure) = remove_left(&folder, server) {
            ctx.report(Event::Note(format!(
                "a drill that was killed left {}, which cannot be removed: {failure}",
                folder.display()
            )));
        }
    }
    Ok(())
}

fn remove_left(folder: &Path, server: Option<&DatabaseUrl>) -> Result<(), Failure> {
    let cannot = |error| failed(format!("cannot remove {}: {error}", folder.display()));
    // A note that was cut short is from before anything was made.
    let note: Note = serde_json::from_slice(&std::fs::read(folder.join(NOTE)).map_err(cannot)?)
        .unwrap_or_default();
    if let Some(cluster) = note.cluster.filter(|cluster| is_ours(cluster)) {
        Cluster::left(cluster)?.halt()?;
    }
    let mut elsewhere = Vec::new();
    let is_ours = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    for (place, name) in note.databases.into_iter().filter(|(_, name)| is_ours(name)) {
        let admin = server.filter(|server| server.to_string() == place);
        match admin.map(|server| server.as_postgres("drill", Vec::new(), None)).transpose()? {
            Some(Some(mut admin)) => admin.run(&format!(
                // What it asked may still be answered; and names in a note are digits and letters.
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';
                 DROP DATABASE IF EXISTS {name}"
            ))?,
            _ => elsewhere.push((place, name)),
        }
    }
    if elsewhere.is_empty() {
        return std::fs::remove_dir_all(folder).map_err(cannot);
    }
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        if entry.file_type().map_err(cannot)?.is_dir() {
            std::fs::remove_dir_all(entry.path()).map_err(cannot)?;
        } else if entry.file_name() != NOTE {
            std::fs::remove_file(entry.path()).map_err(cannot)?;
        }
    }
    Note { cluster: None, databases: elsewhere }.save(folder)
}

/// Whether a folder can be one that a drill made for a server.
fn is_ours(cluster: &Path) -> bool {
    cluster.is_absolute()
        && cluster.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
}

/// Where scratch databases are made.
pub struct Scratch {
    folder: PathBuf,
    /// Where databases of PostgreSQL are made: a server that was named, or one of our own.
    server: Option<DatabaseUrl>,
    cluster: Option<Cluster>,
    /// Databases on a server that goes on.
    databases: Vec<String>,
    note: Note,
}

impl Scratch {
    /// Files go into `place`.
    pub fn new(place: &Place, server: Option<DatabaseUrl>) -> Self {
        let (folder, note) = (place.path().to_owned(), Note::default());
        Self { folder, server, cluster: None, databases: Vec::new(), note }
    }

    /// A new, empty database.
    pub fn database(&mut self, name: &str, engine: Engine) -> Result<DatabaseUrl, Failure> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| failed(format!("no random numbers: {e}")))?;
        let unique = format!("coeval_drill_{}", hex(&random));
        if engine == Engine::Sqlite {
            let file = self.folder.join(format!("{unique}.sqlite3"));
            return DatabaseUrl::new(&format!("sqlite://{}", file.display()));
        }
        let server = match &self.server {
            Some(server) => server.clone(),
            None => {
                let cluster = Cluster::new()?;
                self.note.cluster = Some(cluster.folder.clone());
                self.note.save(&self.folder)?;
                cluster.start()?;
                let url = DatabaseUrl::new(&cluster.url())?;
                self.cluster = Some(cluster);
                self.server.insert(url).clone()
            }
        };
        let Some(mut admin) = server.as_postgres(name, Vec::new(), None)? else {
            return Err(super::error::usage(
                "--server names no server of PostgreSQL",
                "write it as postgres://user@host/postgres",
            ));
        };
        if self.cluster.is_none() {
            self.note.databases.push((server.to_string(), unique.clone()));
            self.note.save(&self.folder)?;
        }
        admin.run(&format!("CREATE DATABASE {unique} TEMPLATE template0"))?;
        self.databases.push(unique.clone());
        server.with_database(&unique)
    }

    /// Removes everything.
    pub fn remove(mut self) -> Result<(), Failure> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Failure> {
        let databases = std::mem::take(&mut self.databases);
        match (self.cluster.take(), &self.server) {
            (Some(cluster), _) => return cluster.stop(),
            (None, Some(server)) => {
                if let Some(mut admin) = server.as_postgres("drill", Vec::new(), None)? {
                    for name in databases {
                        admin.run(&format!("DROP DATABASE IF EXISTS {name}"))?;
                    }
                }
            }
            (None, None) => {}
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only after another failure, which is the one to be told.
        drop(self.clear());
    }
}

/// A server of our own that only this machine's socket leads to.
struct Cluster {
    folder: PathBuf,
    data: PathBuf,
    binaries: PathBuf,
    /// User and group, where they are not our own.
    owner: Option<(u32, u32)>,
}

impl Cluster {
    /// One that is not running yet.
    fn new() -> Result<Self, Failure> {
        let (binaries, owner) = (binaries()?, owner()?);
        // Short, since the path of a socket must be.
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir();
        let cannot = |error: std::io::Error| failed(format!("cannot make a folder: {error}"));
        let folder = folder.map_err(cannot)?;
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).map_err(cannot)?;
        }
        let folder = folder.keep();
        Ok(Self { data: folder.join("data"), folder, binaries, owner })
    }

    /// The one of a drill that was killed.
    fn left(folder: PathBuf) -> Result<Self, Failure> {
        let (binaries, owner) = (binaries()?, owner()?);
        Ok(Self { data: folder.join("data"), folder, binaries, owner })
    }

    fn start(&self) -> Result<(), Failure> {
        let cluster = self;
        run(
            cluster
                .program("initdb")
                .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
                .args(["--locale=C", "--no-sync", "-D"])
                .arg(&cluster.data),
            "initdb",
        )?;
        let socket = cluster.socket();
        let options = format!(
            "-c listen_addresses= -k {socket} -c fsync=off -c full_page_writes=off \
             -c max_wal_size=4GB"
        );
        run(
            cluster
                .program("pg_ctl")
                .args(["start", "-w", "-s", "-o", &options, "-D"])
                .arg(&cluster.data)
                .arg("-l")
                .arg(cluster.data.join("log")),
            "pg_ctl start",
        )
    }

    fn socket(&self) -> String {
        self.folder.display().to_string()
    }

    fn url(&self) -> String {
        let socket = self.socket().replace('/', "%2F");
        format!("postgres://postgres@localhost/postgres?host={socket}")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir("/");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    fn stop(self) -> Result<(), Failure> {
        self.halt()
    }

    fn halt(&self) -> Result<(), Failure> {
        if self.is_running() {
            let mut stop = self.program("pg_ctl");
            stop.args(["stop", "-s", "-m", "immediate", "-D"]).arg(&self.data);
            run(&mut stop, "pg_ctl stop")?;
        }
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != NotFound => {
                Err(failed(format!("cannot remove the server: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the process that its file names is the server: it runs in its folder, and a number
    /// that was given to another process since is none to stop.
    fn is_running(&self) -> bool {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"));
        let number = file.ok().and_then(|text| text.lines().next().map(str::to_owned));
        let place = number.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok());
        place.is_some_and(|place| self.data.canonicalize().is_ok_and(|data| data == place))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.halt());
    }
}

/// Whom the server runs as, where that is someone else: PostgreSQL refuses to run as root.
fn owner() -> Result<Option<(u32, u32)>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match nix::unistd::User::from_name("postgres") {
        Ok(Some(user)) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        _ => Err(Failure::message(
            ErrorKind::Failed,
            "PostgreSQL does not run as root, and there is no user `postgres`",
            Some("run the drill as another user, or name a server: --server URL".to_owned()),
        )),
    }
}

/// The folder with the newest server's programs.
fn binaries() -> Result<PathBuf, Failure> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for parent in ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt"] {
        let Ok(versions) = std::fs::read_dir(parent) else { continue };
        for version in versions.flatten() {
            let number = version.file_name().to_string_lossy().replace("postgresql@", "").parse();
            let folder = version.path().join("bin");
            if folder.join("initdb").exists() {
                found.push((number.unwrap_or_default(), folder));
            }
        }
    }
    found.sort();
    if let Some((_, folder)) = found.pop() {
        return Ok(folder);
    }
    let answer = Command::new("pg_config").arg("--bindir").output();
    let folder =
        answer.ok().map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    match folder.map(PathBuf::from).filter(|folder| folder.join("initdb").exists()) {
        Some(folder) => Ok(folder),
        None => Err(Failure::message(
            ErrorKind::Failed,
            "no PostgreSQL server is installed here to restore into",
            Some(
                "install one, or name a server that may hold a scratch database: --server URL"
                    .into(),
            ),
        )),
    }
}

fn run(command: &mut Command, what: &str) -> Result<(), Failure> {
    // A server that goes on holds the outputs that it was given.
    let log = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
    let cannot = |error: std::io::Error| failed(format!("cannot run {what}: {error}"));
    let (out, log) = log.map_err(cannot)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(log.try_clone().map_err(cannot)?))
        .status()
        .map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let mut log = log;
    std::io::Seek::rewind(&mut log)
        .and_then(|()| std::io::Read::read_to_string(&mut log, &mut said).map(drop))
        .map_err(cannot)?;
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(failed(format!("{what} failed: {last}")))
}
