//! A WebSocket as the driver sees it: frames in, a few texts out, and whether it can take more. What is to be written is
//! written while frames are read; nothing is lost where the driver turns to something else meanwhile.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket},
};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep, timeout};
use tungstenite::Error as SocketError;

use super::close::Close;
use crate::connections::Written;

/// Answers of the protocol that wait to be written before nothing more is read. Results do not wait here: their
/// operations are not asked while anything does.
const WAITING_MAX: usize = 16;
/// How long a close may take to reach the client, and its answer to come back.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the connection is kept for a client whose frames cannot be read any more, so that it hears the reason.
const LINGER: Duration = Duration::from_millis(500);

/// What the wire has to say.
#[derive(Debug)]
pub enum Event {
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary,
    /// A ping or a pong.
    Control,
    /// A frame that is too long.
    TooLarge,
    /// A text frame that is not UTF-8.
    NotText,
    /// Not the WebSocket protocol.
    Malformed,
    /// Everything has been written.
    Written,
    /// The client has closed, or is gone.
    Gone,
}

/// One WebSocket.
pub struct Wire {
    socket: WebSocket,
    waiting: VecDeque<Message>,
    unflushed: bool,
    unreadable: bool,
    moved: Moved,
}

/// When a connection took something last.
struct Moved {
    written: Written,
    seen: u64,
    at: Instant,
}

impl Moved {
    fn new(written: Written) -> Self {
        Self { seen: written.get(), written, at: Instant::now() }
    }

    /// As far as is known now.
    fn at(&mut self) -> Instant {
        let written = self.written.get();
        if self.seen != written {
            (self.seen, self.at) = (written, Instant::now());
        }
        self.at
    }
}

impl Wire {
    /// Over a socket that was just opened, whose connection counts there.
    pub fn new(socket: WebSocket, written: Written) -> Self {
        let moved = Moved::new(written);
        Self { socket, waiting: VecDeque::new(), unflushed: false, unreadable: false, moved }
    }

    /// Has a text written.
    pub fn send(&mut self, text: String) {
        self.queue(Message::Text(text.into()));
    }

    /// Has a ping written, which every WebSocket client answers by itself.
    pub fn probe(&mut self) {
        self.queue(Message::Ping(Bytes::new()));
    }

    /// Whether something is still to be written.
    pub fn is_busy(&self) -> bool {
        self.unflushed || !self.waiting.is_empty()
    }

    /// Since when what is to be written does not move, as far as is known now: the client takes nothing, not even a part.
    pub fn stuck_since(&mut self) -> Option<Instant> {
        self.is_busy().then(|| self.moved.at())
    }

    /// What happens next. Dropped while it waits, it loses nothing.
    pub async fn next(&mut self) -> Event {
        poll_fn(|context| self.poll(context)).await
    }

    fn queue(&mut self, message: Message) {
        if !self.is_busy() {
            self.moved.at = Instant::now();
        }
        self.waiting.push_back(message);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.is_busy() {
            match self.poll_write(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Written),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                Poll::Pending => {}
            }
        }
        if self.unreadable || self.waiting.len() >= WAITING_MAX {
            return Poll::Pending;
        }
        Poll::Ready(match ready!(self.socket.poll_next_unpin(context)) {
            Some(Ok(Message::Text(text))) => Event::Text(text),
            Some(Ok(Message::Binary(_))) => Event::Binary,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Event::Control,
            Some(Ok(Message::Close(_))) | None => Event::Gone,
            Some(Err(error)) => {
                self.unreadable = true;
                broken(error.into_inner().as_ref())
            }
        })
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), axum::Error>> {
        while !self.waiting.is_empty() {
            ready!(self.socket.poll_ready_unpin(context))?;
            if let Some(message) = self.waiting.pop_front() {
                self.unflushed = true;
                self.moved.at = Instant::now();
                self.socket.start_send_unpin(message)?;
            }
        }
        ready!(self.socket.poll_flush_unpin(context))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Closes with this code and reason, after what is still to be written, and waits a moment for the client to do the
    /// same: a connection that is cut while it sends may never hear the reason.
    pub async fn close(mut self, close: Close) {
        let frame = CloseFrame { code: close.code, reason: close.reason().into() };
        self.waiting.push_back(Message::Close(Some(frame)));
        let handshake = async {
            poll_fn(|context| self.poll_write(context)).await?;
            if self.unreadable {
                sleep(LINGER).await;
            }
            while let Some(frame) = self.socket.next().await {
                frame?;
            }
            Ok::<_, axum::Error>(())
        };
        // Whoever does not answer in time is cut off.
        drop(timeout(CLOSE_PATIENCE, handshake).await);
    }

    /// Answers the client's own close.
    pub async fn end(mut self) {
        let answer = async { while let Some(Ok(_)) = self.socket.next().await {} };
        drop(timeout(CLOSE_PATIENCE, answer).await);
    }
}

/// What it means that no frame can be read any more.
pub fn broken(error: &(dyn std::error::Error + 'static)) -> Event {
    match error.downcast_ref::<SocketError>() {
        Some(SocketError::Capacity(_)) => Event::TooLarge,
        Some(SocketError::Utf8(_)) => Event::NotText,
        Some(SocketError::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
            Event::Gone
        }
        Some(SocketError::Protocol(_) | SocketError::AttackAttempt) => Event::Malformed,
        _ => Event::Gone,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_moves_with_every_byte_that_it_takes() {
        let (written, begun) = (Written::default(), Instant::now());
        let mut moved = Moved::new(written.clone());
        advance(Duration::from_secs(20)).await;
        assert_eq!(moved.at(), begun);
        written.add(1);
        assert_eq!(moved.at(), begun + Duration::from_secs(20));
        advance(Duration::from_secs(20)).await;
        assert_eq!(moved.at(), begun + Duration::from_secs(20), "nothing more was taken");
    }
}
