//! Results that several streams would make alike: executed and serialised once, by whoever comes first, and kept for a
//! moment in a bounded place.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use proto::{DialogId, UserId};

use super::Frame;
use crate::{
    hub::{messages, unread},
    pipeline::Identity,
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
    operation: Identity,
    frame: FrameKey,
    /// Whose token asks, where that may make a difference.
    reader: Option<UserId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FrameKey {
    Unread { user: UserId, kind: unread::frame::Kind, previous: Option<Version>, version: Version },
    Message { dialog: DialogId, kind: messages::frame::Kind, version: Version, author: bool },
    ReadState { dialog: DialogId, user: UserId, read_seq: i64 },
}

impl Key {
    /// The key of this operation's result for a frame that a user gets. `reader`: whose results are that user's alone.
    pub fn new(operation: Identity, frame: &Frame, user: UserId, reader: Option<UserId>) -> Self {
        let frame = match frame {
            Frame::Unread(it) => FrameKey::Unread { user, kind: it.kind, previous: it.previous, version: it.version },
            Frame::Message(dialog, it) => {
                FrameKey::Message { dialog: *dialog, kind: it.kind, version: it.version, author: it.author }
            }
            Frame::ReadState(dialog, it) => {
                FrameKey::ReadState { dialog: *dialog, user: it.user, read_seq: it.read_seq }
            }
        };
        Self { operation, frame, reader }
    }
}

/// The results that are shared. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Share(Cache<Key, Arc<str>>);

impl Share {
    /// None yet.
    pub fn new() -> Self {
        let weigher = |key: &Key, json: &Arc<str>| {
            u32::try_from(key.operation.size_bytes() + json.len() + WEIGHT_BYTES).unwrap_or(u32::MAX)
        };
        Self(Cache::builder().max_capacity(KEPT_BYTES).time_to_live(KEPT_FOR).weigher(weigher).build())
    }

    /// The result under this key, made by `make` where nobody is making it already. One that `make` says is not to be
    /// kept (it has errors that may be over in a moment) goes to those who were waiting for it, and no further.
    pub async fn get(&self, key: Key, make: impl Future<Output = (Arc<str>, bool)>) -> Arc<str> {
        let made = async {
            match make.await {
                (json, true) => Ok(json),
                (json, false) => Err(json),
            }
        };
        self.0.try_get_with(key, made).await.unwrap_or_else(|not_kept| Arc::clone(&*not_kept))
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::Variables;

    use super::*;
    use crate::hub::read_states::ReadState;

    fn key(document: &str, read_seq: i64) -> Key {
        let (dialog, user) = (DialogId::now(), UserId::now());
        let identity = Identity::new(document.into(), None, &Variables::default());
        Key::new(identity, &Frame::ReadState(dialog, ReadState { user, read_seq }), user, None)
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_however_large_the_documents_or_the_results_are() {
        for (document_bytes, result_bytes) in [(60_000, 10), (10, 60_000)] {
            let share = Share::new();
            let (document, result) = ("x".repeat(document_bytes), "y".repeat(result_bytes));
            for read_seq in 0..1_000 {
                let made = share.get(key(&document, read_seq), async { (Arc::from(result.as_str()), true) }).await;
                assert_eq!(made.len(), result_bytes);
            }
            share.0.run_pending_tasks().await;
            assert!(share.0.weighted_size() <= KEPT_BYTES);
            let kept = share.0.entry_count();
            assert!((400..600).contains(&kept), "32 MB hold some 550 of them: {kept}");
        }
    }
}
