//! The new values of a job's columns, as SQL: `$2` is the message, `$3` the time of the death.

use pgrx::pg_sys;
use pgrx::spi::{quote_identifier, quote_literal};

use super::attempts::Attempts;
use super::columns::{ColumnRef, Columns, Counter, NewValue, Requeue};
use super::table::JobTable;
use crate::pg::catalog::Column;
use crate::rules::assignment::Term;
use crate::tables::job_tables::EpochUnit;

/// What the columns of a job get, each with its value.
pub struct NewValues<'a> {
    table: &'a JobTable,
    columns: &'a Columns,
    values: Vec<(&'a ColumnRef, String)>,
}

impl<'a> NewValues<'a> {
    /// Those of a job that is settled. `counts` is as in [`Attempts::of`].
    pub fn of(table: &'a JobTable, columns: &'a Columns, counts: Option<&str>) -> Self {
        let mut new = Self { table, columns, values: Vec::new() };
        match &columns.requeue {
            None => new.fail(),
            Some(requeue) => new.requeue(requeue, &Attempts::of(table, requeue, counts)),
        }
        new
    }

    /// As the list of an UPDATE.
    pub fn list(self) -> String {
        let values = self.values.into_iter().map(|(column, value)| format!("{} = {value}", column.name));
        values.collect::<Vec<_>>().join(", ")
    }

    fn fail(&mut self) {
        self.outcome(self.status(&self.table.mapping.dead_status), "$2", |time| time);
        for new in &self.columns.set_at_failure {
            self.values.push((&new.column, self.set(new)));
        }
    }

    fn requeue(&mut self, requeue: &'a Requeue, Attempts { are_left, used, maximum }: &Attempts) {
        let either =
            |requeued: &str, failed: &str| format!("CASE WHEN {are_left} THEN {requeued} ELSE {failed} END");
        let mapping = &self.table.mapping;
        let status = either(&self.status(&mapping.queued_status), &self.status(&mapping.dead_status));
        // Immutable, so that who has the rows elsewhere can be told all of it.
        let parts = [
            "$2",
            "' (attempts used: '",
            &format!("({used})::pg_catalog.text"),
            "' of '",
            &format!("({maximum})::pg_catalog.text"),
            "')'",
        ];
        self.outcome(status, &parts.join(" OPERATOR(pg_catalog.||) "), |time| either("NULL", &time));
        if let Counter::AtDeath(column) = &requeue.counter {
            self.values.push((column, used.clone()));
        }
        let worker = self.columns.clears_worker().then_some(&self.columns.worker);
        for column in [worker, requeue.started.as_ref()].into_iter().flatten() {
            self.values.push((column, either("NULL", &kept(column))));
        }
        for new in &requeue.set {
            let at_failure =
                self.columns.set_at_failure.iter().find(|other| other.column.name == new.column.name);
            let failed = at_failure.map_or_else(|| kept(&new.column), |other| self.set(other));
            self.values.push((&new.column, either(&self.set(new), &failed)));
        }
        for new in &self.columns.set_at_failure {
            if requeue.set.iter().all(|other| other.column.name != new.column.name) {
                self.values.push((&new.column, either(&kept(&new.column), &self.set(new))));
            }
        }
    }

    /// Status, error and finish time. A message that is too long for the column is cut.
    fn outcome(&mut self, status: String, message: &str, time: impl Fn(String) -> String) {
        let Columns { status: column, error, finished, .. } = self.columns;
        self.values.push((column, status));
        self.values.extend(error.as_ref().map(|known| (known, error_value(message, &known.column))));
        self.values.extend(finished.as_ref().map(|known| (known, time(self.time(known)))));
    }

    fn status(&self, status: &str) -> String {
        converted(&quote_literal(status), &self.columns.status.column)
    }

    fn set(&self, NewValue { column: known, value }: &NewValue) -> String {
        let mut terms: Vec<String> = value.iter().map(|term| self.term(term, known)).collect();
        match terms.len() {
            1 => terms.remove(0),
            _ => format!("coalesce({})", terms.join(", ")),
        }
    }

    fn term(&self, term: &Term, known: &ColumnRef) -> String {
        let of_type = |value: &str| format!("CAST({value} AS {})", known.column.type_name());
        match term {
            Term::Null => of_type("NULL"),
            Term::Constant(text) => converted(&quote_literal(text), &known.column),
            Term::Column(name) => of_type(&format!("j.{}", quote_identifier(name))),
            Term::Now => of_type(&self.time(known)),
        }
    }

    /// The time of the death as a column has it. Times without a zone are UTC, as RGrid writes them.
    fn time(&self, known: &ColumnRef) -> String {
        let epoch = "pg_catalog.date_part('epoch', $3)";
        match known.column.base_type() {
            pg_sys::TIMESTAMPTZOID => "$3".into(),
            pg_sys::DATEOID => "($3 AT TIME ZONE 'UTC')::pg_catalog.date".into(),
            pg_sys::INT8OID => {
                let number = match self.table.mapping.epoch_unit {
                    Some(EpochUnit::Milliseconds) => format!("{epoch} OPERATOR(pg_catalog.*) 1000"),
                    Some(EpochUnit::Seconds) | None => epoch.to_owned(),
                };
                format!("pg_catalog.floor({number})::pg_catalog.int8")
            }
            _ => "($3 AT TIME ZONE 'UTC')".into(),
        }
    }
}

fn kept(column: &ColumnRef) -> String {
    format!("j.{}", column.name)
}

fn error_value(message: &str, column: &Column) -> String {
    match column.is_json() {
        true => format!("CAST(pg_catalog.to_json(({message})::pg_catalog.text) AS {})", column.type_name()),
        false => converted(message, column),
    }
}

/// A literal or parameter as a value of a column's type. A literal is typed as text first. Otherwise the type's input
/// function would read it while the type's name is looked up, before it is known which type the name means.
pub fn converted(text: &str, column: &Column) -> String {
    format!("CAST(({text})::pg_catalog.text AS {})", column.type_name())
}
