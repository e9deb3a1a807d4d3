//! Sends with a fixed number in flight: those that are committed and counted, a second. Closed loop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use db::Db;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;

use super::{Bench, COSTS, Outcome};
use crate::{
    connection::Connection, latency::Latencies, meter::Cost, schedule::closed_loop, store, system::System,
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "256 direct dialogs and 16, 64 or 256 sends in flight, over both gateways where \
there are two. A send counts when it is committed, so that all counts include it: the time ends with the \
last of them, not with the last response. A refused send is repeated with its key afterwards, until it \
is acknowledged. *Raw inserts* are the ceiling of the database alone: the same rows in dialog's tables, \
one transaction for each message, by the generator itself and without any counting.";

pub(super) const PAIRS: usize = 256;
const IN_FLIGHT: [usize; 3] = [16, 64, 256];
pub(super) const WARM_UP: Duration = Duration::from_secs(2);
/// Connections of raw inserts: more take PostgreSQL longer to open than an insert waits for one.
const CONNECTIONS_MAX: usize = 64;
/// Text of raw inserts, as long as those of the sends.
const TEXT_OF_INSERTS: &str = "A message of sixty-four bytes, written without any of the program.";
/// Seed of the choice of dialogs.
const SEED: u64 = 13;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(Workload::pairs(&system, PAIRS).await?);
    let mut outcome = Outcome::default();
    flood(&system, &workload, IN_FLIGHT[0], WARM_UP).await?;
    for in_flight in IN_FLIGHT {
        let case = format!("{in_flight} in flight");
        if bench.skips(&case) {
            continue;
        }
        let flood = flood(&system, &workload, in_flight, Duration::from_secs(bench.seconds)).await?;
        flood.report(&case, None, &mut outcome);
    }
    bench.finish(&mut system, &workload, &mut outcome).await?;
    if bench.with_peers {
        for in_flight in IN_FLIGHT {
            insert_raw(bench, &system, &workload, in_flight, &mut outcome).await?;
        }
    }
    Ok(outcome)
}

/// Writes messages straight into the database of the stopped system.
async fn insert_raw(
    bench: &Bench,
    system: &System,
    workload: &Workload,
    in_flight: usize,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let db = system.database("dialog", in_flight.min(CONNECTIONS_MAX)).await?;
    let writer = |number: usize| Writer {
        db: db.clone(),
        dialogs: workload
            .dialogs
            .iter()
            .map(|id| id.parse())
            .collect::<Result<_, _>>()
            .expect("ids are UUIDs"),
        random: SmallRng::seed_from_u64(SEED + number as u64),
        answers: Vec::new(),
    };
    let writers = (0..in_flight).map(writer).collect();
    let started = Instant::now();
    let writers = closed_loop(writers, Duration::from_secs(bench.seconds), Writer::insert).await?;
    let elapsed = started.elapsed();
    let answers: Vec<Duration> = writers.into_iter().flat_map(|writer| writer.answers).collect();
    let mut values =
        vec![("committed and counted, 1/s".to_owned(), answers.len() as f64 / elapsed.as_secs_f64())];
    values.extend(Latencies::of(answers).summary("answer"));
    outcome.add_of("Rate", &format!("{in_flight} in flight"), Some("raw inserts"), values);
    db.close().await;
    Ok(())
}

/// Writer of raw inserts.
struct Writer {
    db: Db,
    dialogs: Vec<Uuid>,
    random: SmallRng,
    answers: Vec<Duration>,
}

impl Writer {
    async fn insert(mut self) -> anyhow::Result<Self> {
        let dialog = self.dialogs[self.random.random_range(0..self.dialogs.len())];
        let started = Instant::now();
        store::insert_message(&self.db, dialog, dialog, TEXT_OF_INSERTS).await?;
        self.answers.push(started.elapsed());
        Ok(self)
    }
}

/// Measurements of one flood.
pub(super) struct Flood {
    answers: Vec<Duration>,
    sending: Duration,
    whole: Duration,
    refused: usize,
    cost: Cost,
}

impl Flood {
    /// Adds the rows of the flood.
    pub(super) fn report(self, case: &str, name: Option<&'static str>, outcome: &mut Outcome) {
        let sent = self.answers.len() as f64;
        let mut values = vec![
            ("committed and counted, 1/s".to_owned(), sent / self.whole.as_secs_f64()),
            ("acknowledged, 1/s".to_owned(), sent / self.sending.as_secs_f64()),
            ("drain, s".to_owned(), (self.whole - self.sending).as_secs_f64()),
        ];
        values.extend(Latencies::of(self.answers).summary("answer"));
        values.push(("refused".to_owned(), self.refused as f64));
        outcome.add_of("Rate", case, name, values);
        outcome.add_of(COSTS, case, name, self.cost.values());
    }
}

/// Sender with a connection of its own.
struct Sender {
    connection: Option<Connection>,
    address: std::net::SocketAddr,
    workload: Arc<Workload>,
    random: SmallRng,
    answers: Vec<Duration>,
}

impl Sender {
    /// Sends one message to a random dialog. The connection is replaced after an error.
    async fn send(mut self) -> anyhow::Result<Self> {
        let dialog = self.random.random_range(0..PAIRS);
        let send = self.workload.new_send(dialog, dialog);
        let started = Instant::now();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let answer = connection.post(&self.workload.users[dialog].token, self.workload.encode(&send)).await;
        self.connection = answer.is_ok().then_some(connection);
        if self.workload.settle(send, answer).is_some() {
            self.answers.push(started.elapsed());
        }
        Ok(self)
    }
}

/// Keeps so many sends in flight for a time, and waits until all are counted.
pub(super) async fn flood(
    system: &System,
    workload: &Arc<Workload>,
    in_flight: usize,
    duration: Duration,
) -> anyhow::Result<Flood> {
    let sender = |number: usize| Sender {
        connection: None,
        address: system.gateway(number % 2),
        workload: Arc::clone(workload),
        random: SmallRng::seed_from_u64(SEED + number as u64),
        answers: Vec::new(),
    };
    let before = system.reading().await?;
    let started = Instant::now();
    let senders = closed_loop((0..in_flight).map(sender).collect(), duration, Sender::send).await?;
    let sending = started.elapsed();
    let answers: Vec<Duration> = senders.into_iter().flat_map(|sender| sender.answers).collect();
    workload.drain().await?;
    let whole = started.elapsed();
    let cost = system.reading().await?.cost_since(&before, answers.len() as u64);
    let refused = workload.settle_doubts().await?;
    workload.drain().await?;
    Ok(Flood { answers, sending, whole, refused, cost })
}
