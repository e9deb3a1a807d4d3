//! The live messages of a dialog: what changes is heard from the log as ids, fetched once for all who watch, and told to
//! those alone whom the dialog service names as members in the same answer. A reader that comes back is told what it has
//! missed; one that cannot follow is told to load the history again.

mod entry;
pub mod frame;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod rules;
mod subscriber;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use entry::{Answer, Entry, Next, Question};
use frame::{Event, Frame};
use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use proto::{DialogId, MessageId, UserId, dialog};
use subscriber::Missed;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use wake::Wake;

use super::{Backoff, Counted, Person, Service, persistently};
use crate::{error::Error, version::Version};

/// Messages that a stream may be owed; a RESET takes the place of more.
const OWED_MAX: usize = 1000;
/// Questions at once, of different dialogs.
const QUESTIONS: usize = 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all streams together may hold of messages that they replay, in kB. Who comes when there is no more is told to load
/// the history.
const REPLAYS_MAX_KB: usize = 128 * 1024;

/// The streams of all dialogs of this process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wanted: Notify,
    service: Service,
    replays: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    dialogs: HashMap<DialogId, Dialog>,
    wanted: BTreeSet<DialogId>,
    last: u64,
}

struct Dialog {
    entry: Entry,
    /// Tells one life of an entry from the next: an answer is heard only by the one that asked.
    life: u64,
    _counted: Counted,
}

impl Hub {
    /// Without streams. Live messages are asked with the service token.
    pub fn new(service: Service) -> Self {
        let replays = Arc::new(Semaphore::new(REPLAYS_MAX_KB));
        Self(Arc::new(Shared { state: Mutex::default(), wanted: Notify::new(), service, replays }))
    }

    /// A new stream of a dialog for a person who knows `since`. While the dialog service is away, it is asked again.
    ///
    /// # Errors
    /// NOT_FOUND where the person takes no part, or as the dialog service says.
    pub async fn subscribe(
        &self,
        person: &Person,
        dialog: DialogId,
        since: Option<Version>,
    ) -> Result<Subscription, Error> {
        let mut subscription = self.register(person.user, dialog);
        let request =
            dialog::MessagesSinceRequest { dialog_id: dialog.bytes(), since: since.map(Version::into) };
        let reply = persistently(|| {
            let call = person.call(PATIENCE);
            let mut client = self.0.service.peers.dialog(&call);
            let request = request.clone();
            async move { client.messages_since(request).await }
        });
        let reply = reply.await?.into_inner();
        let head = reply.head.ok_or_else(|| Error::internal("missed messages without a version"))?;
        let size_bytes: usize = reply.messages.iter().map(Message::encoded_len).sum();
        let size_kb = u32::try_from(size_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        subscription.replay = self.0.replays.clone().try_acquire_many_owned(size_kb).ok();
        let messages = if subscription.replay.is_some() { reply.messages } else { Vec::new() };
        let reset = reply.reset || subscription.replay.is_none();
        let missed = Missed { since, head: head.into(), messages, reset };
        if let Some(Dialog { entry, .. }) = self.state().dialogs.get_mut(&dialog) {
            entry.open(subscription.id, missed);
        }
        Ok(subscription)
    }

    fn register(&self, user: UserId, dialog: DialogId) -> Subscription {
        let wake = Wake::new();
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        let new = || Dialog {
            entry: Entry::new(OWED_MAX),
            life: id,
            _counted: Counted::new("gateway_hub_dialogs"),
        };
        state.dialogs.entry(dialog).or_insert_with(new).entry.register(id, user, wake.clone());
        drop(state);
        Subscription { hub: self.clone(), dialog, id, wake, replay: None }
    }

    /// An event of the log.
    pub fn hear(&self, dialog: DialogId, event: Event) {
        let mut state = self.state();
        if let Some(Dialog { entry, .. }) = state.dialogs.get_mut(&dialog) {
            entry.hear(event);
            self.ask_if_wanted(&mut state, dialog);
        }
    }

    /// Events are missing: every stream is owed a RESET.
    pub fn refresh(&self) {
        self.state().dialogs.values_mut().for_each(|dialog| dialog.entry.refresh());
    }

    /// Fetches what streams are owed, until shut down. While the dialog service is away, it is asked again.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut again = BTreeSet::new();
        let mut retry_at = Instant::now();
        let mut questions = FuturesUnordered::new();
        loop {
            while questions.len() < QUESTIONS
                && let Some((dialog, life, question)) = self.question()
            {
                questions.push(self.ask(dialog, life, question));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.0.wanted.notified() => {}
                Some(unhelped) = questions.next(), if !questions.is_empty() => match unhelped {
                    None => backoff.reset(),
                    Some(dialog) => {
                        if again.is_empty() {
                            retry_at = Instant::now() + backoff.next();
                        }
                        again.insert(dialog);
                    }
                },
                () = tokio::time::sleep_until(retry_at), if !again.is_empty() => {
                    self.state().wanted.append(&mut again);
                }
            }
        }
    }

    /// As if other streams held all of it, until dropped.
    #[cfg(test)]
    pub fn without_room(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(REPLAYS_MAX_KB).expect("a small number");
        self.0.replays.clone().try_acquire_many_owned(all).expect("nothing is held")
    }

    /// Whether no stream holds anything of it.
    #[cfg(test)]
    pub fn has_room(&self) -> bool {
        self.0.replays.available_permits() == REPLAYS_MAX_KB
    }

    fn question(&self) -> Option<(DialogId, u64, Question)> {
        let mut state = self.state();
        while let Some(dialog) = state.wanted.pop_first() {
            if let Some(Dialog { entry, life, .. }) = state.dialogs.get_mut(&dialog)
                && let Some(question) = entry.ask()
            {
                return Some((dialog, *life, question));
            }
        }
        None
    }

    /// Asks and tells the entry. Gives the dialog where asking again at once is no use.
    async fn ask(&self, dialog: DialogId, life: u64, question: Question) -> Option<DialogId> {
        let answer = self.live(dialog, &question).await;
        let mut state = self.state();
        let entry = &mut state.dialogs.get_mut(&dialog).filter(|dialog| dialog.life == life)?.entry;
        let helped = match answer {
            Ok(answer) => entry.answered(&question, answer),
            Err(error) => {
                tracing::warn!(dialog_id = %dialog, %error, "no live messages; they are asked for again");
                entry.unanswered(question);
                false
            }
        };
        if helped {
            self.ask_if_wanted(&mut state, dialog);
            return None;
        }
        Some(dialog)
    }

    async fn live(&self, dialog: DialogId, question: &Question) -> Result<Answer, Error> {
        let request = dialog::LiveRequest {
            dialog_id: dialog.bytes(),
            message_ids: question.messages.iter().map(|id| id.bytes()).collect(),
            user_ids: question.users.iter().map(|id| id.bytes()).collect(),
        };
        let call = self.0.service.call(PATIENCE);
        let reply = self.0.service.peers.dialog(&call).live(request).await?.into_inner();
        let head = reply.head.ok_or_else(|| Error::internal("live messages without a version"))?;
        let with_id = |message: dialog::Message| Ok((MessageId::parse(&message.id)?, message));
        Ok(Answer {
            head: head.into(),
            messages: reply.messages.into_iter().map(with_id).collect::<Result<_, Error>>()?,
            members: UserId::parse_all(&reply.member_ids)?.into_iter().collect(),
        })
    }

    fn take(&self, dialog: DialogId, id: u64) -> Next {
        let mut state = self.state();
        let Some(Dialog { entry, .. }) = state.dialogs.get_mut(&dialog) else { return Next::Over };
        let next = entry.take(id);
        if next == Next::Wait {
            self.ask_if_wanted(&mut state, dialog);
        }
        next
    }

    fn ask_if_wanted(&self, state: &mut State, dialog: DialogId) {
        if state.dialogs.get(&dialog).is_some_and(|dialog| dialog.entry.wants())
            && state.wanted.insert(dialog)
        {
            self.0.wanted.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live stream of a dialog's messages. Dropped, it costs nothing any more.
pub struct Subscription {
    hub: Hub,
    dialog: DialogId,
    id: u64,
    wake: Wake,
    /// Room for what it replays, until it has given all of it.
    replay: Option<OwnedSemaphorePermit>,
}

impl Subscription {
    /// The next frame; `None` when the person has left the dialog. Dropped while it waits, it loses nothing.
    pub async fn next(&mut self) -> Option<Frame> {
        let Self { hub, dialog, id, wake, replay } = self;
        let next = || match hub.take(*dialog, *id) {
            Next::Frame(frame) => Some(Some(frame)),
            Next::Over => Some(None),
            Next::Wait => {
                *replay = None;
                None
            }
        };
        wake.next(next).await
    }

    /// The last frame could not be shown: a RESET comes in its place.
    pub fn again(&self) {
        if let Some(Dialog { entry, .. }) = self.hub.state().dialogs.get_mut(&self.dialog) {
            entry.refresh_one(self.id);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        if state.dialogs.get_mut(&self.dialog).is_some_and(|dialog| dialog.entry.remove(self.id)) {
            state.dialogs.remove(&self.dialog);
        }
    }
}
