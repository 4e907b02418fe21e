//! Databases to throw away: a drill restores into them, and they are gone when it ends, whichever
//! way it ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::databases::DatabaseUrl;
use super::error::failed;
use crate::hint::{ErrorKind, Failure};
use crate::id::hex;
use crate::source::record::Engine;

/// Where scratch databases are made.
pub struct Scratch {
    folder: PathBuf,
    /// Where databases of PostgreSQL are made: a server that was named, or one of our own.
    server: Option<DatabaseUrl>,
    cluster: Option<Cluster>,
    /// Databases on a server that goes on.
    databases: Vec<String>,
}

impl Scratch {
    /// Files go below `folder`.
    pub const fn new(folder: PathBuf, server: Option<DatabaseUrl>) -> Self {
        Self { folder, server, cluster: None, databases: Vec::new() }
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
                let cluster = Cluster::start()?;
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
    folder: Option<tempfile::TempDir>,
    data: PathBuf,
    binaries: PathBuf,
}

impl Cluster {
    fn start() -> Result<Self, Failure> {
        let binaries = binaries()?;
        // Short, since the path of a socket must be.
        let folder = tempfile::Builder::new().prefix("drill-").tempdir();
        let cannot = |error: std::io::Error| failed(format!("cannot make a folder: {error}"));
        let folder = folder.map_err(cannot)?;
        if is_root() {
            // PostgreSQL does not run as root.
            let open = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(folder.path(), open).map_err(cannot)?;
            run(Command::new("chown").arg("postgres:").arg(folder.path()), "chown")?;
        }
        let cluster = Self { data: folder.path().join("data"), folder: Some(folder), binaries };
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
        )?;
        Ok(cluster)
    }

    fn socket(&self) -> String {
        self.folder.as_ref().map_or_else(String::new, |f| f.path().display().to_string())
    }

    fn url(&self) -> String {
        let socket = self.socket().replace('/', "%2F");
        format!("postgres://postgres@localhost/postgres?host={socket}")
    }

    fn program(&self, name: &str) -> Command {
        let program = self.binaries.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/");
        command
    }

    fn stop(mut self) -> Result<(), Failure> {
        self.halt()
    }

    fn halt(&mut self) -> Result<(), Failure> {
        let Some(folder) = self.folder.take() else { return Ok(()) };
        if self.data.join("postmaster.pid").exists() {
            let mut stop = self.program("pg_ctl");
            stop.args(["stop", "-s", "-m", "immediate", "-D"]).arg(&self.data);
            run(&mut stop, "pg_ctl stop")?;
        }
        folder.close().map_err(|error| failed(format!("cannot remove the server: {error}")))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.halt());
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
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
