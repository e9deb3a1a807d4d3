//! Live read receipts: who of a dialog has read up to where. A stream begins with everyone's state and goes on with every
//! move; what a slow reader has not taken is kept once per person, with the newest value.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::{DialogId, UserId, counter, dialog};
use wake::Wake;

use super::{Backoff, Person, Service, persistently};
use crate::error::{Code, Error};

/// People in one page of the snapshot.
const PAGE: i32 = 1000;
/// The most people whose states are kept for a stream or remembered for a dialog. A dialog has 1,000 at a time.
const PEOPLE_MAX: usize = 10_000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the counters may take to hear of a dialog that the dialog service has.
const BEHIND_MAX: Duration = Duration::from_secs(30);

/// A person's read pointer. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// Whose.
    pub user: UserId,
    /// Up to where everything is read.
    pub read_seq: i64,
}

/// The streams of all dialogs of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    service: Service,
}

#[derive(Default)]
struct State {
    dialogs: HashMap<DialogId, Entry>,
    last: u64,
}

/// A dialog with at least one stream.
#[derive(Debug, Default)]
struct Entry {
    /// The newest state heard of each person: the log may repeat older ones.
    known: HashMap<UserId, i64>,
    subscribers: HashMap<u64, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    user: UserId,
    owed: BTreeMap<UserId, i64>,
    /// Too many people moved, or events are missing: everyone's state is to be asked for again.
    stale: bool,
    over: bool,
    wake: Wake,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    State(ReadState),
    Wait,
    Stale,
    Over,
}

impl Entry {
    fn register(&mut self, id: u64, user: UserId, wake: Wake) {
        let subscriber = Subscriber { user, owed: BTreeMap::new(), stale: false, over: false, wake };
        self.subscribers.insert(id, subscriber);
    }

    /// Everyone's state, as the counter says. What was heard meanwhile is newer.
    fn open(&mut self, id: u64, states: Vec<ReadState>) {
        for state in states {
            let read_seq = self.remember(state).unwrap_or_else(|newer| newer);
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.owe(ReadState { read_seq, ..state });
            }
        }
    }

    fn hear(&mut self, state: ReadState) {
        if self.remember(state).is_ok() {
            self.subscribers.values_mut().for_each(|subscriber| subscriber.owe(state));
        }
    }

    /// Remembers the newest; an error with what is known where the state is not newer.
    fn remember(&mut self, state: ReadState) -> Result<i64, i64> {
        if self.known.len() >= PEOPLE_MAX && !self.known.contains_key(&state.user) {
            // Forgetting costs nothing but a repeated state.
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
            subscriber.over = true;
            subscriber.owed.clear();
            subscriber.wake.raise();
        }
    }

    fn take(&mut self, id: u64) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id).filter(|subscriber| !subscriber.over) else {
            return Next::Over;
        };
        if std::mem::take(&mut subscriber.stale) {
            return Next::Stale;
        }
        let first = subscriber.owed.pop_first();
        first.map_or(Next::Wait, |(user, read_seq)| Next::State(ReadState { user, read_seq }))
    }
}

impl Subscriber {
    fn owe(&mut self, state: ReadState) {
        if self.over || self.stale {
            return;
        }
        self.owed.insert(state.user, state.read_seq);
        if self.owed.len() > PEOPLE_MAX {
            self.forget();
        }
        self.wake.raise();
    }

    fn forget(&mut self) {
        self.owed.clear();
        self.stale = true;
        self.wake.raise();
    }
}

impl Hub {
    /// Without streams.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), service }))
    }

    /// A new stream of a dialog. While the services are away, they are asked again.
    ///
    /// # Errors
    /// NOT_FOUND where the person takes no part, or as the services say.
    pub async fn subscribe(&self, person: &Person, dialog: DialogId) -> Result<Subscription, Error> {
        let subscription = self.register(person.clone(), dialog);
        subscription.begin().await?;
        Ok(subscription)
    }

    fn register(&self, person: Person, dialog: DialogId) -> Subscription {
        let wake = Wake::new();
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.dialogs.entry(dialog).or_default().register(id, person.user, wake.clone());
        drop(state);
        Subscription { hub: self.clone(), person, dialog, id, wake, stale: false }
    }

    /// Somebody has read, by the log.
    pub fn read(&self, dialog: DialogId, state: ReadState) {
        if let Some(entry) = self.state().dialogs.get_mut(&dialog) {
            entry.hear(state);
        }
    }

    /// Somebody has left, by the log.
    pub fn left(&self, dialog: DialogId, user: UserId) {
        if let Some(entry) = self.state().dialogs.get_mut(&dialog) {
            entry.leave(user);
        }
    }

    /// Events are missing: every stream asks for everyone's state again.
    pub fn refresh(&self) {
        let mut state = self.state();
        state
            .dialogs
            .values_mut()
            .flat_map(|entry| entry.subscribers.values_mut())
            .for_each(Subscriber::forget);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live stream of a dialog's read states. Dropped, it costs nothing any more.
pub struct Subscription {
    hub: Hub,
    person: Person,
    dialog: DialogId,
    id: u64,
    wake: Wake,
    /// Everyone's state is still to be asked for.
    stale: bool,
}

impl Subscription {
    /// The next state; `None` when the person has left the dialog. Dropped while it waits, it loses nothing.
    ///
    /// # Errors
    /// Where everyone's state has to be asked for again and the services refuse.
    pub async fn next(&mut self) -> Result<Option<ReadState>, Error> {
        loop {
            if self.stale {
                // Boxed, because it happens seldom and is large.
                Box::pin(self.begin()).await?;
                self.stale = false;
            }
            match self.wake.next(|| self.take()).await {
                Next::State(state) => return Ok(Some(state)),
                Next::Over => return Ok(None),
                Next::Stale => self.stale = true,
                Next::Wait => {}
            }
        }
    }

    /// The last state could not be shown: everyone's comes in its place.
    pub fn again(&mut self) {
        self.stale = true;
    }

    /// What there is but waiting.
    fn take(&self) -> Option<Next> {
        let next =
            self.hub.state().dialogs.get_mut(&self.dialog).map_or(Next::Over, |entry| entry.take(self.id));
        (!matches!(next, Next::Wait)).then_some(next)
    }

    /// Asks whether the person takes part, and for everyone's state.
    async fn begin(&self) -> Result<(), Error> {
        // The counters may not have heard yet that the person has left. Who leaves after this answer is heard of here.
        self.check_membership().await?;
        self.open().await
    }

    /// Asks for everyone's state.
    async fn open(&self) -> Result<(), Error> {
        let mut states = Vec::new();
        while states.len() < PEOPLE_MAX {
            let page = self.page(states.last().map(|state: &ReadState| state.user)).await?;
            let last = page.len() < PAGE as usize;
            states.extend(page);
            if last {
                break;
            }
        }
        if let Some(entry) = self.hub.state().dialogs.get_mut(&self.dialog) {
            entry.open(self.id, states);
        }
        Ok(())
    }

    async fn page(&self, after: Option<UserId>) -> Result<Vec<ReadState>, Error> {
        let page = counter::ReadStatesPage {
            dialog_id: self.dialog.bytes(),
            first: PAGE,
            after_user_id: after.map(UserId::bytes),
        };
        let request = counter::ReadStatesRequest { pages: vec![page] };
        let mut backoff = Backoff::new();
        let give_up_at = tokio::time::Instant::now() + BEHIND_MAX;
        loop {
            let reply = persistently(|| {
                let mut client = self.hub.0.service.peers.counter(&self.person.call(PATIENCE));
                let request = request.clone();
                async move { client.read_states(request).await }
            });
            let page = reply.await?.into_inner().pages.into_iter().next();
            let page = page.ok_or_else(|| Error::internal("read states without a page"))?;
            if page.found {
                let state = |state: counter::ReadState| {
                    Ok(ReadState { user: UserId::parse(&state.user_id)?, read_seq: state.read_seq })
                };
                return page.states.into_iter().map(state).collect();
            }
            // The counters hear of who joins a moment after the dialog service.
            self.check_membership().await?;
            if tokio::time::Instant::now() > give_up_at {
                return Err(Error::new(Code::Unavailable, "the counters are behind, try again later"));
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn check_membership(&self) -> Result<(), Error> {
        let reply = persistently(|| {
            let mut client = self.hub.0.service.peers.dialog(&self.person.call(PATIENCE));
            let request = dialog::GetRequest { ids: vec![self.dialog.bytes()] };
            async move { client.get(request).await }
        });
        match reply.await?.into_inner().dialogs[..] {
            [] => Err(Error::new(Code::NotFound, "no such dialog")),
            _ => Ok(()),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if let Some(entry) = state.dialogs.get_mut(&self.dialog) {
            entry.subscribers.remove(&self.id);
            if entry.subscribers.is_empty() {
                state.dialogs.remove(&self.dialog);
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

    fn with_stream_of(user: UserId) -> Entry {
        let mut entry = Entry::default();
        entry.register(1, user, Wake::new());
        entry
    }

    #[test]
    fn everyones_state_comes_first_and_what_was_heard_meanwhile_wins() {
        let (a, b) = (UserId::now(), UserId::now());
        let mut entry = with_stream_of(a);
        entry.hear(state(b, 7));
        entry.open(1, vec![state(a, 1), state(b, 5)]);
        assert_eq!(drain(&mut entry), [state(a, 1), state(b, 7)]);
        assert_eq!(entry.take(1), Next::Wait);
    }

    #[test]
    fn a_pointer_never_goes_back_and_a_repeat_is_told_once() {
        let a = UserId::now();
        let mut entry = with_stream_of(a);
        entry.hear(state(a, 4));
        assert_eq!(drain(&mut entry), [state(a, 4)]);
        for older in [4, 3, 0] {
            entry.hear(state(a, older));
        }
        assert_eq!(drain(&mut entry), []);
    }

    #[test]
    fn a_slow_reader_gets_the_newest_of_each_person() {
        let (a, b) = (UserId::now(), UserId::now());
        let mut entry = with_stream_of(a);
        for seq in 1..100 {
            entry.hear(state(a, seq));
            entry.hear(state(b, 2 * seq));
        }
        assert_eq!(drain(&mut entry), [state(a, 99), state(b, 198)]);
    }

    #[test]
    fn who_leaves_gets_nothing_more() {
        let (a, b) = (UserId::now(), UserId::now());
        let mut entry = with_stream_of(a);
        entry.register(2, b, Wake::new());
        entry.hear(state(b, 1));
        entry.leave(a);
        entry.hear(state(b, 2));
        assert_eq!((entry.take(1), entry.take(2)), (Next::Over, Next::State(state(b, 2))));
    }

    #[test]
    fn too_many_people_are_asked_for_again() {
        let mut entry = with_stream_of(UserId::now());
        for _ in 0..=PEOPLE_MAX {
            entry.hear(state(UserId::now(), 1));
        }
        assert_eq!((entry.take(1), entry.take(1)), (Next::Stale, Next::Wait));
        assert!(entry.known.len() <= PEOPLE_MAX);
    }
}
