//! Requests written by hand, each on a connection of its own, and heard while they are still written: a library would stop
//! where this goes on.

use std::{cell::Cell, future::pending, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What came back until the connection was closed.
pub struct Heard {
    pub text: String,
    /// How much was written by then, what waits on the way included.
    pub written_bytes: usize,
}

/// Writes these parts to this address, as far as they are taken.
pub async fn say(address: &str, parts: impl IntoIterator<Item = &[u8]>) -> Heard {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let (mut text, written) = (Vec::new(), Cell::new(0));
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
    Heard { text: String::from_utf8_lossy(&text).into_owned(), written_bytes: written.get() }
}
