//! `coeval version`

use crate::cli::Done;
use crate::cli::app::App;
use crate::hint::Failure;

/// Print the version
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, app: &App) -> Result<Done, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if app.output.is_json() {
        app.output.json(&serde_json::json!({ "message_type": "version", "version": version }))?;
    } else {
        app.output.line(format!("coeval {version}"))?;
    }
    Ok(Done::Fully)
}
