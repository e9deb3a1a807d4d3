//! Hub of messages. The log names the messages that changed; the hub fetches each of them once for all
//! subscribers of its dialog. The same reply of the dialog service lists the current participants, and
//! only they receive the message. A reader who resumes receives what it has missed; one that falls too
//! far behind receives a RESET and reloads the history.

mod entry;
pub mod frame;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod rules;
mod subscriber;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use entry::{Entry, FetchReply, FetchRequest, Next};
use frame::{Event, Frame};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use proto::{DialogId, MessageId, UserId, dialog};
use subscriber::Replay;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wake::Wake;

use super::{
    Service, StreamCaller,
    retry::{RequestLimits, run_requests, until_available},
};
use crate::{connections::gauge::GaugeGuard, error::Error, version::Version};

/// Maximum pending messages of one subscriber. A RESET replaces more.
const PENDING_MAX: usize = 1000;
/// Limits of the requests, each for another dialog.
const REQUEST_LIMITS: RequestLimits = RequestLimits { concurrency_max: 16, interval: Duration::ZERO };
/// Deadline of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of the replays of all subscriptions together, in kB. A subscription beyond it starts
/// with a RESET.
const REPLAYS_MAX_KB: usize = 128 * 1024;

/// The subscribers of all dialogs of this process. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

struct Core {
    registry: Mutex<Registry>,
    /// Notified when a dialog is added to `Registry::queue`.
    queued: Notify,
    service: Service,
    /// One permit per kB of [`REPLAYS_MAX_KB`].
    replay_budget: Arc<Semaphore>,
}

#[derive(Default)]
struct Registry {
    dialogs: HashMap<DialogId, Dialog>,
    /// Dialogs whose messages are to be fetched.
    queue: BTreeSet<DialogId>,
    /// The last id given to a subscriber.
    last_id: u64,
}

struct Dialog {
    entry: Entry,
    /// Distinguishes this entry from an earlier one of the same dialog, whose requests may still be in
    /// flight.
    generation: u64,
    _gauge: GaugeGuard,
}

/// A request for messages of one dialog, on behalf of one generation of its entry.
struct DialogRequest {
    dialog: DialogId,
    generation: u64,
    fetch: FetchRequest,
}

impl Hub {
    /// Creates a hub without subscribers.
    pub fn new(service: Service) -> Self {
        let replay_budget = Arc::new(Semaphore::new(REPLAYS_MAX_KB));
        Self(Arc::new(Core { registry: Mutex::default(), queued: Notify::new(), service, replay_budget }))
    }

    /// Subscribes to a dialog for a reader who has the state at `since`. Waits while the dialog service
    /// is unavailable.
    ///
    /// # Errors
    /// NOT_FOUND if the caller is not a participant, or another error of the dialog service.
    pub async fn subscribe(
        &self,
        caller: &StreamCaller,
        dialog: DialogId,
        since: Option<Version>,
    ) -> Result<Subscription, Error> {
        // Registered first: an event during the call below is then either in the reply or applied to the
        // subscriber.
        let mut subscription = self.register(caller.user, dialog);
        let request =
            dialog::MessagesSinceRequest { dialog_id: dialog.bytes(), since: since.map(Version::into) };
        let reply = until_available(|| {
            let call = caller.call(REQUEST_TIMEOUT);
            let mut client = self.0.service.peers.dialog(&call);
            let request = request.clone();
            async move { client.messages_since(request).await }
        });
        let reply = reply.await?.into_inner();
        let head = reply.head.ok_or_else(|| Error::internal("reply to MessagesSince without a version"))?;
        let size_bytes: usize = reply.messages.iter().map(Message::encoded_len).sum();
        let size_kb = u32::try_from(size_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        subscription.replay_permit = self.0.replay_budget.clone().try_acquire_many_owned(size_kb).ok();
        let messages = if subscription.replay_permit.is_some() { reply.messages } else { Vec::new() };
        let reset = reply.reset || subscription.replay_permit.is_none();
        let replay = Replay { since, head: head.into(), messages, reset };
        if let Some(Dialog { entry, .. }) = self.registry().dialogs.get_mut(&dialog) {
            entry.open(subscription.id, replay);
        }
        Ok(subscription)
    }

    fn register(&self, user: UserId, dialog: DialogId) -> Subscription {
        let wake = Wake::new();
        let mut registry = self.registry();
        registry.last_id += 1;
        let id = registry.last_id;
        let new_dialog = || Dialog {
            entry: Entry::new(PENDING_MAX),
            generation: id,
            _gauge: GaugeGuard::new("gateway_hub_dialogs"),
        };
        registry.dialogs.entry(dialog).or_insert_with(new_dialog).entry.register(id, user, wake.clone());
        drop(registry);
        Subscription { hub: self.clone(), dialog, id, wake, replay_permit: None }
    }

    /// Applies an event of the log.
    pub fn apply(&self, dialog: DialogId, event: Event) {
        let mut registry = self.registry();
        if let Some(Dialog { entry, .. }) = registry.dialogs.get_mut(&dialog) {
            entry.apply(event);
            self.queue_if_needed(&mut registry, dialog);
        }
    }

    /// Sends every subscriber a RESET, because events were skipped.
    pub fn resync(&self) {
        self.registry().dialogs.values_mut().for_each(|dialog| dialog.entry.resync());
    }

    /// Sends every subscriber of an earlier epoch a RESET: what was sent to it may no longer exist.
    pub fn raise_epoch(&self, epoch: i64) {
        self.registry().dialogs.values_mut().for_each(|dialog| dialog.entry.raise_epoch(epoch));
    }

    /// Fetches messages of the queued dialogs until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let start = || self.next_request().map(|request| self.fetch(request));
        let requeue = |dialogs: &mut BTreeSet<DialogId>| self.registry().queue.append(dialogs);
        run_requests(REQUEST_LIMITS, &self.0.queued, &shutdown, start, requeue).await;
    }

    /// Takes the whole replay budget, until the permit is dropped.
    #[cfg(test)]
    pub fn exhaust_replay_budget(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(REPLAYS_MAX_KB).expect("the budget fits in u32");
        self.0.replay_budget.clone().try_acquire_many_owned(all).expect("no replay is in progress")
    }

    /// Returns true if no subscription holds a part of the replay budget.
    #[cfg(test)]
    pub fn replay_budget_is_free(&self) -> bool {
        self.0.replay_budget.available_permits() == REPLAYS_MAX_KB
    }

    /// Takes the next dialog off the queue.
    fn next_request(&self) -> Option<DialogRequest> {
        let mut registry = self.registry();
        while let Some(dialog) = registry.queue.pop_first() {
            if let Some(Dialog { entry, generation, .. }) = registry.dialogs.get_mut(&dialog)
                && let Some(fetch) = entry.start_request()
            {
                return Some(DialogRequest { dialog, generation: *generation, fetch });
            }
        }
        None
    }

    /// Fetches messages and applies them. Returns the dialog if it has to be requested again after a
    /// delay.
    async fn fetch(&self, request: DialogRequest) -> Vec<DialogId> {
        let DialogRequest { dialog, generation, fetch } = request;
        let reply = self.live_messages(dialog, &fetch).await;
        let mut registry = self.registry();
        let current = registry.dialogs.get_mut(&dialog).filter(|dialog| dialog.generation == generation);
        let Some(Dialog { entry, .. }) = current else { return Vec::new() };
        let is_served = match reply {
            Ok(reply) => entry.finish_request(&fetch, reply),
            Err(error) => {
                tracing::warn!(dialog_id = %dialog, %error, "messages could not be loaded, retrying");
                entry.fail_request(fetch);
                false
            }
        };
        if !is_served {
            return vec![dialog];
        }
        self.queue_if_needed(&mut registry, dialog);
        Vec::new()
    }

    async fn live_messages(&self, dialog: DialogId, fetch: &FetchRequest) -> Result<FetchReply, Error> {
        let request = dialog::LiveRequest {
            dialog_id: dialog.bytes(),
            message_ids: fetch.messages.iter().map(|id| id.bytes()).collect(),
            user_ids: fetch.users.iter().map(|id| id.bytes()).collect(),
        };
        let call = self.0.service.call(REQUEST_TIMEOUT);
        let reply = self.0.service.peers.dialog(&call).live(request).await?.into_inner();
        let head = reply.head.ok_or_else(|| Error::internal("reply to Live without a version"))?;
        let with_id = |message: dialog::Message| Ok((MessageId::parse(&message.id)?, message));
        Ok(FetchReply {
            head: head.into(),
            messages: reply.messages.into_iter().map(with_id).collect::<Result<_, Error>>()?,
            members: UserId::parse_all(&reply.member_ids)?.into_iter().collect(),
        })
    }

    fn take(&self, dialog: DialogId, id: u64) -> Next {
        let mut registry = self.registry();
        let Some(Dialog { entry, .. }) = registry.dialogs.get_mut(&dialog) else { return Next::Ended };
        let next = entry.take(id);
        if next == Next::Wait {
            self.queue_if_needed(&mut registry, dialog);
        }
        next
    }

    fn queue_if_needed(&self, registry: &mut Registry, dialog: DialogId) {
        if registry.dialogs.get(&dialog).is_some_and(|dialog| dialog.entry.needs_request())
            && registry.queue.insert(dialog)
        {
            self.0.queued.notify_one();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }
}

/// A subscription to a dialog's messages. Dropping it removes its subscriber from the hub.
pub struct Subscription {
    hub: Hub,
    dialog: DialogId,
    id: u64,
    wake: Wake,
    /// The part of the replay budget that the replay takes until its last frame is taken.
    replay_permit: Option<OwnedSemaphorePermit>,
}

impl Subscription {
    /// Waits for the next frame. Returns `None` when the caller is no longer a participant.
    ///
    /// Cancel safe: dropping the future loses no frame.
    pub async fn next(&mut self) -> Option<Frame> {
        let Self { hub, dialog, id, wake, replay_permit } = self;
        let next = || match hub.take(*dialog, *id) {
            Next::Frame(frame) => Some(Some(frame)),
            Next::Ended => Some(None),
            Next::Wait => {
                *replay_permit = None;
                None
            }
        };
        wake.next(next).await
    }

    /// Schedules a RESET, because the last frame could not be delivered.
    pub fn resync(&self) {
        if let Some(Dialog { entry, .. }) = self.hub.registry().dialogs.get_mut(&self.dialog) {
            entry.resync_one(self.id);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        if registry.dialogs.get_mut(&self.dialog).is_some_and(|dialog| dialog.entry.remove(self.id)) {
            registry.dialogs.remove(&self.dialog);
        }
    }
}
