//! What the planner says of a statement before a check runs it.

use serde_json::Value;

use crate::error::Result;
use crate::jobs::JobTable;
use crate::pg::sql;

/// What a table may cost to read, in the planner's units: about as many pages.
const AFFORDABLE: f64 = 100_000.0;

pub fn is_affordable(table: &JobTable, statement: &str) -> Result<bool> {
    Ok(cost(table, statement)? <= AFFORDABLE)
}

/// The planner's estimate of what a statement on the table costs.
pub fn cost(table: &JobTable, statement: &str) -> Result<f64> {
    let plan = table.scope().run(|| sql::plan(statement))?;
    Ok(plan["Total Cost"].as_f64().unwrap_or(f64::INFINITY))
}

pub fn has_sequential_scan(plan: &Value) -> bool {
    let below = plan["Plans"].as_array().into_iter().flatten();
    plan["Node Type"] == "Seq Scan" || below.into_iter().any(has_sequential_scan)
}
