//! Hub of the lists of dialogs: who joined, left or renamed one. A subscription starts with RESET, on
//! which the client loads its list, and continues with every change. Changes that a slow reader has not
//! taken are kept once per dialog, as the newest one.
//!
//! Joins and leaves name their user. A new title does not, so the participants of a renamed dialog are
//! requested from the dialog service.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use proto::{DialogId, UserId, dialog};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wake::Wake;

use super::{
    Service,
    messages::frame::Change,
    retry::{RequestLimits, run_requests},
};

/// Maximum dialogs whose changes are kept for one subscriber. RESET replaces more.
const CHANGES_MAX: usize = 1_000;
/// Maximum dialogs whose newest version is known for one user.
const KNOWN_MAX: usize = 10_000;
/// Limits of the requests for participants.
const REQUEST_LIMITS: RequestLimits = RequestLimits { concurrency_max: 4, interval: Duration::ZERO };
/// Deadline of one request for participants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Any dialog may have changed.
    Reset,
    /// The user takes part in a dialog from now on.
    Joined,
    /// The user has left a dialog.
    Left,
    /// A dialog of the user has another title.
    Renamed,
}

/// A frame of a subscription to a user's list of dialogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The kind of the frame.
    pub kind: Kind,
    /// The dialog that changed. `None` in RESET.
    pub dialog: Option<DialogId>,
}

/// The subscribers of all users of this process. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

struct Core {
    registry: Mutex<Registry>,
    /// Notified when a dialog is added to `Registry::renamed`.
    queued: Notify,
    service: Service,
}

#[derive(Default)]
struct Registry {
    users: HashMap<UserId, Entry>,
    /// Renamed dialogs whose participants are to be requested, with the version of the new title.
    renamed: BTreeMap<DialogId, i64>,
    /// The last id given to a subscriber.
    last_id: u64,
}

/// A user with at least one subscriber.
#[derive(Debug, Default)]
struct Entry {
    /// The newest version of each dialog that changed. The log may repeat older ones.
    known: HashMap<DialogId, i64>,
    subscribers: HashMap<u64, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    /// True if the next frame is RESET.
    reset: bool,
    pending: BTreeMap<DialogId, Kind>,
    wake: Wake,
}

impl Entry {
    fn apply(&mut self, dialog: DialogId, version: i64, kind: Kind) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&dialog) {
            // The worst effect is that a repeated change is sent again.
            self.known.clear();
        }
        let known = self.known.entry(dialog).or_default();
        if *known < version {
            *known = version;
            self.subscribers.values_mut().for_each(|subscriber| subscriber.add(dialog, kind));
        }
    }
}

impl Subscriber {
    fn add(&mut self, dialog: DialogId, kind: Kind) {
        if self.reset {
            return;
        }
        let pending = self.pending.entry(dialog).or_insert(kind);
        // A reader that has not received the join learns of the dialog by it, with the newest title.
        if (*pending, kind) != (Kind::Joined, Kind::Renamed) {
            *pending = kind;
        }
        if self.pending.len() > CHANGES_MAX {
            self.reset();
        }
        self.wake.raise();
    }

    fn reset(&mut self) {
        self.pending.clear();
        self.reset = true;
        self.wake.raise();
    }

    fn take(&mut self) -> Option<Frame> {
        if std::mem::take(&mut self.reset) {
            return Some(Frame { kind: Kind::Reset, dialog: None });
        }
        self.pending.pop_first().map(|(dialog, kind)| Frame { kind, dialog: Some(dialog) })
    }
}

impl Hub {
    /// Creates a hub without subscribers.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Core { registry: Mutex::default(), queued: Notify::new(), service }))
    }

    /// Registers a subscriber of a user. Dropping the subscription removes it.
    pub fn subscribe(&self, user: UserId) -> Subscription {
        let wake = Wake::new();
        let mut registry = self.registry();
        registry.last_id += 1;
        let id = registry.last_id;
        let subscriber = Subscriber { reset: true, pending: BTreeMap::new(), wake: wake.clone() };
        registry.users.entry(user).or_default().subscribers.insert(id, subscriber);
        drop(registry);
        Subscription { hub: self.clone(), user, id, wake }
    }

    /// Applies a change of a dialog, which created this version of it.
    pub fn apply(&self, dialog: DialogId, version: i64, change: Change) {
        let mut registry = self.registry();
        match change {
            Change::Joined(user) => registry.apply(user, dialog, version, Kind::Joined),
            Change::Left(user) => registry.apply(user, dialog, version, Kind::Left),
            Change::Renamed => {
                if !registry.users.is_empty() {
                    registry.queue_title(dialog, version);
                    self.0.queued.notify_one();
                }
            }
            Change::Message(..) | Change::Other => {}
        }
    }

    /// Sends every subscriber a RESET, because events were skipped.
    pub fn resync(&self) {
        let mut registry = self.registry();
        let entries = registry.users.values_mut();
        entries.flat_map(|entry| entry.subscribers.values_mut()).for_each(Subscriber::reset);
    }

    /// Sends every subscriber a RESET, and forgets the versions of all dialogs, because those of a new
    /// epoch may be lower.
    pub fn forget_versions(&self) {
        self.registry().users.values_mut().for_each(|entry| entry.known.clear());
        self.resync();
    }

    /// Requests the participants of renamed dialogs until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let start = || {
            let (dialog, version) = self.registry().renamed.pop_first()?;
            Some(self.announce_title(dialog, version))
        };
        let requeue = |renamed: &mut BTreeSet<_>| {
            let mut registry = self.registry();
            std::mem::take(renamed)
                .into_iter()
                .for_each(|(dialog, version)| registry.queue_title(dialog, version));
        };
        run_requests(REQUEST_LIMITS, &self.0.queued, &shutdown, start, requeue).await;
    }

    /// Applies a new title to the participants of its dialog. Returns the dialog if they could not be
    /// loaded.
    async fn announce_title(&self, dialog: DialogId, version: i64) -> Vec<(DialogId, i64)> {
        let call = self.0.service.call(REQUEST_TIMEOUT);
        let request = dialog::ParticipantsRequest { dialog_id: dialog.bytes() };
        let users = match self.0.service.peers.dialog(&call).participants(request).await {
            Ok(reply) => reply.into_inner().user_ids,
            Err(status) => {
                tracing::warn!(%dialog, error = %status, "participants could not be loaded, retrying");
                return vec![(dialog, version)];
            }
        };
        let mut registry = self.registry();
        for user in users.iter().filter_map(|id| UserId::parse(id).ok()) {
            registry.apply(user, dialog, version, Kind::Renamed);
        }
        Vec::new()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }
}

impl Registry {
    fn apply(&mut self, user: UserId, dialog: DialogId, version: i64, kind: Kind) {
        if let Some(entry) = self.users.get_mut(&user) {
            entry.apply(dialog, version, kind);
        }
    }

    /// Queues a title to be announced. A newer one of the same dialog replaces it.
    fn queue_title(&mut self, dialog: DialogId, version: i64) {
        let newest = self.renamed.entry(dialog).or_default();
        *newest = version.max(*newest);
    }

    fn subscriber(&mut self, user: UserId, id: u64) -> Option<&mut Subscriber> {
        self.users.get_mut(&user)?.subscribers.get_mut(&id)
    }
}

/// A subscription to a user's list of dialogs. Dropping it removes its subscriber from the hub.
pub struct Subscription {
    hub: Hub,
    user: UserId,
    id: u64,
    wake: Wake,
}

impl Subscription {
    /// Waits for the next frame.
    ///
    /// Cancel safe: dropping the future loses no change.
    pub async fn next(&mut self) -> Frame {
        self.wake.next(|| self.hub.registry().subscriber(self.user, self.id)?.take()).await
    }

    /// Sends a RESET next, because the last frame could not be delivered.
    pub fn resync(&self) {
        if let Some(subscriber) = self.hub.registry().subscriber(self.user, self.id) {
            subscriber.reset();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        if let Some(entry) = registry.users.get_mut(&self.user) {
            entry.subscribers.remove(&self.id);
            if entry.subscribers.is_empty() {
                registry.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber() -> Subscriber {
        Subscriber { reset: false, pending: BTreeMap::new(), wake: Wake::new() }
    }

    fn entry() -> Entry {
        Entry { known: HashMap::new(), subscribers: HashMap::from([(1, subscriber())]) }
    }

    fn take(entry: &mut Entry) -> Option<(Kind, Option<DialogId>)> {
        entry.subscribers.get_mut(&1)?.take().map(|frame| (frame.kind, frame.dialog))
    }

    #[test]
    fn repeated_and_older_changes_send_nothing() {
        let mut entry = entry();
        let dialog = DialogId::now();
        entry.apply(dialog, 5, Kind::Joined);
        assert_eq!(take(&mut entry), Some((Kind::Joined, Some(dialog))));
        entry.apply(dialog, 5, Kind::Joined);
        entry.apply(dialog, 4, Kind::Left);
        assert_eq!(take(&mut entry), None);
        entry.apply(dialog, 9, Kind::Left);
        assert_eq!(take(&mut entry), Some((Kind::Left, Some(dialog))));
    }

    #[test]
    fn changes_that_were_not_taken_are_merged_to_the_newest() {
        let mut entry = entry();
        let dialog = DialogId::now();
        for (version, kind, merged) in [
            (1, Kind::Renamed, Kind::Renamed),
            (2, Kind::Left, Kind::Left),
            (3, Kind::Joined, Kind::Joined),
            (4, Kind::Renamed, Kind::Joined),
            (5, Kind::Left, Kind::Left),
        ] {
            entry.apply(dialog, version, kind);
            assert_eq!(entry.subscribers[&1].pending[&dialog], merged, "{version}");
        }
    }

    #[test]
    fn too_many_changes_become_a_reset_and_memory_is_limited() {
        let mut entry = entry();
        for _ in 0..CHANGES_MAX {
            entry.apply(DialogId::now(), 1, Kind::Joined);
        }
        assert!(matches!(take(&mut entry), Some((Kind::Joined, _))));
        for _ in 0..KNOWN_MAX + 10 {
            entry.apply(DialogId::now(), 1, Kind::Joined);
        }
        assert!(entry.known.len() <= KNOWN_MAX);
        assert!(entry.subscribers[&1].pending.is_empty());
        assert_eq!(take(&mut entry), Some((Kind::Reset, None)));
        assert_eq!(take(&mut entry), None);
        let dialog = DialogId::now();
        entry.apply(dialog, 1, Kind::Left);
        assert_eq!(take(&mut entry), Some((Kind::Left, Some(dialog))), "live again after the RESET");
    }
}
