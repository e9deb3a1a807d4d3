//! The live unread counts: a user with at least one stream has an `entry::Entry`, fed by the log and by snapshots of
//! the counter, which are asked for many users at a time. A stream registers before it asks, so it misses nothing; it is
//! taken from when its reader can take more, so it is never more than one frame behind the newest state.

mod entry;
pub mod frame;
#[cfg(test)]
mod histories;
mod subscriber;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use entry::Entry;
use frame::{Change, Frame, Snapshot};
use futures_util::{StreamExt, stream::FuturesUnordered};
use proto::{InvalidId, UserId, counter, events::UnreadChanged};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use wake::Wake;

use super::{Backoff, Counted, Service};
use crate::version::Version;

/// Rows kept for one stream; a snapshot takes the place of more.
pub const ROWS_MAX: usize = 1000;
/// Users in one question.
const BATCH: usize = 200;
/// Questions at once.
const QUESTIONS: usize = 4;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The streams of all users of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wanted: Notify,
    service: Service,
}

#[derive(Default)]
struct State {
    users: HashMap<UserId, User>,
    wanted: BTreeSet<UserId>,
    /// The last number given to a stream or a question.
    last: u64,
}

struct User {
    entry: Entry,
    _counted: Counted,
}

/// A question about one user: under which ticket, and the version to name.
type Question = (UserId, u64, Option<Version>);

impl Hub {
    /// Without streams. Snapshots are asked with the service token.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), wanted: Notify::new(), service }))
    }

    /// A new stream of a user who knows `since`. It is gone when dropped.
    pub fn subscribe(&self, user: UserId, since: Option<Version>) -> Subscription {
        let wake = Wake::new();
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        let new = || User { entry: Entry::new(ROWS_MAX), _counted: Counted::new("gateway_hub_users") };
        state.users.entry(user).or_insert_with(new).entry.register(id, since, wake.clone());
        self.ask_if_wanted(&mut state, user);
        drop(state);
        Subscription { hub: self.clone(), user, id, wake }
    }

    /// An event of the log.
    ///
    /// # Errors
    /// Where an id in it is none.
    pub fn change(&self, event: &UnreadChanged) -> Result<(), InvalidId> {
        let (user, change) = Change::read(event)?;
        let mut state = self.state();
        if let Some(User { entry, .. }) = state.users.get_mut(&user) {
            entry.change(change);
            self.ask_if_wanted(&mut state, user);
        }
        Ok(())
    }

    /// Events are missing: every stream is owed a snapshot.
    pub fn refresh(&self) {
        let mut state = self.state();
        let users: Vec<UserId> = state.users.keys().copied().collect();
        for user in users {
            if let Some(User { entry, .. }) = state.users.get_mut(&user) {
                entry.refresh();
                self.ask_if_wanted(&mut state, user);
            }
        }
    }

    /// Asks the counter for snapshots where they are needed, until shut down.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut again = BTreeSet::new();
        let mut retry_at = Instant::now();
        let mut questions = FuturesUnordered::new();
        loop {
            while questions.len() < QUESTIONS
                && let Some(batch) = self.batch()
            {
                questions.push(self.ask(batch));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.0.wanted.notified() => {}
                Some(unhelped) = questions.next(), if !questions.is_empty() => {
                    if unhelped.is_empty() {
                        backoff.reset();
                    } else {
                        if again.is_empty() {
                            retry_at = Instant::now() + backoff.next();
                        }
                        again.extend(unhelped);
                    }
                }
                () = tokio::time::sleep_until(retry_at), if !again.is_empty() => {
                    self.state().wanted.append(&mut again);
                }
            }
        }
    }

    /// The next users to ask about.
    fn batch(&self) -> Option<Vec<Question>> {
        let mut state = self.state();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(user) = state.wanted.pop_first()
        {
            state.last += 1;
            let ticket = state.last;
            if let Some(User { entry, .. }) = state.users.get_mut(&user).filter(|user| user.entry.wants()) {
                batch.push((user, ticket, entry.asked(ticket)));
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Asks, tells the entries, and gives the users who must be asked about again.
    async fn ask(&self, batch: Vec<Question>) -> Vec<UserId> {
        let mut snapshots = match self.snapshots(&batch).await {
            Ok(snapshots) => snapshots,
            Err(status) => {
                tracing::warn!(users = batch.len(), error = %status, "no snapshots; they are asked for again");
                Vec::new()
            }
        };
        snapshots.resize_with(batch.len(), || None);
        let mut state = self.state();
        let mut unhelped = Vec::new();
        for ((user, ticket, _), snapshot) in batch.into_iter().zip(snapshots) {
            let Some(User { entry, .. }) = state.users.get_mut(&user) else { continue };
            match snapshot {
                Some(snapshot) => entry.answered(ticket, snapshot),
                None => entry.unanswered(ticket),
            }
            if entry.wants() {
                unhelped.push(user);
            }
        }
        unhelped
    }

    /// The answers, in the order asked; `None` where one is missing or unreadable.
    async fn snapshots(&self, batch: &[Question]) -> Result<Vec<Option<Snapshot>>, tonic::Status> {
        let of = batch.iter().map(|(user, _, since)| counter::SnapshotOf {
            user_id: user.bytes(),
            since: since.map(Version::into),
        });
        let call = self.0.service.call(PATIENCE);
        let request = counter::SnapshotsRequest { of: of.collect() };
        let reply = self.0.service.peers.counter(&call).snapshots(request).await?.into_inner();
        let answers = batch.iter().zip(&reply.snapshots);
        Ok(answers
            .map(|((user, ..), snapshot)| {
                Snapshot::read(snapshot).filter(|_| snapshot.user_id == user.bytes())
            })
            .collect())
    }

    fn take(&self, user: UserId, id: u64) -> Option<Frame> {
        let mut state = self.state();
        let frame = state.users.get_mut(&user)?.entry.take(id);
        if frame.is_none() {
            self.ask_if_wanted(&mut state, user);
        }
        frame
    }

    fn ask_if_wanted(&self, state: &mut State, user: UserId) {
        if state.users.get(&user).is_some_and(|user| user.entry.wants()) && state.wanted.insert(user) {
            self.0.wanted.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live stream of a user's counters. Dropped, it costs nothing any more.
pub struct Subscription {
    hub: Hub,
    user: UserId,
    id: u64,
    wake: Wake,
}

impl Subscription {
    /// The next frame, made when it is asked for: it holds everything that has happened until now. Dropped while it
    /// waits, it loses nothing.
    pub async fn next(&mut self) -> Frame {
        let frame = self.wake.next(|| self.hub.take(self.user, self.id)).await;
        metrics::counter!("gateway_merged_frames_total", "field" => "unread").increment(frame.merged);
        frame
    }

    /// The last frame could not be shown: a snapshot comes in its place.
    pub fn again(&self) {
        if let Some(User { entry, .. }) = self.hub.state().users.get_mut(&self.user) {
            entry.refresh_one(self.id);
        }
    }

    /// Whether it is the only one of its user here.
    pub fn is_alone(&self) -> bool {
        self.hub.state().users.get(&self.user).is_none_or(|user| user.entry.streams() < 2)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if state.users.get_mut(&self.user).is_some_and(|user| user.entry.remove(self.id)) {
            state.users.remove(&self.user);
        }
    }
}
