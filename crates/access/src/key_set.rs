//! The verifier's keys: fetched from who signs, kept, and fetched again when a token names an unknown key or the set has
//! become old. Fetches are single, at most one a second; while none succeeds, the keys that are known go on.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use futures_util::{FutureExt, future::BoxFuture};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{Caller, Refused, token};

/// Any error of a fetch.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How many keys of a set are taken.
const KEYS_MAX: usize = 16;

/// How often to fetch, and how long to wait.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between the starts of two fetches, at least.
    apart: Duration,
    /// The age at which a set is fetched anew, on use.
    stale: Duration,
    /// Between the starts of two fetches for age alone, at least: nobody waits for those.
    patient: Duration,
    /// When a fetch is given up.
    limit: Duration,
}

const PACE: Pace = Pace {
    apart: Duration::from_secs(1),
    stale: Duration::from_secs(5 * 60),
    patient: Duration::from_secs(10),
    limit: Duration::from_secs(2),
};

/// The public keys that tokens are verified with. Cheap to clone; all clones share one cache. Fetches run on the tokio
/// runtime, owned by the set: they end with its last clone.
#[derive(Clone)]
pub struct KeySet(Arc<Shared>);

struct Shared {
    pace: Pace,
    fetch: Box<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, DecodingKey>,
    /// When the keys were fetched.
    fetched: Option<Instant>,
    /// The last fetch that has ended: when it began, and whether it brought keys.
    last: Option<(Instant, bool)>,
    /// The fetch under way; closed when it has ended.
    flight: Option<watch::Receiver<()>>,
    tasks: JoinSet<()>,
}

impl KeySet {
    /// A set that is fetched by this function, which gives the text of a JSON Web Key Set.
    pub fn new<F, W, E>(fetch: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::with_pace(PACE, fetch)
    }

    fn with_pace<F, W, E>(pace: Pace, fetch: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let fetch = Box::new(move || fetch().map(|text| text.map_err(Into::into)).boxed());
        Self(Arc::new(Shared { pace, fetch, state: Mutex::default() }))
    }

    /// A set of these keys, for tests: always reached, and asked without pause.
    #[cfg(test)]
    pub(crate) fn of(keys: &crate::SigningKeys) -> Self {
        let jwks = keys.jwks();
        let pace = Pace { apart: Duration::ZERO, ..PACE };
        Self::with_pace(pace, move || std::future::ready(Ok::<_, BoxError>(jwks.clone())))
    }

    /// Who shows this token, by this issuer, at this time (seconds since the Unix epoch).
    ///
    /// # Errors
    /// [`Refused`], never [`Refused::Missing`].
    pub async fn verify(&self, token: &str, issuer: &str, now_s: i64) -> Result<Caller, Refused> {
        let kid = token::key_id(token)?;
        let key = self.find(&kid).await?;
        token::verify(token, &key, issuer, now_s)
    }

    /// The key of this id. An unknown id is final only after a fetch that began when it was already asked for.
    async fn find(&self, kid: &str) -> Result<DecodingKey, Refused> {
        let asked = Instant::now();
        loop {
            let mut flight = {
                let mut state = self.0.state();
                if let Some(key) = state.keys.get(kid).cloned() {
                    if self.0.is_stale(&state) {
                        self.0.launch(&mut state);
                    }
                    return Ok(key);
                }
                match state.last {
                    Some((began, true)) if began >= asked => return Err(Refused::Invalid),
                    Some((began, false)) if began >= asked => return Err(Refused::KeysUnavailable),
                    _ => self.0.launch(&mut state),
                }
            };
            // Nothing is ever sent: this ends when the fetch has, in whatever way.
            let _closed = flight.changed().await;
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.state().keys.keys()).finish()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stale(&self, state: &State) -> bool {
        state.fetched.is_none_or(|fetched| fetched.elapsed() >= self.pace.stale)
            && state.last.is_none_or(|(began, _)| began.elapsed() >= self.pace.patient)
    }

    /// The fetch under way, or a new one, begun as soon as the last one is long enough ago.
    fn launch(self: &Arc<Self>, state: &mut State) -> watch::Receiver<()> {
        if let Some(flight) = state.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
            return flight.clone();
        }
        while state.tasks.try_join_next().is_some() {}
        let (running, flight) = watch::channel(());
        let begin = state.last.map_or_else(Instant::now, |(began, _)| began + self.pace.apart);
        let shared = Arc::downgrade(self);
        state.tasks.spawn(async move {
            tokio::time::sleep_until(begin).await;
            refresh(&shared).await;
            drop(running);
        });
        state.flight = Some(flight.clone());
        flight
    }
}

/// One fetch, unless nobody holds the set any more. It does not hold the set while it waits.
async fn refresh(shared: &Weak<Shared>) {
    let began = Instant::now();
    let Some(limit) = shared.upgrade().map(|shared| shared.pace.limit) else { return };
    let fetch = async { Some(shared.upgrade().map(|shared| (shared.fetch)())?.await) };
    let keys = match tokio::time::timeout(limit, AssertUnwindSafe(fetch).catch_unwind()).await {
        Ok(Ok(None)) => return,
        Ok(Ok(Some(text))) => text.and_then(|text| parse(&text)),
        Ok(Err(_)) => Err("the fetch panicked".into()),
        Err(elapsed) => Err(elapsed.into()),
    };
    let Some(shared) = shared.upgrade() else { return };
    let mut state = shared.state();
    state.last = Some((began, keys.is_ok()));
    match keys {
        Ok(keys) => {
            state.keys = keys;
            state.fetched = Some(Instant::now());
        }
        Err(error) => tracing::warn!(error, "the keys of access tokens could not be fetched"),
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// The Ed25519 keys of a set by their ids; keys of other kinds are passed over, as RFC 7517 wants.
fn parse(text: &str) -> Result<HashMap<String, DecodingKey>, BoxError> {
    let set: Set = serde_json::from_str(text)?;
    let jwks = set.keys.into_iter().filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
    let keys: HashMap<_, _> = jwks.take(KEYS_MAX).filter_map(decode).collect();
    if keys.is_empty() { Err("the key set holds no Ed25519 key".into()) } else { Ok(keys) }
}

fn decode(jwk: Jwk) -> Option<(String, DecodingKey)> {
    let ours = jwk.kty == "OKP"
        && jwk.crv == "Ed25519"
        && jwk.usage.is_none_or(|usage| usage == "sig")
        && jwk.alg.is_none_or(|alg| alg == "EdDSA");
    // The library takes any bytes for a key, and panics later where there are fewer than 32.
    let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(&jwk.x).ok()?.try_into().ok()?;
    let point = VerifyingKey::from_bytes(&bytes).ok()?;
    (ours && !point.is_weak()).then(|| (jwk.kid, DecodingKey::from_ed_der(&bytes)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use uuid::Uuid;

    use super::*;
    use crate::{Claims, SigningKeys};

    const NOW_S: i64 = 1_800_000_000;
    const QUICK: Pace = Pace {
        apart: Duration::from_millis(200),
        stale: Duration::from_secs(3600),
        patient: Duration::ZERO,
        limit: Duration::from_secs(5),
    };

    /// Who publishes the keys: what is published can be changed, taken away or made slow, and fetches are counted.
    #[derive(Default)]
    struct Publisher {
        jwks: Mutex<Option<String>>,
        begun: Mutex<Vec<Instant>>,
        under_way: AtomicUsize,
        most_at_once: AtomicUsize,
    }

    impl Publisher {
        fn publish(&self, keys: Option<&SigningKeys>) {
            *self.jwks.lock().expect("not poisoned") = keys.map(SigningKeys::jwks);
        }

        fn fetches(&self) -> usize {
            self.begun.lock().expect("not poisoned").len()
        }

        async fn fetch(self: Arc<Self>) -> Result<String, BoxError> {
            self.begun.lock().expect("not poisoned").push(Instant::now());
            let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            self.jwks.lock().expect("not poisoned").clone().ok_or_else(|| "away".into())
        }
    }

    fn set(pace: Pace, keys: Option<&SigningKeys>) -> (Arc<Publisher>, KeySet) {
        let publisher = Arc::new(Publisher::default());
        publisher.publish(keys);
        let fetched = publisher.clone();
        (publisher, KeySet::with_pace(pace, move || fetched.clone().fetch()))
    }

    async fn verify(set: &KeySet, keys: &SigningKeys) -> Result<(), Refused> {
        let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), NOW_S, 300);
        set.verify(&keys.sign(&claims), "issuer", NOW_S).await.map(|_| ())
    }

    #[tokio::test]
    async fn keys_are_fetched_once_and_kept() {
        let keys = SigningKeys::generate();
        let (publisher, set) = set(QUICK, Some(&keys));
        let all = join_all((0..50).map(|_| verify(&set, &keys))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert!(verify(&set.clone(), &keys).await.is_ok());
        assert_eq!(publisher.fetches(), 1);
    }

    #[tokio::test]
    async fn a_new_key_is_believed_at_once_and_strangers_cost_one_fetch_at_a_time() {
        let mut keys = SigningKeys::generate();
        let (publisher, set) = set(QUICK, Some(&keys));
        assert!(verify(&set, &keys).await.is_ok());
        keys.rotate();
        publisher.publish(Some(&keys));
        let strangers: Vec<_> = (0..30).map(|_| SigningKeys::generate()).collect();
        let (refused, believed) = tokio::join!(
            join_all(strangers.iter().map(|stranger| verify(&set, stranger))),
            verify(&set, &keys)
        );
        assert_eq!(believed, Ok(()));
        assert!(refused.iter().all(|answer| *answer == Err(Refused::Invalid)), "{refused:?}");
        assert_eq!(publisher.fetches(), 2, "one for the first, one for all of these");
        for stranger in &strangers[..3] {
            assert_eq!(verify(&set, stranger).await, Err(Refused::Invalid));
        }
        let begun = publisher.begun.lock().expect("not poisoned").clone();
        let apart: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(apart.len() == 4 && apart.iter().all(|apart| *apart >= QUICK.apart), "{apart:?}");
        assert_eq!(publisher.most_at_once.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn while_the_publisher_is_away_known_keys_go_on_and_unknown_ones_cannot_be_told() {
        let (known, unknown) = (SigningKeys::generate(), SigningKeys::generate());
        let (publisher, set) = set(Pace { stale: Duration::ZERO, ..QUICK }, Some(&known));
        assert!(verify(&set, &known).await.is_ok());
        publisher.publish(None);
        assert_eq!(verify(&set, &unknown).await, Err(Refused::KeysUnavailable));
        assert_eq!(verify(&set, &known).await, Ok(()));
        publisher.publish(Some(&unknown));
        assert_eq!(verify(&set, &unknown).await, Ok(()), "it heals by itself");
        assert_eq!(verify(&set, &known).await, Err(Refused::Invalid), "and what was taken back is over");
    }

    #[tokio::test]
    async fn an_old_set_is_fetched_anew_on_use_and_nobody_waits_for_it() {
        let (old, new) = (SigningKeys::generate(), SigningKeys::generate());
        let pace = Pace { apart: Duration::ZERO, stale: Duration::from_millis(50), ..QUICK };
        let (publisher, set) = set(pace, Some(&old));
        assert!(verify(&set, &old).await.is_ok());
        publisher.publish(Some(&new));
        let taken_back = async {
            while verify(&set, &old).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), taken_back).await.expect("the old key is gone");
        assert!(publisher.fetches() >= 2);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_does_not_stop_the_fetch_for_others() {
        let keys = SigningKeys::generate();
        let (publisher, set) = set(QUICK, Some(&keys));
        tokio::time::timeout(Duration::from_millis(1), verify(&set, &keys)).await.expect_err("it has left");
        assert!(verify(&set, &keys).await.is_ok());
        assert_eq!(publisher.fetches(), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_hangs_or_panics_is_a_fetch_that_failed() {
        let keys = SigningKeys::generate();
        let pace = Pace { limit: Duration::from_millis(30), ..QUICK };
        let hangs = KeySet::with_pace(pace, std::future::pending::<Result<String, BoxError>>);
        assert_eq!(verify(&hangs, &keys).await, Err(Refused::KeysUnavailable));
        async fn explode() -> Result<String, BoxError> {
            panic!("in the fetch")
        }
        let panics = KeySet::with_pace(QUICK, explode);
        assert_eq!(verify(&panics, &keys).await, Err(Refused::KeysUnavailable));
    }

    #[tokio::test]
    async fn the_fetch_ends_with_the_last_clone() {
        let (publisher, set) = set(QUICK, None);
        tokio::time::timeout(Duration::from_millis(5), verify(&set, &SigningKeys::generate()))
            .await
            .expect_err("under way");
        assert!(Arc::strong_count(&publisher) > 1);
        drop(set);
        let ended = async {
            while Arc::strong_count(&publisher) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("nothing holds the publisher");
    }

    #[test]
    fn of_a_set_only_usable_keys_are_taken() {
        let key: serde_json::Value = serde_json::from_str(&SigningKeys::generate().jwks()).expect("json");
        let good = &key["keys"][0];
        let with = |name: &str, value: serde_json::Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let weak = URL_SAFE_NO_PAD.encode([0; 32]);
        for bad in [
            with("kty", "EC".into()),
            with("crv", "X25519".into()),
            with("use", "enc".into()),
            with("alg", "HS256".into()),
            with("x", "AAAA".into()),
            with("x", weak.into()),
            with("x", "not base64url!".into()),
            with("kid", serde_json::Value::Null),
            serde_json::json!("a text"),
        ] {
            let alone = serde_json::json!({ "keys": [bad] }).to_string();
            assert!(parse(&alone).is_err(), "{alone}");
            let beside = serde_json::json!({ "keys": [bad, good] }).to_string();
            assert_eq!(parse(&beside).expect("one is good").len(), 1, "{beside}");
        }
        for bad in ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":{}}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
