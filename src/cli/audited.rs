//! Which commands the audit log tells of, and in which words.

use super::args::Command;
use super::{Done, INCOMPLETE};
use crate::hint::Failure;
use crate::repo::Heads;
use crate::repo::format::audit::Outcome;

/// The most that an entry says of a command, in bytes.
const LONGEST: usize = 1000;
/// The flag whose value may be secret.
const SECRET: &str = "--probe-header";
/// The flag that makes a command of what follows `--`.
const COMMAND: &str = "--stdin-from-command";

/// A command of which the audit log tells.
#[derive(Debug, Clone)]
pub struct Audited {
    /// The command line, without secrets.
    pub line: String,
    /// Whether its entry holds all chains together.
    pub heads: Heads,
}

impl Audited {
    /// What is to be told of a command: nothing of those that neither change anything nor read what
    /// was backed up.
    pub fn of(command: &Command, arguments: impl Iterator<Item = String>) -> Option<Self> {
        let heads = match command {
            Command::Init(_)
            | Command::Snapshots(_)
            | Command::Stats(_)
            | Command::Status(_)
            | Command::Package(_)
            | Command::Database(_)
            | Command::Config(_)
            | Command::Completions(_)
            | Command::Version(_) => return None,
            Command::Key(what) if what.is_list() => return None,
            Command::Audit(what) if !what.verifies() => return None,
            Command::Audit(_) | Command::Check(_) | Command::Prune(_) => Heads::All,
            _ => Heads::Usual,
        };
        Some(Self { line: line(arguments), heads })
    }
}

/// The arguments as one line.
fn line(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut secret = false;
    for argument in arguments {
        if argument == "--" && words.iter().any(|word| word == COMMAND) {
            words.push("-- …".to_owned());
            break;
        }
        words.push(if secret { "***".to_owned() } else { shown(&argument) });
        secret = argument == SECRET;
    }
    let mut line = words.join(" ");
    while line.len() > LONGEST {
        line.pop();
    }
    line
}

/// An argument without what may be secret in it: the password in a URL and what is behind `?`.
fn shown(argument: &str) -> String {
    if let Some((flag, _)) = argument.split_once('=').filter(|(flag, _)| *flag == SECRET) {
        return format!("{flag}=***");
    }
    let Some((scheme, rest)) = argument.split_once("://") else { return argument.to_owned() };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    let rest = match rest.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split_once(':').map_or(login, |(user, _)| user);
            format!("{user}@{host}")
        }
        None => rest.to_owned(),
    };
    format!("{scheme}://{rest}{query}")
}

/// How a command ended.
pub fn outcome(begun: u64, result: &Result<Done, Failure>) -> Outcome {
    let (code, mut message) = match result {
        Ok(Done::Fully) => (0, String::new()),
        Ok(Done::Incompletely) => (INCOMPLETE, String::new()),
        Err(failure) => (failure.kind().exit_code(), failure.to_string()),
    };
    while message.len() > LONGEST {
        message.pop();
    }
    Outcome::Ended { begun, code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(arguments: &[&str]) -> String {
        line(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn no_secret_is_in_the_line() {
        let url = "postgres://app:hunter2@db/edms?sslmode=require&password=hunter2";
        for arguments in [
            &["backup", "--database", url][..],
            &["backup", &format!("--database={url}")],
            &["restore", "--probe-header", "Cookie: hunter2", "latest"],
            &["restore", "--probe-header=Cookie: hunter2", "latest"],
            &["backup", "--stdin-from-command", "--", "mysqldump", "-phunter2"],
        ] {
            let line = shows(arguments);
            assert!(!line.contains("hunter2") && line.starts_with(arguments[0]), "{line}");
        }
        assert_eq!(shows(&["restore", "latest", "--target", "/x"]), "restore latest --target /x");
        assert!(shows(&["restore", "--database", url]).contains("postgres://app@db/edms"));
        assert!(shows(&["é".repeat(2000).as_str()]).len() <= LONGEST);
    }
}
