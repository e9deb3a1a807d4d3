//! Loader of unread counts: from the cache, else from the database. Concurrent requests for one user
//! share one load, and the number of loads is limited, so that an unavailable cache does not overload
//! the database.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use db::Db;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use proto::UserId;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Cache, Error, store,
    unread::{Head, ROWS_MAX, Unread, Version},
};

/// Maximum number of concurrent loads: half of the Postgres pool (`CONNECTIONS_MAX` in src/engine.rs),
/// so that writes and other reads always get a connection.
const LOADS_MAX: usize = 8;
/// Time a load waits for a permit before the request is refused.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Loader of unread counts. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Loader(Arc<State>);

#[derive(Debug)]
struct State {
    db: Db,
    cache: Cache,
    permits: Semaphore,
    in_flight: Mutex<InFlight>,
    /// Highest epoch known. Entries of earlier ones describe a past that was replaced.
    epoch: AtomicI64,
}

#[derive(Debug, Default)]
struct InFlight {
    /// Running load of each user, with its number. A weak reference: the load is cancelled when no
    /// request waits for it.
    loads: HashMap<UserId, (u64, WeakShared<LoadFuture>)>,
    /// Number of loads started since the process started.
    started: u64,
}

type LoadFuture = BoxFuture<'static, Result<Arc<Unread>, Arc<Error>>>;

impl Loader {
    /// Creates a loader that reads this database through this cache.
    pub(crate) fn new(db: Db, cache: Cache) -> Self {
        let permits = Semaphore::new(LOADS_MAX);
        let epoch = AtomicI64::new(0);
        Self(Arc::new(State { db, cache, permits, in_flight: Mutex::default(), epoch }))
    }

    /// Excludes cached entries of epochs before this one.
    pub(crate) fn raise_epoch(&self, epoch: i64) {
        self.0.epoch.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Returns the user's unread rows, at most [`ROWS_MAX`] + 1. The version is `at_least` or later,
    /// unless the database itself is older; the caller checks that.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many loads are running; [`Error::Database`], possibly inside
    /// [`Error::Shared`].
    pub(crate) async fn unread(&self, user_id: UserId, at_least: Option<Version>) -> Result<Unread, Error> {
        let recent = |unread: &Unread| Some(unread.version) >= at_least;
        let epoch = self.0.epoch.load(Ordering::Acquire);
        let usable = |unread: &Unread| unread.version.epoch >= epoch && recent(unread);
        if let Some(cached) = self.0.cache.get(user_id).await.filter(usable) {
            return Ok(cached);
        }
        let (load, joined) = self.join(user_id);
        let mut unread = load.await?;
        if joined && !recent(&unread) {
            // The load started before this request and may have read an older state. Any load found now
            // started after the request, so one more attempt is always enough.
            unread = self.join(user_id).0.await?;
        }
        Ok(Unread::clone(&unread))
    }

    /// Returns the running load of a user, or starts one. The flag is true if the load was already
    /// running.
    fn join(&self, user_id: UserId) -> (Shared<LoadFuture>, bool) {
        let mut in_flight = self.0.in_flight.lock();
        if let Some(load) = in_flight.loads.get(&user_id).and_then(|(_, load)| load.upgrade()) {
            return (load, true);
        }
        in_flight.started += 1;
        let number = in_flight.started;
        let load = Load { state: Arc::clone(&self.0), user_id, number };
        let future = async move { load.run().await.map(Arc::new).map_err(Arc::new) }.boxed().shared();
        let weak = future.downgrade().expect("a future that was not polled is not complete");
        in_flight.loads.insert(user_id, (number, weak));
        (future, false)
    }
}

/// One load. It leaves [`InFlight`] when dropped: when it completes, or when no request waits for it any
/// more.
struct Load {
    state: Arc<State>,
    user_id: UserId,
    number: u64,
}

impl Load {
    async fn run(&self) -> Result<Unread, Error> {
        let State { db, cache, permits, .. } = &*self.state;
        let Ok(Ok(permit)) = timeout(PERMIT_TIMEOUT, permits.acquire()).await else {
            metrics::counter!("counter_busy_total").increment(1);
            return Err(Error::Busy);
        };
        // The stub comes before the snapshot: an event between the two raises the stub's minimum
        // version.
        let ticket = cache.miss(self.user_id).await;
        let mut tx = db.snapshot().await?;
        let Head { version, total, stale } = store::version(&mut tx, self.user_id).await?;
        let rows = store::unread(&mut tx, self.user_id, ROWS_MAX as i64 + 1).await?;
        tx.rollback().await?;
        drop(permit);
        self.state.epoch.fetch_max(version.epoch, Ordering::AcqRel);
        let unread = Unread { version, total, rows, truncated: false, stale };
        // A truncated list is not cached: a delta cannot tell which row would move up into it.
        if unread.rows.len() <= ROWS_MAX && !stale {
            cache.fill(self.user_id, ticket, &unread).await;
        }
        Ok(unread)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut in_flight = self.state.in_flight.lock();
        // The entry may already be that of a later load, which stays.
        if in_flight.loads.get(&self.user_id).is_some_and(|(number, _)| *number == self.number) {
            in_flight.loads.remove(&self.user_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use testkit::TestDb;

    use super::*;

    async fn loader() -> (Loader, TestDb) {
        let database = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS, &crate::MIGRATIONS]).await;
        (Loader::new(database.db.clone(), Cache::in_process()), database)
    }

    #[tokio::test]
    async fn concurrent_misses_of_one_user_share_one_load() {
        let (loader, _database) = loader().await;
        let ann = UserId::now();
        let bob = UserId::now();
        let permits = loader.0.permits.acquire_many(LOADS_MAX as u32).await.unwrap();
        let requests =
            join_all([ann, bob].iter().cycle().take(100).map(|user_id| loader.unread(*user_id, None)));
        let (answers, ()) = tokio::join!(requests, async {
            tokio::task::yield_now().await;
            drop(permits);
        });
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|unread| unread.total == 0)));
        assert_eq!(loader.0.in_flight.lock().started, 2, "one load for each user");
        loader.unread(ann, None).await.unwrap();
        assert_eq!(loader.0.in_flight.lock().started, 3, "a later request starts a new load");
        assert!(loader.0.in_flight.lock().loads.is_empty());
    }

    #[tokio::test]
    async fn a_request_that_joined_a_load_too_old_for_it_loads_again() {
        let (loader, _database) = loader().await;
        let user_id = UserId::now();
        let future = Some(Version { epoch: 9, number: 9 });
        let (early, late) = tokio::join!(loader.unread(user_id, None), loader.unread(user_id, future));
        assert_eq!(early.unwrap(), late.unwrap(), "the caller decides if the version is recent enough");
        assert_eq!(loader.0.in_flight.lock().started, 2);
    }

    #[tokio::test]
    async fn a_load_that_no_request_waits_for_is_cancelled() {
        let (loader, _database) = loader().await;
        let user_id = UserId::now();
        let permits = loader.0.permits.acquire_many(LOADS_MAX as u32).await.unwrap();
        let cancelled = tokio::time::timeout(Duration::from_millis(10), loader.unread(user_id, None)).await;
        assert!(cancelled.is_err() && loader.0.in_flight.lock().loads.is_empty());
        drop(permits);
        loader.unread(user_id, None).await.unwrap();
        assert_eq!(loader.0.in_flight.lock().started, 2);
    }

    #[tokio::test]
    async fn a_request_without_a_permit_is_refused() {
        let (loader, _database) = loader().await;
        let permits = loader.0.permits.acquire_many(LOADS_MAX as u32).await.unwrap();
        let refused = loader.unread(UserId::now(), None).await.unwrap_err();
        assert_eq!(tonic::Status::from(refused).code(), tonic::Code::ResourceExhausted);
        drop(permits);
        loader.unread(UserId::now(), None).await.unwrap();
    }
}
