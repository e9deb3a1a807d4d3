//! SQLite: one connection that writes and some that read. A statement runs on the calling thread, which
//! takes microseconds and no context switch. A thread for blocking work runs what may wait for the disk or
//! for a lock: opening a file, commits, statements that are known to be long or not known yet, and those
//! that another process keeps waiting (docs/decisions/0023-sqlite-on-the-calling-thread.md).

mod connection;
mod failure;
mod pool;

use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;

pub(crate) use connection::{Outcome, Row};
pub(crate) use pool::{Access, Lease, Pool};

use crate::{Error, Value, database_file, statements::Statement};

/// Number of connections for reads. There is one more for writes: SQLite has one writer at a time.
const READERS: u32 = 4;

/// SQLite database.
#[derive(Debug)]
pub(crate) struct Sqlite {
    pub(crate) writer: Arc<Pool>,
    pub(crate) reader: Arc<Pool>,
    /// The file as sqlx opens it for migrations.
    pub(crate) options: SqliteConnectOptions,
}

impl Sqlite {
    /// Opens a database, and creates it if it does not exist.
    pub(crate) async fn open(options: SqliteConnectOptions) -> Result<Self, Error> {
        let path = options.get_filename();
        // The driver names a database without a file so.
        if path.to_string_lossy().starts_with("file:") {
            return Err(Error::Url);
        }
        database_file::make_private(path).map_err(|error| Error::Unavailable(error.into()))?;
        let writer = Pool::new(path, Access::Write, 1);
        // The writer creates the file, so that the readers find one in WAL mode.
        drop(writer.acquire().await?);
        let reader = Pool::new(path, Access::Read, READERS);
        drop(reader.acquire().await?);
        Ok(Self { writer, reader, options })
    }

    /// Closes the connections once they are free. The writer is the last: it moves the log into the file.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Transaction on a leased connection. Dropping it rolls it back.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Absent while a statement runs on another thread, and for good if its future was dropped: that thread
    /// then returns the connection.
    lease: Option<Lease>,
}

impl Transaction {
    /// Begins a transaction on a free connection. Cancelling it leaves no transaction behind: either this
    /// thread has not begun one, or the one that has drops it.
    pub(crate) async fn begin(pool: &Arc<Pool>, statement: &Arc<Statement>) -> Result<Self, Error> {
        let (lease, begun) = run(pool.acquire().await?, statement, Vec::new()).await?;
        begun?;
        Ok(Self { lease: Some(lease) })
    }

    /// Executes a statement.
    pub(crate) async fn run(
        &mut self,
        statement: &Arc<Statement>,
        values: Vec<Value>,
    ) -> Result<Outcome, Error> {
        let lease = self.lease.take().ok_or(sqlx::Error::WorkerCrashed)?;
        if !lease.is_in_transaction() {
            // Without this check the statement would commit on its own.
            return Err(Error::Unavailable(failure::transaction_has_ended()));
        }
        let (lease, outcome) = run(lease, statement, values).await?;
        self.lease = Some(lease);
        outcome
    }

    /// Commits on a thread for blocking work, because the commit waits for the disk, and calls `committed`
    /// there. Both happen even if the caller is cancelled.
    pub(crate) async fn commit(
        mut self,
        commit: &Arc<Statement>,
        committed: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let mut lease = self.lease.take().ok_or(sqlx::Error::WorkerCrashed)?;
        if !lease.is_in_transaction() {
            return Err(Error::Unavailable(failure::transaction_has_ended()));
        }
        if lease.access() == Access::Read {
            return lease.run(commit, &[]).map(drop);
        }
        let commit = Arc::clone(commit);
        let result = tokio::task::spawn_blocking(move || {
            lease.run(&commit, &[])?;
            // The next writer may go on before this one's task wakes.
            drop(lease);
            committed();
            Ok(())
        });
        result.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

/// Executes a statement outside a transaction, for reads.
pub(crate) async fn read(
    pool: &Arc<Pool>,
    statement: &Arc<Statement>,
    values: Vec<Value>,
) -> Result<Outcome, Error> {
    run(pool.acquire().await?, statement, values).await?.1
}

/// Executes a statement here if it is known to be short, else on a thread for blocking work. The error
/// outside is that of the runtime, which is shutting down.
async fn run(
    mut lease: Lease,
    statement: &Arc<Statement>,
    values: Vec<Value>,
) -> Result<(Lease, Result<Outcome, Error>), Error> {
    // A task that only reads would otherwise never let others run.
    tokio::task::consume_budget().await;
    if statement.is_short(&values) {
        let outcome = lease.run(statement, &values);
        if !matches!(&outcome, Err(error) if failure::is_locked(error)) {
            return Ok((lease, outcome));
        }
    }
    let statement = Arc::clone(statement);
    let done = tokio::task::spawn_blocking(move || {
        let outcome = lease.run_patiently(&statement, &values);
        (lease, outcome)
    });
    Ok(done.await.map_err(|_| sqlx::Error::WorkerCrashed)?)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rusqlite::{StatementStatus, config::DbConfig};
    use tempfile::TempDir;

    use super::*;
    use crate::{Dialect, statements::Statements};

    async fn database() -> (TempDir, Sqlite) {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("test.db"));
        let sqlite = Sqlite::open(options).await.unwrap();
        (folder, sqlite)
    }

    fn statement(sql: &'static str) -> Arc<Statement> {
        Statements::default().get(sql, Dialect::Sqlite)
    }

    /// Plans may depend on bound values once there are statistics of an index.
    #[tokio::test]
    async fn a_statement_is_compiled_once_for_all_values() {
        let (_folder, sqlite) = database().await;
        let lease = sqlite.writer.acquire().await.unwrap();
        let connection = lease.connection();
        let setup = "create table t (a, b); create index t_a on t (a);
            with recursive n(n) as (select 1 union all select n + 1 from n where n < 1000)
            insert into t select n / 10, n from n; analyze";
        connection.execute_batch(setup).unwrap();
        let compilations = |is_stable| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, is_stable).unwrap();
            connection.flush_prepared_statement_cache();
            let select = statement("select b from t where a > $1 and a < $2");
            for value in 0..10 {
                let values = [Value::from(value), Value::from(value * 2)];
                connection::run(connection, &select, &values).unwrap();
            }
            let prepared = connection.prepare_cached(&select.text).unwrap();
            prepared.get_status(StatementStatus::RePrepare)
        };
        assert!(compilations(false) > 0, "the setting has an effect");
        assert_eq!(compilations(true), 0);
    }

    #[tokio::test]
    async fn every_connection_has_the_settings() {
        let (_folder, sqlite) = database().await;
        for pool in [&sqlite.writer, &sqlite.reader] {
            let lease = pool.acquire().await.unwrap();
            let connection = lease.connection();
            let is_stable = connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG).unwrap();
            assert!(is_stable, "plans depend on no value");
            let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
            assert_eq!(pragma("journal_mode").unwrap(), "wal");
            let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            assert_eq!(number("synchronous").unwrap(), 2, "full: a commit is on the disk");
            assert_eq!(number("foreign_keys").unwrap(), 1);
            assert_eq!(number("query_only").unwrap(), i64::from(pool.access() == Access::Read));
        }
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_lock_of_another_process() {
        let (_folder, sqlite) = database().await;
        let other = connection::open(sqlite.options.get_filename(), Access::Write).unwrap();
        other.execute_batch("begin immediate").unwrap();
        let begin = statement("begin immediate");
        // Known to be short, so it is tried on this thread first.
        begin.measure(&[], || {});
        let mut waiting = std::pin::pin!(Transaction::begin(&sqlite.writer, &begin));
        assert!(waiting.as_mut().now_or_never().is_none(), "and this thread goes on");
        other.execute_batch("commit").unwrap();
        waiting.await.unwrap();
    }
}
