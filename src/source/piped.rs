//! What comes through a pipe, as one file: the standard input, or what a command prints. It goes
//! from the pipe into chunks; nothing keeps it on the way, however much it is.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::files::{self, LIST};
use super::{Delta, Description, Entry, EntryKind, Kind, Parent, Source, TreeInfo, key_of};
use crate::context::Context;
use crate::hint::{ErrorKind, Failure};
use crate::report::Event;
use crate::tree::{Change, Content, Key, Reading};

/// Bytes between two progress reports.
const PROGRESS_BYTES: u64 = 1 << 20;
/// How often a pipe that says nothing is left to see whether the user has asked to stop.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How many of the lines that a command complained with are kept, and how much of each.
const LINES: usize = 20;
const LINE: usize = 1000;

/// Where the bytes come from.
#[derive(Debug)]
pub enum Pipe {
    /// A file that is read to its end.
    Input(File),
    /// A command with its arguments. Unless it succeeds, there is nothing to capture.
    Command(Vec<OsString>),
}

/// One file with the bytes of a pipe as a [`Source`]; it can be read once.
#[derive(Debug)]
pub struct PipedFile {
    name: String,
    key: Key,
    pipe: Option<Pipe>,
    running: Option<Running>,
}

impl PipedFile {
    /// The bytes as the file of this path, below the root of a storage.
    pub fn new(name: impl Into<String>, path: &Path, pipe: Pipe) -> Result<Self, Failure> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let key = key_of(relative).filter(|key| !key.is_empty()).ok_or_else(|| {
            let text = format!("`{}` is no name for a file", path.display());
            Failure::message(ErrorKind::Usage, text, Some("name it like dump.sql".to_owned()))
        })?;
        Ok(Self { name: name.into(), key, pipe: Some(pipe), running: None })
    }
}

impl Source for PipedFile {
    fn kind(&self) -> Kind {
        Kind::Storage
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// Starts the command.
    fn begin(
        &mut self,
        _parent: Option<&dyn Parent>,
        ctx: &Context,
    ) -> Result<Description, Failure> {
        if let Some(pipe) = self.pipe.take() {
            self.running = Some(Running::start(pipe, ctx)?);
        }
        let tree =
            |name: &str| TreeInfo { name: name.to_owned(), header: Vec::new(), estimate: Some(1) };
        Ok(Description {
            header: files::header_without_place()?,
            trees: vec![tree("")],
            aids: vec![tree(LIST)],
            ..Description::default()
        })
    }

    fn changes<'a>(
        &'a mut self,
        tree: &'a TreeInfo,
        _parent: Option<&'a dyn Parent>,
        ctx: &'a Context,
    ) -> Result<Delta<'a>, Failure> {
        let (head, content) = if tree.name == LIST {
            (Vec::new(), Content::empty())
        } else {
            let running = self.running.take().ok_or_else(|| {
                Failure::message(ErrorKind::Failed, "a pipe can be read only once", None)
            })?;
            let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
            // Nobody said who may read it: whoever captured it.
            let entry =
                Entry::new(EntryKind::File, 0o600, uid.as_raw(), gid.as_raw(), ctx.clock.now());
            (entry.encode(), Content::Reader(Box::new(running)))
        };
        let change = Change::put(self.key.clone(), head, content);
        Ok(Delta::Everything(Box::new(std::iter::once(Ok(change)))))
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.running = None;
        Ok(())
    }
}

/// A pipe that is read.
#[derive(Debug)]
struct Running {
    output: File,
    command: Option<Commanded>,
    ctx: Context,
    total: u64,
    unreported: u64,
    done: bool,
}

/// The command at the other end.
#[derive(Debug)]
struct Commanded {
    text: String,
    child: Child,
    errors: Option<File>,
    said: Said,
}

impl Reading for Running {}

impl Running {
    fn start(pipe: Pipe, ctx: &Context) -> Result<Self, Failure> {
        let (output, command) = match pipe {
            Pipe::Input(file) => {
                ctx.phase("reading the standard input", None);
                (file, None)
            }
            Pipe::Command(words) => {
                let mut command = Commanded::start(&words)?;
                ctx.phase(format!("running {}", command.text), None);
                let output = command.child.stdout.take().ok_or_else(|| {
                    let text = format!("`{}` has no output", command.text);
                    Failure::message(ErrorKind::Failed, text, None)
                })?;
                (File::from(std::os::fd::OwnedFd::from(output)), Some(command))
            }
        };
        let ctx = ctx.clone();
        Ok(Self { output, command, ctx, total: 0, unreported: 0, done: false })
    }

    /// Waits until there is output, listening to complaints meanwhile.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.ctx.check_cancelled().map_err(io::Error::other)?;
            let errors = self.command.as_ref().and_then(|command| command.errors.as_ref());
            let ready = ready([Some(&self.output), errors])?;
            if let (true, Some(command)) = (ready[1], &mut self.command) {
                command.listen()?;
            }
            if ready[0] {
                return Ok(());
            }
        }
    }

    fn report(&mut self, items: u64) {
        let bytes = std::mem::take(&mut self.unreported);
        self.ctx.report(Event::Progress { items, bytes });
    }

    /// The output is over: so must be the command, and well.
    fn finish(&mut self) -> io::Result<()> {
        self.done = true;
        self.report(1);
        let Some(command) = &mut self.command else { return Ok(()) };
        let status = loop {
            self.ctx.check_cancelled().map_err(io::Error::other)?;
            if ready([None, command.errors.as_ref()])?[1] {
                command.listen()?;
            } else if let Some(status) = command.child.try_wait()? {
                break status;
            }
        };
        let Commanded { text, said, .. } = command;
        if !status.success() {
            let said = said.text();
            let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
            return Err(io::Error::other(format!("the command `{text}` failed: {status}{said}")));
        }
        said.lines.iter().for_each(|line| self.ctx.report(Event::Note(format!("{text}: {line}"))));
        if self.total == 0 {
            self.ctx.report(Event::Note(format!("the command `{text}` printed nothing")));
        }
        Ok(())
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        self.wait()?;
        let count = self.output.read(buffer)?;
        self.total += count as u64;
        self.unreported += count as u64;
        if count == 0 {
            self.finish()?;
        } else if self.unreported >= PROGRESS_BYTES {
            self.report(0);
        }
        Ok(count)
    }
}

impl Commanded {
    fn start(words: &[OsString]) -> Result<Self, Failure> {
        let text = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let (program, arguments) = words.split_first().ok_or_else(|| {
            let hint = "write it after `--`, as in `-- pg_dump app`".to_owned();
            Failure::message(ErrorKind::Usage, "there is no command to run", Some(hint))
        })?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let text = format!("cannot run `{text}`: {error}");
                Failure::message(ErrorKind::Failed, text, None)
            })?;
        let errors = child.stderr.take().map(|pipe| File::from(std::os::fd::OwnedFd::from(pipe)));
        Ok(Self { text, child, errors, said: Said::default() })
    }

    /// Takes what is there of complaints.
    fn listen(&mut self) -> io::Result<()> {
        let Some(errors) = &mut self.errors else { return Ok(()) };
        let mut buffer = [0; 4096];
        match errors.read(&mut buffer)? {
            0 => self.errors = None,
            count => self.said.hear(&buffer[..count]),
        }
        Ok(())
    }
}

impl Drop for Commanded {
    /// Whoever does not want the rest of the output leaves no process behind.
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a text.
#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
    /// Whether the last line has not ended.
    open: bool,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !self.open {
                self.lines.push_back(String::new());
            }
            if self.lines.len() > LINES {
                self.lines.pop_front();
            }
            let (text, open) = line.strip_suffix(b"\n").map_or((line, true), |text| (text, false));
            if let Some(last) = self.lines.back_mut()
                && last.len() < LINE
            {
                last.push_str(&String::from_utf8_lossy(&text[..text.len().min(LINE)]));
            }
            self.open = open;
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Which of two pipes have something to read, or have ended, within some time.
fn ready(pipes: [Option<&File>; 2]) -> io::Result<[bool; 2]> {
    let there = pipes.into_iter().flatten();
    let mut fds: Vec<PollFd<'_>> =
        there.map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)).collect();
    match poll(&mut fds, Some(&PATIENCE)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok([false; 2]),
        Err(error) => return Err(error.into()),
    }
    let mut answers = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(pipes.map(|pipe| pipe.is_some() && answers.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::{capture_since, later, recorded};

    fn run(script: &str, ctx: &Context) -> io::Result<Vec<u8>> {
        let words = ["sh", "-c", script].map(OsString::from).to_vec();
        let mut running = Running::start(Pipe::Command(words), ctx).unwrap();
        let mut bytes = Vec::new();
        running.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_command_that_talks_on_both_sides_at_once_is_heard_to_the_end() {
        let (ctx, recorder) = recorded();
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; echo complaint $i >&2; \
                      i=$((i + 1)); done";
        let bytes = run(script, &ctx).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap().lines().count(), 20_000);
        let notes: Vec<Event> = recorder.events();
        assert!(
            notes
                .iter()
                .any(|event| matches!(event, Event::Note(n) if n.ends_with("complaint 19999")))
        );
        assert!(
            !notes
                .iter()
                .any(|event| matches!(event, Event::Note(n) if n.ends_with("complaint 0")))
        );
    }

    #[test]
    fn a_command_that_fails_gives_nothing_and_its_last_words() {
        for (script, why) in [
            ("echo much; echo no more >&2; exit 3", "exit status: 3; it said:\nno more"),
            ("echo much; kill -9 $$", "signal: 9"),
            ("exec no-such-program", "exit status: 127"),
        ] {
            let message = run(script, &later()).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_command_that_goes_on_silently_can_be_interrupted() {
        let ctx = later();
        ctx.cancel.cancel();
        let running =
            Running::start(Pipe::Command(["sleep", "600"].map(OsString::from).to_vec()), &ctx);
        let mut running = running.unwrap();
        assert!(running.read(&mut [0; 8]).is_err());
    }

    #[test]
    fn a_pipe_is_a_source_of_one_file_with_a_list_that_names_it() {
        let words = ["echo", "rows"].map(OsString::from).to_vec();
        let pipe = Pipe::Command(words);
        let mut source = PipedFile::new("s", Path::new("/a/dump.sql"), pipe).unwrap();
        let (captured, puts) = capture_since(&mut source, None, &later()).unwrap();
        assert_eq!(puts, 1);
        assert_eq!(captured.trees[""][&b"a\0dump.sql"[..]].1, b"rows\n");
        assert!(captured.trees[LIST].keys().eq(captured.trees[""].keys()));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["..", "a/../b", "/", ""] {
            let pipe = Pipe::Command(vec!["true".into()]);
            assert!(PipedFile::new("s", Path::new(name), pipe).is_err(), "{name}");
        }
    }
}
