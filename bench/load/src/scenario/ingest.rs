//! A counter that starts with a full topic: the rate at which it counts what was sent while it was away.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{Bench, Outcome};
use crate::{connection::Pool, schedule::Schedule, system::Kind, system::System, workload::Workload};

/// Description in the report.
pub const TEXT: &str = "The counter is stopped, messages are sent, and it is started again. *Counted* is \
the rate from its readiness until every count is right, which includes a gateway's answer for each \
reader; *committed* ends when the last message is COMMITTED. The costs are those of one message, from \
the start of the process.";

const PAIRS: usize = 256;
const GROUPS: usize = 10;
const GROUP: usize = 100;
const CONNECTIONS: usize = 64;
/// Messages of the cases. The rates are below that of sustained sends.
const DIRECT: Schedule = Schedule::new(400, Duration::from_secs(20));
const IN_GROUPS: Schedule = Schedule::new(50, Duration::from_secs(10));

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    ensure!(bench.kind == Kind::Engines, "the counter is a process of its own only on the engines");
    let pairs = (0..PAIRS).map(|author| vec![author, author + PAIRS]).collect();
    let groups = (0..GROUPS).map(|group| (group * GROUP..(group + 1) * GROUP).collect()).collect();
    let mut outcome = Outcome::default();
    for (case, dialogs, schedule) in [("direct dialogs", pairs, DIRECT), ("groups of 100", groups, IN_GROUPS)]
    {
        if bench.skips(case) {
            continue;
        }
        let mut system = bench.start(&[]).await?;
        ingest(&mut system, dialogs, schedule, case, &mut outcome).await?;
        system.stop_all().await?;
    }
    Ok(outcome)
}

async fn ingest(
    system: &mut System,
    dialogs: Vec<Vec<usize>>,
    schedule: Schedule,
    case: &str,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut workload = Workload::with_users(system, dialogs.iter().map(Vec::len).sum()).await?;
    workload.add_dialogs(dialogs).await?;
    let workload = Arc::new(workload);
    system.stop_process("counter").await?;
    let pool = Pool::new(system.gateway(0), CONNECTIONS);
    let all: Vec<usize> = (0..workload.dialogs.len()).collect();
    let sends = workload.send_by_schedule(&pool, &all, schedule).await?.len() as f64;
    workload.settle_doubts().await?;
    let before = system.reading().await?;
    system.start_process("counter")?;
    system.wait_until_ready().await?;
    let ready = Instant::now();
    workload.wait_until_counted().await?;
    let counted = ready.elapsed();
    workload.drain().await?;
    let committed = ready.elapsed();
    let cost = system.reading().await?.cost_since(&before, sends as u64);
    let counts = workload.oracle.lock().unread_sum() as f64;
    outcome.add(
        "Rate",
        case,
        vec![
            ("messages".to_owned(), sends),
            ("messages counted, 1/s".to_owned(), sends / counted.as_secs_f64()),
            ("counts changed, 1/s".to_owned(), counts / counted.as_secs_f64()),
            ("messages committed, 1/s".to_owned(), sends / committed.as_secs_f64()),
        ],
    );
    outcome.add_cost(case, &cost);
    outcome.compared += workload.compare().await?;
    Ok(())
}
