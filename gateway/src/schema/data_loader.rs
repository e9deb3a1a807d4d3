//! DataLoader: collects the keys that the resolvers of one operation ask for and fetches them in
//! batches. A key that is loaded or being fetched is not fetched again.
//!
//! A batch is dispatched when no resolver can continue without it, instead of after a timer. The number
//! of fetches therefore depends on the document only, never on timing.

use std::{
    collections::HashMap,
    future::poll_fn,
    hash::Hash,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, try_join_all},
};
use parking_lot::Mutex;

use crate::error::Error;

/// The result of a fetch. Absent keys are not in the map.
pub type Found<K, V> = Result<HashMap<K, V>, Error>;

type Fetch<K, V> = Arc<dyn Fn(Vec<K>) -> BoxFuture<'static, Found<K, V>> + Send + Sync>;
type Batch<K, V> = Shared<BoxFuture<'static, Result<Arc<HashMap<K, V>>, Error>>>;

/// Loads values by key for one operation. Cheap to clone; clones share their state.
pub struct Loader<K, V> {
    dispatcher: Dispatcher,
    batch_max: usize,
    fetch: Fetch<K, V>,
    state: Arc<Mutex<State<K, V>>>,
}

struct State<K, V> {
    /// The batch that the next dispatch sends, and its keys so far.
    collecting: Option<(Vec<K>, Batch<K, V>)>,
    /// For each requested key, the batch that fetches it.
    requested: HashMap<K, Batch<K, V>>,
}

impl<K, V> Loader<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates a loader whose fetches take at most `batch_max` keys each. A larger batch is split into
    /// concurrent fetches.
    pub fn new<F, W>(dispatcher: &Dispatcher, batch_max: usize, fetch: F) -> Self
    where
        F: Fn(Vec<K>) -> W + Send + Sync + 'static,
        W: Future<Output = Found<K, V>> + Send + 'static,
    {
        let state = State { collecting: None, requested: HashMap::new() };
        let fetch = Arc::new(move |keys: Vec<K>| fetch(keys).boxed());
        Self { dispatcher: dispatcher.clone(), batch_max, fetch, state: Arc::new(Mutex::new(state)) }
    }

    /// Loads the value of a key, `None` if it is absent.
    ///
    /// # Errors
    /// The error of the batch that holds the key.
    pub async fn load(&self, key: K) -> Result<Option<V>, Error> {
        let found = self.batch_of(&key).await?;
        Ok(found.get(&key).cloned())
    }

    /// Loads the values of several keys, in their order. Absent keys are left out.
    ///
    /// # Errors
    /// The error of the first batch that failed.
    pub async fn load_all(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<V>, Error> {
        let values = try_join_all(keys.into_iter().map(|key| self.load(key))).await?;
        Ok(values.into_iter().flatten().collect())
    }

    /// Loads the values of several keys. Returns the batches that hold them.
    ///
    /// # Errors
    /// The error of the first batch that failed.
    pub async fn batches(&self, keys: impl Iterator<Item = K>) -> Result<Vec<Arc<HashMap<K, V>>>, Error> {
        let mut batches: Vec<Batch<K, V>> = Vec::new();
        for key in keys {
            let batch = self.batch_of(&key);
            if !batches.iter().any(|known| known.ptr_eq(&batch)) {
                batches.push(batch);
            }
        }
        try_join_all(batches).await
    }

    /// Clears the loaded values. Called before a write, so that later reads see its effect.
    pub fn clear(&self) {
        self.state.lock().requested.clear();
    }

    fn batch_of(&self, key: &K) -> Batch<K, V> {
        let mut state = self.state.lock();
        if let Some(batch) = state.requested.get(key) {
            return batch.clone();
        }
        let (keys, batch) = state.collecting.get_or_insert_with(|| (Vec::new(), self.new_batch()));
        keys.push(key.clone());
        let batch = batch.clone();
        state.requested.insert(key.clone(), batch.clone());
        batch
    }

    /// Creates the batch that the next dispatch sends, with the keys collected until then.
    fn new_batch(&self) -> Batch<K, V> {
        let dispatcher = self.dispatcher.clone();
        let batch_max = self.batch_max;
        let fetch = self.fetch.clone();
        // The state owns its batches: a strong reference back would be a cycle that is never freed.
        let state = Arc::downgrade(&self.state);
        async move {
            dispatcher.dispatched().await;
            let keys = take_keys(&state);
            if keys.len() <= batch_max {
                return fetch(keys).await.map(Arc::new);
            }
            let chunks = keys.chunks(batch_max).map(|chunk| fetch(chunk.to_vec()));
            let found = try_join_all(chunks).await?;
            Ok(Arc::new(found.into_iter().flatten().collect()))
        }
        .boxed()
        .shared()
    }
}

impl<K, V> Clone for Loader<K, V> {
    fn clone(&self) -> Self {
        Self {
            dispatcher: self.dispatcher.clone(),
            batch_max: self.batch_max,
            fetch: self.fetch.clone(),
            state: self.state.clone(),
        }
    }
}

/// Takes the collected keys. Keys that arrive later go into the next batch.
fn take_keys<K, V>(state: &Weak<Mutex<State<K, V>>>) -> Vec<K> {
    let collecting = state.upgrade().and_then(|state| state.lock().collecting.take());
    collecting.map_or_else(Vec::new, |(keys, _)| keys)
}

/// Dispatcher of one operation: decides when its loaders send their batches. Cheap to clone; clones
/// share their state.
#[derive(Clone, Debug, Default)]
pub struct Dispatcher(Arc<Mutex<Dispatches>>);

#[derive(Debug, Default)]
struct Dispatches {
    count: u64,
    waiting: Vec<Waker>,
}

impl Dispatcher {
    /// Waits for the next dispatch. Completes only inside [`Dispatcher::run`].
    pub async fn dispatched(&self) {
        let before = self.0.lock().count;
        poll_fn(|context| {
            let mut dispatches = self.0.lock();
            if dispatches.count > before {
                return Poll::Ready(());
            }
            dispatches.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Runs an operation, and dispatches whenever no part of it can make progress.
    pub async fn run<W: Future>(&self, work: W) -> W::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let progress =
                Arc::new(Progress { woken: AtomicBool::new(false), outer: context.waker().clone() });
            let waker = Waker::from(progress.clone());
            let output = work.as_mut().poll(&mut Context::from_waker(&waker));
            // A part of the operation that was woken during this poll can still add keys: it is polled
            // before the dispatch.
            if output.is_pending() && !progress.woken.load(Ordering::Acquire) {
                self.dispatch();
            }
            output
        })
        .await
    }

    fn dispatch(&self) {
        let waiting = {
            let mut dispatches = self.0.lock();
            dispatches.count += u64::from(!dispatches.waiting.is_empty());
            std::mem::take(&mut dispatches.waiting)
        };
        // Outside the lock: a woken task may call `dispatched` immediately.
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Waker that forwards wake-ups and records that there was one.
struct Progress {
    woken: AtomicBool,
    outer: Waker,
}

impl Wake for Progress {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.outer.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt, stream::FuturesUnordered};

    use super::*;
    use crate::error::Code;

    struct CountedLoader {
        calls: Arc<AtomicUsize>,
        loader: Loader<u32, u32>,
        dispatcher: Dispatcher,
    }

    /// A loader for which odd keys are absent, and keys of 1,000 and above fail.
    fn counted(batch_max: usize) -> CountedLoader {
        let calls = Arc::new(AtomicUsize::new(0));
        let dispatcher = Dispatcher::default();
        let counter = calls.clone();
        let loader = Loader::new(&dispatcher, batch_max, move |keys: Vec<u32>| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                if keys.iter().any(|key| *key >= 1_000) {
                    return Err(Error::new(Code::Unavailable, "unavailable"));
                }
                Ok(keys.into_iter().filter(|key| key % 2 == 0).map(|key| (key, key * 10)).collect())
            }
        });
        CountedLoader { calls, loader, dispatcher }
    }

    #[tokio::test]
    async fn keys_of_any_depth_are_fetched_in_one_batch() {
        for size in [1_u32, 2, 20, 50, 500] {
            let CountedLoader { calls, loader, dispatcher } = counted(10_000);
            let loader = &loader;
            let nested = |outer: u32| async move {
                let inner: FuturesUnordered<_> =
                    (0..20).map(|inner| loader.load(outer * 20 + inner)).collect();
                inner.collect::<Vec<_>>().await
            };
            let many: FuturesUnordered<_> = (0..size.min(50)).map(nested).collect();
            let answers = dispatcher.run(many.collect::<Vec<_>>()).await;
            assert_eq!(answers.len() as u32, size.min(50));
            assert_eq!(calls.load(Ordering::SeqCst), 1, "{size}");
        }
    }

    #[tokio::test]
    async fn loaded_keys_are_not_fetched_again_until_cleared() {
        let CountedLoader { calls, loader, dispatcher } = counted(10_000);
        dispatcher
            .run(async {
                assert_eq!(loader.load(2).await, Ok(Some(20)));
                assert_eq!(loader.load(3).await, Ok(None), "absent");
                assert_eq!(loader.load_all([2, 3, 2]).await, Ok(vec![20, 20]));
                assert_eq!(calls.load(Ordering::SeqCst), 2);
                loader.clear();
                assert_eq!(loader.load(2).await, Ok(Some(20)));
                assert_eq!(calls.load(Ordering::SeqCst), 3);
            })
            .await;
    }

    #[tokio::test]
    async fn a_batch_over_its_limit_is_split() {
        let CountedLoader { calls, loader, dispatcher } = counted(10);
        let values = dispatcher.run(loader.load_all(0..25)).await.expect("found");
        assert_eq!(values.len(), 13);
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failed_batch_fails_every_load_in_it() {
        let CountedLoader { loader, dispatcher, .. } = counted(10_000);
        let (left, right) = dispatcher.run(async { tokio::join!(loader.load(2), loader.load(1_000)) }).await;
        assert_eq!(left.expect_err("failed").code(), Code::Unavailable);
        assert_eq!(right.expect_err("failed").code(), Code::Unavailable);
    }
}
