//! The `configuration/` folder of a package.

use std::io::Read as _;

use super::entries::{each_entry, read_content};
use super::layout::{self, ConfigFile, ConfigManifest};
use super::scripts;
use super::secrets::{self, SecretsPolicy};
use super::write::{Draft, json_bytes};
use crate::context::Context;
use crate::export::contents::{Contents, Skipped};
use crate::hint::Failure;
use crate::source::Kind;

/// A configuration file beyond this is no configuration.
const LARGEST_CONFIGURATION: u64 = 16 << 20;

/// What EDMS calls the environment.
const ENVIRONMENT: &str = "configuration/environment_variables.env";

/// Writes the members of `configuration/`.
pub fn write(
    draft: &mut Draft,
    contents: &dyn Contents,
    policy: SecretsPolicy,
    ctx: &Context,
) -> Result<(), Failure> {
    let facts = contents.facts();
    let mut manifest =
        ConfigManifest { created_at: Some(facts.time.to_rfc3339()), ..ConfigManifest::default() };
    let first = draft.members.len();
    let mut missing = Vec::new();
    for source in facts.of_kind(Kind::Configuration) {
        let base = base_of(&source.header);
        each_entry(
            contents,
            Kind::Configuration,
            &source.name,
            &mut missing,
            ctx,
            &mut |mut found| {
                let Some(content) = found.content.take() else {
                    manifest.entries.push(found.described(None));
                    return Ok(());
                };
                let mut bytes = Vec::new();
                read_content(content, |reader| {
                    reader.take(LARGEST_CONFIGURATION + 1).read_to_end(&mut bytes)
                })?;
                let item = format!("configuration/{}", found.path);
                if bytes.len() as u64 > LARGEST_CONFIGURATION {
                    let reason = "it is larger than 16 MiB".to_owned();
                    draft.missing.push(Skipped { item, reason });
                    return Ok(());
                }
                let redacted = secrets::redact(&String::from_utf8_lossy(&bytes));
                let has_secrets = !redacted.found.is_empty();
                if policy == SecretsPolicy::Redact && has_secrets {
                    bytes = redacted.text.into_bytes();
                    let reason = format!("secrets were taken out ({})", redacted.found.join("; "));
                    draft.missing.push(Skipped { item, reason });
                }
                let taken = |name: &str| draft.members.iter().any(|member| member.name == name);
                let name = member_name(&found.path, &taken);
                let checksum = draft.add_bytes(&name, &bytes)?;
                // As EDMS's guide has it. With its secrets taken out it would start an application
                // whose secrets everybody knows.
                if name == ENVIRONMENT && (policy != SecretsPolicy::Redact || !has_secrets) {
                    draft.add_bytes("configuration/.env", &bytes)?;
                }
                let backup_name = name.replacen("configuration/", "", 1);
                manifest.config_files.push(ConfigFile {
                    original_path: format!("{base}{}", found.path),
                    backup_name: backup_name.clone(),
                    size: bytes.len() as u64,
                    contains_secrets: has_secrets,
                    restore_location: found.path.clone(),
                    checksum,
                });
                manifest.entries.push(found.described(Some(backup_name)));
                Ok(())
            },
        )?;
    }
    draft.missing.append(&mut missing);
    if !manifest.entries.is_empty() {
        draft.add_bytes(layout::CONFIGURATION, &json_bytes(&manifest)?)?;
    }
    let text = scripts::instructions(facts, &manifest, &draft.missing, policy);
    draft.add_bytes(layout::INSTRUCTIONS, text.as_bytes())?;
    draft.members[first..].sort_by(|a, b| a.name.cmp(&b.name));
    if policy == SecretsPolicy::Plaintext {
        draft.notes.push(warning(&manifest));
    }
    Ok(())
}

/// What is said out loud of a package with secrets in the clear.
fn warning(manifest: &ConfigManifest) -> String {
    let secret = manifest.config_files.iter().filter(|file| file.contains_secrets);
    let names: Vec<&str> = secret.map(|file| file.backup_name.as_str()).collect();
    format!(
        "SECRETS ARE IN THE CLEAR in this package, and sessions in which users are logged in: \
         whoever gets it has them. Configuration with secrets: {}",
        if names.is_empty() { "none found".to_owned() } else { names.join(", ") }
    )
}

/// The folder that the paths of a configuration begin at.
fn base_of(header: &[u8]) -> String {
    let header: serde_json::Value = serde_json::from_slice(header).unwrap_or_default();
    let base =
        header.pointer("/configuration/base").and_then(serde_json::Value::as_str).unwrap_or("");
    if base.is_empty() { String::new() } else { format!("{}/", base.trim_end_matches('/')) }
}

/// The name that EDMS gives a configuration file, or one below `files/` where that is taken.
fn member_name(path: &str, taken: &dyn Fn(&str) -> bool) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let by_custom = if name == ".env" || name == "environment_variables.env" {
        Some(ENVIRONMENT.to_owned())
    } else if std::path::Path::new(name).extension().is_some_and(|extension| extension == "py") {
        Some(format!("configuration/django_settings/{name}"))
    } else {
        None
    };
    by_custom.filter(|name| !taken(name)).unwrap_or_else(|| format!("configuration/files/{path}"))
}
