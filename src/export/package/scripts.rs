//! What a package carries for the person who gets it and has no coeval.

use std::fmt::Write as _;

use super::layout::ConfigManifest;
use super::secrets::{REDACTED, SecretsPolicy};
use crate::export::contents::{Facts, Skipped};

/// The scripts, by the names of their members, sorted.
pub const ALL: [(&str, &str); 2] = [
    ("scripts/restore.sh", include_str!("restore.sh")),
    ("scripts/verify.sh", include_str!("verify.sh")),
];

/// `RESTORE_INSTRUCTIONS.md`.
pub fn instructions(
    facts: &Facts,
    manifest: &ConfigManifest,
    missing: &[Skipped],
    policy: SecretsPolicy,
) -> String {
    let mut text = format!(
        "# How to bring this package back\n\n\
         It holds the application {} of host {} as of {} (UTC), taken by coeval; none of it needs \
         coeval.\n\n\
         1. Unpack it: `tar -xzf migration_package.tar.gz`\n\
         2. Check it: `sh scripts/verify.sh` (needs Python 3 and sha256sum)\n\
         3. Put the configuration in place by hand; the list is below. Paths are relative to the \
         application.\n\
         4. Make an empty, migrated database, with the same version of the application: \
         `python manage.py migrate`\n\
         5. Load records and uploads:\n   \
         `sh scripts/restore.sh --manage \"python manage.py\" --storage /path/to/storage`\n   \
         It refuses a database that has records; `--force` loads over them.\n\
         6. Start the application again, log in, open a document.\n\n\
         Passwords are as they were. Sessions are not in the fixture: everybody logs in once.\n\n\
         Step 5 by hand: `python manage.py loaddata database/database_backup.json`, then on \
         PostgreSQL `python manage.py dbshell < database/restore_instructions.sql` (it sets the \
         sequences and counts; every line must say `t`), then `cp -Rp storage/* /path/to/storage/`. \
         Tables that belong to no model are in `database/raw`, their structure in \
         `database/schema.sql`; `loaddata` does not load them, `coeval import` does.\n",
        facts.application, facts.host, facts.time,
    );
    if !manifest.config_files.is_empty() {
        text.push_str(
            "\n## Configuration files\n\n| in this package | belongs to | secrets |\n|---|---|---|\n",
        );
    }
    for file in &manifest.config_files {
        let secrets = match (file.contains_secrets, policy) {
            (false, _) => "none found",
            (true, SecretsPolicy::Redact) => "taken out",
            (true, SecretsPolicy::Plaintext) => "**inside, in the clear**",
            (true, SecretsPolicy::Sealed) => "**inside**",
        };
        let _ =
            writeln!(text, "| `{}` | `{}` | {secrets} |", file.backup_name, file.restore_location);
    }
    let (missing, others): (Vec<_>, Vec<_>) =
        missing.iter().partition(|skipped| skipped.item.starts_with("configuration/"));
    if !others.is_empty() {
        text.push_str("\n## What is not in this package\n\n");
        for skipped in others {
            let _ = writeln!(text, "- `{}`: {}", skipped.item, skipped.reason);
        }
    }
    if !missing.is_empty() {
        let _ = write!(
            text,
            "\n## What you must fill in\n\nEvery `{REDACTED}` stands for a value that was kept out \
             of this package:\n\n"
        );
        for skipped in missing {
            let _ = writeln!(text, "- `{}`: {}", skipped.item, skipped.reason);
        }
    }
    if policy == SecretsPolicy::Redact && !manifest.config_files.is_empty() {
        text.push_str(
            "\nA new SECRET_KEY logs everybody out and voids password-reset links; passwords stay \
             valid.\n",
        );
    }
    text
}
