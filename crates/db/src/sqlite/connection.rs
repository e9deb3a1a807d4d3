//! Connection to a SQLite file: its settings, the execution of a statement, and rows.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{CachedStatement, OpenFlags, config::DbConfig, types::Null};
use uuid::Uuid;

use super::{Access, failure};
use crate::{Column, Error, Value, statements::Statement};

/// Time that SQLite waits for the lock of another process, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of compiled statements that a connection keeps.
const STATEMENTS_MAX: usize = 256;

/// Opens a connection. By itself it does not wait for locks.
pub(super) fn open(path: &Path, access: Access) -> Result<rusqlite::Connection, rusqlite::Error> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Plans depend on no bound value. Otherwise SQLite compiles a cached statement again whenever a value
    // of it changes that might have chosen the plan, which took a tenth of the program's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection
        .execute_batch("pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on")?;
    if access == Access::Read {
        connection.execute_batch("pragma query_only = on")?;
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    connection.busy_timeout(Duration::ZERO)?;
    Ok(connection)
}

/// Result of a statement.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Number of rows that the statement changed.
    pub(crate) changes: u64,
    pub(crate) rows: Vec<Row>,
}

/// Row of a result.
#[derive(Debug)]
pub(crate) struct Row {
    columns: Arc<[String]>,
    values: Vec<rusqlite::types::Value>,
}

impl Row {
    pub(crate) fn get<T: Column>(&self, name: &str) -> Result<T, sqlx::Error> {
        let index = self.columns.iter().position(|column| column == name);
        let index = index.ok_or_else(|| sqlx::Error::ColumnNotFound(name.to_owned()))?;
        T::from_sqlite(&self.values[index]).ok_or_else(|| {
            let source = format!("{} cannot be decoded", self.values[index].data_type());
            sqlx::Error::ColumnDecode { index: name.to_owned(), source: source.into() }
        })
    }
}

/// Executes a statement, waiting for the locks of other processes.
pub(super) fn run_patiently(
    connection: &rusqlite::Connection,
    statement: &Statement,
    values: &[Value],
) -> Result<Outcome, Error> {
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failure::error)?;
    let outcome = run(connection, statement, values);
    connection.busy_timeout(Duration::ZERO).map_err(failure::error)?;
    outcome
}

/// Executes a statement to its end.
pub(super) fn run(
    connection: &rusqlite::Connection,
    statement: &Statement,
    values: &[Value],
) -> Result<Outcome, Error> {
    statement.measure(values, || {
        let mut prepared = connection.prepare_cached(&statement.text).map_err(failure::error)?;
        bind(&mut prepared, values)?;
        let rows = rows(&mut prepared, statement).map_err(failure::error)?;
        Ok(Outcome { changes: connection.changes(), rows })
    })
}

/// Binds each placeholder `$n` to the n-th value. SQLite takes `$n` for a name and numbers the names in the
/// order in which they occur.
fn bind(prepared: &mut CachedStatement<'_>, values: &[Value]) -> Result<(), Error> {
    for index in 1..=prepared.parameter_count() {
        let name = prepared.parameter_name(index).and_then(|name| name.strip_prefix('$'));
        let number = name.and_then(|number| number.parse::<usize>().ok());
        let value = number.and_then(|number| values.get(number.checked_sub(1)?));
        let value = value.ok_or_else(|| Error::Bug(failure::unbound(index)))?;
        bind_one(prepared, index, value).map_err(failure::error)?;
    }
    Ok(())
}

fn bind_one(prepared: &mut CachedStatement<'_>, index: usize, value: &Value) -> Result<(), rusqlite::Error> {
    match value {
        Value::Bool(value) => prepared.raw_bind_parameter(index, value),
        Value::Int(value) => prepared.raw_bind_parameter(index, value),
        Value::Text(value) => prepared.raw_bind_parameter(index, value),
        Value::Uuid(None) => prepared.raw_bind_parameter(index, Null),
        Value::Uuid(Some(id)) => {
            let mut text = Uuid::encode_buffer();
            prepared.raw_bind_parameter(index, &*id.hyphenated().encode_lower(&mut text))
        }
        Value::Bytes(value) => prepared.raw_bind_parameter(index, value),
        Value::Rows(value) => prepared.raw_bind_parameter(index, value.to_string()),
    }
}

fn rows(prepared: &mut CachedStatement<'_>, statement: &Statement) -> Result<Vec<Row>, rusqlite::Error> {
    let mut rows = Vec::new();
    let mut cursor = prepared.raw_query();
    let mut columns = None;
    while let Some(row) = cursor.next()? {
        // The names are known after the first step, which may compile the statement for a new schema.
        let columns = columns.get_or_insert_with(|| statement.columns(row.as_ref()));
        let values = (0..columns.len()).map(|index| row.get(index)).collect::<Result<_, _>>()?;
        rows.push(Row { columns: Arc::clone(columns), values });
    }
    Ok(rows)
}
