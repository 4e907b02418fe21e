//! The arguments. Doc comments are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::app::App;
#[cfg(target_os = "linux")]
use super::command::mount;
use super::command::{
    backup, cat, check, completions, database, diff, drill, edms, export, find, forget, import,
    init, key, log, ls, package, prune, repair, restore, snapshots, stats, tag, undo, version,
    watch,
};
use super::excludes::parse_size;
use super::output::Format;
use super::{Done, environment};
use crate::hint::Failure;

/// Snapshots of whole applications: database, files and configuration as of one instant
///
/// A SNAPSHOT is an id or its first digits, `latest`, `latest~2` (two before it), `tag:NAME`, or
/// a time: `@2026-01-04T12:00`, `@yesterday`, `@"2 hours ago"`, which is the newest snapshot at or
/// before then. Behind a colon follows a path in it: `latest:/database/main/users/17`,
/// `latest:/storage/documents/a.pdf`, `latest:/configuration/.env`.
#[derive(Debug, Parser)]
#[command(name = "coeval", version, after_help = environment::HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Where the repository is: a path, s3://BUCKET/PREFIX, gs://…, az://… or sftp://HOST/PATH
    #[arg(short, long, global = true, value_name = "PLACE")]
    pub repo: Option<String>,
    /// The key file that opens the repository
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file whose first line is the password that opens the repository
    #[arg(short, long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// The configuration file [default: ./coeval.toml, /etc/coeval/coeval.toml or
    /// ~/.config/coeval/coeval.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the cache of the index is [default: ~/.cache/coeval]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How many seconds an object store that fails is asked again
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 180)]
    pub retry_for: u64,
    /// How much of a repository in an object store is kept under the cache directory
    #[arg(long, global = true, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub cache_size: u64,
    /// The storage class for packs of content in an object store, such as STANDARD_IA or
    /// GLACIER_IR; the rest stays in the bucket's own
    #[arg(long, global = true, value_name = "CLASS")]
    pub content_class: Option<String>,
    /// Store at most this many bytes a second, on average: 500K, 2M
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_rate)]
    pub limit_upload: Option<u64>,
    /// Read at most this many bytes a second from the repository, on average
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_rate)]
    pub limit_download: Option<u64>,
    /// How many threads may compute at once [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Write results as JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Say only what matters most: `backup -q` prints only the id
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("nothing would ever move".to_owned()),
        rate => Ok(rate),
    }
}

impl Globals {
    /// How results are written.
    pub const fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    #[command(visible_alias = "create")]
    Backup(Box<backup::Args>),
    Watch(Box<watch::Args>),
    #[command(visible_alias = "list")]
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Find(find::Args),
    Cat(cat::Args),
    Diff(diff::Args),
    Drill(drill::Args),
    Log(log::Args),
    Stats(stats::Args),
    #[cfg(target_os = "linux")]
    Mount(mount::Args),
    #[command(visible_alias = "extract")]
    Restore(restore::Args),
    Undo(undo::Args),
    Forget(Box<forget::Args>),
    Tag(tag::Args),
    Undelete(tag::UndeleteArgs),
    #[command(visible_aliases = ["gc", "compact"])]
    Prune(prune::Args),
    Export(export::Args),
    Import(import::Args),
    #[command(subcommand)]
    Package(package::Command),
    #[command(visible_alias = "verify")]
    Check(check::Args),
    #[command(subcommand)]
    Repair(repair::Repair),
    #[command(subcommand)]
    Database(database::Database),
    #[command(subcommand)]
    Key(key::Key),
    Completions(completions::Args),
    Version(version::Args),
    #[command(name = "create_backup", alias = "create-backup", hide = true)]
    CreateBackup(edms::CreateBackup),
    #[command(name = "restore_backup", alias = "restore-backup", hide = true)]
    RestoreBackup(edms::RestoreBackup),
}

impl Command {
    /// Runs the command.
    pub fn run(self, app: &App) -> Result<Done, Failure> {
        match self {
            Self::Init(args) => init::run(&args, app),
            Self::Backup(args) => backup::run(&args, app),
            Self::Watch(args) => watch::run(&args, app),
            Self::Snapshots(args) => snapshots::run(&args, app),
            Self::Ls(args) => ls::run(&args, app),
            Self::Find(args) => find::run(&args, app),
            Self::Cat(args) => cat::run(&args, app),
            Self::Diff(args) => diff::run(&args, app),
            Self::Drill(args) => drill::run(&args, app),
            Self::Log(args) => log::run(&args, app),
            Self::Stats(args) => stats::run(&args, app),
            #[cfg(target_os = "linux")]
            Self::Mount(args) => mount::run(&args, app),
            Self::Restore(args) => restore::run(&args, app),
            Self::Undo(args) => undo::run(&args, app),
            Self::Forget(args) => forget::run(&args, app),
            Self::Tag(args) => tag::run(&args, app),
            Self::Undelete(args) => tag::undelete(&args, app),
            Self::Prune(args) => prune::run(&args, app),
            Self::Export(args) => export::run(&args, app),
            Self::Import(args) => import::run(&args, app),
            Self::Package(what) => package::run(&what, app),
            Self::Check(args) => check::run(&args, app),
            Self::Repair(what) => repair::run(&what, app),
            Self::Database(what) => database::run(&what, app),
            Self::Key(what) => key::run(&what, app),
            Self::Completions(args) => completions::run(&args, app),
            Self::Version(args) => version::run(&args, app),
            Self::CreateBackup(args) => edms::create_backup(&args, app),
            Self::RestoreBackup(args) => edms::restore_backup(&args, app),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
