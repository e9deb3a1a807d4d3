//! A port with a bound on its connections: what comes beyond it is told so and goes, so that nobody waits in a queue that
//! no one serves.

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

/// What is answered beyond the bound.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 37\r\nretry-after: 3\r\n\
    connection: close\r\n\r\ntoo many connections, try again later";
/// Refused connections that are held open for a while: one that is cut while its client writes may never show the answer.
const HELD_MAX: usize = 64;

/// A listener with a bound on the connections that are open.
#[derive(Debug)]
pub struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
    refused: VecDeque<TcpStream>,
}

impl Limited {
    /// At most so many connections at once.
    pub fn new(listener: TcpListener, connections_max: u32) -> Self {
        let places = Arc::new(Semaphore::new(connections_max as usize));
        Self { listener, places, refused: VecDeque::new() }
    }

    /// Answers without reading: a connection that was just opened takes so few bytes at once.
    fn refuse(&mut self, stream: TcpStream) {
        metrics::counter!("http_connections_refused_total").increment(1);
        if stream.try_write(FULL).is_ok() {
            if self.refused.len() == HELD_MAX {
                self.refused.pop_front();
            }
            self.refused.push_back(stream);
        }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match self.places.clone().try_acquire_owned() {
                Ok(place) => {
                    // Without it a small answer may wait for the client's acknowledgement of the one before.
                    let _best_effort = stream.set_nodelay(true);
                    return (Connection { stream, _place: place }, address);
                }
                Err(_) => self.refuse(stream),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds a place as long as it is open, whatever it is upgraded to.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
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
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, parts)
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
    async fn a_connection_beyond_the_bound_is_told_so_and_a_place_that_is_given_back_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut limited = Limited::new(listener, 2);
        let mut clients = Vec::new();
        let mut open = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            open.push(limited.accept().await);
        }
        for number in 0..2 * HELD_MAX {
            let mut beyond = TcpStream::connect(address).await.unwrap();
            let answer = async {
                beyond.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                let mut answer = vec![0; FULL.len()];
                beyond.read_exact(&mut answer).await.unwrap();
                answer
            };
            let answer = tokio::select! {
                answer = answer => answer,
                _ = limited.accept() => panic!("there was a place for number {number}"),
            };
            assert_eq!(answer, FULL);
            assert!(limited.refused.len() <= HELD_MAX);
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
