//! Several times as many queries as can be answered, then half of what can be. Open loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Bench, Outcome,
    reads::{PAGE_DOCUMENT, VIEWERS, prepare},
};
use crate::{
    connection::Pool,
    graphql,
    latency::Latencies,
    schedule::{Schedule, closed_loop},
    system::System,
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "The page of *Reads*, first with 64 in flight, which gives the capacity; then four \
times as many a second, in an open loop; then half the capacity. A query is either answered in full or \
refused with RATE_LIMITED; anything else fails the run, as does a refusal in the last part. Latencies \
count from the intended start, so they include what the generator, which shares the machine, is late.";

const IN_FLIGHT: u64 = 64;
const CONNECTIONS: usize = 4_096;
/// Multiple of the capacity.
const OVERLOAD: f64 = 4.0;
/// Pause before the last part, in which the limit recovers.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(prepare(&system).await?);
    let mut outcome = Outcome::default();
    let duration = Duration::from_secs(bench.seconds);
    let capacity = capacity(&system, &workload, duration).await?;
    let queries = Queries::new(&system, &workload);
    let overload = queries.run(capacity * OVERLOAD, duration).await?;
    tokio::time::sleep(PAUSE).await;
    let after = queries.run(capacity / 2.0, duration).await?;
    let refused_after = after.iter().filter(|answer| !answer.is_whole).count();
    ensure!(refused_after == 0, "{refused_after} of {} refused at half the capacity", after.len());
    let of = |answers: &[Answer], is_whole| {
        let latencies = answers.iter().filter(|answer| answer.is_whole == is_whole);
        latencies.map(|answer| answer.latency).collect::<Vec<_>>()
    };
    let answered = of(&overload, true);
    let refused = of(&overload, false);
    let mut values = vec![
        ("capacity, 1/s".to_owned(), capacity),
        ("offered, 1/s".to_owned(), capacity * OVERLOAD),
        ("answered, 1/s".to_owned(), answered.len() as f64 / duration.as_secs_f64()),
    ];
    values.extend(Latencies::of(answered).summary("answer"));
    values.extend(Latencies::of(refused).summary("refusal"));
    values.extend(Latencies::of(of(&after, true)).summary("afterwards"));
    outcome.add("Overload", "page", values);
    bench.finish(&mut system, &workload, &mut outcome).await?;
    Ok(outcome)
}

/// Measures how many pages a second are answered.
async fn capacity(system: &System, workload: &Arc<Workload>, duration: Duration) -> anyhow::Result<f64> {
    let queries = Queries::new(system, workload);
    let start = Instant::now();
    let query = move |(worker, answered): (u64, u32)| {
        let queries = queries.clone();
        async move {
            let answer = queries.query(worker, Instant::now()).await?;
            ensure!(answer.is_whole, "refused with {IN_FLIGHT} in flight");
            Ok((worker, answered + 1))
        }
    };
    let workers = closed_loop((0..IN_FLIGHT).map(|worker| (worker, 0)).collect(), duration, query).await?;
    let answered: u32 = workers.iter().map(|(_, answered)| answered).sum();
    Ok(f64::from(answered) / start.elapsed().as_secs_f64())
}

/// Queries of the viewers, over all gateways.
#[derive(Clone)]
struct Queries {
    pools: Arc<[Pool]>,
    workload: Arc<Workload>,
    operation: Bytes,
}

/// Answer to one query: whole or refused.
struct Answer {
    is_whole: bool,
    latency: Duration,
}

impl Queries {
    fn new(system: &System, workload: &Arc<Workload>) -> Self {
        let pools = system.gateways().into_iter().map(|address| Pool::new(address, CONNECTIONS)).collect();
        let operation = graphql::operation(PAGE_DOCUMENT, &json!({}));
        Self { pools, workload: Arc::clone(workload), operation }
    }

    async fn run(&self, rate: f64, duration: Duration) -> anyhow::Result<Vec<Answer>> {
        let schedule = Schedule::new(rate.round() as u32, duration);
        let query = |index, intended| {
            let queries = self.clone();
            async move { queries.query(index, intended).await }
        };
        schedule.run(query).await?.into_iter().collect()
    }

    async fn query(&self, index: u64, intended: Instant) -> anyhow::Result<Answer> {
        let number = index as usize;
        let token = &self.workload.users[number % VIEWERS].token;
        let pool = &self.pools[number % self.pools.len()];
        let (status, body) = pool.exchange(token, self.operation.clone()).await?;
        let latency = intended.elapsed();
        let is_whole = status == 200;
        if is_whole {
            graphql::data::<Value>(&body)?;
        } else {
            let refusal: Value = serde_json::from_slice(&body)?;
            let extensions = &refusal["errors"][0]["extensions"];
            let is_limited = extensions["code"] == "RATE_LIMITED" && extensions["retryAfterMs"].is_u64();
            ensure!(status == 429 && is_limited, "{status}: {refusal}");
        }
        Ok(Answer { is_whole, latency })
    }
}
