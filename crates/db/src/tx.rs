//! Transactions and savepoints.

use sqlx::{Postgres, Sqlite};
use tokio::sync::watch;

use crate::{Dialect, Error, query};

/// Open transaction. Dropping it without a commit rolls it back.
#[derive(Debug)]
pub struct Tx {
    pub(crate) transaction: Transaction,
    signals: Signals,
}

/// Counters of a [`Db`](crate::Db) that its transactions increment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// Number of commits.
    pub(crate) commits: watch::Sender<u64>,
    /// Number of transactions, statements and commits that failed because the database was unavailable.
    pub(crate) failures: watch::Sender<u64>,
}

impl Signals {
    /// Counts a failure if the error says that the database is unavailable.
    pub(crate) fn inspect(&self, error: &Error) {
        if matches!(error, Error::Unavailable(_)) {
            self.failures.send_modify(|count| *count += 1);
        }
    }
}

#[derive(Debug)]
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Tx {
    pub(crate) fn sqlite(tx: sqlx::Transaction<'static, Sqlite>, signals: &Signals) -> Self {
        Self { transaction: Transaction::Sqlite(tx), signals: signals.clone() }
    }

    pub(crate) fn postgres(tx: sqlx::Transaction<'static, Postgres>, signals: &Signals) -> Self {
        Self { transaction: Transaction::Postgres(tx), signals: signals.clone() }
    }

    /// Reports the result of a statement.
    pub(crate) fn inspect<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| self.signals.inspect(error))
    }

    /// Returns the SQL dialect of the database.
    pub fn dialect(&self) -> Dialect {
        match self.transaction {
            Transaction::Sqlite(_) => Dialect::Sqlite,
            Transaction::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Commits the transaction, then notifies the receivers of [`Db::commits`](crate::Db::commits).
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed. The transaction may or may not have
    /// been committed, so the caller must be able to repeat it safely.
    pub async fn commit(self) -> Result<(), Error> {
        let signals = self.signals.clone();
        self.commit_silently().await.inspect_err(|error| signals.inspect(error))?;
        signals.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Commits a transaction without a change that a receiver waits for.
    pub(crate) async fn commit_silently(self) -> Result<(), Error> {
        match self.transaction {
            Transaction::Sqlite(tx) => tx.commit().await?,
            Transaction::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Rolls the transaction back now. Dropping it does so only when the connection is used again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed. The database then rolls the transaction back
    /// itself.
    pub async fn rollback(self) -> Result<(), Error> {
        match self.transaction {
            Transaction::Sqlite(tx) => tx.rollback().await?,
            Transaction::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }

    /// Sets a savepoint. Savepoints nest.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn savepoint(&mut self) -> Result<(), Error> {
        query("savepoint nested").execute(self).await.map(drop)
    }

    /// Removes the innermost savepoint and keeps the writes after it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn release_savepoint(&mut self) -> Result<(), Error> {
        query("release savepoint nested").execute(self).await.map(drop)
    }

    /// Undoes the writes after the innermost savepoint and removes it. This makes the transaction
    /// usable again after a failed statement.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the connection failed.
    pub async fn rollback_to_savepoint(&mut self) -> Result<(), Error> {
        query("rollback to savepoint nested").execute(&mut *self).await?;
        self.release_savepoint().await
    }
}
