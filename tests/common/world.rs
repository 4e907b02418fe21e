//! An application to try the program on, as its users call it.
#![allow(dead_code, reason = "each file of tests needs a part of it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// An application with a database, uploads and a configuration, and a place for its repository.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// The application, without a repository.
    pub fn bare() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { folder };
        std::fs::create_dir_all(world.path("docs/sub")).expect("a folder");
        world.write("docs/a.txt", "hello\n");
        world.write("docs/sub/b.txt", "below\n");
        world.write(".env", "DEBUG=1\n");
        world.sql(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
             INSERT INTO users VALUES (1, 'ada'), (2, 'grace'), (3, 'alan');",
        );
        world.write(
            "coeval.toml",
            r#"
            [repository]
            url = "repo"
            key-file = "app.key"
            [application]
            name = "app"
            [database.main]
            url = "sqlite://app.sqlite3"
            [storage.documents]
            path = "docs"
            [configuration]
            files = [".env"]
            "#,
        );
        world
    }

    /// An application whose database is at `url`, with `more` in its coeval.toml and an empty
    /// repository.
    pub fn with_database(url: &str, more: &str) -> Self {
        let world = Self::bare();
        world.write(
            "coeval.toml",
            &format!(
                "[repository]\nurl = \"repo\"\nkey-file = \"app.key\"\n[application]\n\
                 name = \"app\"\n[database.main]\nurl = \"{url}\"\n{more}"
            ),
        );
        world.ok(&["init", "-q"]);
        world
    }

    /// The application with an empty repository.
    pub fn new() -> Self {
        let world = Self::bare();
        world.ok(&["init", "-q"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a text")
    }

    pub fn sql(&self, statements: &str) -> String {
        let script = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); \
                      d.executescript(sys.argv[2]); print('\\n'.join(d.iterdump()))";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(self.path("app.sqlite3")).arg(statements);
        let output = python.output().expect("python3");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Everything that a restore must bring back.
    pub fn state(&self) -> Vec<String> {
        let file = |name: &str| {
            let path = self.path(name);
            let found = path.symlink_metadata().ok().map(|data| {
                let content = if data.is_file() { self.read(name) } else { String::new() };
                (data.permissions().mode(), data.modified().expect("a time"), content)
            });
            format!("{name} {found:?}")
        };
        let files = [".env", "docs", "docs/a.txt", "docs/sub", "docs/sub/b.txt", "docs/new.txt"];
        files.into_iter().map(file).chain([self.sql("")]).collect()
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TZ", "UTC");
        command.env("COEVAL_CACHE_DIR", self.path("cache"));
        command
    }

    pub fn coeval(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_coeval"))
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.coeval().args(arguments).output().expect("it runs")
    }

    /// The output of a command that must do all that it should.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
        text(&output.stdout)
    }

    /// The JSON lines of a command that must do all that it should.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        lines(&self.ok(&[arguments, &["--json"]].concat()))
    }

    /// The complaint of a command that must fail in this way.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        failure(code, &self.run(arguments))
    }

    pub fn backup(&self) -> String {
        self.ok(&["backup", "-q"]).trim().to_owned()
    }
}

pub fn failure(code: i32, output: &Output) -> String {
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    assert_eq!(text(&output.stdout), "", "nothing but results goes to the standard output");
    complaint
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}
