//! Hub of read receipts. A subscription starts with the read states of all participants and continues
//! with every change. Pending states of a slow reader are kept once per user, with the newest value.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use proto::{DialogId, UserId, counter, dialog};
use tokio::time::Instant;
use wake::Wake;

use super::{Service, StreamCaller, backoff, retry::until_available};
use crate::error::{Code, Error};

/// Users in one page of the snapshot.
const PAGE_SIZE: i32 = 1000;
/// Maximum users whose states are kept for one subscriber, or known for a dialog. A dialog has at most
/// 1,000 participants at a time, but they may leave and be replaced.
const USERS_MAX: usize = 10_000;
/// Deadline of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time to wait until the counter service has processed that the caller joined.
const COUNTER_LAG_MAX: Duration = Duration::from_secs(30);

/// A user's read position in a dialog. It never decreases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// The user.
    pub user: UserId,
    /// The `seq` of the newest message that the user has read.
    pub read_seq: i64,
}

/// The subscribers of all dialogs of this process. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

struct Core {
    registry: Mutex<Registry>,
    service: Service,
}

#[derive(Default)]
struct Registry {
    dialogs: HashMap<DialogId, Entry>,
    /// The last id given to a subscriber.
    last_id: u64,
}

/// A dialog with at least one subscriber.
#[derive(Debug, Default)]
struct Entry {
    /// The newest known state of each user. The log may repeat older ones.
    known: HashMap<UserId, i64>,
    subscribers: HashMap<u64, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    user: UserId,
    pending: BTreeMap<UserId, i64>,
    /// True if the snapshot has to be loaded again, because events were skipped or too many states are
    /// pending.
    stale: bool,
    ended: bool,
    wake: Wake,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    State(ReadState),
    Wait,
    Stale,
    Ended,
}

impl Entry {
    fn register(&mut self, id: u64, user: UserId, wake: Wake) {
        let subscriber = Subscriber { user, pending: BTreeMap::new(), stale: false, ended: false, wake };
        self.subscribers.insert(id, subscriber);
    }

    /// Adds a snapshot for one subscriber. States that arrived from the log since the request was sent
    /// are newer.
    fn apply_snapshot(&mut self, id: u64, states: Vec<ReadState>) {
        for state in states {
            let read_seq = self.update_known(state).unwrap_or_else(|newer| newer);
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.add(ReadState { read_seq, ..state });
            }
        }
    }

    fn apply(&mut self, state: ReadState) {
        if self.update_known(state).is_ok() {
            self.subscribers.values_mut().for_each(|subscriber| subscriber.add(state));
        }
    }

    /// Updates the known state of a user. Returns the known state as an error if `state` is not newer.
    fn update_known(&mut self, state: ReadState) -> Result<i64, i64> {
        if self.known.len() >= USERS_MAX && !self.known.contains_key(&state.user) {
            // The worst effect is that a repeated state is sent again.
            self.known.clear();
        }
        let known = self.known.entry(state.user).or_insert(-1);
        if *known >= state.read_seq {
            return Err(*known);
        }
        *known = state.read_seq;
        Ok(state.read_seq)
    }

    fn leave(&mut self, user: UserId) {
        for subscriber in self.subscribers.values_mut().filter(|subscriber| subscriber.user == user) {
            subscriber.ended = true;
            subscriber.pending.clear();
            subscriber.wake.raise();
        }
    }

    fn take(&mut self, id: u64) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id).filter(|subscriber| !subscriber.ended) else {
            return Next::Ended;
        };
        if std::mem::take(&mut subscriber.stale) {
            return Next::Stale;
        }
        let first = subscriber.pending.pop_first();
        first.map_or(Next::Wait, |(user, read_seq)| Next::State(ReadState { user, read_seq }))
    }
}

impl Subscriber {
    fn add(&mut self, state: ReadState) {
        if self.ended || self.stale {
            return;
        }
        self.pending.insert(state.user, state.read_seq);
        if self.pending.len() > USERS_MAX {
            self.set_stale();
        }
        self.wake.raise();
    }

    fn set_stale(&mut self) {
        self.pending.clear();
        self.stale = true;
        self.wake.raise();
    }
}

impl Hub {
    /// Creates a hub without subscribers.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Core { registry: Mutex::default(), service }))
    }

    /// Subscribes to a dialog. Waits while the services are unavailable.
    ///
    /// # Errors
    /// NOT_FOUND if the caller is not a participant, or another error of the services.
    pub async fn subscribe(&self, caller: &StreamCaller, dialog: DialogId) -> Result<Subscription, Error> {
        // Registered first: an event during the calls below is then either in the snapshot or applied to
        // the subscriber.
        let subscription = self.register(caller.clone(), dialog);
        subscription.load_snapshot().await?;
        Ok(subscription)
    }

    fn register(&self, caller: StreamCaller, dialog: DialogId) -> Subscription {
        let wake = Wake::new();
        let mut registry = self.registry();
        registry.last_id += 1;
        let id = registry.last_id;
        registry.dialogs.entry(dialog).or_default().register(id, caller.user, wake.clone());
        drop(registry);
        Subscription { hub: self.clone(), caller, dialog, id, wake, stale: false }
    }

    /// Applies a read state from the log.
    pub fn apply(&self, dialog: DialogId, state: ReadState) {
        if let Some(entry) = self.registry().dialogs.get_mut(&dialog) {
            entry.apply(state);
        }
    }

    /// Ends the subscriptions of a user who left a dialog.
    pub fn leave(&self, dialog: DialogId, user: UserId) {
        if let Some(entry) = self.registry().dialogs.get_mut(&dialog) {
            entry.leave(user);
        }
    }

    /// Makes every subscription load its snapshot again, because events were skipped.
    pub fn resync(&self) {
        let mut registry = self.registry();
        let entries = registry.dialogs.values_mut();
        entries.flat_map(|entry| entry.subscribers.values_mut()).for_each(Subscriber::set_stale);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }
}

/// A subscription to a dialog's read states. Dropping it removes its subscriber from the hub.
pub struct Subscription {
    hub: Hub,
    caller: StreamCaller,
    dialog: DialogId,
    id: u64,
    wake: Wake,
    /// True if the snapshot has to be loaded before the next state.
    stale: bool,
}

impl Subscription {
    /// Waits for the next state. Returns `None` when the caller is no longer a participant.
    ///
    /// Cancel safe: dropping the future loses no state.
    ///
    /// # Errors
    /// The error of the services if the snapshot has to be loaded again and they reject the call.
    pub async fn next(&mut self) -> Result<Option<ReadState>, Error> {
        loop {
            if self.stale {
                // Boxed to keep this future small: loading is rare and its future is large.
                Box::pin(self.load_snapshot()).await?;
                self.stale = false;
            }
            match self.wake.next(|| self.take()).await {
                Next::State(state) => return Ok(Some(state)),
                Next::Ended => return Ok(None),
                Next::Stale => self.stale = true,
                Next::Wait => {}
            }
        }
    }

    /// Loads the snapshot again before the next state, because the last state could not be delivered.
    pub fn resync(&mut self) {
        self.stale = true;
    }

    fn take(&self) -> Option<Next> {
        let mut registry = self.hub.registry();
        let next = registry.dialogs.get_mut(&self.dialog).map_or(Next::Ended, |entry| entry.take(self.id));
        (next != Next::Wait).then_some(next)
    }

    /// Checks that the caller is a participant, and loads the read states of all participants.
    async fn load_snapshot(&self) -> Result<(), Error> {
        // The counter service may not have processed yet that the caller left, so the dialog service is
        // asked. A later leave arrives as an event.
        self.check_membership().await?;
        let mut states = Vec::new();
        while states.len() < USERS_MAX {
            let page = self.load_page(states.last().map(|state: &ReadState| state.user)).await?;
            let is_last = page.len() < PAGE_SIZE as usize;
            states.extend(page);
            if is_last {
                break;
            }
        }
        if let Some(entry) = self.hub.registry().dialogs.get_mut(&self.dialog) {
            entry.apply_snapshot(self.id, states);
        }
        Ok(())
    }

    async fn load_page(&self, after: Option<UserId>) -> Result<Vec<ReadState>, Error> {
        let page = counter::ReadStatesPage {
            dialog_id: self.dialog.bytes(),
            first: PAGE_SIZE,
            after_user_id: after.map(UserId::bytes),
        };
        let request = counter::ReadStatesRequest { pages: vec![page] };
        let mut backoff = backoff();
        let give_up_at = Instant::now() + COUNTER_LAG_MAX;
        loop {
            let reply = until_available(|| {
                let mut client = self.hub.0.service.peers.counter(&self.caller.call(CALL_TIMEOUT));
                let request = request.clone();
                async move { client.read_states(request).await }
            });
            let page = reply.await?.into_inner().pages.into_iter().next();
            let page = page.ok_or_else(|| Error::internal("reply to ReadStates without a page"))?;
            if page.found {
                let parse = |state: counter::ReadState| {
                    Ok(ReadState { user: UserId::parse(&state.user_id)?, read_seq: state.read_seq })
                };
                return page.states.into_iter().map(parse).collect();
            }
            // The counter service learns of a new participant a little later than the dialog service.
            self.check_membership().await?;
            if Instant::now() > give_up_at {
                return Err(Error::new(Code::Unavailable, "the counters are behind, try again later"));
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn check_membership(&self) -> Result<(), Error> {
        let reply = until_available(|| {
            let mut client = self.hub.0.service.peers.dialog(&self.caller.call(CALL_TIMEOUT));
            let request = dialog::GetRequest { ids: vec![self.dialog.bytes()] };
            async move { client.get(request).await }
        });
        match reply.await?.into_inner().dialogs[..] {
            [] => Err(Error::new(Code::NotFound, "there is no such dialog")),
            _ => Ok(()),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        if let Some(entry) = registry.dialogs.get_mut(&self.dialog) {
            entry.subscribers.remove(&self.id);
            if entry.subscribers.is_empty() {
                registry.dialogs.remove(&self.dialog);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(user: UserId, read_seq: i64) -> ReadState {
        ReadState { user, read_seq }
    }

    fn drain(entry: &mut Entry) -> Vec<ReadState> {
        let mut all = Vec::new();
        while let Next::State(state) = entry.take(1) {
            all.push(state);
        }
        all
    }

    fn with_subscriber_of(user: UserId) -> Entry {
        let mut entry = Entry::default();
        entry.register(1, user, Wake::new());
        entry
    }

    #[test]
    fn an_event_during_the_request_overrides_the_snapshot() {
        let a = UserId::now();
        let b = UserId::now();
        let mut entry = with_subscriber_of(a);
        entry.apply(state(b, 7));
        entry.apply_snapshot(1, vec![state(a, 1), state(b, 5)]);
        assert_eq!(drain(&mut entry), [state(a, 1), state(b, 7)]);
        assert_eq!(entry.take(1), Next::Wait);
    }

    #[test]
    fn older_and_repeated_states_are_not_sent() {
        let a = UserId::now();
        let mut entry = with_subscriber_of(a);
        entry.apply(state(a, 4));
        assert_eq!(drain(&mut entry), [state(a, 4)]);
        for older in [4, 3, 0] {
            entry.apply(state(a, older));
        }
        assert_eq!(drain(&mut entry), []);
    }

    #[test]
    fn a_slow_reader_receives_the_newest_state_of_each_user() {
        let a = UserId::now();
        let b = UserId::now();
        let mut entry = with_subscriber_of(a);
        for seq in 1..100 {
            entry.apply(state(a, seq));
            entry.apply(state(b, 2 * seq));
        }
        assert_eq!(drain(&mut entry), [state(a, 99), state(b, 198)]);
    }

    #[test]
    fn a_user_who_leaves_receives_nothing_more() {
        let a = UserId::now();
        let b = UserId::now();
        let mut entry = with_subscriber_of(a);
        entry.register(2, b, Wake::new());
        entry.apply(state(b, 1));
        entry.leave(a);
        entry.apply(state(b, 2));
        assert_eq!((entry.take(1), entry.take(2)), (Next::Ended, Next::State(state(b, 2))));
    }

    #[test]
    fn too_many_pending_users_make_a_subscriber_stale() {
        let mut entry = with_subscriber_of(UserId::now());
        for _ in 0..=USERS_MAX {
            entry.apply(state(UserId::now(), 1));
        }
        assert_eq!((entry.take(1), entry.take(1)), (Next::Stale, Next::Wait));
        assert!(entry.known.len() <= USERS_MAX);
    }
}
