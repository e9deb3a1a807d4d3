//! Ports for servers that are started as processes of their own.
//!
//! A port from `bind("127.0.0.1:0")` may be taken again before the server binds it, since the system gives
//! ports of the same range to every connection. These ports are below that range.

use std::{
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Ports to choose from. Linux gives connections the ports from 32768.
const PORTS: Range<u16> = 20_000..32_000;

/// Returns a port on which nothing listens, and which this process has not returned before. Other processes
/// start at a random port of the same range.
///
/// # Panics
/// If no port of the range is free.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(()) % u64::try_from(PORTS.len()).expect("a length");
        AtomicU16::new(u16::try_from(random).expect("less than the length"))
    });
    let length = PORTS.end - PORTS.start;
    let mut candidates = PORTS.map(|_| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % length);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.find(free).expect("a free port")
}

/// Returns `127.0.0.1:port` with a [`free_port`].
///
/// # Panics
/// If no port is free.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_differ() {
        let mut ports: Vec<u16> = (0..100).map(|_| free_port()).collect();
        let listeners: Vec<_> = ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port))).collect();
        assert!(listeners.iter().all(Result::is_ok) && ports.iter().all(|port| PORTS.contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }
}
