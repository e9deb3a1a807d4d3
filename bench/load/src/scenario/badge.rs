//! From `sendMessage` to the frame of the reader's badge, which is at the other gateway where there are
//! two. Open loop at fixed rates.

use std::{sync::Arc, time::Duration};

use super::{Bench, Outcome};
use crate::{
    connection::Pool,
    latency::Latencies,
    readers::{Reader, Readers},
    schedule::Schedule,
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "200 direct dialogs. Authors send at the first gateway in an open loop; every \
reader has a WebSocket with the subscription `unread`, at the second gateway where there are two. \
*Badge* is the time from the intended start of the send to the arrival of the frame that counts it, \
*answer* the time to the response of `sendMessage`. Every frame must have the exact count of its \
message.";

const PAIRS: usize = 200;
const RATES: [u32; 4] = [25, 100, 300, 500];
const WARM_UP: Schedule = Schedule::new(100, Duration::from_secs(3));
/// Connections of the authors.
const CONNECTIONS: usize = 256;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(Workload::pairs(&system, PAIRS).await?);
    let reader = |dialog| Reader { user: dialog + PAIRS, dialog, gateway: 1 };
    let mut readers = Readers::subscribe(&system, &workload, (0..PAIRS).map(reader).collect()).await?;
    let pool = Pool::new(system.gateway(0), CONNECTIONS);
    let mut outcome = Outcome::default();
    let dialogs: Vec<usize> = (0..PAIRS).collect();
    workload.send_by_schedule(&pool, &dialogs, WARM_UP).await?;
    readers.wait_for_frames(&workload).await?;
    for rate in RATES {
        let case = format!("{rate} sends/s");
        if bench.skips(&case) {
            continue;
        }
        let before = system.reading().await?;
        let schedule = Schedule::new(rate, Duration::from_secs(bench.seconds));
        let sends = workload.send_by_schedule(&pool, &dialogs, schedule).await?;
        let refused = workload.settle_doubts().await?;
        let frames = readers.wait_for_frames(&workload).await?;
        workload.drain().await?;
        let cost = system.reading().await?.cost_since(&before, sends.len() as u64);
        let badges = readers.latencies(&sends, &frames)?.into_iter().flatten();
        let mut values = Latencies::of(badges).summary("badge");
        values
            .extend(Latencies::of(sends.iter().map(|send| send.answered - send.intended)).summary("answer"));
        values.push(("refused".to_owned(), refused as f64));
        outcome.add("Latency", &case, values);
        outcome.add_cost(&case, &cost);
    }
    drop(readers);
    bench.finish(&mut system, &workload, &mut outcome).await?;
    Ok(outcome)
}
