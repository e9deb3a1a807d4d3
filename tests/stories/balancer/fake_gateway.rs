//! Fake gateway: takes one request per connection, records its head and responds by path and `Accept` header.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A fake gateway, which listens until dropped.
pub struct FakeGateway {
    /// `host:port`
    pub address: String,
    pub state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

/// Recorded requests and configured behavior.
#[derive(Default)]
pub struct State {
    /// Request line and headers, in lower case, of every request except `/readyz`.
    pub heads: Mutex<Vec<String>>,
    /// `/readyz` responds 200 when set, else 503.
    pub ready: AtomicBool,
    /// Closes the connection instead of responding when set.
    pub closes_unanswered: AtomicBool,
    /// Makes a stream send its second part.
    pub second_part: Notify,
}

impl FakeGateway {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State { ready: AtomicBool::new(true), ..State::default() });
        let task_state = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&task_state);
                // An error means that the peer has disconnected.
                tokio::spawn(async move { drop(state.respond(stream).await) });
            }
        });
        Self { address, state, task }
    }

    /// Returns the number of requests received.
    pub fn request_count(&self) -> usize {
        self.state.heads.lock().len()
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn respond(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if head.starts_with("get /readyz ") {
            let status = if self.ready.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            return write(
                &mut stream,
                &format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            )
            .await;
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
        self.heads.lock().push(head.clone());
        if self.closes_unanswered.load(Ordering::SeqCst) {
            return Ok(());
        }
        if !head.contains("accept: text/event-stream") && !head.contains("accept: multipart/mixed") {
            return write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                .await;
        }
        write(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\none\r\n",
        )
        .await?;
        self.second_part.notified().await;
        write(&mut stream, "3\r\ntwo\r\n0\r\n\r\n").await
    }
}

async fn write(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}
