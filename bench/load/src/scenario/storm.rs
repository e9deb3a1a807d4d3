//! A gateway is restarted, and all its clients connect again at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Bench, Outcome};
use crate::{
    connection::Pool,
    latency::Latencies,
    schedule::Schedule,
    socket::Socket,
    system::{Kind, System},
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "2,000 users, each with an unread message and a socket. The process with the \
sockets is stopped and started, and all clients connect again, 200 at the same time. *Ready* is the time \
from the handshake of a client to its first frame, which must have its count. The costs are those of one \
client, with PostgreSQL's statements.";

const PAIRS: usize = 2_000;
/// Clients that connect at the same time.
const CONNECTING: usize = 200;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(Workload::pairs(&system, PAIRS).await?);
    let pool = Pool::new(system.gateway(0), 32);
    let dialogs: Vec<usize> = (0..PAIRS).collect();
    workload.send_by_schedule(&pool, &dialogs, Schedule::once_each(&dialogs, 200)).await?;
    workload.settle_doubts().await?;
    workload.drain().await?;
    drop(connect(&system, &workload).await?);
    let process = match bench.kind {
        Kind::Sqlite => "serve",
        Kind::Engines => "gateway2",
    };
    system.stop_process(process).await?;
    system.start_process(process)?;
    system.wait_until_ready().await?;
    let before = system.reading().await?;
    let started = Instant::now();
    let clients = connect(&system, &workload).await?;
    let elapsed = started.elapsed();
    let cost = system.reading().await?.cost_since(&before, PAIRS as u64);
    let mut outcome = Outcome::default();
    let case = "2,000 clients";
    let mut values = vec![("all ready, s".to_owned(), elapsed.as_secs_f64())];
    values.extend(Latencies::of(clients.iter().map(|(_, ready)| *ready)).summary("ready"));
    outcome.add("Latency", case, values);
    outcome.add_cost(case, &cost);
    drop(clients);
    bench.finish(&mut system, &workload, &mut outcome).await?;
    Ok(outcome)
}

/// Connects a client of every reader and returns the time until its first frame.
async fn connect(system: &System, workload: &Workload) -> anyhow::Result<Vec<(Socket, Duration)>> {
    let open = |dialog: usize| async move {
        let started = Instant::now();
        let (socket, first) =
            Socket::subscribe(system.gateway(1), &workload.users[dialog + PAIRS].token).await?;
        let head = workload.oracle.lock().head(dialog);
        anyhow::ensure!(
            first.total == head,
            "a client begins with {} unread messages of {head}",
            first.total
        );
        Ok((socket, started.elapsed()))
    };
    stream::iter(0..PAIRS).map(open).buffer_unordered(CONNECTING).try_collect().await
}
