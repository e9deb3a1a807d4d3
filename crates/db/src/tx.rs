//! A transaction.

use sqlx::{Postgres, Sqlite, Transaction};
use tokio::sync::watch;

use crate::{Dialect, Error, query};

/// An open transaction. Dropped uncommitted, it rolls back.
#[derive(Debug)]
pub struct Tx {
    pub(crate) inner: Inner,
    commits: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) enum Inner {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    pub(crate) fn sqlite(tx: Transaction<'static, Sqlite>, commits: &watch::Sender<u64>) -> Self {
        Self { inner: Inner::Sqlite(tx), commits: commits.clone() }
    }

    pub(crate) fn postgres(tx: Transaction<'static, Postgres>, commits: &watch::Sender<u64>) -> Self {
        Self { inner: Inner::Postgres(tx), commits: commits.clone() }
    }

    /// Which database this is.
    pub fn dialect(&self) -> Dialect {
        match self.inner {
            Inner::Sqlite(_) => Dialect::Sqlite,
            Inner::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Makes the writes durable, then wakes those who wait for commits.
    ///
    /// # Errors
    /// After an error it is not known whether the transaction was committed: a repetition must be safe.
    pub async fn commit(self) -> Result<(), Error> {
        match self.inner {
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::Postgres(tx) => tx.commit().await?,
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Undoes the writes now; dropping does the same when the connection is used next.
    ///
    /// # Errors
    /// Where the connection is gone, and the transaction with it.
    pub async fn rollback(self) -> Result<(), Error> {
        match self.inner {
            Inner::Sqlite(tx) => tx.rollback().await?,
            Inner::Postgres(tx) => tx.rollback().await?,
        }
        Ok(())
    }

    /// Sets a savepoint; they nest.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn savepoint(&mut self) -> Result<(), Error> {
        query("savepoint part").execute(self).await.map(drop)
    }

    /// Keeps what was written since the innermost savepoint and removes it.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn release(&mut self) -> Result<(), Error> {
        query("release savepoint part").execute(self).await.map(drop)
    }

    /// Undoes what was written since the innermost savepoint, an error included, and removes it.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn undo(&mut self) -> Result<(), Error> {
        query("rollback to savepoint part").execute(&mut *self).await?;
        self.release().await
    }
}
