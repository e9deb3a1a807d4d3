//! Store that several processes share: one Redis script, called in one round trip. After a call
//! without an answer, a circuit breaker keeps further requests from waiting.

use std::time::Duration;

use ::redis::{Cmd, RedisError, Script, cmd};
use redis_link::{Connection, InvalidUrl};
use resilience::{CircuitBreaker, circuit_breaker::Outcome};
use tokio::time::Instant;

use crate::Charge;

/// Timeout of a call to Redis. Short, because every request waits for this call; a healthy Redis answers
/// within a few milliseconds.
const TIMEOUT: Duration = Duration::from_millis(50);
/// Time that the circuit breaker stays open after a failed call. Then one request waits for Redis again.
const BREAKER_OPEN: Duration = Duration::from_millis(500);

const TAKE: &str = include_str!("gcra.lua");
const GIVE_BACK: &str = include_str!("give_back.lua");

/// Script on the server, by its hash.
#[derive(Debug)]
struct StoredScript {
    text: &'static str,
    sha: String,
}

#[derive(Debug)]
pub(crate) struct RedisStore {
    connection: Connection,
    breaker: CircuitBreaker,
    prefix: &'static str,
    take: StoredScript,
    give_back: StoredScript,
}

impl RedisStore {
    pub(crate) fn new(url: &str, prefix: &'static str) -> Result<Self, InvalidUrl> {
        let connection = Connection::new(url, TIMEOUT)?;
        let breaker = CircuitBreaker::on_first_failure(BREAKER_OPEN);
        let stored = |text| StoredScript { text, sha: Script::new(text).get_hash().to_owned() };
        Ok(Self { connection, breaker, prefix, take: stored(TAKE), give_back: stored(GIVE_BACK) })
    }

    /// Takes the charges, as [`crate::Limiter::take`] does. Returns `None` if Redis did not answer.
    pub(crate) async fn take(&self, charges: &[Charge]) -> Option<Result<(), Duration>> {
        let wait_us = self.call(&self.take, charges).await?;
        Some(if wait_us == 0 { Ok(()) } else { Err(Duration::from_micros(wait_us)) })
    }

    /// Gives back charges, as [`crate::Limiter::give_back`] does.
    pub(crate) async fn give_back(&self, charges: &[Charge]) {
        self.call(&self.give_back, charges).await;
    }

    /// Calls a script. Returns `None` if Redis did not answer.
    async fn call(&self, script: &StoredScript, charges: &[Charge]) -> Option<u64> {
        let Some(permit) = self.breaker.try_acquire(Instant::now()) else {
            metrics::counter!("rate_limit_local_total").increment(1);
            return None;
        };
        let started = Instant::now();
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(script.text);
        let answer: Result<u64, RedisError> =
            self.connection.call(&self.command(script, charges), &load).await;
        metrics::histogram!("rate_limit_redis_seconds").record(started.elapsed());
        permit.record(Outcome::of(&answer), Instant::now());
        match answer {
            Ok(reply) => Some(reply),
            Err(error) => {
                metrics::counter!("rate_limit_local_total").increment(1);
                tracing::debug!(%error, "Redis did not answer, rate limits are counted in this process");
                None
            }
        }
    }

    fn command(&self, script: &StoredScript, charges: &[Charge]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&script.sha).arg(charges.len());
        for charge in charges {
            command.arg(format!("{}{}", self.prefix, charge.key));
        }
        for charge in charges {
            command.arg(charge.rate.interval_us()).arg(charge.rate.tolerance_us());
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use testkit::RedisServer;

    use super::*;
    use crate::{Limiter, Rate};

    const RATE: Rate = Rate::new(1, Duration::from_secs(3600), 5);

    fn charges(keys: &[&str]) -> Vec<Charge> {
        keys.iter().map(|key| Charge { key: (*key).to_owned(), rate: RATE }).collect()
    }

    #[tokio::test]
    async fn two_processes_share_one_limit() {
        let Some(server) = RedisServer::start() else { return };
        let limiter = || Limiter::shared(&server.url(), "test:").expect("a valid URL");
        let one = limiter();
        let other = limiter();
        for _ in 0..2 {
            assert_eq!(one.take(&charges(&["a", "b"])).await, Ok(()));
            assert_eq!(other.take(&charges(&["a"])).await, Ok(()));
        }
        assert_eq!(one.take(&charges(&["a"])).await, Ok(()), "the fifth unit of a");
        let hour = Duration::from_secs(3600);
        for limiter in [&one, &other] {
            let wait = limiter.take(&charges(&["b", "a"])).await.expect_err("no unit of a is left");
            assert!(wait <= hour && wait > hour - Duration::from_secs(10), "{wait:?}");
        }
        for _ in 0..3 {
            assert_eq!(other.take(&charges(&["b"])).await, Ok(()), "rejected charges take nothing of b");
        }
        assert!(one.take(&charges(&["b"])).await.is_err());
    }

    #[tokio::test]
    async fn a_unit_given_back_by_one_process_can_be_taken_by_another() {
        let Some(server) = RedisServer::start() else { return };
        let limiter = || Limiter::shared(&server.url(), "test:").expect("a valid URL");
        let one = limiter();
        let other = limiter();
        for _ in 0..20 {
            assert_eq!(one.take(&charges(&["a", "b"])).await, Ok(()));
            other.give_back(&charges(&["a", "b"])).await;
        }
        for _ in 0..5 {
            assert_eq!(one.take(&charges(&["a"])).await, Ok(()));
        }
        assert!(other.take(&charges(&["a"])).await.is_err());
        one.give_back(&charges(&["unused"])).await;
        for _ in 0..5 {
            assert_eq!(one.take(&charges(&["unused"])).await, Ok(()));
        }
        assert!(one.take(&charges(&["unused"])).await.is_err(), "nothing is saved up");
    }

    #[tokio::test]
    async fn without_redis_each_process_counts_by_itself_and_only_one_call_waits() {
        let Some(mut server) = RedisServer::start() else { return };
        let limiter = Limiter::shared(&server.url(), "test:").expect("a valid URL");
        assert_eq!(limiter.take(&charges(&["a"])).await, Ok(()));
        server.pause();
        let started = Instant::now();
        for _ in 0..5 {
            assert_eq!(limiter.take(&charges(&["a"])).await, Ok(()), "this process has no counts yet");
        }
        assert!(limiter.take(&charges(&["a"])).await.is_err());
        assert!(
            started.elapsed() < Duration::from_millis(500),
            "only the first call waits: {:?}",
            started.elapsed()
        );
        server.resume();
        testkit::eventually("Redis counts again", || async { limiter.take(&charges(&["a"])).await.is_ok() })
            .await;
        server.kill();
        testkit::eventually("this process counts again", || async {
            limiter.take(&charges(&["a"])).await.is_err()
        })
        .await;
    }
}
