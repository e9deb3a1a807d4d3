//! A lease: a row that says who may do what only one process at a time may do, and until when by the database's clock.
//! A row and no advisory lock, because a pooler in between gives one of those to two clients.

use std::time::{Duration, Instant};

use db::{Db, Error, Query, query};
use uuid::Uuid;

/// A lease that this process holds.
#[derive(Debug)]
pub(crate) struct Lease {
    name: &'static str,
    owner: Uuid,
    epoch: i64,
    term: Duration,
    /// By our own clock, from before the database was asked: never later than what the row says.
    until: Instant,
}

impl Lease {
    /// Takes the lease where nobody holds it, or where its term has passed. `None`: somebody else holds it.
    pub(crate) async fn take(
        db: &Db,
        name: &'static str,
        owner: Uuid,
        term: Duration,
    ) -> Result<Option<Self>, Error> {
        let until = Instant::now() + term;
        let mut tx = db.begin().await?;
        let take = query(
            "insert into lease (name, owner, epoch, expires_at_us) values ($1, $2, 1, (select now_us from clock) + $3)
             on conflict (name) do update
             set owner = excluded.owner, epoch = lease.epoch + 1, expires_at_us = excluded.expires_at_us
             where lease.expires_at_us <= (select now_us from clock)
             returning epoch",
        );
        let row = take.bind(name).bind(owner).bind(microseconds(term)).optional(&mut tx).await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Self { name, owner, epoch: row.get("epoch")?, term, until }))
    }

    /// Extends the term. `false`: somebody else has taken the lease meanwhile. Dropped half-way, it does no harm.
    pub(crate) async fn renew(&mut self, db: &Db) -> Result<bool, Error> {
        let until = Instant::now() + self.term;
        let renew = query(
            "update lease set expires_at_us = (select now_us from clock) + $4
             where name = $1 and owner = $2 and epoch = $3",
        );
        let renew = renew.bind(self.name).bind(self.owner).bind(self.epoch).bind(microseconds(self.term));
        let ours = db.detach(write(db.clone(), renew)).await? == 1;
        if ours {
            self.until = until;
        }
        Ok(ours)
    }

    /// Holds the lease by renewing it three times a term; returns when it is lost, be it because the database has not
    /// answered for a whole term.
    pub(crate) async fn hold(&mut self, db: &Db) {
        while self.is_held() {
            tokio::time::sleep(self.due_in()).await;
            match tokio::time::timeout(self.left(), self.renew(db)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.name, %error, "a lease was not renewed");
                    tokio::time::sleep(self.term / 20).await;
                }
                Err(_) => {}
            }
        }
    }

    /// Gives the lease back, so that the next one need not wait for the term to pass.
    pub(crate) async fn release(self, db: &Db) -> Result<(), Error> {
        let release =
            query("update lease set expires_at_us = 0 where name = $1 and owner = $2 and epoch = $3");
        let release = release.bind(self.name).bind(self.owner).bind(self.epoch);
        db.detach(write(db.clone(), release)).await.map(drop)
    }

    /// Whether it is certain that nobody else has the lease.
    pub(crate) fn is_held(&self) -> bool {
        Instant::now() < self.until
    }

    /// Which term of the lease this is: rises with every owner.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// How long until it is to be renewed.
    pub(crate) fn due_in(&self) -> Duration {
        self.left().saturating_sub(self.term * 2 / 3)
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
