//! What a backup captures besides whole directories: files that a list names, and what comes
//! through a pipe.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::error::usage;
use super::sources::absolute;
use crate::hint::Failure;
use crate::source::{PathList, Pipe, PipedFile, ResolvedList};

/// Lists of files to capture.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Lists of files to capture, `-` is the standard input")]
pub struct Lists {
    /// A file with a path or glob a line; empty lines and those with `#` do not count. Folders are
    /// captured with all that is in them
    #[arg(long = "files-from", value_name = "FILE")]
    pub patterns: Vec<PathBuf>,
    /// The same, but every line is a path, exactly as it is
    #[arg(long = "files-from-verbatim", value_name = "FILE")]
    pub lines: Vec<PathBuf>,
    /// The same, but paths end with a NUL byte, as those of `find -print0`
    #[arg(long = "files-from-raw", value_name = "FILE")]
    pub raw: Vec<PathBuf>,
}

/// What comes through a pipe.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Capture of what comes through a pipe")]
pub struct Piped {
    /// Capture the standard input as a file
    #[arg(long)]
    pub stdin: bool,
    /// Capture what a command prints, if it succeeds: `--stdin-from-command -- pg_dump app`
    #[arg(long, conflicts_with = "stdin")]
    pub stdin_from_command: bool,
    /// The name of that file [default: stdin]
    #[arg(long, value_name = "NAME")]
    pub stdin_filename: Option<PathBuf>,
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Patterns,
    Lines,
    Raw,
}

impl Lists {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.files().next().is_some()
    }

    fn files(&self) -> impl Iterator<Item = (&PathBuf, Form)> {
        let form = |files, form| {
            let files: &Vec<PathBuf> = files;
            files.iter().map(move |file| (file, form))
        };
        form(&self.patterns, Form::Patterns)
            .chain(form(&self.lines, Form::Lines))
            .chain(form(&self.raw, Form::Raw))
    }

    /// Whether one of them is the standard input.
    pub fn reads_stdin(&self) -> bool {
        self.files().any(|(file, _)| is_stdin(file))
    }

    /// All that they name.
    pub fn read(&self) -> Result<ResolvedList, Failure> {
        let mut list = PathList::new();
        for (file, form) in self.files() {
            let cannot_read = |error: io::Error| {
                usage(
                    format!("cannot read the list of files {}: {error}", file.display()),
                    "name a file with one path a line, or `-` for the standard input",
                )
            };
            let mut lines: Box<dyn BufRead> = if is_stdin(file) {
                Box::new(io::stdin().lock())
            } else {
                Box::new(BufReader::new(File::open(file).map_err(cannot_read)?))
            };
            let end = if form == Form::Raw { 0 } else { b'\n' };
            let mut line = Vec::new();
            while lines.read_until(end, &mut line).map_err(cannot_read)? > 0 {
                add(&mut list, line.strip_suffix(&[end]).unwrap_or(&line), form)?;
                line.clear();
            }
        }
        if list.is_empty() {
            return Err(usage("the lists of files are empty", "name at least one file in them"));
        }
        list.resolve()
    }
}

fn add(list: &mut PathList, line: &[u8], form: Form) -> Result<(), Failure> {
    let line = if form == Form::Patterns { line.trim_ascii() } else { line };
    if line.is_empty() || form == Form::Patterns && line.starts_with(b"#") {
        return Ok(());
    }
    let path = absolute(Path::new(OsStr::from_bytes(line)))?;
    if form == Form::Patterns { list.push_pattern(&path) } else { list.push(&path) }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

impl Piped {
    /// Refuses what would have no effect.
    pub fn check(&self, command: &[OsString]) -> Result<(), Failure> {
        if self.any() || self.stdin_filename.is_none() {
            return Ok(());
        }
        let hint = if command.is_empty() { "--stdin" } else { "--stdin-from-command" };
        Err(usage("--stdin-filename, but nothing comes through a pipe", format!("add {hint}")))
    }

    /// Whether there is something.
    pub const fn any(&self) -> bool {
        self.stdin || self.stdin_from_command
    }

    /// The source, of this name.
    pub fn open(&self, name: String, command: &[OsString]) -> Result<PipedFile, Failure> {
        let pipe = if self.stdin {
            Pipe::Input(stdin()?)
        } else if command.is_empty() {
            return Err(usage(
                "--stdin-from-command, but no command",
                "write it last, after `--`: coeval backup --stdin-from-command -- pg_dump app",
            ));
        } else {
            Pipe::Command(command.to_vec())
        };
        let file = self.stdin_filename.as_deref().unwrap_or(Path::new("stdin"));
        PipedFile::new(name, file, pipe)
    }
}

/// The standard input, past the buffer that the program keeps for it.
fn stdin() -> Result<File, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(usage(
            "--stdin, but the standard input is a terminal",
            "pipe something into it",
        ));
    }
    let own = stdin.as_fd().try_clone_to_owned();
    own.map(File::from)
        .map_err(|error| usage(format!("--stdin: {error}"), "pipe something into it"))
}
