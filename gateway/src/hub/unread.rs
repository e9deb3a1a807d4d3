//! Hub of unread counts. Each user with a subscriber has an `Entry`, which events of the log and
//! snapshots of the counter service keep up to date. Snapshots of many users are requested in one call.
//! A subscriber is registered before its snapshot is requested, so it misses no event. A frame is built
//! when its reader takes it, from the newest state.

mod entry;
#[cfg(test)]
mod fault_tests;
pub mod frame;
#[cfg(test)]
mod histories;
mod subscriber;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use entry::Entry;
use frame::{Change, Frame, Snapshot};
use parking_lot::{Mutex, MutexGuard};
use proto::{InvalidId, UserId, counter, events::UnreadChanged};
use telemetry::{Traceparent, trace};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wake::Wake;

use super::{
    Service,
    retry::{RequestLimits, run_requests},
};
use crate::{connections::gauge::GaugeGuard, version::Version};

/// Maximum changed rows kept for one subscriber. A snapshot replaces more.
pub const ROWS_MAX: usize = 1000;
/// Maximum users in one request for snapshots.
const BATCH_MAX: usize = 200;
/// Limits of the requests for snapshots. While many users subscribe, each waits for up to 25 ms, and many
/// share a request.
const REQUEST_LIMITS: RequestLimits =
    RequestLimits { concurrency_max: 4, interval: Duration::from_millis(25) };
/// Deadline of one request for snapshots.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The subscribers of all users of this process. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

struct Core {
    registry: Mutex<Registry>,
    /// Notified when a user is added to `Registry::queue`.
    queued: Notify,
    service: Service,
}

#[derive(Default)]
struct Registry {
    users: HashMap<UserId, User>,
    /// Users whose snapshot is to be requested.
    queue: BTreeSet<UserId>,
    /// The last id given to a subscriber or a request.
    last_id: u64,
}

struct User {
    entry: Entry,
    /// Cause of the newest event, if its trace is exported.
    cause: Option<Traceparent>,
    _gauge: GaugeGuard,
}

/// A request for the snapshot of one user.
struct SnapshotRequest {
    user: UserId,
    ticket: u64,
    /// The version at which the counter service may omit the rows.
    since: Option<Version>,
    /// The newest version that the hub has received when the request is sent.
    known: Option<Version>,
}

impl Hub {
    /// Creates a hub without subscribers.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Core { registry: Mutex::default(), queued: Notify::new(), service }))
    }

    /// Registers a subscriber of a user whose client has the state at `since`. Dropping the subscription
    /// removes it.
    pub fn subscribe(&self, user: UserId, since: Option<Version>) -> Subscription {
        let wake = Wake::new();
        let mut registry = self.registry();
        registry.last_id += 1;
        let id = registry.last_id;
        let new_user = || User {
            entry: Entry::new(ROWS_MAX),
            cause: None,
            _gauge: GaugeGuard::new("gateway_hub_users"),
        };
        registry.users.entry(user).or_insert_with(new_user).entry.register(id, since, wake.clone());
        self.queue_if_needed(&mut registry, user);
        drop(registry);
        Subscription { hub: self.clone(), user, id, wake }
    }

    /// Applies an event of the log. `cause` is the span that applies it, if it is exported.
    ///
    /// # Errors
    /// [`InvalidId`] if the event contains a malformed id.
    pub fn apply(&self, event: &UnreadChanged, cause: Option<Traceparent>) -> Result<(), InvalidId> {
        let (user, change) = Change::from_event(event)?;
        let mut registry = self.registry();
        if let Some(User { entry, cause: newest_cause, .. }) = registry.users.get_mut(&user) {
            *newest_cause = cause;
            entry.apply(change);
            self.queue_if_needed(&mut registry, user);
        }
        Ok(())
    }

    /// Sends every subscriber a new snapshot, because events were skipped.
    pub fn resync(&self) {
        let mut registry = self.registry();
        let users: Vec<UserId> = registry.users.keys().copied().collect();
        for user in users {
            if let Some(User { entry, .. }) = registry.users.get_mut(&user) {
                entry.resync();
                self.queue_if_needed(&mut registry, user);
            }
        }
    }

    /// Replaces the state of all users by snapshots of this epoch or a later one.
    pub fn raise_epoch(&self, epoch: i64) {
        let mut registry = self.registry();
        let users: Vec<UserId> = registry.users.keys().copied().collect();
        for user in users {
            if let Some(User { entry, .. }) = registry.users.get_mut(&user) {
                entry.raise_epoch(epoch);
                self.queue_if_needed(&mut registry, user);
            }
        }
    }

    /// Requests snapshots of the queued users until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let start = || self.next_batch().map(|batch| self.request(batch));
        let requeue = |users: &mut BTreeSet<UserId>| self.registry().queue.append(users);
        run_requests(REQUEST_LIMITS, &self.0.queued, &shutdown, start, requeue).await;
    }

    /// Takes the next users off the queue.
    fn next_batch(&self) -> Option<Vec<SnapshotRequest>> {
        let mut registry = self.registry();
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some(user) = registry.queue.pop_first()
        {
            registry.last_id += 1;
            let ticket = registry.last_id;
            // The user may have been removed, or served by an earlier request, since it was queued.
            if let Some(User { entry, .. }) =
                registry.users.get_mut(&user).filter(|user| user.entry.needs_request())
            {
                let known = entry.known();
                batch.push(SnapshotRequest { user, ticket, since: entry.start_request(ticket), known });
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Requests snapshots and applies them. Returns the users that still need one.
    async fn request(&self, batch: Vec<SnapshotRequest>) -> Vec<UserId> {
        let mut snapshots = match self.snapshots(&batch).await {
            Ok(snapshots) => snapshots,
            Err(status) => {
                let users = batch.len();
                tracing::warn!(users, error = %status, "snapshots could not be loaded, retrying");
                Vec::new()
            }
        };
        snapshots.resize_with(batch.len(), || None);
        self.report_lost_version(&batch, &snapshots).await;
        let mut registry = self.registry();
        let mut unserved = Vec::new();
        for (SnapshotRequest { user, ticket, .. }, snapshot) in batch.into_iter().zip(snapshots) {
            let Some(User { entry, .. }) = registry.users.get_mut(&user) else { continue };
            match snapshot {
                Some(snapshot) => entry.finish_request(ticket, snapshot),
                None => entry.fail_request(ticket),
            }
            if entry.needs_request() {
                unserved.push(user);
            }
        }
        unserved
    }

    /// Loads snapshots, in the order of the batch. A missing or malformed snapshot is `None`.
    async fn snapshots(&self, batch: &[SnapshotRequest]) -> Result<Vec<Option<Snapshot>>, tonic::Status> {
        let of = batch.iter().map(|request| counter::SnapshotOf {
            user_id: request.user.bytes(),
            since: request.since.map(Version::into),
        });
        let call = self.0.service.call(REQUEST_TIMEOUT);
        let request = counter::SnapshotsRequest { of: of.collect() };
        let reply = self.0.service.peers.counter(&call).snapshots(request).await?.into_inner();
        let parse = |(request, snapshot): (&SnapshotRequest, &counter::Snapshot)| {
            Snapshot::from_reply(snapshot).filter(|_| snapshot.user_id == request.user.bytes())
        };
        Ok(batch.iter().zip(&reply.snapshots).map(parse).collect())
    }

    /// Reports a version that the counter service gave out and does not know any more, so that it
    /// recognises that its database was restored. It then raises the epoch, for all users.
    async fn report_lost_version(&self, batch: &[SnapshotRequest], snapshots: &[Option<Snapshot>]) {
        let lost = batch.iter().zip(snapshots).find_map(|(request, snapshot)| {
            let known = request.known?;
            let found = snapshot.as_ref()?.version;
            (found < known && found.epoch == known.epoch).then_some((request.user, known))
        });
        if let Some((user, version)) = lost
            && let Err(status) = self.0.service.report_seen(user, version).await
        {
            tracing::warn!(error = %status, "a lost version could not be reported");
        }
    }

    fn take(&self, user: UserId, id: u64) -> Option<Frame> {
        let mut registry = self.registry();
        let frame = registry.users.get_mut(&user)?.entry.take(id);
        if frame.is_none() {
            self.queue_if_needed(&mut registry, user);
        }
        frame
    }

    fn queue_if_needed(&self, registry: &mut Registry, user: UserId) {
        if registry.users.get(&user).is_some_and(|user| user.entry.needs_request())
            && registry.queue.insert(user)
        {
            self.0.queued.notify_one();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }
}

/// A subscription to a user's counters. Dropping it removes its subscriber from the hub.
pub struct Subscription {
    hub: Hub,
    user: UserId,
    id: u64,
    wake: Wake,
}

impl Subscription {
    /// Waits for the next frame. It contains all changes until now.
    ///
    /// Cancel safe: dropping the future loses no change.
    pub async fn next(&mut self) -> Frame {
        let frame = self.wake.next(|| self.hub.take(self.user, self.id)).await;
        metrics::counter!("gateway_merged_frames_total", "field" => "unread").increment(frame.merged);
        frame
    }

    /// Returns the span that applied the newest event, if it is exported.
    pub fn cause(&self) -> Option<Traceparent> {
        if !trace::is_exported() {
            return None;
        }
        self.hub.registry().users.get(&self.user).and_then(|user| user.cause)
    }

    /// Requests a new snapshot, because the last frame could not be delivered.
    pub fn resync(&self) {
        if let Some(User { entry, .. }) = self.hub.registry().users.get_mut(&self.user) {
            entry.resync_one(self.id);
        }
    }

    /// Returns true if this is the only subscription of its user in this process.
    pub fn is_only_one(&self) -> bool {
        self.hub.registry().users.get(&self.user).is_none_or(|user| user.entry.subscribers() < 2)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        if registry.users.get_mut(&self.user).is_some_and(|user| user.entry.remove(self.id)) {
            registry.users.remove(&self.user);
        }
    }
}
