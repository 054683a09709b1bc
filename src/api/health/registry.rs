//! The check of the registry: which tables are watched, and which entries do not count.

use pgrx::spi::quote_literal;

use super::Finding;
use crate::error::Result;
use crate::installation::Installation;
use crate::jobs::JobTable;
use crate::jobs::entries::LeftOut;
use crate::jobs::watched;
use crate::rules::text::printable;

/// Whether there is anything to settle, and no table is missing.
pub fn finding(installation: &Installation, tables: &[JobTable]) -> Result<Finding> {
    const CHECK: &str = "job tables";
    let idle = watched::idle(installation)?;
    let registry = installation.sql("@extschema@.rgrid_job_tables");
    if let Some(LeftOut { table, error }) = idle.left_out.first() {
        return Ok(Finding::error(
            CHECK,
            format!(
                "{} entries of {registry} do not count for the table of their name, such as that of {}: {}.",
                idle.left_out.len(),
                table.name,
                error.message(),
            ),
            "The owner or a superuser calls rgrid_watch_jobs() again, or deletes the entry.",
        ));
    }
    let delete = |name: &str| format!("DELETE FROM {registry} WHERE job_table = {};", quote_literal(name));
    if let Some(name) = idle.absent.first() {
        let count = idle.absent.len();
        return Ok(Finding::error(
            CHECK,
            format!("{count} watched tables are not in this database: {}.", printable(name)),
            format!("Restore it, or {}", delete(name)),
        ));
    }
    if let Some(name) = idle.dropped.first() {
        return Ok(Finding::warning(
            CHECK,
            format!(
                "{} watched tables were dropped: {}. The entry waits a day for another table of the name.",
                idle.dropped.len(),
                printable(name)
            ),
            delete(name),
        ));
    }
    if tables.is_empty() {
        return Ok(Finding::warning(
            CHECK,
            "No job table is watched, and there is no table \"executions\" in the extension's schema.",
            installation.sql("Create that table, or SELECT @extschema@.rgrid_watch_jobs('your_table');"),
        ));
    }
    let names: Vec<&str> = tables.iter().map(|table| table.watched.name.as_str()).collect();
    Ok(Finding::good(CHECK, format!("Watched: {}.", names.join(", "))))
}
