//! The main scenario on real engines, and failures of engines and roles: refusals, outages, kills.

use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use db::{Db, query};
use serde_json::json;
use testkit::eventually;
use tokio::time::sleep;

use crate::{
    answers,
    caller::Caller,
    costs, dialog_list, full_disk, gateways, kill, oracle, rate_limits, refusals,
    socket_client::SocketClient,
    stack::{ROLES, Stack, control_engine},
    story,
};

/// Deadline of a saga, shorter than the outages: no message may fail because of one.
const DEADLINE: (&str, &str) = ("SAGA_DEADLINE", "10s");
const OUTAGE: Duration = Duration::from_secs(12);

#[tokio::test]
async fn counts_are_exact_with_clients_on_two_gateways() {
    let Some(stack) = Stack::start(&[]).await else { return };
    story::run(&stack).await;
    dialog_list::run(&stack).await;
    answers::answers(&stack).await;
    answers::leaving(&stack).await;
}

#[tokio::test]
async fn a_message_costs_few_statements() {
    costs::a_message_costs_few_statements().await;
}

#[tokio::test]
async fn a_refused_message_fails_for_its_author_and_changes_no_count() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.frame("u", "unread").await;
    let counter = stack.database("counter").await;
    execute(&counter, "alter table member_counter add constraint refuse check (unread <= 2)").await;
    let mut third = String::new();
    for number in 1..=3 {
        third = a.send(&dialog, &format!("message {number}")).await["id"].as_str().unwrap().to_owned();
    }
    let state = "query($id: ID!) { message(id: $id) { status failureReason text } }";
    eventually("the third message is FAILED", || async {
        a.data(state, json!({"id": third})).await["message"]["status"] == "FAILED"
    })
    .await;
    let authors = a.data(state, json!({"id": third})).await;
    assert!(
        authors["message"]["failureReason"].is_string() && authors["message"]["text"] == "message 3",
        "{authors}"
    );
    let history = oracle::history(&b, &dialog).await;
    assert_eq!(history.len(), 2, "others do not see it: {history:?}");
    assert_eq!(phone.until_total(2).await.last(), Some(&2));
    assert_eq!(b.total().await, 2, "through the cache");
    stack.wait_for_cache(&b).await;
    let row =
        query("select cast(sum(unread) as bigint) as n from member_counter").one(&counter).await.unwrap();
    assert_eq!(row.get::<i64>("n").unwrap(), 2, "in the table");

    execute(&counter, "alter table member_counter drop constraint refuse").await;
    let fourth = a.send(&dialog, "message 4").await;
    assert_eq!(phone.until_total(3).await.last(), Some(&3));
    eventually("the next send commits", || async {
        a.data(state, json!({"id": fourth["id"]})).await["message"]["status"] == "COMMITTED"
    })
    .await;
}

#[tokio::test]
async fn kafka_may_be_unavailable_longer_than_the_saga_deadline() {
    let Some(stack) = Stack::start(&[DEADLINE]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "before").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.until_total(1).await;
    control_engine("stop", "kafka").await;
    let stopped = Instant::now();
    for number in 0..200 {
        a.send(&dialog, &format!("message {number}")).await;
    }
    sleep(OUTAGE.saturating_sub(stopped.elapsed())).await;
    let history = oracle::history(&a, &dialog).await;
    assert!(history.iter().all(|message| message["status"] != "FAILED"), "an outage fails no message");
    control_engine("start", "kafka").await;
    everything_is_counted(&a, &b, &dialog, 201).await;
    phone.until_total(201).await;
}

#[tokio::test]
async fn roles_that_start_while_kafka_is_away_serve_and_become_live_when_it_comes() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "before").await;
    SocketClient::watch_unread(&b, None).await.until_total(1).await;
    for role in ROLES {
        stack.stop(role).await;
    }
    control_engine("stop", "kafka").await;
    let started = Instant::now();
    for role in ROLES {
        stack.start_role(role);
    }
    stack.wait_until_ready().await;
    println!("all roles are ready {:.1?} after their start without Kafka", started.elapsed());
    let report = stack.readiness("gateway1").await;
    assert_eq!(report["checks"]["log"]["status"], "degraded", "{report}");
    a.send(&dialog, "during").await;
    assert_eq!(oracle::history(&b, &dialog).await.len(), 2);
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.expect_silence("u", Duration::from_millis(500)).await;
    control_engine("start", "kafka").await;
    phone.until_total(2).await;
    a.send(&dialog, "after").await;
    phone.until_total(3).await;
    everything_is_counted(&a, &b, &dialog, 3).await;
}

#[tokio::test]
async fn the_counter_may_be_unavailable_longer_than_the_saga_deadline() {
    let Some(mut stack) = Stack::start(&[DEADLINE]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.frame("u", "unread").await;
    stack.kill("counter").await;
    let stopped = Instant::now();
    for number in 0..50 {
        a.send(&dialog, &format!("message {number}")).await;
    }
    assert_eq!(oracle::history(&b, &dialog).await.len(), 50, "users can still send and read messages");
    let answer =
        b.execute("query($id: ID!) { dialog(id: $id) { id unreadCount } }", json!({"id": dialog})).await;
    assert_eq!(answer["data"]["dialog"], json!({"id": dialog, "unreadCount": null}), "{answer}");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    sleep(OUTAGE.saturating_sub(stopped.elapsed())).await;
    stack.start_role("counter");
    everything_is_counted(&a, &b, &dialog, 50).await;
    phone.until_total(50).await;
}

#[tokio::test]
async fn redis_may_be_stopped_and_flushed_during_reads() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let Some(url) = testkit::redis_url() else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    let done = Cell::new(false);
    // Counted before each send: the upper limit of what a read may return.
    let sends_started = Cell::new(0);
    let sends = async {
        while !done.get() {
            sends_started.set(sends_started.get() + 1);
            a.send(&dialog, "hello").await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reads = async {
        let mut totals = BTreeMap::new();
        let mut last = 0;
        let mut reads = 0;
        while !done.get() {
            let unread = b.data("{ unread { total version } }", json!({})).await["unread"].take();
            let total = unread["total"].as_i64().unwrap();
            let sent = sends_started.get();
            assert!((last..=sent).contains(&total), "{total} after {last}, {sent} were sent");
            let known = *totals.entry(unread["version"].to_string()).or_insert(total);
            assert_eq!(total, known, "at version {}", unread["version"]);
            last = total;
            reads += 1;
        }
        println!("{reads} reads at {} versions while Redis was stopped and flushed", totals.len());
    };
    let outages = async {
        for _ in 0..3 {
            flush(&url).await;
            sleep(Duration::from_millis(500)).await;
            for (verb, pause_ms) in [("pause", 500), ("resume", 500), ("stop", 1_000), ("start", 1_500)] {
                control_engine(verb, "redis").await;
                sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        done.set(true);
    };
    tokio::join!(sends, reads, outages);
    let sent = sends_started.get();
    phone.until_total(sent).await;
    assert_eq!(b.total().await, sent);
    stack.wait_for_cache(&b).await;
}

#[tokio::test]
async fn a_full_tablespace_of_postgres_refuses_writes_only_while_it_is_full() {
    full_disk::postgres_with_a_full_tablespace().await;
}

#[tokio::test]
async fn a_full_disk_of_kafka_refuses_nothing_and_loses_nothing() {
    full_disk::kafka_with_a_full_disk().await;
}

#[tokio::test]
async fn a_rule_of_postgres_delays_what_lowers_a_count_and_leaves_no_ghost() {
    refusals::a_rule_delays_what_lowers_a_count().await;
}

#[tokio::test]
async fn logging_out_closes_sockets_on_the_other_gateway() {
    gateways::logging_out_closes_sockets_on_the_other_gateway().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_frame() {
    gateways::a_drain_under_load_loses_no_frame().await;
}

#[tokio::test]
async fn rate_limits_are_shared_between_gateways() {
    rate_limits::limits_are_shared_between_gateways().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_of_each_role_lose_and_double_nothing() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    kill::roles_are_killed_under_load(&mut stack, 5).await;
}

/// Returns `SENDS_A_SECOND`, or 20, which an unoptimised build sustains on a loaded machine.
fn sends_a_second() -> u64 {
    std::env::var("SENDS_A_SECOND").map_or(20, |rate| rate.parse().unwrap())
}

#[tokio::test]
async fn from_a_send_to_the_frame_on_the_other_gateway() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let rate = sends_a_second();
    let sends_all = rate as usize * 10;
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack.second_gateway(), "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.frame("u", "unread").await;
    let watched = tokio::spawn(async move {
        let mut seen = vec![None; sends_all + 1];
        let mut total = 0;
        while total < sends_all {
            let now = phone.frame("u", "unread").await["total"].as_u64().unwrap() as usize;
            seen[total + 1..=now].fill(Some(Instant::now()));
            total = now;
        }
        seen
    });
    let mut ticks = tokio::time::interval(Duration::from_millis(1_000 / rate));
    let mut sends = Vec::new();
    for number in 0..sends_all {
        ticks.tick().await;
        let a = a.clone();
        let dialog = dialog.clone();
        sends.push(tokio::spawn(async move {
            let started = Instant::now();
            (kill::send_until_answered(&a, &dialog, &format!("key {number}")).await as usize, started)
        }));
    }
    let mut started = vec![None; sends_all + 1];
    for send in sends {
        let (seq, at) = send.await.unwrap();
        started[seq] = Some(at);
    }
    let seen = watched.await.unwrap();
    let mut latencies: Vec<Duration> =
        (1..=sends_all).map(|seq| seen[seq].unwrap() - started[seq].unwrap()).collect();
    latencies.sort_unstable();
    let at = |share: usize| latencies[sends_all * share / 100 - 1];
    println!(
        "send to frame on the other gateway, {sends_all} sends at {rate} a second: p50 {:?}, p99 {:?}",
        at(50),
        at(99)
    );
}

#[tokio::test]
async fn counters_are_answered_while_the_dialog_service_is_down() {
    const QUERIES: usize = 200;
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "hello").await;
    eventually("the message is counted", || async { b.total().await == 1 }).await;
    stack.kill("dialog").await;
    let query = "query($id: ID!) {
        unread { total } dialogUnread(dialogId: $id) { unread } dialogs { nodes { id } } }";
    let mut took = Vec::new();
    for _ in 0..QUERIES {
        let started = Instant::now();
        let answer = b.execute(query, json!({"id": dialog})).await;
        took.push(started.elapsed());
        let counters = json!({"unread": {"total": 1}, "dialogUnread": {"unread": 1}, "dialogs": null});
        assert_eq!(answer["data"], counters, "{answer}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    }
    let state = async |service: &str| {
        stack.metric("gateway1", &format!("upstream_breaker_state{{service=\"{service}\"}}")).await
    };
    assert!(state("dialog").await >= Some(1.0), "the circuit breaker of dialog is open");
    assert_eq!((state("counter").await, state("auth").await), (Some(0.0), Some(0.0)));
    took.sort_unstable();
    let at = |share: usize| took[QUERIES * share / 100 - 1];
    println!(
        "counters while dialog is down, {QUERIES} queries: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
    stack.start_role("dialog");
    eventually("dialogs are answered again", || async {
        b.execute("{ dialogs { nodes { id } } }", json!({})).await["data"]["dialogs"]["nodes"][0]["id"]
            == dialog.as_str()
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_cancels_the_read_at_the_service() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let a = Caller::register(&stack, "ann").await;
    let b = Caller::register(&stack, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let counter = stack.database("counter").await;
    let mut lock = counter.begin().await.unwrap();
    query("lock table member_counter in access exclusive mode").execute(&mut lock).await.unwrap();
    let line = r#"grpc_server_calls_total{service="counter",method="ReadStates",code="CANCELLED"}"#;
    assert_eq!(stack.metric("counter", line).await, None);
    let query =
        b.execute("query($id: ID!) { dialog(id: $id) { readStates { readSeq } } }", json!({"id": dialog}));
    tokio::time::timeout(Duration::from_millis(500), query).await.expect_err("the table is locked");
    eventually("the counter records the cancellation", || async {
        stack.metric("counter", line).await == Some(1.0)
    })
    .await;
    lock.rollback().await.unwrap();
}

async fn everything_is_counted(a: &Caller, b: &Caller, dialog: &str, messages: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let history = oracle::history(a, dialog).await;
        assert!(history.iter().all(|message| message["status"] != "FAILED"), "an outage fails no message");
        let committed = history.iter().filter(|message| message["status"] == "COMMITTED").count();
        if committed == messages && b.total().await == messages as i64 {
            return;
        }
        assert!(Instant::now() < deadline, "{committed} of {messages} are COMMITTED within a minute");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn flush(redis: &str) {
    let client = redis::Client::open(redis).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
}

async fn execute(db: &Db, statement: &'static str) {
    let mut tx = db.begin().await.unwrap();
    query(statement).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
}
