//! A loader: collects the keys that an operation's resolvers ask for in one turn and fetches them together. What is known
//! or under way is not asked for again.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, try_join_all},
};

use crate::{error::Error, turn::Turn};

/// What a fetch has brought: nothing for keys that are absent.
pub type Found<K, V> = Result<HashMap<K, V>, Error>;

type Fetch<K, V> = Arc<dyn Fn(Vec<K>) -> BoxFuture<'static, Found<K, V>> + Send + Sync>;
type Flight<K, V> = Shared<BoxFuture<'static, Result<Arc<HashMap<K, V>>, Error>>>;

/// Loads values by key for one operation. Cheap to clone; all clones share what is known.
pub struct Loader<K, V> {
    turn: Turn,
    fetch: Fetch<K, V>,
    state: Arc<Mutex<State<K, V>>>,
}

struct State<K, V> {
    /// The keys of the batch that departs at the end of the turn, and that batch.
    boarding: Option<(Vec<K>, Flight<K, V>)>,
    /// In which batch each key is.
    asked: HashMap<K, Flight<K, V>>,
}

impl<K, V> Loader<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A loader whose fetches take at most `batch_max` keys each; more are fetched side by side.
    pub fn new<F, W>(turn: &Turn, batch_max: usize, fetch: F) -> Self
    where
        F: Fn(Vec<K>) -> W + Send + Sync + 'static,
        W: Future<Output = Found<K, V>> + Send + 'static,
    {
        let fetch = Arc::new(fetch);
        let split = move |keys: Vec<K>| {
            let fetch = fetch.clone();
            async move {
                let parts = keys.chunks(batch_max).map(|part| fetch(part.to_vec()));
                let found = try_join_all(parts).await?;
                Ok(found.into_iter().flatten().collect())
            }
            .boxed()
        };
        let state = State { boarding: None, asked: HashMap::new() };
        Self { turn: turn.clone(), fetch: Arc::new(split), state: Arc::new(Mutex::new(state)) }
    }

    /// The value of this key, `None` where it is absent.
    ///
    /// # Errors
    /// That of the batch.
    pub async fn load(&self, key: K) -> Result<Option<V>, Error> {
        let found = self.flight(&key).await?;
        Ok(found.get(&key).cloned())
    }

    /// The values of these keys, in their order; absent ones are left out.
    ///
    /// # Errors
    /// That of the first batch that failed.
    pub async fn load_all(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<V>, Error> {
        let values = try_join_all(keys.into_iter().map(|key| self.load(key))).await?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Forgets what is known: after a write, what is read again is fetched again.
    pub fn forget(&self) {
        self.state().asked.clear();
    }

    fn flight(&self, key: &K) -> Flight<K, V> {
        let mut state = self.state();
        if let Some(flight) = state.asked.get(key) {
            return flight.clone();
        }
        let (keys, flight) = state.boarding.get_or_insert_with(|| (Vec::new(), self.departure()));
        keys.push(key.clone());
        let flight = flight.clone();
        state.asked.insert(key.clone(), flight.clone());
        flight
    }

    /// The batch that leaves at the end of this turn with the keys that will have come by then.
    fn departure(&self) -> Flight<K, V> {
        // The state holds its batches, so a batch must not hold the state.
        let (turn, fetch, state) = (self.turn.clone(), self.fetch.clone(), Arc::downgrade(&self.state));
        async move {
            turn.end().await;
            fetch(boarded(&state)).await.map(Arc::new)
        }
        .boxed()
        .shared()
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        lock(&self.state)
    }
}

impl<K, V> Clone for Loader<K, V> {
    fn clone(&self) -> Self {
        Self { turn: self.turn.clone(), fetch: self.fetch.clone(), state: self.state.clone() }
    }
}

/// The keys that have come; from now on others wait for the next batch.
fn boarded<K, V>(state: &Weak<Mutex<State<K, V>>>) -> Vec<K> {
    let boarding = state.upgrade().and_then(|state| lock(&state).boarding.take());
    boarding.map_or_else(Vec::new, |(keys, _)| keys)
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt, stream::FuturesUnordered};

    use super::*;
    use crate::error::Code;

    struct Counted {
        calls: Arc<AtomicUsize>,
        loader: Loader<u32, u32>,
        turn: Turn,
    }

    /// Odd keys are absent; 1,000 and above fail.
    fn counted(batch_max: usize) -> Counted {
        let (calls, turn) = (Arc::new(AtomicUsize::new(0)), Turn::default());
        let counter = calls.clone();
        let loader = Loader::new(&turn, batch_max, move |keys: Vec<u32>| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                if keys.iter().any(|key| *key >= 1_000) {
                    return Err(Error::new(Code::Unavailable, "away"));
                }
                Ok(keys.into_iter().filter(|key| key % 2 == 0).map(|key| (key, key * 10)).collect())
            }
        });
        Counted { calls, loader, turn }
    }

    #[tokio::test]
    async fn a_turn_of_many_keys_is_one_fetch_however_deep_they_are_asked() {
        for size in [1_u32, 2, 20, 50, 500] {
            let Counted { calls, loader, turn } = counted(10_000);
            let loader = &loader;
            let nested = |outer: u32| async move {
                let inner: FuturesUnordered<_> =
                    (0..20).map(|inner| loader.load(outer * 20 + inner)).collect();
                inner.collect::<Vec<_>>().await
            };
            let many: FuturesUnordered<_> = (0..size.min(50)).map(nested).collect();
            let answers = turn.run(many.collect::<Vec<_>>()).await;
            assert_eq!(answers.len() as u32, size.min(50));
            assert_eq!(calls.load(Ordering::SeqCst), 1, "{size}");
        }
    }

    #[tokio::test]
    async fn known_keys_are_not_fetched_again_until_forgotten() {
        let Counted { calls, loader, turn } = counted(10_000);
        turn.run(async {
            assert_eq!(loader.load(2).await, Ok(Some(20)));
            assert_eq!(loader.load(3).await, Ok(None), "absent");
            assert_eq!(loader.load_all([2, 3, 2]).await, Ok(vec![20, 20]));
            assert_eq!(calls.load(Ordering::SeqCst), 2);
            loader.forget();
            assert_eq!(loader.load(2).await, Ok(Some(20)));
            assert_eq!(calls.load(Ordering::SeqCst), 3);
        })
        .await;
    }

    #[tokio::test]
    async fn a_batch_over_its_bound_is_split() {
        let Counted { calls, loader, turn } = counted(10);
        let values = turn.run(loader.load_all(0..25)).await.expect("found");
        assert_eq!(values.len(), 13);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failed_batch_fails_all_who_wait_for_it() {
        let Counted { loader, turn, .. } = counted(10_000);
        let (left, right) = turn.run(async { tokio::join!(loader.load(2), loader.load(1_000)) }).await;
        assert_eq!(left.expect_err("failed").code(), Code::Unavailable);
        assert_eq!(right.expect_err("failed").code(), Code::Unavailable);
    }
}
