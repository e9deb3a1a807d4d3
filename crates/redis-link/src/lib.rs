//! Connection to Redis with a timeout on every call. It connects on first use, and again after a
//! failure.
//!
//! It neither retries nor stops calling a failing server: its users add `resilience::CircuitBreaker`, so
//! that an unavailable Redis costs one timeout and not one per request.

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::timeout};

/// Maximum number of calls in the send queue. Further calls wait for space, within their timeout.
const QUEUE_MAX: usize = 1_000;

/// Error of a URL that is not a Redis URL. It does not contain the URL, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid Redis URL: expected redis://[user:password@]host:port[/database]")]
pub struct InvalidUrl;

/// Multiplexed connection that is opened on first use. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Connection(Arc<State>);

struct State {
    client: Client,
    timeout: Duration,
    /// An async lock, held while connecting: concurrent calls share one attempt instead of opening one
    /// connection each.
    open: Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("timeout", &self.0.timeout).finish_non_exhaustive()
    }
}

impl Connection {
    /// Creates a connection to the server at `url` without connecting. `timeout` limits each call,
    /// including the time to connect.
    ///
    /// # Errors
    /// [`InvalidUrl`] for anything but `redis://`; TLS is not supported.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, InvalidUrl> {
        let url = Some(url).filter(|url| url.starts_with("redis://")).ok_or(InvalidUrl)?;
        let client = Client::open(url).map_err(|_| InvalidUrl)?;
        Ok(Self(Arc::new(State { client, timeout, open: Mutex::default() })))
    }

    /// Sends a command and returns its reply. If the server answers NOSCRIPT, sends `load` and then the
    /// command again.
    ///
    /// # Errors
    /// The error of the server or the network; a timeout is an I/O error of the kind `TimedOut`.
    pub async fn call<T: FromRedisValue>(&self, command: &Cmd, load: &Cmd) -> Result<T, RedisError> {
        self.with_timeout(async |mut connection| match command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                load.exec_async(&mut connection).await?;
                command.query_async(&mut connection).await
            }
            answer => answer,
        })
        .await
    }

    /// Sends the commands of a pipeline and discards their replies.
    ///
    /// # Errors
    /// As [`Connection::call`]. Some of the commands may have been executed.
    pub async fn send(&self, pipeline: &Pipeline) -> Result<(), RedisError> {
        self.with_timeout(async |mut connection| pipeline.exec_async(&mut connection).await).await
    }

    async fn with_timeout<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let answer = timeout(self.0.timeout, async { call(self.connected().await?).await }).await;
        let answer =
            answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        if answer.is_err() {
            // After a timeout the server may have hung; the next call opens a new connection.
            *self.0.open.lock().await = None;
        }
        answer
    }

    async fn connected(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut open = self.0.open.lock().await;
        if let Some(connection) = &*open {
            return Ok(connection.clone());
        }
        // The driver's own timeouts are off: the timeout of the whole call replaces them.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let config = config.set_pipeline_buffer_size(QUEUE_MAX);
        let connection = self.0.client.get_multiplexed_async_connection_with_config(&config).await?;
        *open = Some(connection.clone());
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_server_causes_a_timeout_and_an_absent_server_an_io_error() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("an address");
        let connection =
            Connection::new(&format!("redis://{address}"), Duration::from_millis(50)).expect("a valid URL");
        let ping = redis::cmd("PING");
        let answer = connection.call::<String>(&ping, &ping).await;
        assert!(matches!(&answer, Err(error) if error.is_timeout()), "{answer:?}");
        drop(silent);
        let answer = connection.call::<String>(&ping, &ping).await;
        assert!(matches!(&answer, Err(error) if error.is_io_error()), "{answer:?}");
    }
}
