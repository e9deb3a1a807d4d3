//! Key set of the verifier: the issuer's public keys, cached and fetched again when a token names an
//! unknown key or the set is stale.
//!
//! At most one fetch runs at a time, and at most one starts per second. While fetches fail, the known
//! keys stay valid.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use jsonwebtoken::DecodingKey;
use parking_lot::Mutex;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    Rejection,
    public_keys::PublicKeys,
    token::{self, Verified},
};

/// Error of a fetch.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Intervals and the timeout of fetches.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// Minimum time between the starts of two fetches.
    interval_min: Duration,
    /// Age at which a set is stale; its next use starts a fetch.
    stale_after: Duration,
    /// Minimum time between the starts of two fetches of a stale set. It is longer, because no caller
    /// waits for those.
    stale_interval_min: Duration,
    /// Timeout of one fetch.
    timeout: Duration,
}

const SCHEDULE: Schedule = Schedule {
    interval_min: Duration::from_secs(1),
    stale_after: Duration::from_secs(5 * 60),
    stale_interval_min: Duration::from_secs(10),
    timeout: Duration::from_secs(2),
};

/// Public keys that access tokens are verified with. Cheap to clone; all clones share one cache.
///
/// Fetches run on the Tokio runtime in tasks owned by the set. Dropping the last clone cancels them.
#[derive(Clone)]
pub struct KeySet(Arc<Cache>);

struct Cache {
    schedule: Schedule,
    fetch: Box<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: PublicKeys,
    /// Increases whenever the keys change.
    revision: u64,
    /// Time of the last successful fetch.
    fetched_at: Option<Instant>,
    last_fetch: Option<FinishedFetch>,
    /// Channel of the running fetch. It carries no value and closes when the fetch ends.
    running: Option<watch::Receiver<()>>,
    tasks: JoinSet<()>,
}

/// Key that was found in the set.
pub(crate) struct FoundKey {
    /// The key.
    pub(crate) decoding: DecodingKey,
    /// Revision of the set that contains it.
    pub(crate) keys_revision: u64,
}

#[derive(Clone, Copy)]
struct FinishedFetch {
    started: Instant,
    succeeded: bool,
}

impl KeySet {
    /// Creates an empty set. `fetch` returns the text of a JSON Web Key Set; the first use of the set
    /// calls it.
    pub fn new<F, W, E>(fetch: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::with_schedule(SCHEDULE, fetch)
    }

    fn with_schedule<F, W, E>(schedule: Schedule, fetch: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let fetch = Box::new(move || fetch().map(|text| text.map_err(Into::into)).boxed());
        Self(Arc::new(Cache { schedule, fetch, state: Mutex::default() }))
    }

    /// Creates a set of these keys for tests: every fetch succeeds, without a pause between two of them.
    #[cfg(test)]
    pub(crate) fn of(keys: &crate::SigningKeys) -> Self {
        let jwks = keys.jwks();
        let schedule = Schedule { interval_min: Duration::ZERO, ..SCHEDULE };
        Self::with_schedule(schedule, move || std::future::ready(Ok::<_, BoxError>(jwks.clone())))
    }

    /// Creates a set that every use fetches again, for tests.
    #[cfg(test)]
    pub(crate) fn always_stale<F, W, E>(fetch: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let stale_after = Duration::ZERO;
        let interval = Duration::ZERO;
        let schedule =
            Schedule { interval_min: interval, stale_after, stale_interval_min: interval, ..SCHEDULE };
        Self::with_schedule(schedule, fetch)
    }

    /// Verifies an access token of this issuer at `now_s` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// Every [`Rejection`] except [`Rejection::Missing`].
    pub(crate) async fn verify(&self, token: &str, issuer: &str, now_s: i64) -> Result<Verified, Rejection> {
        let kid = token::key_id(token)?;
        let key = self.find(&kid).await?;
        token::verify(token, &key, issuer, now_s)
    }

    /// Returns the revision of the keys, which increases whenever they change. Counts as a use of the set:
    /// if it is stale, a fetch starts.
    pub(crate) fn revision(&self) -> u64 {
        let mut state = self.0.state.lock();
        if self.0.should_refresh(&state) {
            self.0.start_fetch(&mut state);
        }
        state.revision
    }

    /// Returns the key with this id. An unknown id is rejected only after a fetch that started after
    /// this call, so that a key published just now is found.
    async fn find(&self, kid: &str) -> Result<FoundKey, Rejection> {
        let asked_at = Instant::now();
        loop {
            let mut running = {
                let mut state = self.0.state.lock();
                if let Some(key) = state.keys.get(kid) {
                    let found = FoundKey { decoding: key.clone(), keys_revision: state.revision };
                    if self.0.should_refresh(&state) {
                        self.0.start_fetch(&mut state);
                    }
                    return Ok(found);
                }
                match state.last_fetch {
                    Some(fetch) if fetch.started >= asked_at => {
                        let rejection =
                            if fetch.succeeded { Rejection::Invalid } else { Rejection::KeysUnavailable };
                        return Err(rejection);
                    }
                    _ => self.0.start_fetch(&mut state),
                }
            };
            // The sender never sends: this returns when it is dropped, also after a panic of the fetch.
            let _closed = running.changed().await;
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.state.lock().keys.ids()).finish()
    }
}

impl Cache {
    fn should_refresh(&self, state: &State) -> bool {
        let Schedule { stale_after, stale_interval_min, .. } = self.schedule;
        state.fetched_at.is_none_or(|fetched_at| fetched_at.elapsed() >= stale_after)
            && state.last_fetch.is_none_or(|fetch| fetch.started.elapsed() >= stale_interval_min)
    }

    /// Joins the running fetch, or starts one as soon as `interval_min` allows it. Returns a receiver
    /// that closes when the fetch ends.
    fn start_fetch(self: &Arc<Self>, state: &mut State) -> watch::Receiver<()> {
        if let Some(running) = state.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return running.clone();
        }
        while state.tasks.try_join_next().is_some() {}
        let (sender, receiver) = watch::channel(());
        let start_at =
            state.last_fetch.map_or_else(Instant::now, |fetch| fetch.started + self.schedule.interval_min);
        // A strong reference would be a cycle: the cache owns the task.
        let cache = Arc::downgrade(self);
        state.tasks.spawn(async move {
            tokio::time::sleep_until(start_at).await;
            refresh(&cache).await;
            drop(sender);
        });
        state.running = Some(receiver.clone());
        receiver
    }
}

/// Runs one fetch, unless the set was dropped. Holds no strong reference while it waits, so that
/// dropping the set cancels the fetch.
async fn refresh(cache: &Weak<Cache>) {
    let started = Instant::now();
    let Some(timeout) = cache.upgrade().map(|cache| cache.schedule.timeout) else { return };
    let fetch = async { Some(cache.upgrade().map(|cache| (cache.fetch)())?.await) };
    let keys = match tokio::time::timeout(timeout, AssertUnwindSafe(fetch).catch_unwind()).await {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(text))) => text.and_then(|text| PublicKeys::parse(&text)),
        Ok(Err(_)) => Err("the fetch panicked".into()),
        Err(elapsed) => Err(elapsed.into()),
    };
    let Some(cache) = cache.upgrade() else { return };
    let mut state = cache.state.lock();
    state.last_fetch = Some(FinishedFetch { started, succeeded: keys.is_ok() });
    match keys {
        Ok(keys) => {
            // A set that did not change stays at its revision: an unknown key, which anybody can name, starts
            // a fetch, and must not make every token be verified again.
            state.revision += u64::from(state.keys != keys);
            state.keys = keys;
            state.fetched_at = Some(Instant::now());
        }
        Err(error) => tracing::warn!(error, "the key set of access tokens could not be fetched"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use uuid::Uuid;

    use super::*;
    use crate::{Claims, SigningKeys};

    const NOW_S: i64 = 1_800_000_000;
    const QUICK: Schedule = Schedule {
        interval_min: Duration::from_millis(200),
        stale_after: Duration::from_secs(3600),
        stale_interval_min: Duration::ZERO,
        timeout: Duration::from_secs(5),
    };

    /// Fake issuer: its key set can be replaced or removed, and it records the fetches.
    #[derive(Default)]
    struct Issuer {
        jwks: Mutex<Option<String>>,
        fetch_starts: Mutex<Vec<Instant>>,
        concurrent: AtomicUsize,
        concurrent_max: AtomicUsize,
    }

    impl Issuer {
        fn publish(&self, keys: Option<&SigningKeys>) {
            *self.jwks.lock() = keys.map(SigningKeys::jwks);
        }

        fn fetches(&self) -> usize {
            self.fetch_starts.lock().len()
        }

        async fn fetch(self: Arc<Self>) -> Result<String, BoxError> {
            self.fetch_starts.lock().push(Instant::now());
            let now = self.concurrent.fetch_add(1, Ordering::SeqCst) + 1;
            self.concurrent_max.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.concurrent.fetch_sub(1, Ordering::SeqCst);
            self.jwks.lock().clone().ok_or_else(|| "unavailable".into())
        }
    }

    fn set(schedule: Schedule, keys: Option<&SigningKeys>) -> (Arc<Issuer>, KeySet) {
        let issuer = Arc::new(Issuer::default());
        issuer.publish(keys);
        let fetched = issuer.clone();
        (issuer, KeySet::with_schedule(schedule, move || fetched.clone().fetch()))
    }

    async fn verify(set: &KeySet, keys: &SigningKeys) -> Result<(), Rejection> {
        let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), NOW_S, 300);
        set.verify(&keys.sign(&claims), "issuer", NOW_S).await.map(|_| ())
    }

    #[tokio::test]
    async fn keys_are_fetched_once_and_kept() {
        let keys = SigningKeys::generate();
        let (issuer, set) = set(QUICK, Some(&keys));
        let all = join_all((0..50).map(|_| verify(&set, &keys))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert!(verify(&set.clone(), &keys).await.is_ok());
        assert_eq!(issuer.fetches(), 1);
    }

    #[tokio::test]
    async fn a_new_key_is_accepted_immediately_and_unknown_keys_share_fetches() {
        let mut keys = SigningKeys::generate();
        let (issuer, set) = set(QUICK, Some(&keys));
        assert!(verify(&set, &keys).await.is_ok());
        keys.rotate().expect("no next key");
        issuer.publish(Some(&keys));
        let unknown_keys: Vec<_> = (0..30).map(|_| SigningKeys::generate()).collect();
        let (rejected, accepted) = tokio::join!(
            join_all(unknown_keys.iter().map(|unknown| verify(&set, unknown))),
            verify(&set, &keys)
        );
        assert_eq!(accepted, Ok(()));
        assert!(rejected.iter().all(|answer| *answer == Err(Rejection::Invalid)), "{rejected:?}");
        assert_eq!(issuer.fetches(), 2, "one for the first key, one for all the others");
        for unknown in &unknown_keys[..3] {
            assert_eq!(verify(&set, unknown).await, Err(Rejection::Invalid));
        }
        let starts = issuer.fetch_starts.lock().clone();
        let intervals: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(intervals.len(), 4);
        assert!(intervals.iter().all(|interval| *interval >= QUICK.interval_min), "{intervals:?}");
        assert_eq!(issuer.concurrent_max.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn while_the_issuer_is_unavailable_known_keys_stay_valid() {
        let known = SigningKeys::generate();
        let unknown = SigningKeys::generate();
        let (issuer, set) = set(Schedule { stale_after: Duration::ZERO, ..QUICK }, Some(&known));
        assert!(verify(&set, &known).await.is_ok());
        issuer.publish(None);
        assert_eq!(verify(&set, &unknown).await, Err(Rejection::KeysUnavailable));
        assert_eq!(verify(&set, &known).await, Ok(()));
        issuer.publish(Some(&unknown));
        assert_eq!(verify(&set, &unknown).await, Ok(()), "the next fetch succeeds");
        assert_eq!(
            verify(&set, &known).await,
            Err(Rejection::Invalid),
            "a key that is no longer published is rejected"
        );
    }

    #[tokio::test]
    async fn using_a_stale_set_starts_a_fetch_in_the_background() {
        let old = SigningKeys::generate();
        let new = SigningKeys::generate();
        let schedule =
            Schedule { interval_min: Duration::ZERO, stale_after: Duration::from_millis(50), ..QUICK };
        let (issuer, set) = set(schedule, Some(&old));
        assert!(verify(&set, &old).await.is_ok());
        issuer.publish(Some(&new));
        let withdrawn = async {
            while verify(&set, &old).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), withdrawn).await.expect("the old key is rejected");
        assert!(issuer.fetches() >= 2);
    }

    #[tokio::test]
    async fn cancelling_one_caller_does_not_cancel_the_fetch() {
        let keys = SigningKeys::generate();
        let (issuer, set) = set(QUICK, Some(&keys));
        tokio::time::timeout(Duration::from_millis(1), verify(&set, &keys))
            .await
            .expect_err("the fetch takes longer");
        assert!(verify(&set, &keys).await.is_ok());
        assert_eq!(issuer.fetches(), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_hangs_or_panics_has_failed() {
        let keys = SigningKeys::generate();
        let schedule = Schedule { timeout: Duration::from_millis(30), ..QUICK };
        let hangs = KeySet::with_schedule(schedule, std::future::pending::<Result<String, BoxError>>);
        assert_eq!(verify(&hangs, &keys).await, Err(Rejection::KeysUnavailable));
        async fn explode() -> Result<String, BoxError> {
            panic!("in the fetch")
        }
        let panics = KeySet::with_schedule(QUICK, explode);
        assert_eq!(verify(&panics, &keys).await, Err(Rejection::KeysUnavailable));
    }

    #[tokio::test]
    async fn dropping_the_last_clone_cancels_the_fetch() {
        let (issuer, set) = set(QUICK, None);
        tokio::time::timeout(Duration::from_millis(5), verify(&set, &SigningKeys::generate()))
            .await
            .expect_err("the fetch takes longer");
        assert!(Arc::strong_count(&issuer) > 1);
        drop(set);
        let ended = async {
            while Arc::strong_count(&issuer) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the fetch is cancelled");
    }

    #[tokio::test]
    async fn the_revision_changes_with_the_keys_only() {
        let mut keys = SigningKeys::generate();
        let (issuer, set) = set(Schedule { interval_min: Duration::ZERO, ..QUICK }, Some(&keys));
        assert!(verify(&set, &keys).await.is_ok());
        let first = set.revision();
        for _ in 0..3 {
            assert_eq!(verify(&set, &SigningKeys::generate()).await, Err(Rejection::Invalid));
        }
        assert_eq!((set.revision(), issuer.fetches()), (first, 4), "fetched again and equal");
        keys.rotate().expect("no next key");
        issuer.publish(Some(&keys));
        assert!(verify(&set, &keys).await.is_ok());
        assert!(set.revision() > first, "a key was added");
        let second = set.revision();
        issuer.publish(Some(&SigningKeys::generate()));
        assert!(verify(&set, &SigningKeys::generate()).await.is_err());
        assert!(set.revision() > second, "the keys were replaced");
    }
}
