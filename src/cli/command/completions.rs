//! `coeval completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Done;
use crate::cli::app::App;
use crate::cli::args::Cli;
use crate::hint::Failure;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "coeval", &mut script);
    app.output.bytes(&script)?;
    Ok(Done::Fully)
}
