//! The environment, read once: the only place of the program that looks at it.

use std::ffi::OsString;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::error::usage;
use crate::backend::StoreSettings;
use crate::hint::Failure;

/// The end of the help text.
pub const HELP: &str = "\
Environment:
  COEVAL_REPOSITORY        where the repository is, instead of --repo
  COEVAL_KEY_FILE          the key file, instead of --key-file
  COEVAL_PASSWORD          the password itself
  COEVAL_PASSWORD_FILE     a file with the password, instead of --password-file
  COEVAL_PASSWORD_COMMAND  a command that prints the password
  COEVAL_PACKAGE_PASSWORD, …_FILE, …_COMMAND
                           the same for the password of a sealed package
  COEVAL_CACHE_DIR         where the cache is, instead of --cache-dir
  COEVAL_CONFIG            the configuration file, instead of --config
  AWS_…, AZURE_…, GOOGLE_… credentials and endpoint of an object store
  NO_COLOR                 no colours

Exit codes:
  0 done   1 failed   2 wrong usage   3 done, but something could not be read
  10 no repository   11 repository is busy   12 wrong password or key   13 damage was found";

/// What the variables say.
#[derive(Debug, Default)]
pub struct Environment {
    /// `COEVAL_REPOSITORY`
    pub repository: Option<String>,
    /// `COEVAL_KEY_FILE`
    pub key_file: Option<PathBuf>,
    /// `COEVAL_PASSWORD`
    pub password: Option<Zeroizing<String>>,
    /// `COEVAL_PASSWORD_FILE`
    pub password_file: Option<PathBuf>,
    /// `COEVAL_PASSWORD_COMMAND`
    pub password_command: Option<String>,
    /// `COEVAL_PACKAGE_PASSWORD`
    pub package_password: Option<Zeroizing<String>>,
    /// `COEVAL_PACKAGE_PASSWORD_FILE`
    pub package_password_file: Option<PathBuf>,
    /// `COEVAL_PACKAGE_PASSWORD_COMMAND`
    pub package_password_command: Option<String>,
    /// `COEVAL_CACHE_DIR`
    pub cache_dir: Option<PathBuf>,
    /// `COEVAL_CONFIG`
    pub config: Option<PathBuf>,
    /// Where object stores are and who may enter: `AWS_…`, `AZURE_…`, `GOOGLE_…`; and
    /// `COEVAL_SSH_COMMAND`, what logs in to other hosts
    pub stores: StoreSettings,
    /// `XDG_CACHE_HOME`, or `.cache` in `HOME`
    pub user_cache: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, or `.config` in `HOME`
    pub user_config: Option<PathBuf>,
}

impl Environment {
    /// Reads all variables. One that is empty or not UTF-8 is an error: it was meant to say
    /// something.
    pub fn read() -> Result<Self, Failure> {
        let path = |name| variable(name).map(|value| value.map(PathBuf::from));
        let home = home("HOME");
        let below_home = |folder: &str| home.as_ref().map(|home| home.join(folder));
        Ok(Self {
            repository: variable("COEVAL_REPOSITORY")?,
            key_file: path("COEVAL_KEY_FILE")?,
            password: variable("COEVAL_PASSWORD")?.map(Zeroizing::new),
            password_file: path("COEVAL_PASSWORD_FILE")?,
            password_command: variable("COEVAL_PASSWORD_COMMAND")?,
            package_password: variable("COEVAL_PACKAGE_PASSWORD")?.map(Zeroizing::new),
            package_password_file: path("COEVAL_PACKAGE_PASSWORD_FILE")?,
            package_password_command: variable("COEVAL_PACKAGE_PASSWORD_COMMAND")?,
            cache_dir: path("COEVAL_CACHE_DIR")?,
            config: path("COEVAL_CONFIG")?,
            stores: StoreSettings {
                variables: object_stores(),
                ssh_command: variable("COEVAL_SSH_COMMAND")?
                    .unwrap_or_else(|| StoreSettings::default().ssh_command),
                ..StoreSettings::default()
            },
            user_cache: self::home("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
            user_config: self::home("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
        })
    }
}

/// The variables that the tools of the object stores share.
fn object_stores() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let of_store = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|p| name.starts_with(p));
    std::env::vars_os().filter_map(text).filter(|(name, _)| of_store(name)).collect()
}

/// A variable that the user set for coeval.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
pub fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Err(usage(
            format!("the environment variable {name} is set, but empty"),
            format!("give it a value, or `unset {name}`"),
        )),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(usage(
            format!("the environment variable {name} is not UTF-8"),
            "write it in UTF-8".to_owned(),
        )),
    }
}

/// A folder that the system names; by the XDG rules one that is not absolute does not count.
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
fn home(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A digest of the environment that commands which coeval runs see, without what differs from one
/// terminal or start of a service to the next.
pub fn digest() -> String {
    const PASSING: &str = "_ SHLVL PWD OLDPWD TERM COLUMNS LINES INVOCATION_ID JOURNAL_STREAM \
                           SYSTEMD_EXEC_PID XDG_SESSION_ID SSH_CLIENT SSH_CONNECTION SSH_TTY";
    let lasting = |(name, _): &(OsString, OsString)| {
        !PASSING.split_ascii_whitespace().any(|passing| name == passing)
    };
    let mut variables: Vec<_> = std::env::vars_os().filter(lasting).collect();
    variables.sort();
    let mut hasher = blake3::Hasher::new();
    for part in variables.iter().flat_map(|(name, value)| [name, value]) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_encoded_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
