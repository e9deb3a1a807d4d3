//! Service discovery: the addresses of a remote service and their health. Host names are resolved and
//! every address is health-checked twice a second; calls of the [`Peer`] are balanced over the serving
//! addresses, call by call.

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

/// Interval of name resolution and health checks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of a name lookup, of a connection attempt, of a health check and of the answer to a ping.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 pings, also on a connection without calls: a host that vanished is noticed before
/// the next call.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Discovery of one service.
#[derive(Debug)]
pub struct Discovery {
    setting: &'static str,
    hosts: Vec<String>,
    changes: mpsc::Sender<Change<SocketAddr, Endpoint>>,
    /// Resolved addresses, each with the client of its health checks.
    resolved: BTreeMap<SocketAddr, HealthClient<Channel>>,
    /// Addresses that the balancer distributes calls over.
    balanced: BTreeSet<SocketAddr>,
    /// Hosts whose last lookup failed; each failure is logged once.
    unresolved: BTreeSet<String>,
}

/// Returns the service at the comma-separated URLs `http://host:port`, and its discovery, which the
/// caller must run.
///
/// # Errors
/// Fails if a URL is malformed; the error names the setting.
pub fn connect(setting: &'static str, urls: &str) -> anyhow::Result<(Peer, Discovery)> {
    let mut hosts = Vec::new();
    for url in urls.split(',').map(str::trim) {
        let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
        match host.and_then(|host| host.rsplit_once(':')) {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
                hosts.extend(host.map(str::to_owned))
            }
            _ => bail!("{setting}: `{url}` is not a service URL: expected http://host:port"),
        }
    }
    let (channel, changes) = Channel::balance_channel(64);
    let peer = Peer::new(channel.map_err(|error| TransportError::from(BoxError::from(error))));
    let discovery = Discovery {
        setting,
        hosts,
        changes,
        resolved: BTreeMap::new(),
        balanced: BTreeSet::new(),
        unresolved: BTreeSet::new(),
    };
    Ok((peer, discovery))
}

impl Discovery {
    /// Keeps the balancer's addresses up to date until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let updates = async {
            loop {
                if let Err(error) = self.update().await {
                    tracing::warn!(setting = self.setting, %error, "service discovery failed");
                }
                tokio::time::sleep(INTERVAL).await;
            }
        };
        shutdown.run_until_cancelled(updates).await;
    }

    /// Resolves all hosts. A failed lookup removes only the addresses of that host.
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
                    tracing::warn!(setting = self.setting, host, %error, "cannot resolve a host name");
                }
                Err(_) => {}
            }
        }
        if found.is_empty() {
            bail!("cannot resolve any of {}", self.hosts.join(", "));
        }
        Ok(found)
    }

    /// Resolves the hosts, checks every address and updates the balancer.
    async fn update(&mut self) -> anyhow::Result<()> {
        let found = self.resolve().await?;
        self.resolved.retain(|address, _| found.contains(address));
        for address in &found {
            if !self.resolved.contains_key(address) {
                self.resolved.insert(*address, HealthClient::new(endpoint(*address)?.connect_lazy()));
            }
        }
        let checks = self.resolved.iter().map(|(address, client)| check(*address, client.clone()));
        let serving: BTreeSet<SocketAddr> =
            futures_util::future::join_all(checks).await.into_iter().flatten().collect();
        // A call to a balancer without addresses waits until one is added. With all addresses kept, it
        // fails immediately.
        let wanted = if serving.is_empty() { found } else { serving };
        for address in self.balanced.difference(&wanted) {
            self.changes.send(Change::Remove(*address)).await?;
        }
        for address in wanted.difference(&self.balanced) {
            self.changes.send(Change::Insert(*address, endpoint(*address)?)).await?;
        }
        if wanted != self.balanced {
            tracing::info!(setting = self.setting, addresses = ?wanted, "service addresses changed");
        }
        self.balanced = wanted;
        Ok(())
    }
}

/// Resolves a `host:port`.
async fn lookup(host: &str) -> anyhow::Result<BTreeSet<SocketAddr>> {
    Ok(timeout(TIMEOUT, tokio::net::lookup_host(host)).await.context("the lookup timed out")??.collect())
}

fn endpoint(address: SocketAddr) -> anyhow::Result<Endpoint> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(TIMEOUT).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(TIMEOUT).keep_alive_while_idle(true))
}

/// Returns the address if it is serving. A server without the health service counts as serving.
async fn check(address: SocketAddr, mut client: HealthClient<Channel>) -> Option<SocketAddr> {
    let answer = timeout(TIMEOUT, client.check(HealthCheckRequest::default())).await.ok()?;
    let serving = match answer {
        Ok(reply) => reply.into_inner().status() == ServingStatus::Serving,
        Err(status) => status.code() == Code::Unimplemented,
    };
    serving.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_url_has_a_host_and_a_port() {
        assert!(connect("AUTH_URL", "http://auth:7051, http://127.0.0.1:7052/").is_ok());
        for wrong in ["", "auth:7051", "https://auth:7051", "http://auth", "http://:1", "http://auth:99999"] {
            let error = connect("AUTH_URL", wrong).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("AUTH_URL: ") && !error.contains('\n'), "{error}");
        }
    }

    #[tokio::test]
    async fn a_failed_lookup_removes_only_the_addresses_of_its_own_host() {
        let (_peer, mut discovery) = connect("AUTH_URL", "http://127.0.0.1:1,http://127.0.0.2:1").unwrap();
        let balanced =
            |discovery: &Discovery| discovery.balanced.iter().map(ToString::to_string).collect::<Vec<_>>();
        discovery.update().await.unwrap();
        assert_eq!(balanced(&discovery), ["127.0.0.1:1", "127.0.0.2:1"]);
        // A name of more than 253 characters fails without a query.
        discovery.hosts[0] = format!("{}:1", "a".repeat(300));
        discovery.update().await.unwrap();
        assert_eq!(balanced(&discovery), ["127.0.0.2:1"]);
        discovery.hosts.pop();
        discovery.update().await.unwrap_err();
        assert_eq!(balanced(&discovery), ["127.0.0.2:1"], "the addresses stay when no host resolves");
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_a_health_check() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_peer, discovery) =
            connect("AUTH_URL", &format!("http://{}", silent.local_addr().unwrap())).unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(discovery.run(shutdown.clone()));
        let _checked = silent.accept().await.unwrap();
        shutdown.cancel();
        timeout(TIMEOUT / 2, running).await.expect("it ends before the health check times out").unwrap();
    }
}
