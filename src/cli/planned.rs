//! What a restore would do, and what it leaves as it is, for people and programs.

use super::app::App;
use super::output::{count, size};
use super::places::tree_path;
use crate::hint::Failure;
use crate::snapshot::{Conflict, Kept, Planned, Stays};
use crate::source::{Applied, Kind};

/// Shows a plan.
pub fn show(planned: &Planned, app: &App) -> Result<(), Failure> {
    let mut total = Applied::default();
    let mut total_bytes = 0;
    for plan in &planned.trees {
        total_bytes += plan.bytes;
        let Applied { inserted, updated, deleted } = plan.changes;
        total.inserted += inserted;
        total.updated += updated;
        total.deleted += deleted;
        let path = tree_path(plan.kind, &plan.source, &plan.tree);
        if app.output.is_json() {
            app.output.json(&serde_json::json!({
                "message_type": "plan",
                "path": path,
                "inserted": inserted,
                "updated": updated,
                "deleted": deleted,
                "bytes": plan.bytes,
            }))?;
        } else if plan.changes != Applied::default() {
            app.output.line(format!("{path}: {}", to_write(plan.changes, plan.bytes)))?;
        }
    }
    if app.output.is_json() {
        return app.output.json(&serde_json::json!({
            "message_type": "summary",
            "dry_run": true,
            "applied": total,
            "bytes": total_bytes,
            "kept": planned.kept,
            "conflicts": planned.conflicts,
        }));
    }
    show_kept(&planned.kept, app)?;
    for Conflict { source, reason, hint } in &planned.conflicts {
        app.output.line(format!("conflict in /database/{source}: {reason}"))?;
        if let Some(hint) = hint {
            app.output.line(format!("  {hint}"))?;
        }
    }
    let total = to_write(total, total_bytes);
    app.output.detail(format!("dry run: {total}; nothing was changed"))
}

/// Shows what stays, or stayed, as it is.
pub fn show_kept(kept: &[Kept], app: &App) -> Result<(), Failure> {
    for Kept { source, tree, reason, rows, removed } in kept {
        let path = tree_path(Kind::Database, source, tree);
        let why = match reason {
            Stays::KeptLive => "kept live",
            Stays::Pinned => "pinned",
        };
        let gone = match removed {
            0 => String::new(),
            removed => format!("; {} removed with what they refer to", count(*removed, "row")),
        };
        app.output.detail(format!("{path}: {} {why}{gone}", count(*rows, "row")))?;
    }
    Ok(())
}

fn to_write(planned: Applied, bytes: u64) -> String {
    match bytes {
        0 => changes(planned),
        _ => format!("{}, {} to write", changes(planned), size(bytes)),
    }
}

/// Numbers of changes.
pub fn changes(changes: Applied) -> String {
    let Applied { inserted, updated, deleted } = changes;
    format!("{inserted} inserted, {updated} updated, {deleted} deleted")
}
