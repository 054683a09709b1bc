//! The watched tables, and the jobs of dead workers in them.

mod called_functions;
mod collations;
mod fence;
mod foreign_tables;
mod kept_status;
mod owners_path;
mod owners_triggers;
mod partitions;
mod queue_columns;
mod refused_rows;
mod rehearsal;
mod replaced_tables;
mod row_locks;
mod spellings;
mod tables_elsewhere;
mod watched_tables;
