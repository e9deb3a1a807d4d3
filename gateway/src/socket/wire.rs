//! WebSocket connection with an output queue: the driver receives frames as [`Event`]s and queues messages.
//!
//! Queued messages are written while frames are read, and every wait is cancel safe. The connection also
//! reports since when its client has accepted no byte.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    Bytes, Error as SocketError, Message, Utf8Bytes, error::ProtocolError, protocol::CloseFrame,
};

use super::{close::Close, frame_counter::FrameCounter};
use crate::connections::{Written, held_answers::HeldAnswer};

/// Length of the output queue at which reading pauses. Only the protocol's own answers queue up:
/// operations are not polled while any output is pending.
const QUEUE_MAX: usize = 16;
/// Longest time for a close frame to reach the client and for its answer to arrive.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a connection whose input cannot be read any more stays open after the close frame. Closing
/// the TCP connection with unread input resets it, and the client might not receive the close frame.
const LINGER: Duration = Duration::from_millis(500);

/// Open socket: frames over an upgraded HTTP connection.
pub type Socket = WebSocketStream<FrameCounter<TokioIo<Upgraded>>>;

/// Event of a connection.
#[derive(Debug)]
pub enum Event {
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary,
    /// A ping, which the library answers.
    Ping,
    /// A pong.
    Pong,
    /// This number of fragments after the first of a message, whether or not the message is complete.
    Fragments(u64),
    /// A frame over the size limit.
    TooLarge,
    /// A text frame that is not UTF-8.
    InvalidUtf8,
    /// Bytes that violate the WebSocket protocol.
    Malformed,
    /// The output queue has been written and flushed.
    Written,
    /// The client has closed the socket or disconnected.
    Disconnected,
}

impl Event {
    /// Converts the error of a read, after which no frame can be read.
    pub fn from_read_error(error: &SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => Self::TooLarge,
            SocketError::Utf8(_) => Self::InvalidUtf8,
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Disconnected,
            SocketError::Protocol(_) | SocketError::AttackAttempt => Self::Malformed,
            _ => Self::Disconnected,
        }
    }
}

/// One WebSocket connection.
pub struct Wire {
    socket: Socket,
    /// Continuation frames that were reported.
    continuations: u64,
    queue: VecDeque<Message>,
    unflushed: bool,
    unreadable: bool,
    progress: WriteProgress,
    /// The result among the pending output. It stays charged until the output is flushed.
    held: Option<Arc<HeldAnswer>>,
}

/// Time of a connection's last write progress, derived from its count of accepted bytes.
struct WriteProgress {
    written: Written,
    seen: u64,
    at: Instant,
}

impl WriteProgress {
    fn new(written: Written) -> Self {
        Self { seen: written.get(), written, at: Instant::now() }
    }

    /// Returns the time at which this method, or a write, last observed progress.
    fn last(&mut self) -> Instant {
        let written = self.written.get();
        if self.seen != written {
            self.seen = written;
            self.at = Instant::now();
        }
        self.at
    }
}

impl Wire {
    /// Creates the connection over an open socket. `written` counts the bytes that its client accepts.
    pub fn new(socket: Socket, written: Written) -> Self {
        let progress = WriteProgress::new(written);
        let queue = VecDeque::new();
        Self { socket, continuations: 0, queue, unflushed: false, unreadable: false, progress, held: None }
    }

    /// Queues a text frame.
    pub fn send(&mut self, text: String) {
        self.enqueue(Message::Text(text.into()));
    }

    /// Keeps the charge of a result that was queued until all pending output is flushed.
    pub fn hold(&mut self, answer: Arc<HeldAnswer>) {
        self.held = Some(answer);
    }

    /// Returns the result among the pending output.
    pub fn held(&self) -> Option<Arc<HeldAnswer>> {
        self.held.clone()
    }

    /// Queues a ping frame. Every WebSocket client answers it automatically.
    pub fn ping(&mut self) {
        self.enqueue(Message::Ping(Bytes::new()));
    }

    /// Returns true while output is pending.
    pub fn has_pending_output(&self) -> bool {
        self.unflushed || !self.queue.is_empty()
    }

    /// Returns the time since which the client has accepted no byte of the pending output. `None` without
    /// pending output.
    pub fn stuck_since(&mut self) -> Option<Instant> {
        self.has_pending_output().then(|| self.progress.last())
    }

    /// Waits for the next event. Cancel safe.
    pub async fn next(&mut self) -> Event {
        poll_fn(|context| self.poll(context)).await
    }

    fn enqueue(&mut self, message: Message) {
        // An idle connection made no progress because it had nothing to write: start the clock now.
        if !self.has_pending_output() {
            self.progress.at = Instant::now();
        }
        self.queue.push_back(message);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.has_pending_output() {
            match self.poll_write(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Written),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Disconnected),
                Poll::Pending => {}
            }
        }
        if let Some(fragments) = self.take_fragments() {
            return Poll::Ready(fragments);
        }
        if self.unreadable || self.queue.len() >= QUEUE_MAX {
            return Poll::Pending;
        }
        let polled = self.socket.poll_next_unpin(context);
        // After a read without a complete message too: the fragments of one may be all that arrives.
        if polled.is_pending()
            && let Some(fragments) = self.take_fragments()
        {
            return Poll::Ready(fragments);
        }
        Poll::Ready(match ready!(polled) {
            Some(Ok(Message::Text(text))) => Event::Text(text),
            Some(Ok(Message::Binary(_))) => Event::Binary,
            Some(Ok(Message::Ping(_))) => Event::Ping,
            Some(Ok(Message::Pong(_))) => Event::Pong,
            Some(Ok(Message::Close(_) | Message::Frame(_))) | None => Event::Disconnected,
            Some(Err(error)) => {
                self.unreadable = true;
                Event::from_read_error(&error)
            }
        })
    }

    /// Returns the fragments that arrived since the last call, `None` without any.
    fn take_fragments(&mut self) -> Option<Event> {
        let arrived = self.socket.get_ref().continuations();
        let fragments = arrived - std::mem::replace(&mut self.continuations, arrived);
        (fragments > 0).then_some(Event::Fragments(fragments))
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        while !self.queue.is_empty() {
            ready!(self.socket.poll_ready_unpin(context))?;
            if let Some(message) = self.queue.pop_front() {
                self.unflushed = true;
                self.progress.at = Instant::now();
                self.socket.start_send_unpin(message)?;
            }
        }
        ready!(self.socket.poll_flush_unpin(context))?;
        self.unflushed = false;
        self.held = None;
        Poll::Ready(Ok(()))
    }

    /// Writes the pending output and a close frame, then waits for the client's close frame. Gives up after
    /// [`CLOSE_TIMEOUT`].
    pub async fn close(mut self, close: Close) {
        let frame = CloseFrame { code: close.code.into(), reason: close.reason().into() };
        self.queue.push_back(Message::Close(Some(frame)));
        let handshake = async {
            poll_fn(|context| self.poll_write(context)).await?;
            if self.unreadable {
                sleep(LINGER).await;
            }
            while let Some(frame) = self.socket.next().await {
                frame?;
            }
            Ok::<_, SocketError>(())
        };
        // A client that does not answer in time is disconnected.
        drop(timeout(CLOSE_TIMEOUT, handshake).await);
    }

    /// Answers the client's close frame.
    pub async fn finish(mut self) {
        let answer = async { while let Some(Ok(_)) = self.socket.next().await {} };
        drop(timeout(CLOSE_TIMEOUT, answer).await);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_accepted_byte_is_progress() {
        let written = Written::default();
        let started = Instant::now();
        let mut progress = WriteProgress::new(written.clone());
        advance(Duration::from_secs(20)).await;
        assert_eq!(progress.last(), started);
        written.add(1);
        assert_eq!(progress.last(), started + Duration::from_secs(20));
        advance(Duration::from_secs(20)).await;
        assert_eq!(progress.last(), started + Duration::from_secs(20), "no further byte was accepted");
    }
}
