//! TCP proxies between the roles and what they connect to, which cut connections or let them go half-open.

use std::collections::BTreeMap;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What a proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Forwards them.
    Forwarded,
    /// Closes the existing ones, and each new one at once.
    Cut,
    /// Accepts connections and keeps them open, but forwards nothing. They are closed afterwards, as if the
    /// other side had forgotten them.
    HalfOpen,
}

/// A proxy in front of one address; it ends when dropped.
pub struct Proxy {
    address: String,
    traffic: watch::Sender<Traffic>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy on a free port in front of `upstream` (`host:port`).
    pub async fn start(upstream: &str) -> Self {
        Self::start_at("127.0.0.1:0", upstream).await
    }

    /// Starts a proxy at an address.
    pub async fn start_at(address: &str, upstream: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let traffic = watch::Sender::new(Traffic::Forwarded);
        let receiver = traffic.subscribe();
        let upstream = upstream.to_owned();
        let accepting = tokio::spawn(async move {
            loop {
                // An error concerns the one connection, which its client has closed already.
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(forward(client, upstream.clone(), receiver.clone()));
            }
        });
        Self { address, traffic, accepting }
    }

    pub fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Forwards a connection until one side closes it or the traffic changes.
async fn forward(mut client: TcpStream, upstream: String, mut traffic: watch::Receiver<Traffic>) {
    let mut server = None;
    if *traffic.borrow() == Traffic::Forwarded {
        let Ok(connected) = TcpStream::connect(upstream).await else { return };
        drop((client.set_nodelay(true), connected.set_nodelay(true)));
        let server = server.insert(connected);
        tokio::select! {
            _ = copy_bidirectional(&mut client, server) => return,
            _ = traffic.wait_for(|traffic| *traffic != Traffic::Forwarded) => {}
        }
    }
    // Both sockets stay open until then. An error means that the proxy has ended.
    drop(traffic.wait_for(|traffic| *traffic != Traffic::HalfOpen).await);
    drop((client, server));
}

/// A proxy for each kind of connection that the roles open.
pub struct Links {
    proxies: BTreeMap<&'static str, (Proxy, String)>,
}

impl Links {
    /// Kinds of connections, by what they lead to.
    pub const NAMES: [&str; 6] = ["postgres", "redis", "kafka", "auth", "dialog", "counter"];

    /// Starts a proxy in front of each of these addresses (`host:port` by the name of the link). The broker's
    /// is special: `KAFKA_PROXY_PORT` is the port that it announces to clients of its second listener,
    /// which is at the next port (`deploy/engines/kafka.sh`).
    pub async fn start(upstreams: BTreeMap<&'static str, String>) -> Self {
        let mut proxies = BTreeMap::new();
        for (name, upstream) in upstreams {
            let proxy = if name == "kafka" {
                let port = std::env::var("KAFKA_PROXY_PORT").expect("KAFKA_PROXY_PORT is set");
                let port: u16 = port.parse().expect("KAFKA_PROXY_PORT is a port");
                Proxy::start_at(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", port + 1)).await
            } else {
                Proxy::start(&upstream).await
            };
            proxies.insert(name, (proxy, upstream));
        }
        Self { proxies }
    }

    /// Replaces the addresses in a value of a setting by those of the proxies.
    pub fn route(&self, value: &str) -> String {
        let mut value = value.to_owned();
        for (proxy, upstream) in self.proxies.values() {
            value = value.replace(upstream, &proxy.address);
        }
        value
    }

    pub fn set(&self, name: &str, traffic: Traffic) {
        self.proxies[name].0.set(traffic);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    /// Returns an address that sends back what it receives.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        address
    }

    /// Sends a byte. Returns the one that comes back, or `None` at the end of the connection.
    async fn exchange(socket: &mut TcpStream) -> Option<u8> {
        socket.write_all(&[7]).await.ok()?;
        socket.read_u8().await.ok()
    }

    #[tokio::test]
    async fn a_proxy_forwards_cuts_and_stalls() {
        let proxy = Proxy::start(&echo().await).await;
        let mut first = TcpStream::connect(&proxy.address).await.unwrap();
        assert_eq!(exchange(&mut first).await, Some(7));
        proxy.set(Traffic::HalfOpen);
        let mut second = TcpStream::connect(&proxy.address).await.unwrap();
        for socket in [&mut first, &mut second] {
            assert!(timeout(Duration::from_millis(50), exchange(socket)).await.is_err(), "it stalls");
        }
        proxy.set(Traffic::Forwarded);
        for socket in [&mut first, &mut second] {
            let end = timeout(Duration::from_secs(5), exchange(socket)).await;
            assert_eq!(end.expect("closed afterwards"), None);
        }
        let mut third = TcpStream::connect(&proxy.address).await.unwrap();
        assert_eq!(exchange(&mut third).await, Some(7));
        proxy.set(Traffic::Cut);
        assert_eq!(exchange(&mut third).await, None);
        let mut fourth = TcpStream::connect(&proxy.address).await.unwrap();
        assert_eq!(exchange(&mut fourth).await, None);
    }
}
