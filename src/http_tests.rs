//! Tests of the limits of a port, each on a real socket.

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

use crate::http::{HEAD_MAX_BYTES, HEADERS_MAX, PortLimits, STREAM_WINDOW_BYTES, STREAMS_MAX, serve};

const TIMEOUT: Duration = Duration::from_secs(10);
const SHORT: PortLimits = PortLimits {
    first_head_timeout: Duration::from_millis(300),
    next_head_timeout: Duration::from_millis(900),
    connections_max: 3,
};

struct Port {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Port {
    async fn open(limits: PortLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "here" }));
        let task = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
        Self { address, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends the bytes on a new connection and returns everything that the server answers until it
    /// closes.
    async fn answer(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything: a write error is expected.
        let _write_error = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(TIMEOUT, self.task).await.unwrap().unwrap();
    }
}

/// Reads until the server closes or resets the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _reset = timeout(TIMEOUT, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one answer of a connection that stays open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("here") {
        let mut bytes = [0; 1024];
        let read = timeout(TIMEOUT, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

fn head(headers: usize, bytes: usize) -> String {
    let many: String = (0..headers).map(|number| format!("x-{number}: y\r\n")).collect();
    format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{many}x-long: {}\r\n\r\n", "z".repeat(bytes))
}

#[tokio::test]
async fn a_head_beyond_its_limits_is_431() {
    let port = Port::open(PortLimits::SERVICE).await;
    assert!(
        port.answer(head(HEADERS_MAX - 3, 10).as_bytes()).await.starts_with("HTTP/1.1 200"),
        "at the limit"
    );
    assert!(
        port.answer(head(HEADERS_MAX - 2, 10).as_bytes()).await.starts_with("HTTP/1.1 431"),
        "one too many"
    );
    assert!(port.answer(head(1, HEAD_MAX_BYTES - 500).as_bytes()).await.starts_with("HTTP/1.1 200"), "large");
    let refused = port.answer(head(1, HEAD_MAX_BYTES + 1).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "too large: {refused}");
    let line = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(HEAD_MAX_BYTES + 1));
    let refused = port.answer(line.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431") || refused.starts_with("HTTP/1.1 414"), "{refused}");
    port.stop().await;
}

#[tokio::test]
async fn a_silent_client_and_one_that_sends_a_byte_at_a_time_are_disconnected() {
    let port = Port::open(SHORT).await;
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nx-slow: "] {
        let mut stream = port.connect().await;
        let start = Instant::now();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let drip = async {
            // HTTP/1 only: single bytes are not HTTP/2 frames.
            while beginning.starts_with('G') && writer.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut bytes = Vec::new();
        let closed =
            async { timeout(TIMEOUT, reader.read_to_end(&mut bytes)).await.expect("the server closes") };
        tokio::select! {
            _ = closed => {}
            () = drip => {}
        }
        let took = start.elapsed();
        assert!(
            took >= SHORT.first_head_timeout && took < Duration::from_secs(5),
            "{beginning:?} was disconnected after {took:?}"
        );
    }
    port.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_next_request_until_its_timeout() {
    let port = Port::open(SHORT).await;
    let mut stream = port.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await;
        tokio::time::sleep(SHORT.first_head_timeout + Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(start.elapsed() < Duration::from_secs(5));
    port.stop().await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_503_until_one_ends() {
    let limits = PortLimits { first_head_timeout: TIMEOUT, next_head_timeout: TIMEOUT, ..SHORT };
    let port = Port::open(limits).await;
    let mut open = Vec::new();
    for _ in 0..limits.connections_max {
        let mut stream = port.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await;
        open.push(stream);
    }
    let mut beyond = [0; 12];
    port.connect().await.read_exact(&mut beyond).await.unwrap();
    assert_eq!(&beyond, b"HTTP/1.1 503");
    open.pop();
    testkit::eventually("a connection is accepted again", || async {
        port.answer(head(1, 1).as_bytes()).await.ends_with("here")
    })
    .await;
    drop(open);
    port.stop().await;
}

#[tokio::test]
async fn http_2_announces_its_limits_and_times_out_too() {
    let port = Port::open(SHORT).await;
    let mut stream = port.connect().await;
    // The preface and an empty SETTINGS frame, but no request.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut bytes = Vec::new();
    let _reset = timeout(TIMEOUT, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    let settings = settings_of(&bytes);
    assert!(settings.contains(&(3, STREAMS_MAX)), "streams: {settings:?}");
    assert!(settings.contains(&(6, u32::try_from(HEAD_MAX_BYTES).unwrap())), "headers: {settings:?}");
    assert!(settings.contains(&(4, STREAM_WINDOW_BYTES)), "window: {settings:?}");
    port.stop().await;
}

#[tokio::test]
async fn a_request_without_exactly_one_valid_host_is_400() {
    let port = Port::open(PortLimits::SERVICE).await;
    for (hosts, status) in [
        ("host: a\r\nconnection: close\r\n", "HTTP/1.1 200"),
        ("", "HTTP/1.1 400"),
        ("host: a\r\nhost: a\r\n", "HTTP/1.1 400"),
        ("host: a\r\nhost: b\r\n", "HTTP/1.1 400"),
        ("host: a b\r\n", "HTTP/1.1 400"),
        ("host:\r\n", "HTTP/1.1 400"),
    ] {
        let answer = port.answer(format!("GET / HTTP/1.1\r\n{hosts}\r\n").as_bytes()).await;
        assert!(answer.starts_with(status), "{hosts:?}: {answer}");
        assert!(status.ends_with("200") || answer.contains("x-content-type-options: nosniff"), "{answer}");
    }
    assert!(port.answer(b"GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"), "HTTP/1.0");
    // The static HPACK table (RFC 7541, appendix A): `:method: GET`, `:scheme: http`, `:path: /`, and names
    // of `:authority` (1) and `host` (38) before a literal of one byte. Statuses are 8 (200) and 12 (400).
    for (fields, status) in [
        (&b"\x82\x86\x84\x41\x01a"[..], 0x88),
        (b"\x82\x86\x84\x66\x01a", 0x88),
        (b"\x82\x86\x84\x41\x01a\x66\x01a", 0x88),
        (b"\x82\x86\x84", 0x8c),
        (b"\x82\x86\x84\x66\x01a\x66\x01a", 0x8c),
        (b"\x82\x86\x84\x41\x01a\x66\x01b", 0x8c),
    ] {
        assert_eq!(http_2_status(&port, fields).await, status, "{fields:x?}");
    }
    port.stop().await;
}

/// Sends a HEADERS frame with this header block on a new HTTP/2 connection and returns the first byte of the
/// answer's header block.
async fn http_2_status(port: &Port, fields: &[u8]) -> u8 {
    let mut stream = port.connect().await;
    let length = u8::try_from(fields.len()).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // END_STREAM and END_HEADERS on stream 1.
    bytes.extend([0, 0, length, 1, 5, 0, 0, 0, 1]);
    bytes.extend(fields);
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        timeout(TIMEOUT, stream.read_exact(&mut head)).await.unwrap().unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        timeout(TIMEOUT, stream.read_exact(&mut payload)).await.unwrap().unwrap();
        if head[3] == 1 {
            return payload[0];
        }
    }
}

/// Returns the identifiers and values of the server's first frame, SETTINGS (RFC 9113, 6.5.1).
fn settings_of(bytes: &[u8]) -> Vec<(u16, u32)> {
    let length = usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    assert_eq!(bytes[3], 4, "the first frame is SETTINGS");
    let pairs = bytes[9..9 + length].chunks(6);
    pairs
        .map(|pair| {
            let [a, b, c, d, e, f] = pair.try_into().unwrap();
            (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
        })
        .collect()
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_connections() {
    let port = Port::open(PortLimits::SERVICE).await;
    let mut idle = port.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_answer(&mut idle).await;
    let start = Instant::now();
    port.stop().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
