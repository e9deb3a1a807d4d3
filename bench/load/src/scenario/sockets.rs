//! Memory of many sockets with a subscription, each of a user of its own.

use std::time::Instant;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Bench, Outcome};
use crate::{
    socket::Socket,
    system::{Kind, System},
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "Sockets with the subscription `unread`, each of a user of its own, at one \
gateway. *Memory* is the growth of the resident memory of the process by each socket. The costs are \
those of one connection, from its handshake to its first frame. `make bench-sockets` also runs the story \
test of memory that remains after sockets close.";

const COUNTS: [usize; 3] = [1_000, 5_000, 19_000];
const SETTINGS: [(&str, &str); 1] = [("MAX_CONNECTIONS", "19500")];
/// Sockets that connect at the same time.
const CONNECTING: usize = 50;
/// Sockets that are opened and closed first, so that caches and pools of the process exist.
const WARM_UP: usize = 500;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    ensure!(bench.kind == Kind::Sqlite, "the sockets of one process are measured");
    let mut outcome = Outcome::default();
    for count in COUNTS {
        let case = format!("{count} sockets");
        if bench.skips(&case) {
            continue;
        }
        let mut system = bench.start(&SETTINGS).await?;
        let workload = Workload::with_users(&system, count.max(WARM_UP)).await?;
        drop(connect(&system, &workload, WARM_UP).await?);
        let empty = resident_kb(&system)?;
        let before = system.reading().await?;
        let started = Instant::now();
        let sockets = connect(&system, &workload, count).await?;
        let elapsed = started.elapsed();
        let cost = system.reading().await?.cost_since(&before, count as u64);
        let memory_kb = resident_kb(&system)?.saturating_sub(empty) as f64;
        outcome.add(
            "Memory",
            &case,
            vec![
                ("memory of a socket, kB".to_owned(), memory_kb / count as f64),
                ("process without sockets, MiB".to_owned(), empty as f64 / 1024.0),
                ("connections, 1/s".to_owned(), count as f64 / elapsed.as_secs_f64()),
            ],
        );
        outcome.add_cost(&case, &cost);
        drop(sockets);
        bench.finish(&mut system, &workload, &mut outcome).await?;
    }
    Ok(outcome)
}

async fn connect(system: &System, workload: &Workload, count: usize) -> anyhow::Result<Vec<Socket>> {
    let open = |user: usize| async move {
        let (socket, first) = Socket::subscribe(system.gateway(0), &workload.users[user].token).await?;
        ensure!(first.total == 0, "a user without dialogs has {} unread messages", first.total);
        Ok(socket)
    };
    stream::iter(0..count).map(open).buffer_unordered(CONNECTING).try_collect().await
}

fn resident_kb(system: &System) -> anyhow::Result<u64> {
    Ok(system.resident_kb()?.iter().map(|(_, kb)| kb).sum())
}
