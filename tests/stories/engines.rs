//! The same stories on real engines, and what engines and roles do to them: refusals, outages, kills.

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
    device::Device,
    gateways, kill, limits, oracle,
    person::Person,
    stack::{Stack, engine_does},
    story,
};

/// Where outages last longer than this, nothing may fail.
const DEADLINE: (&str, &str) = ("SAGA_DEADLINE", "10s");
const OUTAGE: Duration = Duration::from_secs(12);

#[tokio::test]
async fn the_story_holds_with_devices_on_two_gateways() {
    let Some(stack) = Stack::start(&[]).await else { return };
    story::the_story(&stack).await;
}

#[tokio::test]
async fn a_refused_message_fails_for_its_author_alone_and_moves_nobodys_count() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::watching(&b, None).await;
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
    assert_eq!(history.len(), 2, "others lose it: {history:?}");
    assert_eq!(phone.until_total(2).await.last(), Some(&2));
    assert_eq!(b.total().await, 2, "through the cache");
    stack.cache_agrees(&b).await;
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
async fn kafka_may_be_away_longer_than_the_saga_deadline() {
    let Some(stack) = Stack::start(&[DEADLINE]).await else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "before").await;
    let mut phone = Device::watching(&b, None).await;
    phone.until_total(1).await;
    engine_does("stop", "kafka").await;
    let stopped = Instant::now();
    for number in 0..200 {
        a.send(&dialog, &format!("message {number}")).await;
    }
    sleep(OUTAGE.saturating_sub(stopped.elapsed())).await;
    let history = oracle::history(&a, &dialog).await;
    assert!(history.iter().all(|message| message["status"] != "FAILED"), "an outage fails nothing");
    engine_does("start", "kafka").await;
    everything_is_counted(&a, &b, &dialog, 201).await;
    phone.until_total(201).await;
}

#[tokio::test]
async fn the_counter_may_be_away_longer_than_the_saga_deadline() {
    let Some(mut stack) = Stack::start(&[DEADLINE]).await else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::watching(&b, None).await;
    phone.frame("u", "unread").await;
    stack.kill("counter").await;
    let stopped = Instant::now();
    for number in 0..50 {
        a.send(&dialog, &format!("message {number}")).await;
    }
    assert_eq!(oracle::history(&b, &dialog).await.len(), 50, "people go on talking");
    let answer = b.ask("query($id: ID!) { dialog(id: $id) { id unreadCount } }", json!({"id": dialog})).await;
    assert_eq!(answer["data"]["dialog"], json!({"id": dialog, "unreadCount": null}), "{answer}");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    sleep(OUTAGE.saturating_sub(stopped.elapsed())).await;
    stack.start_role("counter");
    everything_is_counted(&a, &b, &dialog, 50).await;
    phone.until_total(50).await;
}

#[tokio::test]
async fn redis_may_be_stopped_and_flushed_in_the_middle_of_reads() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let Some(url) = testkit::redis_url() else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::watching(&b, None).await;
    let (done, begun) = (Cell::new(false), Cell::new(0));
    let sends = async {
        while !done.get() {
            begun.set(begun.get() + 1);
            a.send(&dialog, "hello").await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let reads = async {
        let (mut totals, mut last, mut answers) = (BTreeMap::new(), 0, 0);
        while !done.get() {
            let unread = b.data("{ unread { total version } }", json!({})).await["unread"].take();
            let total = unread["total"].as_i64().unwrap();
            assert!((last..=begun.get()).contains(&total), "{total} after {last}, {} were sent", begun.get());
            let known = *totals.entry(unread["version"].to_string()).or_insert(total);
            assert_eq!(total, known, "at version {}", unread["version"]);
            (last, answers) = (total, answers + 1);
        }
        println!("{answers} answers at {} versions while Redis was stopped and flushed", totals.len());
    };
    let trouble = async {
        for _ in 0..3 {
            flush(&url).await;
            sleep(Duration::from_millis(500)).await;
            for (verb, pause_ms) in [("pause", 500), ("resume", 500), ("stop", 1_000), ("start", 1_500)] {
                engine_does(verb, "redis").await;
                sleep(Duration::from_millis(pause_ms)).await;
            }
        }
        done.set(true);
    };
    tokio::join!(sends, reads, trouble);
    let sent = begun.get();
    phone.until_total(sent).await;
    assert_eq!(b.total().await, sent);
    stack.cache_agrees(&b).await;
}

#[tokio::test]
async fn log_outs_close_that_sessions_sockets_on_the_other_gateway() {
    gateways::log_outs_close_that_sessions_sockets_on_the_other_gateway().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_hands_every_socket_over_and_loses_no_frame() {
    gateways::a_drain_under_load_hands_every_socket_over_and_loses_no_frame().await;
}

#[tokio::test]
async fn rate_limits_are_shared_between_gateways() {
    limits::the_limits_are_shared_between_gateways().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_killed_twenty_times_each_lose_nothing_and_count_nothing_twice() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    kill::roles_are_killed_under_load(&mut stack, 20).await;
}

/// Ten seconds of sends at `SENDS_A_SECOND`, else at a rate that the build bears on a machine that does other things too.
fn sends_a_second() -> u64 {
    std::env::var("SENDS_A_SECOND").map_or(20, |told| told.parse().unwrap())
}

#[tokio::test]
async fn from_a_send_to_the_frame_on_the_other_gateway() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let rate = sends_a_second();
    let sends_all = rate as usize * 10;
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack.elsewhere(), "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::watching(&b, None).await;
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
        let (a, dialog) = (a.clone(), dialog.clone());
        sends.push(tokio::spawn(async move {
            let begun = Instant::now();
            (kill::send_until_answered(&a, &dialog, &format!("key {number}")).await as usize, begun)
        }));
    }
    let mut begun = vec![None; sends_all + 1];
    for send in sends {
        let (seq, at) = send.await.unwrap();
        begun[seq] = Some(at);
    }
    let seen = watched.await.unwrap();
    let mut latencies: Vec<Duration> =
        (1..=sends_all).map(|seq| seen[seq].unwrap() - begun[seq].unwrap()).collect();
    latencies.sort_unstable();
    let at = |share: usize| latencies[sends_all * share / 100 - 1];
    let (median, tail) = (at(50), at(99));
    println!(
        "send to frame on the other gateway, {sends_all} sends at {rate} a second: p50 {median:?}, p99 {tail:?}"
    );
}

#[tokio::test]
async fn a_dead_dialog_service_leaves_the_counters_untouched() {
    const QUESTIONS: usize = 200;
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    a.send(&dialog, "hello").await;
    eventually("it is counted", || async { b.total().await == 1 }).await;
    stack.kill("dialog").await;
    let query = "query($id: ID!) { unread { total } dialogUnread(dialogId: $id) { unread } dialogs { nodes { id } } }";
    let mut took = Vec::new();
    for _ in 0..QUESTIONS {
        let begun = Instant::now();
        let answer = b.ask(query, json!({"id": dialog})).await;
        took.push(begun.elapsed());
        let counters = json!({"unread": {"total": 1}, "dialogUnread": {"unread": 1}, "dialogs": null});
        assert_eq!(answer["data"], counters, "{answer}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    }
    let state = async |service: &str| {
        stack.metric("gateway1", &format!("upstream_breaker_state{{service=\"{service}\"}}")).await
    };
    assert!(state("dialog").await >= Some(1.0), "dialog is left alone");
    assert_eq!((state("counter").await, state("auth").await), (Some(0.0), Some(0.0)));
    took.sort_unstable();
    let at = |share: usize| took[QUESTIONS * share / 100 - 1];
    println!(
        "counters while dialog is dead, {QUESTIONS} questions: p50 {:?}, p99 {:?}, worst {:?}",
        at(50),
        at(99),
        at(100)
    );
    stack.start_role("dialog");
    eventually("dialogs are back", || async {
        b.ask("{ dialogs { nodes { id } } }", json!({})).await["data"]["dialogs"]["nodes"][0]["id"]
            == dialog.as_str()
    })
    .await;
}

#[tokio::test]
async fn who_leaves_cancels_a_read_at_the_service_on_another_port() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let (a, b) = (Person::register(&stack, "ann").await, Person::register(&stack, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let counter = stack.database("counter").await;
    let mut held = counter.begin().await.unwrap();
    query("lock table member_counter in access exclusive mode").execute(&mut held).await.unwrap();
    let line = r#"grpc_server_calls_total{service="counter",method="ReadStates",code="CANCELLED"}"#;
    assert_eq!(stack.metric("counter", line).await, None);
    let question =
        b.ask("query($id: ID!) { dialog(id: $id) { readStates { readSeq } } }", json!({"id": dialog}));
    tokio::time::timeout(Duration::from_millis(500), question).await.expect_err("the table is held");
    eventually("the counter has seen it", || async { stack.metric("counter", line).await == Some(1.0) })
        .await;
    held.rollback().await.unwrap();
}

async fn everything_is_counted(a: &Person, b: &Person, dialog: &str, messages: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let history = oracle::history(a, dialog).await;
        assert!(history.iter().all(|message| message["status"] != "FAILED"), "an outage fails nothing");
        let committed = history.iter().filter(|message| message["status"] == "COMMITTED").count();
        if committed == messages && b.total().await == messages as i64 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{committed} of {messages} are COMMITTED a minute after the outage"
        );
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
