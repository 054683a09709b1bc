//! What roles without rights try, and what they gain by it: nothing.

mod bounded_calls;
mod containment;
mod fuzz;
mod name_shadowing;
mod privilege_escalation;
mod privileges;
mod renamed_objects;
