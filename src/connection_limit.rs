//! TCP listener with a limit on open connections. A connection beyond the limit is answered 503 and
//! closed, instead of waiting in the kernel's backlog for a server that does not accept it.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Answer to a connection beyond the limit.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 37\r\n\
    retry-after: 3\r\nconnection: close\r\n\r\ntoo many connections, try again later";
/// Number of refused connections that stay open after the answer. Closing one while its client still
/// writes causes a reset, and the client may then discard the 503 unread; so the oldest one closes only
/// when the next one is refused.
const REFUSED_OPEN_MAX: usize = 64;

/// Listener that accepts a limited number of concurrent connections.
#[derive(Debug)]
pub struct LimitedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    refused: VecDeque<TcpStream>,
}

impl LimitedListener {
    /// Wraps a listener; at most `connections_max` connections are open at a time.
    pub fn new(listener: TcpListener, connections_max: u32) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max as usize));
        Self { listener, permits, refused: VecDeque::new() }
    }

    /// Answers 503 without reading the request. The socket buffer of a new connection is empty, so one
    /// write suffices.
    fn refuse(&mut self, stream: TcpStream) {
        metrics::counter!("http_connections_refused_total").increment(1);
        if stream.try_write(FULL).is_ok() {
            if self.refused.len() == REFUSED_OPEN_MAX {
                self.refused.pop_front();
            }
            self.refused.push_back(stream);
        }
    }
}

impl Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match self.permits.clone().try_acquire_owned() {
                Ok(permit) => {
                    // Nagle's algorithm would delay a small answer until the client acknowledges the
                    // previous one.
                    let _best_effort = stream.set_nodelay(true);
                    return (Connection { stream, _permit: permit }, address);
                }
                Err(_) => self.refuse(stream),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Accepted connection. It counts towards the limit until it is dropped, also after an upgrade to
/// WebSocket.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_answered_503_and_a_closed_one_frees_its_permit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = LimitedListener::new(listener, 2);
        let mut clients = Vec::new();
        let mut open = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            open.push(limited.accept().await);
        }
        for number in 0..2 * REFUSED_OPEN_MAX {
            let mut beyond = TcpStream::connect(address).await.unwrap();
            let answer = async {
                beyond.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                let mut answer = vec![0; FULL.len()];
                beyond.read_exact(&mut answer).await.unwrap();
                answer
            };
            let answer = tokio::select! {
                answer = answer => answer,
                _ = limited.accept() => panic!("connection {number} was accepted"),
            };
            assert_eq!(answer, FULL);
            assert!(limited.refused.len() <= REFUSED_OPEN_MAX);
        }
        let (head, body) = std::str::from_utf8(FULL).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        open.pop();
        clients.push(TcpStream::connect(address).await.unwrap());
        let (mut again, _) = limited.accept().await;
        again.write_all(b"x").await.unwrap();
        assert_eq!(clients[2].read_u8().await.unwrap(), b'x');
    }
}
