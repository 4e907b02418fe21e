//! The command line: arguments and environment in, results and exit codes out. Nothing here does
//! the work; a command opens what it needs, calls the library, and shows what came of it.
//!
//! Each command is a file in `command`; they share [`App`](app::App), which holds what was said
//! before the name of the command.

mod app;
mod args;
mod audited;
mod changes;
mod command;
mod config;
mod databases;
mod dump;
mod entries;
mod environment;
mod error;
mod excludes;
mod live;
mod loading;
mod named;
mod output;
mod password;
mod places;
mod planned;
mod probe;
mod progress;
mod records;
mod references;
mod scratch;
mod sealing;
mod sources;
mod tarball;
mod targets;
mod unlock;

use std::process::ExitCode;

use clap::Parser as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::context::Cancel;
use crate::hint::Failure;

/// Exit code of a command that is done, but had to leave something out.
const INCOMPLETE: u8 = 3;
/// Exit code of a command whose output nobody wants any more: what the shell shows for SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// With everything done.
    Fully,
    /// Some items could not be read; they were named.
    Incompletely,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match args::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to the standard output, usage errors to the standard error; where that is
            // closed, there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let format = arguments.globals.format();
    match run(arguments) {
        Ok(Done::Fully) => ExitCode::SUCCESS,
        Ok(Done::Incompletely) => ExitCode::from(INCOMPLETE),
        Err(failure) if error::is_broken_pipe(&failure) => ExitCode::from(BROKEN_PIPE),
        Err(failure) => {
            error::show(&failure, format);
            ExitCode::from(failure.kind().exit_code())
        }
    }
}

fn run(arguments: args::Cli) -> Result<Done, Failure> {
    let told = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let audited = audited::Audited::of(&arguments.command, told);
    let app = app::App::new(arguments.globals, audited)?;
    stop_on_signals(&app.ctx.cancel)?;
    let result = arguments.command.run(&app);
    app.progress.finish();
    app.audit_end(&result);
    let written = app.output.finish();
    let done = result?;
    written?;
    Ok(done)
}

/// The first Ctrl-C or SIGTERM asks the work to stop, a second one ends the process.
fn stop_on_signals(cancel: &Cancel) -> Result<(), Failure> {
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, cancel.flag())
            .and_then(|_| flag::register(signal, cancel.flag()))
            .map_err(|error| error::failed(format!("cannot listen to signals: {error}")))?;
    }
    Ok(())
}
