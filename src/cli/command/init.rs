//! `coeval init`

use crate::cli::Done;
use crate::cli::app::{App, host};
use crate::cli::error::usage;
use crate::cli::unlock::{self, Secret};
use crate::crypto::{KdfCost, RecoveryKey, Unlock};
use crate::hint::Failure;
use crate::repo::{NewKey, Repo, RepoError};

/// Make a repository
///
/// It is encrypted. What opens it is a key file (--key-file, COEVAL_KEY_FILE or coeval.toml),
/// which is made if it does not exist, or a password: from a file, from the environment, or asked
/// for on the terminal. Besides, a recovery key is printed, which opens it when the other is lost.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not encrypt: whoever can read the repository can read every snapshot
    #[arg(long)]
    no_encryption: bool,
}

pub fn run(args: &Args, app: &App) -> Result<Done, Failure> {
    let backend = app.backend()?;
    let secret = app.secret()?;
    if args.no_encryption {
        if secret.is_some() {
            return Err(usage(
                "--no-encryption, but a key or password is given, too",
                "leave out one of them, in the arguments, the environment or coeval.toml",
            ));
        }
        Repo::init(&*backend, &[], &app.ctx)?;
        return report(app, "is not encrypted", None);
    }
    let (unlock, opens, made) = match secret {
        Some(Secret::KeyFile(path)) => {
            let (key, made) = unlock::read_or_make_key_file(&path)?;
            let opens = format!("opens with the key file {}", path.display());
            (Unlock::KeyFile(key), opens, made.then_some(path))
        }
        Some(secret) => (secret.read()?, "opens with the password".to_owned(), None),
        None => (unlock::ask_new(&app.ctx.cancel)?, "opens with the password".to_owned(), None),
    };
    let recovery = RecoveryKey::generate()?;
    let text = recovery.to_text();
    let new =
        |unlock, label: &str| NewKey { unlock, label: label.to_owned(), cost: KdfCost::DEFAULT };
    let keys = [new(unlock, &label()), new(Unlock::Recovery(recovery), "made by init")];
    let result = Repo::init(&*backend, &keys, &app.ctx);
    if let (Err(RepoError::Exists { .. } | RepoError::NotEmpty { .. }), Some(path)) =
        (&result, made)
    {
        // The new key opens nothing, and would hide that another one is needed.
        std::fs::remove_file(&path).map_err(|error| {
            usage(format!("cannot remove the useless {}: {error}", path.display()), "remove it")
        })?;
    }
    result?;
    report(app, &opens, Some(&text))
}

/// A label for a key that was made here; labels are at most 64 bytes long.
pub fn label() -> String {
    let mut host = host();
    while host.len() > 64 {
        host.pop();
    }
    host
}

fn report(app: &App, opens: &str, recovery: Option<&str>) -> Result<Done, Failure> {
    let (output, place) = (&app.output, app.place()?);
    if output.is_json() {
        output.json(&serde_json::json!({
            "message_type": "initialized",
            "repository": place,
            "encrypted": recovery.is_some(),
            "recovery_key": recovery,
        }))?;
        return Ok(Done::Fully);
    }
    output.detail(format!("made the repository {place}; it {opens}"))?;
    match recovery {
        None => output.detail(
            "Whoever can read that place can read every snapshot, and whoever can write to it can \
             change them.",
        )?,
        Some(key) => {
            output.detail("\nrecovery key:")?;
            output.line(key)?;
            output.detail(
                "\nWrite it down and keep it away from this machine. It opens the repository when \
                 the key or\npassword is lost; it is not shown again, and without either the \
                 snapshots are lost.",
            )?;
        }
    }
    Ok(Done::Fully)
}
