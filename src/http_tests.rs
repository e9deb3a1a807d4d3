//! The bounds of a port, each on a real socket.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::http::{Bounds, HEAD_MAX_BYTES, HEADERS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, serve};

const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Bounds =
    Bounds { first_head: Duration::from_millis(300), next_head: Duration::from_millis(900), connections: 3 };

struct Port {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Port {
    async fn open(bounds: Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new().route("/", get(|| async { "here" }));
        let task = tokio::spawn(serve(listener, router, bounds, shutdown.clone()));
        Self { address, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes back for these bytes until the server closes.
    async fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _refused = stream.write_all(bytes).await;
        rest(&mut stream).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// Everything until the server closes, or cuts off.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _cut_off = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer of a connection that stays open.
async fn one(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("here") {
        let mut bytes = [0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

fn head(headers: usize, bytes: usize) -> String {
    let many: String = (0..headers).map(|number| format!("x-{number}: y\r\n")).collect();
    format!("GET / HTTP/1.1\r\nconnection: close\r\n{many}x-long: {}\r\n\r\n", "z".repeat(bytes))
}

#[tokio::test]
async fn a_head_over_its_bounds_is_431() {
    let port = Port::open(Bounds::SERVICE).await;
    assert!(
        port.answer(head(HEADERS_MAX - 2, 10).as_bytes()).await.starts_with("HTTP/1.1 200"),
        "at the bound"
    );
    assert!(
        port.answer(head(HEADERS_MAX - 1, 10).as_bytes()).await.starts_with("HTTP/1.1 431"),
        "one too many"
    );
    assert!(port.answer(head(1, HEAD_MAX_BYTES - 500).as_bytes()).await.starts_with("HTTP/1.1 200"), "large");
    let refused = port.answer(head(1, HEAD_MAX_BYTES + 1).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "too large: {refused}");
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_MAX_BYTES + 1));
    let refused = port.answer(line.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431") || refused.starts_with("HTTP/1.1 414"), "{refused}");
    port.stop().await;
}

#[tokio::test]
async fn whoever_says_nothing_or_speaks_a_byte_at_a_time_is_cut_off() {
    let port = Port::open(SHORT).await;
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nx-slow: "] {
        let (mut stream, begun) = (port.connect().await, Instant::now());
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let drip = async {
            // HTTP/2 has frames, of which a byte is none.
            while beginning.starts_with('G') && writing.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut bytes = Vec::new();
        let closed =
            async { timeout(PATIENCE, reading.read_to_end(&mut bytes)).await.expect("the server closes") };
        tokio::select! {
            _ = closed => {}
            () = drip => {}
        }
        let took = begun.elapsed();
        assert!(
            took >= SHORT.first_head && took < Duration::from_secs(5),
            "{beginning:?} was cut off after {took:?}"
        );
    }
    port.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_next_request_and_not_for_ever() {
    let port = Port::open(SHORT).await;
    let mut stream = port.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        one(&mut stream).await;
        tokio::time::sleep(SHORT.first_head + Duration::from_millis(100)).await;
    }
    let begun = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(begun.elapsed() < Duration::from_secs(5));
    port.stop().await;
}

#[tokio::test]
async fn a_connection_beyond_the_bound_is_503_until_one_ends() {
    let bounds = Bounds { first_head: PATIENCE, next_head: PATIENCE, ..SHORT };
    let port = Port::open(bounds).await;
    let mut held = Vec::new();
    for _ in 0..bounds.connections {
        let mut stream = port.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        one(&mut stream).await;
        held.push(stream);
    }
    let mut beyond = [0; 12];
    port.connect().await.read_exact(&mut beyond).await.unwrap();
    assert_eq!(&beyond, b"HTTP/1.1 503");
    held.pop();
    testkit::eventually("there is a place again", || async {
        port.answer(head(1, 1).as_bytes()).await.ends_with("here")
    })
    .await;
    drop(held);
    port.stop().await;
}

#[tokio::test]
async fn http_2_has_its_bounds_too() {
    let port = Port::open(SHORT).await;
    let mut stream = port.connect().await;
    // The preface, an empty SETTINGS frame, and none of the frames that would be a request.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut bytes = Vec::new();
    let _cut_off = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    let settings = settings_of(&bytes);
    assert!(settings.contains(&(3, STREAMS_MAX)), "streams: {settings:?}");
    assert!(settings.contains(&(6, u32::try_from(HEAD_MAX_BYTES).unwrap())), "headers: {settings:?}");
    assert!(settings.contains(&(4, STREAM_WINDOW_BYTES)), "window: {settings:?}");
    port.stop().await;
}

/// The identifiers and values of the server's first frame, SETTINGS (RFC 9113, 6.5.1).
fn settings_of(bytes: &[u8]) -> Vec<(u16, u32)> {
    let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    assert_eq!(bytes[3], 4, "SETTINGS come first");
    let pairs = bytes[9..9 + length].chunks(6);
    pairs
        .map(|pair| {
            let [a, b, c, d, e, f] = pair.try_into().unwrap();
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        })
        .collect()
}

#[tokio::test]
async fn a_stop_waits_for_requests_and_not_for_idle_connections() {
    let port = Port::open(Bounds::SERVICE).await;
    let mut idle = port.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    one(&mut idle).await;
    let begun = Instant::now();
    port.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
