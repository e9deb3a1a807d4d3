//! Cache of subscription results that are equal for several streams.
//!
//! Each result is executed and serialised once, by the first stream that needs it. Results expire soon
//! and the cache is limited in size.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use proto::{DialogId, UserId};

use super::resolver_input::Frame;
use crate::{
    hub::{dialogs, messages, unread},
    operation::request::OperationKey,
    version::Version,
};

/// Maximum size of the cache in bytes: results, and the documents in their keys.
const CACHE_MAX_BYTES: u64 = 32 << 20;
/// Overhead of one entry, in bytes.
const ENTRY_BYTES: usize = 512;
/// Life of a result. A stream that needs an older frame is far behind the others and executes it itself.
const RESULT_TTL: Duration = Duration::from_secs(30);

/// Key of a result: two streams with equal keys receive equal results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    operation: OperationKey,
    frame: FrameKey,
}

/// Part of a frame that decides its content. `author` is in the key because only a message's author sees
/// why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FrameKey {
    Unread { user: UserId, kind: unread::frame::Kind, previous: Option<Version>, version: Version },
    DialogChange { user: UserId, frame: dialogs::Frame },
    Message { dialog: DialogId, kind: messages::frame::Kind, version: Version, author: bool },
    ReadState { dialog: DialogId, user: UserId, read_seq: i64 },
}

impl Key {
    /// Returns the key of an operation's result for a frame that is sent to `user`.
    pub fn new(operation: OperationKey, frame: &Frame, user: UserId) -> Self {
        let frame = match frame {
            Frame::Unread(it) => {
                FrameKey::Unread { user, kind: it.kind, previous: it.previous, version: it.version }
            }
            Frame::DialogChange(frame) => FrameKey::DialogChange { user, frame: *frame },
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

/// Result of one frame.
#[derive(Debug, Clone)]
pub struct FrameResult {
    /// The response, as JSON.
    pub json: Arc<str>,
    /// The response contains errors, which may be temporary.
    pub has_errors: bool,
    /// The response contains errors and no data.
    pub is_failure: bool,
}

/// The cache. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct ResultCache(Cache<Key, FrameResult>);

impl ResultCache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        let weigher = |key: &Key, result: &FrameResult| {
            u32::try_from(key.operation.size_bytes() + result.json.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(CACHE_MAX_BYTES).time_to_live(RESULT_TTL).weigher(weigher).build())
    }

    /// Returns the result of a key. On a miss runs `execute`, unless another call for the key is running
    /// already: then waits for its result. A result with errors goes to the waiting calls and is not
    /// cached.
    pub async fn get(&self, key: Key, execute: impl Future<Output = FrameResult>) -> FrameResult {
        let load = async {
            let result = execute.await;
            if result.has_errors { Err(result) } else { Ok(result) }
        };
        self.0.try_get_with(key, load).await.unwrap_or_else(|failed| (*failed).clone())
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::Variables;

    use super::*;
    use crate::hub::read_states::ReadState;

    fn key(document: &str, read_seq: i64) -> Key {
        let dialog = DialogId::now();
        let user = UserId::now();
        let operation_key = OperationKey::new(document.into(), None, &Variables::default());
        Key::new(operation_key, &Frame::ReadState(dialog, ReadState { user, read_seq }), user)
    }

    fn result(json: &str, has_errors: bool) -> FrameResult {
        FrameResult { json: json.into(), has_errors, is_failure: has_errors }
    }

    #[tokio::test]
    async fn equal_results_are_executed_once_and_results_with_errors_are_not_cached() {
        let result_cache = ResultCache::new();
        let key = key("{ a }", 1);
        let slow = |result: FrameResult| async {
            tokio::task::yield_now().await;
            result
        };
        let both = tokio::join!(
            result_cache.get(key.clone(), slow(result("first", true))),
            result_cache.get(key.clone(), slow(result("second", true)))
        );
        assert_eq!((&*both.0.json, &*both.1.json), ("first", "first"));
        assert_eq!(&*result_cache.get(key.clone(), slow(result("third", false))).await.json, "third");
        assert_eq!(&*result_cache.get(key.clone(), slow(result("fourth", false))).await.json, "third");
    }

    #[tokio::test]
    async fn the_cache_is_limited_for_large_documents_and_for_large_results() {
        for (document_bytes, result_bytes) in [(60_000, 10), (10, 60_000)] {
            let result_cache = ResultCache::new();
            let document = "x".repeat(document_bytes);
            let json = "y".repeat(result_bytes);
            for read_seq in 0..1_000 {
                let cached = result_cache.get(key(&document, read_seq), async { result(&json, false) }).await;
                assert_eq!(cached.json.len(), result_bytes);
            }
            result_cache.0.run_pending_tasks().await;
            assert!(result_cache.0.weighted_size() <= CACHE_MAX_BYTES);
            let entries = result_cache.0.entry_count();
            assert!((400..600).contains(&entries), "32 MB hold some 550 entries: {entries}");
        }
    }
}
