//! How a package is sealed, and with what a sealed one is opened.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::app::App;
use super::error::usage;
use super::unlock::{self, Asked};
use crate::export::package::SecretsPolicy;
use crate::export::package::seal::{Identity, Keys, Recipient, Seal};
use crate::hint::Failure;

/// How a package is sealed.
#[derive(Debug, Default, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "these are the flags of the command")]
pub struct SealArgs {
    /// Seal the package with a password; stock `gpg --decrypt` opens it
    #[arg(long, conflicts_with = "recipient")]
    pub encrypt: bool,
    /// Seal the package for this public key of age (age1…), whose owner alone opens it; can be
    /// given several times
    #[arg(long, value_name = "KEY")]
    pub recipient: Vec<String>,
    /// A file whose first line is the password of the package
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    pub package_password_file: Option<PathBuf>,
    /// Write secrets into the sealed package
    #[arg(long, conflicts_with = "plaintext")]
    pub include_secrets: bool,
    /// Write secrets in the clear: whoever gets the package has them
    #[arg(long)]
    pub plaintext: bool,
}

impl SealArgs {
    /// Whether anything was asked for.
    pub const fn any(&self) -> bool {
        self.encrypt || !self.recipient.is_empty() || self.include_secrets || self.plaintext
    }

    /// What becomes of secrets.
    pub fn policy(&self) -> Result<SecretsPolicy, Failure> {
        let sealed = self.encrypt || !self.recipient.is_empty();
        match (self.include_secrets, self.plaintext) {
            (true, _) if !sealed => Err(usage(
                "--include-secrets is for packages that are sealed",
                "add --encrypt or --recipient KEY; --plaintext writes secrets in the clear",
            )),
            (true, _) => Ok(SecretsPolicy::Sealed),
            (false, true) if sealed => Err(usage(
                "--plaintext and a seal contradict each other",
                "write --include-secrets for secrets in a sealed package",
            )),
            (false, true) => Ok(SecretsPolicy::Plaintext),
            (false, false) => Ok(SecretsPolicy::Redact),
        }
    }

    /// The seal that was asked for.
    pub fn seal(&self, app: &App) -> Result<Option<Seal>, Failure> {
        if !self.recipient.is_empty() {
            let recipients = self.recipient.iter().map(|text| Recipient::parse(text));
            return Ok(Some(Seal::Recipients(recipients.collect::<Result<_, _>>()?)));
        }
        if !self.encrypt {
            return Ok(None);
        }
        let password = match app.package_secret(self.package_password_file.as_deref())? {
            Some(secret) => secret.password()?,
            None => unlock::ask_twice(Asked::Package, &app.ctx.cancel)?,
        };
        Ok(Some(Seal::Password(password)))
    }
}

/// With what a sealed package is opened.
#[derive(Debug, Default, clap::Args)]
pub struct OpenSealArgs {
    /// A file whose first line is the password of a sealed package
    #[arg(long, value_name = "FILE")]
    pub package_password_file: Option<PathBuf>,
    /// A file with secret keys of age, for a package that is sealed for one of them; can be given
    /// several times
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
}

impl OpenSealArgs {
    /// Lets `open` use the keys.
    pub fn with<T>(
        &self,
        app: &App,
        open: impl FnOnce(&Keys<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut identities = Vec::new();
        for file in &self.identity {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| {
                usage(format!("cannot read {name}: {error}"), "name a file of age-keygen")
            })?;
            identities.extend(Identity::parse_file(&text, &name)?);
        }
        let password = || match app.package_secret(self.package_password_file.as_deref())? {
            Some(secret) => secret.password(),
            None => unlock::ask_for_package(&app.ctx.cancel),
        };
        open(&Keys { password: &password, identities })
    }
}
