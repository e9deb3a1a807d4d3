//! Operations on a database with 1,000, 100,000 and 1,000,000 stored messages. The messages are written by
//! SQL while the system is stopped, with all that dialog and counter keep of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::json;

use super::{Bench, Outcome};
use crate::{
    latency::Latencies,
    schedule::closed_loop,
    store::{self, Stored},
    system::System,
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "100 direct dialogs with as many messages each, counted and unread. *Send* waits \
for the response, *history* is the newest page of 20 messages, *counts* are all counts of a reader, \
*page* is a page of 20 dialogs. 4 operations are in flight.";

const PAIRS: usize = 100;
/// Stored messages of all dialogs together, in growing order.
const MESSAGES: [u64; 3] = [1_000, 100_000, 1_000_000];
const IN_FLIGHT: usize = 4;
const HISTORY: &str =
    "query($id: ID!) { dialog(id: $id) { messages(last: 20) { nodes { seq text status } } } }";
const DIALOGS: &str = "{ dialogs(first: 20) { nodes { id unreadCount lastMessage { seq } } } }";

/// Operation of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operation {
    Send,
    History,
    Counts,
    Page,
}

const OPERATIONS: [(&str, Operation); 4] = [
    ("send", Operation::Send),
    ("history", Operation::History),
    ("counts", Operation::Counts),
    ("page", Operation::Page),
];

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(Workload::pairs(&system, PAIRS).await?);
    let mut outcome = Outcome::default();
    for messages in MESSAGES {
        let case = format!("{messages} messages");
        if bench.skips(&case) {
            continue;
        }
        fill(&mut system, &workload, messages / PAIRS as u64).await?;
        let mut values = Vec::new();
        for (name, operation) in OPERATIONS {
            let latencies = measure(&workload, operation, Duration::from_secs(bench.seconds)).await?;
            let latencies = Latencies::of(latencies);
            values.push((format!("{name} p50, ms"), latencies.quantile_ms(0.5)));
            values.push((format!("{name} p99, ms"), latencies.quantile_ms(0.99)));
        }
        outcome.add("Latency", &case, values);
    }
    bench.finish(&mut system, &workload, &mut outcome).await?;
    Ok(outcome)
}

/// Stops the system, fills every dialog up to a number of messages, and starts it.
async fn fill(system: &mut System, workload: &Workload, each: u64) -> anyhow::Result<()> {
    workload.settle_doubts().await?;
    system.stop_all().await?;
    let dialog_db = system.database("dialog", 2).await?;
    let counter_db = system.database("counter", 2).await?;
    for index in 0..PAIRS {
        let head = workload.oracle.lock().head(index);
        let stored = Stored {
            dialog: workload.dialogs[index].parse()?,
            author: workload.users[index].id.parse()?,
            reader: workload.users[index + PAIRS].id.parse()?,
            head: head.cast_signed(),
            count: each.saturating_sub(head).cast_signed(),
        };
        store::fill_dialog(&dialog_db, &counter_db, &stored).await?;
        let mut oracle = workload.oracle.lock();
        (head + 1..=each).for_each(|seq| oracle.record(index, index, seq));
    }
    store::analyze(&dialog_db).await?;
    store::analyze(&counter_db).await?;
    dialog_db.close().await;
    counter_db.close().await;
    system.clear_cache().await?;
    system.start_all()?;
    system.wait_until_ready().await
}

/// Repeats an operation, over the dialogs in turn, and returns the latencies.
async fn measure(
    workload: &Arc<Workload>,
    operation: Operation,
    duration: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let client =
        |number| Client { workload: Arc::clone(workload), operation, next: number, latencies: Vec::new() };
    let clients = closed_loop((0..IN_FLIGHT).map(client).collect(), duration, Client::step).await?;
    workload.settle_doubts().await?;
    workload.drain().await?;
    Ok(clients.into_iter().flat_map(|client| client.latencies).collect())
}

struct Client {
    workload: Arc<Workload>,
    operation: Operation,
    next: usize,
    latencies: Vec<Duration>,
}

impl Client {
    async fn step(mut self) -> anyhow::Result<Self> {
        let dialog = self.next % PAIRS;
        self.next += IN_FLIGHT;
        let head = self.workload.oracle.lock().head(dialog);
        let reader = dialog + PAIRS;
        let started = Instant::now();
        match self.operation {
            Operation::Send => {
                let send = self.workload.new_send(dialog, dialog);
                let answer = self.workload.send(&send).await;
                self.workload.settle(send, answer);
            }
            Operation::History => {
                let data = self
                    .workload
                    .execute(reader, HISTORY, &json!({"id": self.workload.dialogs[dialog]}))
                    .await?;
                let nodes = data["dialog"]["messages"]["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                ensure!(nodes.last().is_some_and(|newest| newest["seq"] == head), "{data} without {head}");
            }
            Operation::Counts => {
                let total = self.workload.counts(reader).await?.total;
                ensure!(total == head, "{total} instead of {head}");
            }
            Operation::Page => {
                let data = self.workload.execute(reader, DIALOGS, &json!({})).await?;
                let node = &data["dialogs"]["nodes"][0];
                ensure!(node["unreadCount"] == head && node["lastMessage"]["seq"] == head, "{data}");
            }
        }
        self.latencies.push(started.elapsed());
        Ok(self)
    }
}
