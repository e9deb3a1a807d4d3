//! HTTP/1.1 with connections that stay open, one request at a time on each, and a bounded pool of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

/// Time after which an operation counts as refused: longer than the deadlines of the program.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Open connection. Its driver ends with it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Self { sender, host: address.to_string() })
    }

    /// Posts a GraphQL operation and returns the body of the answer, which has the status 200.
    pub async fn post(&mut self, token: &str, operation: Bytes) -> anyhow::Result<Bytes> {
        whole(self.exchange(token, operation).await?)
    }

    /// Posts a GraphQL operation and returns the status and the body of the answer.
    async fn exchange(&mut self, token: &str, operation: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::post("/graphql")
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/graphql-response+json, application/json")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::new(operation))?;
        let exchange = async {
            self.sender.ready().await?;
            let answer = self.sender.send_request(request).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
        };
        timeout(TIMEOUT, exchange).await.context("no answer in time")?
    }
}

/// Returns the body of an answer with the status 200.
fn whole((status, body): (StatusCode, Bytes)) -> anyhow::Result<Bytes> {
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// Requests a path on a new connection and returns the status.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let answer = timeout(TIMEOUT, sender.send_request(request)).await??;
    Ok(answer.status().as_u16())
}

/// Connections to one address. Waiting for a free one counts as latency of the operation.
#[derive(Debug, Clone)]
pub struct Pool {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Pool {
    /// Creates a pool of at most `connections_max`, none of them open yet.
    pub fn new(address: SocketAddr, connections_max: usize) -> Self {
        Self { address, idle: Arc::default(), places: Arc::new(Semaphore::new(connections_max)) }
    }

    /// Posts a GraphQL operation on a free connection and returns the body of the answer, which has the
    /// status 200. A connection that failed is closed.
    pub async fn post(&self, token: &str, operation: Bytes) -> anyhow::Result<Bytes> {
        whole(self.exchange(token, operation).await?)
    }

    /// Posts a GraphQL operation on a free connection and returns the status and the body of the answer.
    pub async fn exchange(&self, token: &str, operation: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let _place = self.places.acquire().await?;
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let answer = connection.exchange(token, operation).await?;
        self.idle.lock().push(connection);
        Ok(answer)
    }

    /// Takes a connection that the server has not closed, for example at its end.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|connection| !connection.sender.is_closed());
        idle.pop()
    }
}
