//! What the cache does not hold, read from the database: once for all who ask for the same person at the same time, and by
//! a bounded number of readers, so that a cache that is away cannot drown the database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use db::Db;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use proto::UserId;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Cache, Error, store,
    unread::{ROWS, Unread, Version},
};

/// Readers of the database at the same time.
const READERS: usize = 8;
/// How long a reader waits for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

/// The unread of people, from the cache and else from the database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fills(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    cache: Cache,
    readers: Semaphore,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    /// Who is being read, by the number of the flight. It lives as long as somebody waits for it.
    aloft: HashMap<UserId, (u64, WeakShared<Read>)>,
    begun: u64,
}

type Read = BoxFuture<'static, Result<Arc<Unread>, Arc<Error>>>;

impl Fills {
    /// Reads of this database through this cache.
    pub fn new(db: Db, cache: Cache) -> Self {
        let (readers, flights) = (Semaphore::new(READERS), Mutex::default());
        Self(Arc::new(Inner { db, cache, readers, flights }))
    }

    /// Everything unread of the user, in a version that is not below the one asked for, where that exists; at most
    /// [`ROWS`] + 1 rows.
    ///
    /// # Errors
    /// [`Error::Busy`] where too many read already; else as the database has them.
    pub(crate) async fn unread(&self, user_id: UserId, at_least: Option<Version>) -> Result<Unread, Error> {
        let enough = |unread: &Unread| Some(unread.version) >= at_least;
        if let Some(held) = self.0.cache.get(user_id).await.filter(enough) {
            return Ok(held);
        }
        let (read, joined) = self.join(user_id);
        let mut unread = read.await?;
        if joined && !enough(&unread) {
            // It began before we asked. Whatever is aloft now began later.
            unread = self.join(user_id).0.await?;
        }
        Ok(Unread::clone(&unread))
    }

    /// The flight that reads this user, and whether others began it.
    fn join(&self, user_id: UserId) -> (Shared<Read>, bool) {
        let mut flights = self.0.flights();
        if let Some(read) = flights.aloft.get(&user_id).and_then(|(_, read)| read.upgrade()) {
            return (read, true);
        }
        flights.begun += 1;
        let number = flights.begun;
        let flight = Flight { inner: Arc::clone(&self.0), user_id, number };
        let read = async move { flight.read().await.map(Arc::new).map_err(Arc::new) }.boxed().shared();
        let weak = read.downgrade().expect("it was not awaited yet");
        flights.aloft.insert(user_id, (number, weak));
        (read, false)
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reading. It is over when it is dropped: done, or nobody waits for it any more.
struct Flight {
    inner: Arc<Inner>,
    user_id: UserId,
    number: u64,
}

impl Flight {
    async fn read(&self) -> Result<Unread, Error> {
        let Inner { db, cache, readers, .. } = &*self.inner;
        let Ok(Ok(turn)) = timeout(PATIENCE, readers.acquire()).await else {
            metrics::counter!("counter_busy_total").increment(1);
            return Err(Error::Busy);
        };
        let ticket = cache.miss(self.user_id).await;
        let mut tx = db.snapshot().await?;
        let (version, total) = store::version(&mut tx, self.user_id).await?;
        let rows = store::unread(&mut tx, self.user_id, ROWS as i64 + 1).await?;
        tx.rollback().await?;
        drop(turn);
        let unread = Unread { version, total, rows, truncated: false };
        if unread.rows.len() <= ROWS {
            cache.fill(self.user_id, ticket, &unread).await;
        }
        Ok(unread)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flights = self.inner.flights();
        if flights.aloft.get(&self.user_id).is_some_and(|(number, _)| *number == self.number) {
            flights.aloft.remove(&self.user_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use testkit::TestDb;

    use super::*;

    async fn fills() -> (Fills, TestDb) {
        let database = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS, &crate::MIGRATIONS]).await;
        (Fills::new(database.db.clone(), Cache::in_process()), database)
    }

    #[tokio::test]
    async fn those_who_miss_one_user_at_the_same_time_read_the_database_once() {
        let (fills, _database) = fills().await;
        let (ann, bob) = (UserId::now(), UserId::now());
        let turns = fills.0.readers.acquire_many(READERS as u32).await.unwrap();
        let asked = join_all([ann, bob].iter().cycle().take(100).map(|user_id| fills.unread(*user_id, None)));
        let (answers, ()) = tokio::join!(asked, async {
            tokio::task::yield_now().await;
            drop(turns);
        });
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|unread| unread.total == 0)));
        assert_eq!(fills.0.flights().begun, 2, "one for each user");
        fills.unread(ann, None).await.unwrap();
        assert_eq!(fills.0.flights().begun, 3, "who comes later reads again");
        assert!(fills.0.flights().aloft.is_empty());
    }

    #[tokio::test]
    async fn who_joins_a_flight_that_began_too_early_reads_again() {
        let (fills, _database) = fills().await;
        let user_id = UserId::now();
        let future = Some(Version { epoch: 9, number: 9 });
        let (early, late) = tokio::join!(fills.unread(user_id, None), fills.unread(user_id, future));
        assert_eq!(early.unwrap(), late.unwrap(), "what there is; whether it is enough the caller says");
        assert_eq!(fills.0.flights().begun, 2);
    }

    #[tokio::test]
    async fn a_flight_that_nobody_waits_for_is_over() {
        let (fills, _database) = fills().await;
        let user_id = UserId::now();
        let turns = fills.0.readers.acquire_many(READERS as u32).await.unwrap();
        let left = tokio::time::timeout(Duration::from_millis(10), fills.unread(user_id, None)).await;
        assert!(left.is_err() && fills.0.flights().aloft.is_empty());
        drop(turns);
        fills.unread(user_id, None).await.unwrap();
        assert_eq!(fills.0.flights().begun, 2);
    }

    #[tokio::test]
    async fn more_readers_than_may_read_are_told_so() {
        let (fills, _database) = fills().await;
        let turns = fills.0.readers.acquire_many(READERS as u32).await.unwrap();
        let refused = fills.unread(UserId::now(), None).await.unwrap_err();
        assert_eq!(tonic::Status::from(refused).code(), tonic::Code::Unavailable);
        drop(turns);
        fills.unread(UserId::now(), None).await.unwrap();
    }
}
