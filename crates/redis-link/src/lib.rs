//! A connection to Redis that never keeps its callers waiting: every call is bounded, and after a failure none is made for
//! a moment. What failed gives its connection up, so that the next call begins with a new one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::timeout};

/// Calls that wait to be sent, at most; more wait for their turn within their bound.
const QUEUE: usize = 1_000;

/// A URL that names no Redis; it is not repeated, there may be a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a Redis URL is redis://host:port, with user:password@ before the host and a database's /number behind the port where needed"
)]
pub struct InvalidUrl;

/// A connection, made when it is needed. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    client: Client,
    /// How long a call may take, a new connection included.
    patience: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("patience", &self.0.patience).finish_non_exhaustive()
    }
}

impl Link {
    /// To the Redis at this URL, which need not be there yet; a call may take as long as `patience`.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn open(url: &str, patience: Duration) -> Result<Self, InvalidUrl> {
        let url = Some(url).filter(|url| url.starts_with("redis://")).ok_or(InvalidUrl)?;
        let client = Client::open(url).map_err(|_| InvalidUrl)?;
        Ok(Self(Arc::new(Shared { client, patience, connection: Mutex::default() })))
    }

    /// Asks, and sends `load` first where the script is not there.
    ///
    /// # Errors
    /// Redis' own, and a time-out.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd, load: &Cmd) -> Result<T, RedisError> {
        self.bounded(async |mut connection| match command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                load.exec_async(&mut connection).await?;
                command.query_async(&mut connection).await
            }
            answer => answer,
        })
        .await
    }

    /// Sends many at once.
    ///
    /// # Errors
    /// Redis' own, and a time-out.
    pub async fn send(&self, pipeline: &Pipeline) -> Result<(), RedisError> {
        self.bounded(async |mut connection| pipeline.exec_async(&mut connection).await).await
    }

    async fn bounded<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let answer = timeout(self.0.patience, async { call(self.connection().await?).await }).await;
        let answer =
            answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        if answer.is_err() {
            *self.0.connection.lock().await = None;
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut held = self.0.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let config = config.set_pipeline_buffer_size(QUEUE);
        let connection = self.0.client.get_multiplexed_async_connection_with_config(&config).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }
}

/// Makes an outage cheap: after a failure nobody asks for a moment, then one does, and all others when that went well.
#[derive(Debug)]
pub struct Breaker {
    begun: Instant,
    moment: Duration,
    /// Nobody asks before this, since `begun`; 0: everybody may.
    open_until_us: AtomicU64,
}

impl Breaker {
    /// Closed; after a failure nobody asks for this long.
    pub fn new(moment: Duration) -> Self {
        Self { begun: Instant::now(), moment, open_until_us: AtomicU64::new(0) }
    }

    /// Whether to ask now.
    pub fn allows(&self) -> bool {
        let until_us = self.open_until_us.load(Ordering::Acquire);
        if until_us == 0 {
            return true;
        }
        // The one that moves the end of the moment is the one that asks.
        let exchange = |next_us| {
            self.open_until_us
                .compare_exchange(until_us, next_us, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        self.elapsed_us(Duration::ZERO) >= until_us && exchange(self.elapsed_us(self.moment))
    }

    /// What came of asking.
    pub fn saw(&self, well: bool) {
        let until_us = if well { 0 } else { self.elapsed_us(self.moment) };
        self.open_until_us.store(until_us, Ordering::Release);
    }

    fn elapsed_us(&self, more: Duration) -> u64 {
        u64::try_from((self.begun.elapsed() + more).as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_nobody_asks_for_a_moment_and_then_one() {
        let breaker = Breaker::new(Duration::from_secs(60));
        assert!(breaker.allows() && breaker.allows());
        breaker.saw(false);
        assert!(!breaker.allows() && !breaker.allows());
        breaker.saw(true);
        assert!(breaker.allows() && breaker.allows());
        // The moment is over: its end is the smallest that there is.
        breaker.open_until_us.store(1, Ordering::Release);
        assert!(breaker.allows(), "one may look");
        assert!(!breaker.allows(), "the others wait for what it finds");
    }

    #[tokio::test]
    async fn a_server_that_takes_connections_and_says_nothing_is_slow_and_one_that_is_away_is_away() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address");
        let link = Link::open(&format!("redis://{address}"), Duration::from_millis(50)).expect("a URL");
        let ping = redis::cmd("PING");
        let asked = link.ask::<String>(&ping, &ping).await;
        assert!(matches!(&asked, Err(error) if error.is_timeout()), "{asked:?}");
        drop(silent);
        let asked = link.ask::<String>(&ping, &ping).await;
        assert!(matches!(&asked, Err(error) if error.is_io_error()), "{asked:?}");
    }
}
