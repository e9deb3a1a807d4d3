//! Raw HTTP requests, each on its own connection. The response is read while the request is still being
//! written, which HTTP libraries do not do.

use std::{cell::Cell, future::pending, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Everything received until the connection was closed.
pub struct RawResponse {
    pub text: String,
    /// Bytes written by then, including those still in the socket's buffers.
    pub written_bytes: usize,
}

/// Writes parts of a request until all are written or the peer closes the connection, which it must do
/// within 10 s.
pub async fn send(address: &str, parts: impl IntoIterator<Item = &[u8]>) -> RawResponse {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut text = Vec::new();
    let written = Cell::new(0);
    let writing = async {
        for part in parts {
            if writer.write_all(part).await.is_err() {
                break;
            }
            written.set(written.get() + part.len());
        }
        pending::<()>().await;
    };
    let reading = async { while reader.read_buf(&mut text).await.is_ok_and(|count| count > 0) {} };
    tokio::select! {
        () = writing => {}
        closed = timeout(Duration::from_secs(10), reading) => closed.expect("closed within ten seconds"),
    }
    RawResponse { text: String::from_utf8_lossy(&text).into_owned(), written_bytes: written.get() }
}
