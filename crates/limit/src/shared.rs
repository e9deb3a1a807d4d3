//! Limits that several processes keep together: one script in Redis, one round trip. Away or slow, there is no answer, and
//! for a moment nobody asks.

use std::time::{Duration, Instant};

use redis::{Cmd, RedisError, Script, cmd};
use redis_link::{Breaker, InvalidUrl, Link};

use crate::Want;

/// How long a request waits for Redis, and how long nobody asks after that was in vain.
const PATIENCE: Duration = Duration::from_millis(50);
const MOMENT: Duration = Duration::from_millis(500);

const SCRIPT: &str = include_str!("gcra.lua");

#[derive(Debug)]
pub(crate) struct Shared {
    link: Link,
    breaker: Breaker,
    prefix: &'static str,
    sha: String,
}

impl Shared {
    pub(crate) fn open(url: &str, prefix: &'static str) -> Result<Self, InvalidUrl> {
        let sha = Script::new(SCRIPT).get_hash().to_owned();
        Ok(Self { link: Link::open(url, PATIENCE)?, breaker: Breaker::new(MOMENT), prefix, sha })
    }

    /// As [`crate::Limiter::take`]; `None` where there is no answer.
    pub(crate) async fn take(&self, wants: &[Want]) -> Option<Result<(), Duration>> {
        if !self.breaker.allows() {
            metrics::counter!("rate_limit_local_total").increment(1);
            return None;
        }
        let (begun, mut load) = (Instant::now(), cmd("SCRIPT"));
        load.arg("LOAD").arg(SCRIPT);
        let answer: Result<u64, RedisError> = self.link.ask(&self.call(wants), &load).await;
        metrics::histogram!("rate_limit_redis_seconds").record(begun.elapsed());
        self.breaker.saw(answer.is_ok());
        match answer {
            Ok(0) => Some(Ok(())),
            Ok(wait_us) => Some(Err(Duration::from_micros(wait_us))),
            Err(error) => {
                metrics::counter!("rate_limit_local_total").increment(1);
                tracing::debug!(%error, "Redis gave no answer; the limits are this process's own for a moment");
                None
            }
        }
    }

    fn call(&self, wants: &[Want]) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.sha).arg(wants.len());
        for want in wants {
            call.arg(format!("{}{}", self.prefix, want.key));
        }
        for want in wants {
            let (interval_us, tolerance_us) = want.rate.micros();
            call.arg(interval_us).arg(tolerance_us);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use testkit::RedisServer;

    use super::*;
    use crate::{Limiter, Rate};

    const RATE: Rate = Rate::new(1, Duration::from_secs(3600), 5);

    fn wants(keys: &[&str]) -> Vec<Want> {
        keys.iter().map(|key| Want { key: (*key).to_owned(), rate: RATE }).collect()
    }

    #[tokio::test]
    async fn two_processes_have_one_limit_by_the_rule_of_one() {
        let Some(server) = RedisServer::start() else { return };
        let limiter = || Limiter::shared(&server.url(), "test:").expect("a URL");
        let (one, other) = (limiter(), limiter());
        for _ in 0..2 {
            assert_eq!(one.take(&wants(&["a", "b"])).await, Ok(()));
            assert_eq!(other.take(&wants(&["a"])).await, Ok(()));
        }
        assert_eq!(one.take(&wants(&["a"])).await, Ok(()), "the fifth of a");
        let hour = Duration::from_secs(3600);
        for limiter in [&one, &other] {
            let wait = limiter.take(&wants(&["b", "a"])).await.expect_err("a is all taken");
            assert!(wait <= hour && wait > hour - Duration::from_secs(10), "{wait:?}");
        }
        for _ in 0..3 {
            assert_eq!(other.take(&wants(&["b"])).await, Ok(()), "the refused ones took nothing of b");
        }
        assert!(one.take(&wants(&["b"])).await.is_err());
    }

    #[tokio::test]
    async fn without_redis_every_process_has_its_own_limit_and_nobody_waits_long() {
        let Some(mut server) = RedisServer::start() else { return };
        let limiter = Limiter::shared(&server.url(), "test:").expect("a URL");
        assert_eq!(limiter.take(&wants(&["a"])).await, Ok(()));
        server.freeze();
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(limiter.take(&wants(&["a"])).await, Ok(()), "this process has counted none yet");
        }
        assert!(limiter.take(&wants(&["a"])).await.is_err());
        assert!(
            begun.elapsed() < Duration::from_millis(500),
            "one waited, and no other: {:?}",
            begun.elapsed()
        );
        server.thaw();
        testkit::eventually("Redis is asked again", || async { limiter.take(&wants(&["a"])).await.is_ok() })
            .await;
        server.kill();
        testkit::eventually("it is away", || async { limiter.take(&wants(&["a"])).await.is_err() }).await;
    }
}
