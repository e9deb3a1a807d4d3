//! A connection to Redis that never keeps its callers waiting: every call is bounded, and after a failure none is made for
//! a moment. What failed gives its connection up, so that the next call begins with a new one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::timeout};

use super::Trouble;

/// Calls that wait to be sent, at most; more wait for their turn within their bound.
const QUEUE: usize = 1_000;

/// A connection, made when it is needed.
pub(super) struct Link {
    client: Client,
    /// How long a call may take, a new connection included.
    patience: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Link {
    pub(super) fn new(client: Client, patience: Duration) -> Self {
        Self { client, patience, connection: Mutex::default() }
    }

    /// Asks, and sends `load` first where the script is not there.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd, load: &Cmd) -> Result<T, Trouble> {
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
    pub(super) async fn send(&self, pipeline: &Pipeline) -> Result<(), Trouble> {
        self.bounded(async |mut connection| pipeline.exec_async(&mut connection).await).await
    }

    async fn bounded<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Trouble> {
        let answer = timeout(self.patience, async { call(self.connection().await?).await }).await;
        let answer = answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        Ok(answer?)
    }

    async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let config = config.set_pipeline_buffer_size(QUEUE);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }
}

/// Makes an outage cheap: after a failure nobody asks for a moment, then one does, and all others when that went well.
#[derive(Debug)]
pub(super) struct Breaker {
    begun: Instant,
    moment: Duration,
    /// Nobody asks before this, since `begun`; 0: everybody may.
    open_until_us: AtomicU64,
}

impl Breaker {
    pub(super) fn new(moment: Duration) -> Self {
        Self { begun: Instant::now(), moment, open_until_us: AtomicU64::new(0) }
    }

    /// Whether to ask now.
    pub(super) fn allows(&self) -> bool {
        let until_us = self.open_until_us.load(Ordering::Acquire);
        if until_us == 0 {
            return true;
        }
        // The one that moves the end of the moment is the one that asks.
        let exchange = |next_us| {
            self.open_until_us.compare_exchange(until_us, next_us, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        self.elapsed_us(Duration::ZERO) >= until_us && exchange(self.elapsed_us(self.moment))
    }

    /// What came of asking.
    pub(super) fn saw(&self, well: bool) {
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
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let link = Link::new(Client::open(format!("redis://{address}")).unwrap(), Duration::from_millis(50));
        let ping = redis::cmd("PING");
        let asked = link.ask::<String>(&ping, &ping).await;
        assert!(matches!(&asked, Err(Trouble::Redis(error)) if error.is_timeout()), "{asked:?}");
        drop(silent);
        let asked = link.ask::<String>(&ping, &ping).await;
        assert!(matches!(&asked, Err(Trouble::Redis(error)) if error.is_io_error()), "{asked:?}");
    }
}
