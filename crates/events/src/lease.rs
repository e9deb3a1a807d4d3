//! Lease: a row that names the only process allowed to do a job, and the time by the database's clock
//! until which it may. It is a row and not an advisory lock, because a connection pooler can give the
//! same advisory lock to two clients.

use std::time::{Duration, Instant};

use db::{Db, Error, Query, query};
use uuid::Uuid;

/// Lease held by this process.
#[derive(Debug)]
pub(crate) struct Lease {
    name: &'static str,
    owner: Uuid,
    epoch: i64,
    term: Duration,
    /// Expiry by the clock of this process, measured from before the statement was sent. Never later
    /// than the expiry in the row.
    expires_at: Instant,
}

impl Lease {
    /// Acquires the lease if it is free or expired. Returns `None` if another process holds it.
    pub(crate) async fn acquire(
        db: &Db,
        name: &'static str,
        owner: Uuid,
        term: Duration,
    ) -> Result<Option<Self>, Error> {
        let expires_at = Instant::now() + term;
        let mut tx = db.begin().await?;
        let acquire = query(
            "insert into lease (name, owner, epoch, expires_at_us)
             values ($1, $2, 1, (select now_us from clock) + $3)
             on conflict (name) do update
             set owner = excluded.owner, epoch = lease.epoch + 1, expires_at_us = excluded.expires_at_us
             where lease.expires_at_us <= (select now_us from clock)
             returning epoch",
        );
        let row = acquire.bind(name).bind(owner).bind(microseconds(term)).optional(&mut tx).await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Self { name, owner, epoch: row.get("epoch")?, term, expires_at }))
    }

    /// Extends the term. Returns `false` if another process has acquired the lease. Cancel-safe.
    pub(crate) async fn renew(&mut self, db: &Db) -> Result<bool, Error> {
        let expires_at = Instant::now() + self.term;
        let renew = query(
            "update lease set expires_at_us = (select now_us from clock) + $4
             where name = $1 and owner = $2 and epoch = $3",
        );
        let renew = renew.bind(self.name).bind(self.owner).bind(self.epoch).bind(microseconds(self.term));
        let renewed = db.detach(write(db.clone(), renew)).await? == 1;
        if renewed {
            self.expires_at = expires_at;
        }
        Ok(renewed)
    }

    /// Renews the lease three times per term. Returns when the lease is lost, which includes the case
    /// that the database did not answer for a whole term.
    pub(crate) async fn hold(&mut self, db: &Db) {
        while self.is_held() {
            tokio::time::sleep(self.renewal_due_in()).await;
            match tokio::time::timeout(self.remaining(), self.renew(db)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, %error, "lease renewal failed");
                    tokio::time::sleep(self.term / 20).await;
                }
                Err(_) => {}
            }
        }
    }

    /// Releases the lease, so that the next process need not wait until it expires.
    pub(crate) async fn release(self, db: &Db) -> Result<(), Error> {
        let release =
            query("update lease set expires_at_us = 0 where name = $1 and owner = $2 and epoch = $3");
        let release = release.bind(self.name).bind(self.owner).bind(self.epoch);
        db.detach(write(db.clone(), release)).await.map(drop)
    }

    /// Returns `true` while no other process can hold the lease.
    pub(crate) fn is_held(&self) -> bool {
        Instant::now() < self.expires_at
    }

    /// Returns the number of this acquisition. It increases with every new owner.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    fn remaining(&self) -> Duration {
        self.expires_at.saturating_duration_since(Instant::now())
    }

    /// Returns the time until the next renewal, which is due when a third of the term has passed.
    pub(crate) fn renewal_due_in(&self) -> Duration {
        self.remaining().saturating_sub(self.term * 2 / 3)
    }
}

async fn write(db: Db, statement: Query) -> Result<u64, Error> {
    let mut tx = db.begin().await?;
    let changed = statement.execute(&mut tx).await?;
    tx.commit().await?;
    Ok(changed)
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
