//! Statements of the program as a database executes them: expanded once, and on SQLite with the time that
//! they take.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::Counter;
use parking_lot::RwLock;

use crate::{Dialect, Error, Value, rows};

/// Longest time that a statement of SQLite may take from the other tasks of a thread.
const SHORT: Duration = Duration::from_millis(1);
/// Time from which a statement is reported.
const SLOW: Duration = Duration::from_secs(1);
/// Time of a statement that has not run yet.
const UNKNOWN: u64 = u64::MAX;

/// Statements that a database has executed, by the address of their text, which is a constant.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    known: RwLock<HashMap<(usize, usize), Arc<Statement>>>,
    #[cfg(feature = "planted-faults")]
    planted: RwLock<Option<Planted>>,
}

/// Fault that a test has planted: a part of a statement, and what replaces it.
#[cfg(feature = "planted-faults")]
#[derive(Debug, Clone, Copy)]
struct Planted {
    rule: &'static str,
    replacement: &'static str,
}

/// Statement in the dialect of its database.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: Arc<str>,
    /// Nanoseconds per input row, one row if the statement has none: the longest of the last executions.
    /// Older ones weigh less and less, so that one that had to wait for the processor is forgotten.
    row_ns: AtomicU64,
    /// Names of the columns.
    columns: RwLock<Arc<[String]>>,
    succeeded: Counter,
    failed: Counter,
}

/// Kinds of statements in metrics.
const KINDS: [&str; 4] = ["select", "insert", "update", "delete"];

/// Returns the kind of a statement. One that begins with a common table expression is of the kind of its
/// first part that writes.
fn kind_of(sql: &str) -> &'static str {
    let words = sql.split(|c: char| !c.is_ascii_alphabetic());
    let mut kinds = words.filter_map(|word| KINDS.into_iter().find(|kind| word == *kind));
    match kinds.next() {
        Some("select") if sql.trim_start().starts_with("with") => {
            kinds.find(|kind| *kind != "select").unwrap_or("select")
        }
        first => first.unwrap_or("other"),
    }
}

fn counter(kind: &'static str, result: &'static str) -> Counter {
    metrics::counter!("database_statements_total", "kind" => kind, "result" => result)
}

impl Statements {
    /// Returns a statement, and expands it at its first execution.
    pub(crate) fn get(&self, sql: &'static str, dialect: Dialect) -> Arc<Statement> {
        let key = (sql.as_ptr().addr(), sql.len());
        if let Some(known) = self.known.read().get(&key) {
            return Arc::clone(known);
        }
        #[cfg(feature = "planted-faults")]
        let sql = self.with_fault(sql);
        let text = rows::expand(sql, dialect).into();
        let kind = kind_of(sql);
        let statement = Statement {
            text,
            row_ns: AtomicU64::new(UNKNOWN),
            columns: RwLock::default(),
            succeeded: counter(kind, "ok"),
            failed: counter(kind, "error"),
        };
        Arc::clone(self.known.write().entry(key).or_insert(Arc::new(statement)))
    }

    /// Replaces a part of every statement that is executed from here on.
    #[cfg(feature = "planted-faults")]
    pub(crate) fn plant(&self, rule: &'static str, replacement: &'static str) {
        *self.planted.write() = Some(Planted { rule, replacement });
        self.known.write().clear();
    }

    #[cfg(feature = "planted-faults")]
    fn with_fault(&self, sql: &'static str) -> &'static str {
        match *self.planted.read() {
            Some(Planted { rule, replacement }) if sql.contains(rule) => {
                Box::leak(sql.replace(rule, replacement).into_boxed_str())
            }
            _ => sql,
        }
    }
}

impl Statement {
    /// Counts an execution, and returns its result.
    pub(crate) fn counted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        let counter = if result.is_ok() { &self.succeeded } else { &self.failed };
        counter.increment(1);
        result
    }

    /// Returns true if the statement is expected to take less than 1 ms with these values.
    pub(crate) fn is_short(&self, values: &[Value]) -> bool {
        let expected_ns = self.row_ns.load(Ordering::Relaxed).saturating_mul(input_rows(values));
        u128::from(expected_ns) < SHORT.as_nanos()
    }

    /// Runs the statement and takes its time.
    pub(crate) fn measure<T>(&self, values: &[Value], run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let output = run();
        let elapsed = start.elapsed();
        if elapsed > SLOW {
            tracing::warn!(statement = %self.text, elapsed_ms = elapsed.as_millis(), "slow statement");
        } else {
            tracing::debug!(statement = %self.text, elapsed_us = elapsed.as_micros(), "executed");
        }
        self.record(elapsed, input_rows(values));
        output
    }

    fn record(&self, elapsed: Duration, rows: u64) {
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(UNKNOWN - 1) / rows;
        let known = self.row_ns.load(Ordering::Relaxed);
        let aged = if known == UNKNOWN { 0 } else { known - known / 8 };
        // Of two executions at once, one may go uncounted.
        self.row_ns.store(elapsed_ns.max(aged), Ordering::Relaxed);
    }

    /// Returns the names of a result's columns, which change only with the schema.
    pub(crate) fn columns(&self, prepared: &rusqlite::Statement<'_>) -> Arc<[String]> {
        let names = prepared.column_names();
        let known = Arc::clone(&self.columns.read());
        if known.len() == names.len() && known.iter().zip(&names).all(|(known, name)| known == name) {
            return known;
        }
        let columns: Arc<[String]> = names.into_iter().map(str::to_owned).collect();
        *self.columns.write() = Arc::clone(&columns);
        columns
    }
}

/// Number of rows that a statement gets as input, at least one.
fn input_rows(values: &[Value]) -> u64 {
    let rows = values.iter().map(|value| match value {
        Value::Rows(rows) => rows.as_array().map_or(1, Vec::len),
        _ => 1,
    });
    rows.max().unwrap_or(1).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_of_the_kind_that_it_does() {
        for (sql, kind) in [
            ("select 1 as one", "select"),
            ("  update t set a = $1", "update"),
            ("insert into t (a) select a from u", "insert"),
            ("delete from t where a in (select a from u)", "delete"),
            ("with gone as (select a from u) delete from t", "delete"),
            ("with a as (select 1) select * from a", "select"),
            ("begin immediate", "other"),
            ("truncate write_check", "other"),
        ] {
            assert_eq!(kind_of(sql), kind, "{sql}");
        }
    }

    #[test]
    fn a_statement_is_short_once_it_was_and_long_for_many_rows() {
        let statements = Statements::default();
        let statement = statements.get("select n from rows($1: n bigint) as r", Dialect::Sqlite);
        assert!(Arc::ptr_eq(
            &statement,
            &statements.get("select n from rows($1: n bigint) as r", Dialect::Sqlite)
        ));
        let rows =
            |count| [Value::from(serde_json::Value::Array(vec![serde_json::json!({ "n": 1 }); count]))];
        assert!(!statement.is_short(&rows(1)), "unknown");
        statement.record(Duration::from_micros(20), 1);
        assert!(statement.is_short(&[]));
        assert!(statement.is_short(&rows(49)));
        assert!(!statement.is_short(&rows(51)));
        statement.record(Duration::from_millis(3), 1);
        assert!(!statement.is_short(&rows(1)), "it was long");
        for _ in 0..9 {
            statement.record(Duration::from_micros(20), 1);
        }
        assert!(statement.is_short(&rows(1)), "it was long only once");
        statement.record(Duration::from_millis(3), 300);
        assert!(statement.is_short(&rows(1)));
    }
}
