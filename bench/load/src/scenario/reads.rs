//! Queries with 64 in flight: the smallest one, the caller's counts, and a page of 50 dialogs with
//! everything that a client shows. Closed loop. On the engines, other servers on the same services answer
//! the same queries.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Bench, COSTS, Outcome};
use crate::{
    connection::{Connection, Pool},
    graphql,
    latency::Latencies,
    meter::Metered,
    peers::{self, Peer},
    schedule::{Schedule, closed_loop},
    system::{Kind, System},
    workload::Workload,
};

/// Description in the report.
pub const TEXT: &str = "64 connections, one query at a time on each, by 8 signed-in users over both \
gateways where there are two. *Page* is a page of 50 dialogs: title, participants, the newest message \
with its author, unread count. The first answer of each user is checked in full, every other one must \
have the same bytes. The other servers are single processes that call the same auth, dialog and counter, \
and give the same answers without the gateway's limits, authentication, metrics and pushes. `{ \
__typename }` calls no service.";

/// Users that query.
pub(super) const VIEWERS: usize = 8;
/// Participants besides the viewers.
const CONTACTS: usize = 40;
/// Dialogs of each viewer: a page.
const PAGE: usize = 50;
const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
/// Sends of the preparation a second.
const PREPARATION_RATE: u32 = 200;
/// The cases with their documents.
const QUERIES: [(&str, &str); 3] = [
    ("{ __typename }", "{ __typename }"),
    ("unread", "{ unread { total version dialogs(first: 100) { dialogId unread } } }"),
    ("page", PAGE_DOCUMENT),
];
/// Page of 50 dialogs.
pub(super) const PAGE_DOCUMENT: &str =
    "{ dialogs(first: 50) { nodes { id title direct unreadCount lastActivityAt
    participants { nodes { id login name } }
    lastMessage { id seq text status createdAt sender { id name } } } pageInfo { hasNextPage } } }";

/// Answers of each viewer to each query, which another server must repeat.
pub(super) type Expected = HashMap<(&'static str, usize), Value>;

/// Runs the scenario once.
pub async fn run(bench: &Bench) -> anyhow::Result<Outcome> {
    let mut system = bench.start(&[]).await?;
    let workload = Arc::new(prepare(&system).await?);
    let mut outcome = Outcome::default();
    let mut expected = Expected::new();
    Target::own(&system, None).measure(bench, &system, &workload, &mut expected, &mut outcome).await?;
    if bench.kind == Kind::Engines && bench.with_peers {
        for kind in peers::Kind::installed() {
            let peer = Peer::start(kind, &system.service_urls()).await?;
            let target =
                Target { name: Some(kind.name()), addresses: vec![peer.address], metered: peer.metered() };
            target.measure(bench, &system, &workload, &mut expected, &mut outcome).await?;
            peer.stop().await?;
        }
    }
    bench.finish(&mut system, &workload, &mut outcome).await?;
    Ok(outcome)
}

/// Creates 50 dialogs of each viewer with two contacts, and one message by a contact in each.
pub(super) async fn prepare(system: &System) -> anyhow::Result<Workload> {
    let mut workload = Workload::with_users(system, VIEWERS + CONTACTS).await?;
    let members = |index: usize| {
        let contact = |number: usize| VIEWERS + (index + number) % CONTACTS;
        vec![contact(0), contact(1), index % VIEWERS]
    };
    workload.add_dialogs((0..VIEWERS * PAGE).map(members).collect()).await?;
    let workload = Arc::new(workload);
    let dialogs: Vec<usize> = (0..VIEWERS * PAGE).collect();
    let schedule = Schedule::once_each(&dialogs, PREPARATION_RATE);
    workload.send_by_schedule(&Pool::new(system.gateway(0), CONNECTIONS), &dialogs, schedule).await?;
    workload.settle_doubts().await?;
    workload.drain().await?;
    Arc::into_inner(workload).context("no send is left")
}

/// Server that is measured.
pub(super) struct Target {
    /// Name; `None` for the program under test with its usual settings.
    name: Option<&'static str>,
    addresses: Vec<SocketAddr>,
    metered: Option<Metered>,
}

impl Target {
    /// Returns the gateways of a system.
    pub(super) fn own(system: &System, name: Option<&'static str>) -> Self {
        Self { name, addresses: system.gateways(), metered: None }
    }

    /// Measures every query.
    pub(super) async fn measure(
        &self,
        bench: &Bench,
        system: &System,
        workload: &Arc<Workload>,
        expected: &mut Expected,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let duration = Duration::from_secs(bench.seconds);
        for (case, document) in QUERIES {
            if bench.skips(case) {
                continue;
            }
            let operation = graphql::operation(document, &json!({}));
            let answers = Arc::new(Answers { operation, first: Mutex::default() });
            self.query(workload, &answers, WARM_UP).await.context(case)?;
            let before = system.reading_with(self.metered.as_slice()).await?;
            let started = Instant::now();
            let latencies = self.query(workload, &answers, duration).await.context(case)?;
            let elapsed = started.elapsed();
            let after = system.reading_with(self.metered.as_slice()).await?;
            let cost = after.cost_since(&before, latencies.len() as u64);
            for (viewer, answer) in answers.first.lock().iter() {
                let data = graphql::data(answer)?;
                check(case, &data, &workload.users[*viewer].id)?;
                let first = expected.entry((case, *viewer)).or_insert_with(|| data.clone());
                ensure!(*first == data, "{case}: {data} instead of {first}");
            }
            let mut values =
                vec![("queries, 1/s".to_owned(), latencies.len() as f64 / elapsed.as_secs_f64())];
            values.extend(Latencies::of(latencies).summary("answer"));
            outcome.add_of("Rate", case, self.name, values);
            outcome.add_of(COSTS, case, self.name, cost.values());
        }
        Ok(())
    }

    /// Queries for a time and returns the latencies.
    async fn query(
        &self,
        workload: &Arc<Workload>,
        answers: &Arc<Answers>,
        duration: Duration,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut clients = Vec::new();
        for number in 0..CONNECTIONS {
            clients.push(Client {
                connection: Connection::open(self.addresses[number % self.addresses.len()]).await?,
                viewer: number / 2 % VIEWERS,
                workload: Arc::clone(workload),
                answers: Arc::clone(answers),
                latencies: Vec::new(),
            });
        }
        let clients = closed_loop(clients, duration, Client::query).await?;
        Ok(clients.into_iter().flat_map(|client| client.latencies).collect())
    }
}

/// Operation and the first answer of each viewer.
struct Answers {
    operation: Bytes,
    first: Mutex<HashMap<usize, Bytes>>,
}

struct Client {
    connection: Connection,
    viewer: usize,
    workload: Arc<Workload>,
    answers: Arc<Answers>,
    latencies: Vec<Duration>,
}

impl Client {
    async fn query(mut self) -> anyhow::Result<Self> {
        let started = Instant::now();
        let token = &self.workload.users[self.viewer].token;
        let answer = self.connection.post(token, self.answers.operation.clone()).await?;
        self.latencies.push(started.elapsed());
        let mut first = self.answers.first.lock();
        let expected = first.entry(self.viewer).or_insert_with(|| answer.clone());
        ensure!(*expected == answer, "{expected:?} became {answer:?}");
        drop(first);
        Ok(self)
    }
}

/// Checks an answer in full.
fn check(case: &str, data: &Value, viewer: &str) -> anyhow::Result<()> {
    match case {
        "unread" => {
            let rows = data["unread"]["dialogs"].as_array().context("rows")?;
            let is_exact = data["unread"]["total"] == PAGE && rows.len() == PAGE;
            ensure!(is_exact && rows.iter().all(|row| row["unread"] == 1), "{data}");
        }
        "page" => {
            let nodes = data["dialogs"]["nodes"].as_array().context("dialogs")?;
            ensure!(nodes.len() == PAGE && data["dialogs"]["pageInfo"]["hasNextPage"] == false, "{data}");
            for node in nodes {
                let people = node["participants"]["nodes"].as_array().context("participants")?;
                let is_member = people.iter().any(|person| person["id"] == viewer);
                let message = &node["lastMessage"];
                let is_committed = message["seq"] == 1 && message["status"] == "COMMITTED";
                let is_whole = is_committed && message["sender"]["id"].is_string();
                ensure!(people.len() == 3 && is_member && is_whole && node["unreadCount"] == 1, "{node}");
            }
        }
        _ => ensure!(data["__typename"] == "Query", "{data}"),
    }
    Ok(())
}

#[test]
fn a_wrong_answer_is_refused() {
    let unread = |total: usize, count: usize| {
        let rows: Vec<Value> = (0..PAGE).map(|_| json!({"dialogId": "d", "unread": count})).collect();
        json!({"unread": {"total": total, "dialogs": rows}})
    };
    assert!(check("unread", &unread(PAGE, 1), "u").is_ok());
    assert!(check("unread", &unread(PAGE + 1, 1), "u").is_err());
    assert!(check("unread", &unread(PAGE, 2), "u").is_err());
    assert!(check("{ __typename }", &json!({"__typename": "Query"}), "u").is_ok());
    assert!(check("page", &json!({"dialogs": {"nodes": []}}), "u").is_err());
}
