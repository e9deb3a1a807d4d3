//! Queue of sends: those that arrive while a transaction is running are stored together by the next one
//! (group commit). There is no timer: a send that finds no transaction running starts one. Each send is
//! answered after the commit.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use db::Db;
use parking_lot::Mutex;
use telemetry::{
    Traceparent,
    trace::{Kind, Span},
};
use tokio::{sync::oneshot, time::Instant};
use tracing::Instrument;

use super::batch::{self, Outcome, Send};
use crate::Error;

/// Maximum number of sends per transaction.
const BATCH_MAX: usize = 256;
/// Maximum size of the texts per transaction, in bytes.
const BATCH_MAX_BYTES: usize = 1024 * 1024;
/// Maximum number of waiting sends. More are refused.
const WAITING_MAX: usize = 2_048;
/// Age of the oldest waiting send at which new ones are refused: the database does not keep up.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Queue of one process. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Sends>);

#[derive(Debug)]
struct Sends {
    db: Db,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// A task stores the waiting sends.
    is_running: bool,
}

#[derive(Debug)]
struct Waiting {
    send: Send,
    since: Instant,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

impl Queue {
    /// Creates an empty queue for sends into this database.
    pub(crate) fn new(db: &Db) -> Self {
        Self(Arc::new(Sends { db: db.clone(), state: Mutex::default() }))
    }

    /// Stores a send together with others. If the caller stops waiting, the send is stored nevertheless.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many sends wait, or the oldest waits too long; [`Error::Interrupted`] if the
    /// storing task panicked; [`Error::Database`].
    pub(super) async fn store(&self, send: Send) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            let now = Instant::now();
            if state.is_full(now) {
                metrics::counter!("sends_refused_total").increment(1);
                return Err(Error::Busy);
            }
            state.waiting.push_back(Waiting { send, since: now, answer });
            if !state.is_running {
                state.is_running = true;
                let running = Running(self.clone());
                self.0.db.spawn(running.store_all());
            }
        }
        // Dropped only if the task panicked, which the panic hook has logged.
        answered.await.unwrap_or(Err(Error::Interrupted))
    }
}

impl State {
    fn is_full(&self, now: Instant) -> bool {
        let is_late = self.waiting.front().is_some_and(|oldest| now - oldest.since > WAIT_MAX);
        is_late || self.waiting.len() >= WAITING_MAX
    }

    /// Takes the sends of the next transaction, oldest first. Of two sends with the same author and
    /// client key the second waits for the next transaction, which finds the result of the first.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let mut batch = Vec::new();
        let mut postponed = Vec::new();
        let mut keys = BTreeSet::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MAX
            && let Some(next) = self.waiting.pop_front()
        {
            let Send { author, new, .. } = &next.send;
            bytes += new.text.as_str().len();
            if bytes > BATCH_MAX_BYTES && !batch.is_empty() {
                self.waiting.push_front(next);
                break;
            }
            match &new.client_key {
                Some(key) if !keys.insert((*author, key.as_str().to_owned())) => postponed.push(next),
                _ => batch.push(next),
            }
        }
        for next in postponed.into_iter().rev() {
            self.waiting.push_front(next);
        }
        batch
    }
}

/// The task that stores the waiting sends; at most one per queue. If it panics, the sends that wait are
/// answered with an error, and the next send starts another task.
struct Running(Queue);

impl Running {
    async fn store_all(self) {
        while let Some(batch) = self.next_batch() {
            let span = tracing::info_span!(parent: None, "dialog.messages.store", sends = batch.len());
            self.store_traced(batch).instrument(span).await;
        }
    }

    /// Returns the next batch, and ends the task if no send waits.
    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut state = self.0.0.state.lock();
        let batch = state.take_batch();
        state.is_running = !batch.is_empty();
        state.is_running.then_some(batch)
    }

    /// Stores a batch. If one of its requests is traced, within a span of all of them.
    async fn store_traced(&self, mut batch: Vec<Waiting>) {
        let causes: Vec<Traceparent> =
            batch.iter().filter_map(|waiting| waiting.send.cause.sampled()).collect();
        let Some((first, others)) = causes.split_first() else {
            return self.store_batch(batch).await;
        };
        let mut span = Span::linked(Kind::Client, || "transaction store messages", Some(*first), others);
        span.set("db.system.name", self.0.0.db.dialect().system());
        span.set("db.operation.batch.size", i64::try_from(batch.len()).unwrap_or(i64::MAX));
        // The events of the first send follow from the span, those of the others from their own requests.
        let first = batch.iter_mut().find(|waiting| waiting.send.cause.sampled().is_some());
        if let Some(Waiting { send, .. }) = first {
            send.cause = send.cause.within(&span);
        }
        self.store_batch(batch).await;
    }

    async fn store_batch(&self, batch: Vec<Waiting>) {
        metrics::counter!("send_batches_total").increment(1);
        let (sends, answers): (Vec<Send>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.send, waiting.answer)).unzip();
        match self.transact(&sends).await {
            Ok(outcomes) => {
                for (outcome, answer) in outcomes.into_iter().zip(answers) {
                    drop(answer.send(Ok(outcome)));
                }
            }
            // The database refused a row, which fails the statement: each by itself, so that it fails
            // only its own send.
            Err(error) if sends.len() > 1 && !matches!(error, db::Error::Unavailable(_)) => {
                for (send, answer) in sends.iter().zip(answers) {
                    let outcomes = self.transact(std::slice::from_ref(send)).await;
                    let outcome = outcomes.map(|outcomes| outcomes.into_iter().next().expect("one send"));
                    drop(answer.send(outcome.map_err(Error::from)));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for answer in answers {
                    drop(answer.send(Err(Error::Database(error.clone()))));
                }
            }
        }
    }

    async fn transact(&self, sends: &[Send]) -> Result<Vec<Outcome>, db::Error> {
        let mut tx = self.0.0.db.begin().await?;
        let outcomes = batch::store(&mut tx, sends).await?;
        tx.commit().await?;
        Ok(outcomes)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.0.state.lock();
            state.is_running = false;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use events::Headers;
    use proto::{DialogId, MessageId, TransactionId, UserId};

    use super::{super::NewMessage, *};
    use crate::text::{ClientKey, Text};

    fn waiting(author: UserId, key: Option<&str>, bytes: usize) -> Waiting {
        let new = NewMessage {
            id: MessageId::now(),
            transaction_id: TransactionId::now(),
            dialog_id: DialogId::now(),
            text: Text::parse("x".repeat(bytes)).unwrap(),
            client_key: key.map(|key| ClientKey::parse(key.to_owned()).unwrap()),
            read_up_to: None,
        };
        let (answer, _) = oneshot::channel();
        Waiting { send: Send { author, new, cause: Headers::default() }, since: Instant::now(), answer }
    }

    fn state(waiting: impl IntoIterator<Item = Waiting>) -> State {
        State { waiting: waiting.into_iter().collect(), is_running: false }
    }

    #[test]
    fn a_batch_is_limited_in_sends_and_bytes() {
        let author = UserId::now();
        let mut many = state((0..BATCH_MAX + 3).map(|_| waiting(author, None, 1)));
        assert_eq!((many.take_batch().len(), many.take_batch().len(), many.take_batch().len()), (256, 3, 0));
        // A text has at most 16,000 bytes, so 65 of the longest fit into 1 MiB.
        let longest = |_| {
            let mut waiting = waiting(author, None, 1);
            waiting.send.new.text = Text::parse("👋".repeat(4_000)).unwrap();
            waiting
        };
        let mut large = state((0..70).map(longest));
        assert_eq!((large.take_batch().len(), large.take_batch().len()), (65, 5));
    }

    #[test]
    fn a_repeated_client_key_waits_for_the_next_batch_in_its_place() {
        let a = UserId::now();
        let b = UserId::now();
        let sends =
            [(a, Some("1")), (a, Some("2")), (a, Some("1")), (b, Some("1")), (a, Some("1")), (a, None)];
        let sends: Vec<Waiting> = sends.into_iter().map(|(author, key)| waiting(author, key, 1)).collect();
        let ids: Vec<MessageId> = sends.iter().map(|waiting| waiting.send.new.id).collect();
        let mut state = state(sends);
        let mut next = || {
            let batch = state.take_batch();
            let place = |waiting: &Waiting| ids.iter().position(|id| *id == waiting.send.new.id).unwrap();
            batch.iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(next(), [0, 1, 3, 5]);
        assert_eq!(next(), [2]);
        assert_eq!(next(), [4]);
        assert!(next().is_empty());
    }

    #[test]
    fn a_send_is_refused_if_too_many_wait_or_the_oldest_waits_too_long() {
        let now = Instant::now();
        let author = UserId::now();
        let mut state = state((0..WAITING_MAX - 1).map(|_| waiting(author, None, 1)));
        assert!(!state.is_full(now));
        state.waiting.push_back(waiting(author, None, 1));
        assert!(state.is_full(now));
        state.take_batch();
        assert!(!state.is_full(now));
        assert!(state.is_full(Instant::now() + WAIT_MAX + Duration::from_millis(1)));
    }
}
