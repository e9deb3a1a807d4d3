//! A gateway that does what a test wants: it takes requests one a connection and answers by their path.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// A gateway; it listens until it is dropped.
pub struct Fake {
    /// `host:port`
    pub address: String,
    pub shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

/// What a fake saw and how it behaves.
#[derive(Default)]
pub struct Shared {
    /// Line and headers of every request but those for readiness, as they came.
    pub heads: Mutex<Vec<String>>,
    /// Whether /readyz says 200.
    pub ready: AtomicBool,
    /// Whether it hangs up instead of answering.
    pub hangs_up: AtomicBool,
    /// Lets the second part of a stream go.
    pub go_on: Notify,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared { ready: AtomicBool::new(true), ..Shared::default() });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&of_task);
                // A peer that has left ends it.
                tokio::spawn(async move { drop(shared.answer(stream).await) });
            }
        });
        Self { address, shared, task }
    }

    /// How many requests reached it.
    pub fn asked(&self) -> usize {
        self.shared.heads.lock().unwrap().len()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if head.starts_with("get /readyz ") {
            let status = if self.ready.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            return say(
                &mut stream,
                &format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            )
            .await;
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
        self.heads.lock().unwrap().push(head.clone());
        if self.hangs_up.load(Ordering::SeqCst) {
            return Ok(());
        }
        if !head.contains("accept: text/event-stream") && !head.contains("accept: multipart/mixed") {
            return say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                .await;
        }
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\none\r\n",
        )
        .await?;
        self.go_on.notified().await;
        say(&mut stream, "3\r\ntwo\r\n0\r\n\r\n").await
    }
}

async fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}
