//! Results that several streams would make alike: executed and serialised once, by whoever comes first, and kept for a
//! moment in a bounded place.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use proto::{DialogId, UserId};

use super::resolver_input::Frame;
use crate::{
    hub::{messages, unread},
    operation::request::OperationKey,
    version::Version,
};

/// What is kept at most, in bytes: results, and the documents that they are kept under.
const KEPT_BYTES: u64 = 32 << 20;
/// What a result weighs beside that.
const WEIGHT_BYTES: usize = 512;
/// How long: whoever comes later is far behind the others.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// What makes two results alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    operation: OperationKey,
    frame: FrameKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FrameKey {
    Unread { user: UserId, kind: unread::frame::Kind, previous: Option<Version>, version: Version },
    Message { dialog: DialogId, kind: messages::frame::Kind, version: Version, author: bool },
    ReadState { dialog: DialogId, user: UserId, read_seq: i64 },
}

impl Key {
    /// The key of this operation's result for a frame that a user gets.
    pub fn new(operation: OperationKey, frame: &Frame, user: UserId) -> Self {
        let frame = match frame {
            Frame::Unread(it) => {
                FrameKey::Unread { user, kind: it.kind, previous: it.previous, version: it.version }
            }
            Frame::Message(dialog, it) => {
                FrameKey::Message { dialog: *dialog, kind: it.kind, version: it.version, author: it.author }
            }
            Frame::ReadState(dialog, it) => {
                FrameKey::ReadState { dialog: *dialog, user: it.user, read_seq: it.read_seq }
            }
        };
        Self { operation, frame }
    }
}

/// A result.
#[derive(Debug, Clone)]
pub struct CachedResult {
    /// The response.
    pub json: Arc<str>,
    /// There are errors in it, which may be over in a moment.
    pub erred: bool,
    /// There is nothing else in it.
    pub failed: bool,
}

/// The results that are shared. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ResultCache(Cache<Key, CachedResult>);

impl ResultCache {
    /// None yet.
    pub fn new() -> Self {
        let weigher = |key: &Key, made: &CachedResult| {
            u32::try_from(key.operation.size_bytes() + made.json.len() + WEIGHT_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(KEPT_BYTES).time_to_live(KEPT_FOR).weigher(weigher).build())
    }

    /// The result under this key, made by `make` where nobody is making it already. One with errors goes to those who were
    /// waiting for it, and no further.
    pub async fn get(&self, key: Key, make: impl Future<Output = CachedResult>) -> CachedResult {
        let made = async {
            let made = make.await;
            if made.erred { Err(made) } else { Ok(made) }
        };
        self.0.try_get_with(key, made).await.unwrap_or_else(|erred| (*erred).clone())
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::Variables;

    use super::*;
    use crate::hub::read_states::ReadState;

    fn key(document: &str, read_seq: i64) -> Key {
        let (dialog, user) = (DialogId::now(), UserId::now());
        let operation_key = OperationKey::new(document.into(), None, &Variables::default());
        Key::new(operation_key, &Frame::ReadState(dialog, ReadState { user, read_seq }), user)
    }

    fn made(json: &str, erred: bool) -> CachedResult {
        CachedResult { json: json.into(), erred, failed: erred }
    }

    #[tokio::test]
    async fn what_is_alike_is_made_once_and_one_with_errors_is_not_kept() {
        let (result_cache, key) = (ResultCache::new(), key("{ a }", 1));
        let slow = |made: CachedResult| async {
            tokio::task::yield_now().await;
            made
        };
        let both = tokio::join!(
            result_cache.get(key.clone(), slow(made("first", true))),
            result_cache.get(key.clone(), slow(made("second", true)))
        );
        assert_eq!((&*both.0.json, &*both.1.json), ("first", "first"));
        assert_eq!(&*result_cache.get(key.clone(), slow(made("third", false))).await.json, "third");
        assert_eq!(&*result_cache.get(key.clone(), slow(made("fourth", false))).await.json, "third");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_however_large_the_documents_or_the_results_are() {
        for (document_bytes, result_bytes) in [(60_000, 10), (10, 60_000)] {
            let result_cache = ResultCache::new();
            let (document, result) = ("x".repeat(document_bytes), "y".repeat(result_bytes));
            for read_seq in 0..1_000 {
                let made = result_cache.get(key(&document, read_seq), async { made(&result, false) }).await;
                assert_eq!(made.json.len(), result_bytes);
            }
            result_cache.0.run_pending_tasks().await;
            assert!(result_cache.0.weighted_size() <= KEPT_BYTES);
            let kept = result_cache.0.entry_count();
            assert!((400..600).contains(&kept), "32 MB hold some 550 of them: {kept}");
        }
    }
}
