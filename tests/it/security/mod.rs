//! What roles without rights try, and what they gain by it: nothing.

mod bounded_calls;
mod containment;
mod fuzz;
mod name_shadowing;
mod own_tables;
mod privilege_escalation;
mod privileges;
mod reassigned_workers;
mod renamed_objects;
mod worker_owners;

/// The SQLSTATE of a role without the right.
const REFUSED: &str = "42501";
