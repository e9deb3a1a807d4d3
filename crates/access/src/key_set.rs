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
