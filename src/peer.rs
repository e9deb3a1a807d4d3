//! A service on other machines as a `Peer`: every address that its URLs name, found anew every half second, asked for its
//! health, and balanced per call.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, bail};
use proto::{BoxError, Peer, TransportError};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Channel, Endpoint, channel::Change},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::ServiceExt;

/// How often addresses are resolved and asked for their health.
const EVERY: Duration = Duration::from_millis(500);
/// How long an address may take to accept a connection, or to say that it serves.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a connection without calls in flight shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where one service is.
#[derive(Debug)]
pub struct Addresses {
    setting: &'static str,
    hosts: Vec<String>,
    changes: mpsc::Sender<Change<SocketAddr, Endpoint>>,
    /// What the balancer knows, with a client for questions about health.
    known: BTreeMap<SocketAddr, HealthClient<Channel>>,
    balanced: BTreeSet<SocketAddr>,
    /// What could not be resolved, which is told once.
    unresolved: BTreeSet<String>,
}

/// The service at these URLs, `http://host:port`, separated by commas; and its addresses, to be watched.
///
/// # Errors
/// Where a URL is none.
pub fn at(setting: &'static str, urls: &str) -> anyhow::Result<(Peer, Addresses)> {
    let mut hosts = Vec::new();
    for url in urls.split(',').map(str::trim) {
        let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
        match host.and_then(|host| host.rsplit_once(':')) {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
                hosts.extend(host.map(str::to_owned))
            }
            _ => bail!("{setting}: `{url}` is no address of a service: expected http://host:port"),
        }
    }
    let (channel, changes) = Channel::balance_channel(64);
    let peer = Peer::new(channel.map_err(|error| TransportError::from(BoxError::from(error))));
    let (known, balanced, unresolved) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    Ok((peer, Addresses { setting, hosts, changes, known, balanced, unresolved }))
}

impl Addresses {
    /// Keeps the balancer's addresses true, until shut down.
    pub async fn watch(mut self, shutdown: CancellationToken) {
        let watching = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::warn!(setting = self.setting, %error, "addresses cannot be found");
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        shutdown.run_until_cancelled(watching).await;
    }

    /// The addresses of all names; one that has none costs none of the others.
    async fn resolve(&mut self) -> anyhow::Result<BTreeSet<SocketAddr>> {
        let mut found = BTreeSet::new();
        let answers = futures_util::future::join_all(self.hosts.iter().map(|host| lookup(host))).await;
        for (host, answer) in self.hosts.iter().zip(answers) {
            match answer {
                Ok(addresses) => {
                    self.unresolved.remove(host);
                    found.extend(addresses);
                }
                Err(error) if self.unresolved.insert(host.clone()) => {
                    tracing::warn!(setting = self.setting, host, %error, "a name cannot be resolved");
                }
                Err(_) => {}
            }
        }
        if found.is_empty() {
            bail!("none of {} can be resolved", self.hosts.join(", "));
        }
        Ok(found)
    }

    /// Resolves the names, asks every address, and tells the balancer. Where none serves, all stay: a call then fails at
    /// once instead of waiting for one.
    async fn look(&mut self) -> anyhow::Result<()> {
        let found = self.resolve().await?;
        self.known.retain(|address, _| found.contains(address));
        for address in &found {
            if !self.known.contains_key(address) {
                self.known.insert(*address, HealthClient::new(endpoint(*address)?.connect_lazy()));
            }
        }
        let asked = self.known.iter().map(|(address, client)| serves(*address, client.clone()));
        let serving: BTreeSet<SocketAddr> =
            futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        let wanted = if serving.is_empty() { found } else { serving };
        for address in self.balanced.difference(&wanted) {
            self.changes.send(Change::Remove(*address)).await?;
        }
        for address in wanted.difference(&self.balanced) {
            self.changes.send(Change::Insert(*address, endpoint(*address)?)).await?;
        }
        if wanted != self.balanced {
            tracing::info!(setting = self.setting, addresses = ?wanted, "balanced over");
        }
        self.balanced = wanted;
        Ok(())
    }
}

/// The addresses of a host.
async fn lookup(host: &str) -> anyhow::Result<BTreeSet<SocketAddr>> {
    Ok(timeout(PATIENCE, tokio::net::lookup_host(host)).await.context("nobody answers")??.collect())
}

fn endpoint(address: SocketAddr) -> anyhow::Result<Endpoint> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(PATIENCE).tcp_nodelay(true);
    Ok(endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(PATIENCE)
        .keep_alive_while_idle(true))
}

/// The address, where it says that it serves. One that knows no such question but answers serves too.
async fn serves(address: SocketAddr, mut client: HealthClient<Channel>) -> Option<SocketAddr> {
    let answer = timeout(PATIENCE, client.check(HealthCheckRequest::default())).await.ok()?;
    let serves = match answer {
        Ok(reply) => reply.into_inner().status() == ServingStatus::Serving,
        Err(status) => status.code() == Code::Unimplemented,
    };
    serves.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_a_host_and_a_port() {
        assert!(at("AUTH_URL", "http://auth:50051, http://127.0.0.1:50052/").is_ok());
        for wrong in ["", "auth:50051", "https://auth:50051", "http://auth", "http://:1", "http://auth:99999"]
        {
            let error = at("AUTH_URL", wrong).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("AUTH_URL: ") && !error.contains('\n'), "{error}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_gone_takes_its_address_out_and_nothing_else() {
        let (_peer, mut addresses) = at("AUTH_URL", "http://127.0.0.1:1,http://127.0.0.2:1").unwrap();
        let balanced =
            |addresses: &Addresses| addresses.balanced.iter().map(ToString::to_string).collect::<Vec<_>>();
        addresses.look().await.unwrap();
        assert_eq!(balanced(&addresses), ["127.0.0.1:1", "127.0.0.2:1"]);
        // No name is so long: nobody has to be asked.
        addresses.hosts[0] = format!("{}:1", "a".repeat(300));
        addresses.look().await.unwrap();
        assert_eq!(balanced(&addresses), ["127.0.0.2:1"]);
        addresses.hosts.pop();
        addresses.look().await.unwrap_err();
        assert_eq!(balanced(&addresses), ["127.0.0.2:1"], "where nothing is found, all stay");
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_nobody_who_is_asked() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_peer, addresses) = at("AUTH_URL", &format!("http://{}", silent.local_addr().unwrap())).unwrap();
        let shutdown = CancellationToken::new();
        let watching = tokio::spawn(addresses.watch(shutdown.clone()));
        let _asked = silent.accept().await.unwrap();
        shutdown.cancel();
        timeout(PATIENCE / 2, watching).await.expect("it ends before its patience does").unwrap();
    }
}
