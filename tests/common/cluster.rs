//! A private PostgreSQL for the tests that need one; without its programs they fail.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A private PostgreSQL that is gone afterwards.
pub struct Cluster {
    folder: PathBuf,
    /// Where it is.
    pub url: String,
}

impl Cluster {
    fn script(verb: &str, folder: &Path) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh");
        let output = Command::new(script).arg(verb).arg(folder).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Starts one in a folder of `parent`.
    pub fn start(parent: &Path) -> Self {
        // The server may run as another user than the tests.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(parent, open).expect("open to others");
        let folder = parent.join("cluster");
        let url = Self::script("start", &folder);
        Self { folder, url }
    }

    /// Runs statements, each in a transaction of its own.
    pub fn sql(&self, text: &str) {
        let mut psql = Command::new("psql")
            .args(["-q", "-X", "-v", "ON_ERROR_STOP=1", "-d", &self.url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the clients of PostgreSQL are installed");
        let mut input = psql.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("written");
        drop(input);
        let output = psql.wait_with_output().expect("it ended");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `pg_dump` says, whatever the order of rows and the marks that change with every run.
    pub fn dump(&self) -> Vec<String> {
        let output = Command::new("pg_dump").arg(&self.url).output();
        let output = output.expect("the clients of PostgreSQL are installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dump = String::from_utf8(output.stdout).expect("UTF-8");
        let mut lines: Vec<String> = dump.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.sort();
        lines
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        Self::script("stop", &self.folder);
    }
}
