//! Answers that their clients have not taken yet. An answer whose client makes no progress is dropped, and
//! its memory is free, although its connection may live on.
//!
//! Progress is that of the answer's own stream: on HTTP/2 a client can keep a connection busy and never open
//! the window of one of its streams. The HTTP server does not poll the body of such a stream, so the body
//! cannot time out by itself; [`HeldAnswers::run`] looks at all of them.

use std::{
    future::pending,
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    STUCK_MAX, Written,
    answer_budget::{AnswerBudget, Reservation},
};

/// Interval at which the progress of all held answers is examined.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Longest time without progress while other operations wait for room in the budget of the process.
const STUCK_MAX_EXHAUSTED: Duration = Duration::from_secs(1);
/// Lowest average rate at which a client must take an answer, in bytes per second, after the time that it may
/// be stuck. A slow phone manages it; a client that takes a byte at a time to hold memory does not.
const RATE_MIN: u64 = 16 * 1024;
/// Most bytes that are handed to the HTTP server at once: a frame of HTTP/2. What is handed over is in the
/// server's buffers and cannot be dropped any more.
const PIECE_MAX_BYTES: usize = 16 * 1024;

/// The answers of a gateway that their clients have not taken yet. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct HeldAnswers(Arc<State>);

struct State {
    budget: AnswerBudget,
    watched: Mutex<Vec<Watched>>,
}

/// Progress of a held answer, as the sweep has seen it.
struct Watched {
    answer: Weak<HeldAnswer>,
    created_at: Instant,
    /// Bytes that the client had taken of its connection or stream when the answer was created.
    taken_before: u64,
    taken: u64,
    progress_at: Instant,
}

/// One answer, or one result of a stream, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldAnswer {
    /// Counts the bytes that the client takes of the stream or connection to which this answer is written.
    taken: Written,
    state: Mutex<HeldState>,
    dropped: Notify,
}

#[derive(Debug)]
struct HeldState {
    /// The part that has not been handed to the HTTP server. Empty for an answer that the library of a socket
    /// holds.
    bytes: Bytes,
    reservation: Option<Arc<Reservation>>,
    /// The HTTP server has received a part.
    has_pieces: bool,
    is_dropped: bool,
}

impl HeldAnswers {
    /// Creates an empty collection whose answers share this budget.
    pub fn new(budget: AnswerBudget) -> Self {
        Self(Arc::new(State { budget, watched: Mutex::default() }))
    }

    /// Returns the budget.
    pub fn budget(&self) -> &AnswerBudget {
        &self.0.budget
    }

    /// Creates the body of a whole answer.
    pub(crate) fn body(&self, bytes: Bytes, reservation: Option<Reservation>) -> Body {
        let answer = self.hold(bytes, reservation.map(Arc::new), Written::default());
        Body::new(AnswerBody { current: Some(answer), results: None })
    }

    /// Creates the body of a stream of results, which ends when the channel is closed.
    pub(crate) fn stream_body(results: mpsc::Receiver<Arc<HeldAnswer>>) -> Body {
        Body::new(AnswerBody { current: None, results: Some(results) })
    }

    /// Watches an answer from now on. `taken` counts the bytes that the client takes of its stream or
    /// connection.
    pub(crate) fn hold(
        &self,
        bytes: Bytes,
        reservation: Option<Arc<Reservation>>,
        taken: Written,
    ) -> Arc<HeldAnswer> {
        let taken_before = taken.get();
        let now = Instant::now();
        let state = Mutex::new(HeldState { bytes, reservation, has_pieces: false, is_dropped: false });
        let answer = Arc::new(HeldAnswer { taken, state, dropped: Notify::new() });
        self.0.watched.lock().push(Watched {
            answer: Arc::downgrade(&answer),
            created_at: now,
            taken_before,
            taken: taken_before,
            progress_at: now,
        });
        answer
    }

    /// Drops the answers that make no progress, until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sweeping = async {
            loop {
                ticks.tick().await;
                self.sweep(Instant::now());
            }
        };
        shutdown.run_until_cancelled(sweeping).await;
    }

    fn sweep(&self, now: Instant) {
        let stuck_max = if self.0.budget.is_exhausted() { STUCK_MAX_EXHAUSTED } else { STUCK_MAX };
        // Answers are dropped after the lock is released: their destructors take other locks.
        let mut stuck = Vec::new();
        self.0.watched.lock().retain_mut(|watched| {
            let Some(answer) = watched.answer.upgrade() else { return false };
            let is_stuck = watched.is_stuck(answer.taken.get(), stuck_max, now);
            if is_stuck {
                stuck.push(answer);
            }
            !is_stuck
        });
        if !stuck.is_empty() {
            metrics::counter!("gateway_answers_dropped_total").increment(stuck.len() as u64);
        }
        stuck.iter().for_each(|answer| answer.drop_contents());
        metrics::gauge!("gateway_answer_bytes").set(self.0.budget.reserved_bytes() as f64);
    }
}

impl Watched {
    fn is_stuck(&mut self, taken: u64, stuck_max: Duration, now: Instant) -> bool {
        if self.taken != taken {
            self.taken = taken;
            self.progress_at = now;
        }
        let earned = Duration::from_secs((taken - self.taken_before) / RATE_MIN);
        now - self.progress_at >= stuck_max || now - self.created_at >= stuck_max + earned
    }
}

impl HeldAnswer {
    /// Completes when the answer is dropped because its client makes no progress.
    pub(crate) async fn dropped(&self) {
        loop {
            let notified = self.dropped.notified();
            if self.state.lock().is_dropped {
                return;
            }
            notified.await;
        }
    }

    fn drop_contents(&self) {
        let mut state = self.state.lock();
        state.is_dropped = true;
        state.bytes = Bytes::new();
        let reservation = state.reservation.take();
        if let Some(reservation) = &reservation
            && state.has_pieces
        {
            // The HTTP server may hold a piece until it closes the stream: it stays charged to the client,
            // whose streams are limited, and not to the process, where it would keep others out.
            reservation.abandon(PIECE_MAX_BYTES);
            state.reservation = Some(reservation.clone());
        }
        drop(state);
        self.dropped.notify_waiters();
    }

    /// Takes the next piece, `None` at the end.
    ///
    /// # Errors
    /// `TimedOut` if the answer was dropped.
    fn take_piece(self: &Arc<Self>) -> io::Result<Option<Bytes>> {
        let mut state = self.state.lock();
        if state.is_dropped {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if state.bytes.is_empty() {
            return Ok(None);
        }
        let length = state.bytes.len().min(PIECE_MAX_BYTES);
        let bytes = if !state.has_pieces && length == state.bytes.len() {
            std::mem::take(&mut state.bytes)
        } else {
            // A copy: a slice would keep the whole answer in memory until the last piece is written.
            Bytes::copy_from_slice(&state.bytes.split_to(length))
        };
        state.has_pieces = true;
        drop(state);
        self.taken.add(length);
        Ok(Some(Bytes::from_owner(Piece { bytes, _answer: self.clone() })))
    }

    fn remaining_bytes(&self) -> usize {
        self.state.lock().bytes.len()
    }
}

/// Completes when an answer is dropped because its client makes no progress. Never completes without one.
pub(crate) async fn dropped(answer: Option<&HeldAnswer>) {
    match answer {
        Some(answer) => answer.dropped().await,
        None => pending().await,
    }
}

/// Piece of an answer. The answer is charged until the HTTP server has dropped its last piece.
struct Piece {
    bytes: Bytes,
    _answer: Arc<HeldAnswer>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Body of a whole answer, or of a stream of results.
struct AnswerBody {
    current: Option<Arc<HeldAnswer>>,
    /// Further results. `None` for a whole answer.
    results: Option<mpsc::Receiver<Arc<HeldAnswer>>>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(current) = &self.current {
                match current.take_piece() {
                    Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                    Ok(None) => self.current = None,
                    Err(error) => {
                        self.current = None;
                        self.results = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            let Some(results) = &mut self.results else { return Poll::Ready(None) };
            match ready!(results.poll_recv(context)) {
                Some(result) => self.current = Some(result),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.results.is_none() && self.remaining_bytes() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining_bytes() {
            Some(bytes) => SizeHint::with_exact(bytes as u64),
            None => SizeHint::default(),
        }
    }
}

impl AnswerBody {
    /// Returns the bytes that remain of a whole answer. `None` for a stream.
    fn remaining_bytes(&self) -> Option<usize> {
        match (&self.current, &self.results) {
            (_, Some(_)) => None,
            (Some(current), None) => Some(current.remaining_bytes()),
            (None, None) => Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proto::UserId;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::connections::answer_budget::{Account, CLIENT_MAX_BYTES};

    struct Fixture {
        answers: HeldAnswers,
        account: Account,
    }

    impl Fixture {
        /// Returns a collection over a budget of 8 MiB whose answers are swept.
        fn new() -> Self {
            let answers = HeldAnswers::new(AnswerBudget::new(CLIENT_MAX_BYTES));
            let sweeping = answers.clone();
            tokio::spawn(async move { sweeping.run(&CancellationToken::new()).await });
            Self { answers, account: Account::User(UserId::now()) }
        }

        async fn reserve(&self, bytes: usize) -> Reservation {
            self.answers.budget().reserve(self.account, bytes).await.expect("room")
        }

        async fn body(&self, bytes: usize) -> Body {
            self.answers.body(vec![b'x'; bytes].into(), Some(self.reserve(bytes).await))
        }

        fn reserved_kib(&self) -> usize {
            self.answers.budget().reserved_bytes() / 1024
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_charged_until_its_last_piece_is_written() {
        let fixture = Fixture::new();
        let mut body = fixture.body(40 * 1024).await;
        assert_eq!(body.size_hint().exact(), Some(40 * 1024));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.expect("a piece").into_data().expect("data"));
        }
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [16_384, 16_384, 8_192]);
        drop(body);
        assert_eq!(fixture.reserved_kib(), 40, "the HTTP server has written nothing yet");
        pieces.truncate(1);
        assert_eq!(fixture.reserved_kib(), 40);
        pieces.clear();
        assert_eq!(fixture.reserved_kib(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_without_progress_is_dropped_after_30_seconds() {
        let fixture = Fixture::new();
        let mut untouched = fixture.body(1 << 20).await;
        let mut begun = fixture.body(1 << 20).await;
        let piece = begun.frame().await.expect("a frame").expect("a piece");
        sleep(STUCK_MAX - Duration::from_secs(1)).await;
        assert_eq!(fixture.reserved_kib(), 2048);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(fixture.reserved_kib(), 0, "the bodies still exist");
        for body in [&mut untouched, &mut begun] {
            assert!(body.frame().await.expect("an error").is_err(), "the stream is reset");
            assert!(body.frame().await.is_none());
        }
        drop((begun, piece));
        assert!(fixture.answers.budget().reserve(fixture.account, CLIENT_MAX_BYTES).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_finishes_and_one_that_takes_a_piece_now_and_then_is_cut() {
        let fixture = Fixture::new();
        let mut slow = fixture.body(1 << 20).await;
        let reading = async {
            for _ in 0..64 {
                sleep(Duration::from_secs(1)).await;
                slow.frame().await.expect("a frame").expect("a piece of 16 KiB a second");
            }
        };
        reading.await;
        let mut dripping = fixture.body(1 << 20).await;
        let mut taken = 0;
        loop {
            sleep(STUCK_MAX / 2).await;
            match dripping.frame().await.expect("a frame") {
                Ok(_) => taken += 1,
                Err(_) => break,
            }
        }
        assert!((1..=3).contains(&taken), "{taken} pieces");
    }

    #[tokio::test(start_paused = true)]
    async fn an_exhausted_budget_is_freed_from_answers_that_make_no_progress() {
        let fixture = Fixture::new();
        let stuck = fixture.body(CLIENT_MAX_BYTES).await;
        let other = Account::User(UserId::now());
        let started = Instant::now();
        assert!(fixture.answers.budget().reserve(other, 1 << 20).await.is_ok());
        assert!(started.elapsed() < Duration::from_millis(1_500), "{:?}", started.elapsed());
        drop(stuck);
    }

    #[tokio::test(start_paused = true)]
    async fn results_of_a_stream_are_in_progress_while_an_earlier_one_is_read() {
        let fixture = Fixture::new();
        let taken = Written::default();
        let (sender, receiver) = mpsc::channel(2);
        for _ in 0..2 {
            let reservation = Arc::new(fixture.reserve(1 << 20).await);
            let result = vec![b'x'; 1 << 20].into();
            let held = fixture.answers.hold(result, Some(reservation), taken.clone());
            sender.send(held).await.expect("the body is open");
        }
        drop(sender);
        let mut body = HeldAnswers::stream_body(receiver);
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.expect("a piece").into_data().expect("data").len();
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!((bytes, fixture.reserved_kib()), (2 << 20, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_owner_of_an_answer_learns_that_it_was_dropped() {
        let fixture = Fixture::new();
        let reservation = Arc::new(fixture.reserve(1).await);
        let held = fixture.answers.hold(Bytes::new(), Some(reservation), Written::default());
        let started = Instant::now();
        held.dropped().await;
        assert!(started.elapsed() >= STUCK_MAX && started.elapsed() < STUCK_MAX * 2);
        held.dropped().await;
    }
}
